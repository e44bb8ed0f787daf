"""Real collections as tasks: rerank the candidates of BM25, after training on few queries of the collection."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cmp_rerank.collections import load
from cmp_rerank.ir.bm25 import BM25
from cmp_rerank.mining.leakage import find_leaks

#: Candidates of a query that are reranked, and documents of a training row.
DEPTH, DOCS = 20, 8
Row = dict[str, Any]


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on a text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def training_row(
    query: str, qrels: Mapping[str, int], found: Mapping[str, float], corpus: Mapping[str, str], first: bool = True
) -> Row:
    """A query with a relevant document, and some of BM25's that are not judged relevant: its first ones, or drawn.

    Which relevant document is taken, of several, and which others are drawn, depends on the query alone.
    """
    draw = random.Random(query)
    relevant = sorted(doc for doc, grade in qrels.items() if grade > 0)
    best = max(qrels[doc] for doc in relevant)
    positive = draw.choice([doc for doc in relevant if qrels[doc] == best])
    others = [doc for doc in sorted(found, key=lambda doc: -found[doc]) if qrels.get(doc, 0) <= 0]
    negatives = others[: DOCS - 1] if first else draw.sample(others, min(DOCS - 1, len(others)))
    docs = [positive, *negatives]
    return {"query": query, "docs": [corpus[doc] for doc in docs], "labels": [1.0, *[0.0] * len(negatives)]}


def ranking_row(query: str, qrels: Mapping[str, int], found: Mapping[str, float], corpus: Mapping[str, str]) -> Row:
    """A query with its candidates, their grades, and the grades of all that is relevant, found or not."""
    docs = sorted(found, key=lambda doc: -found[doc])
    return {
        "query": query,
        "docs": [corpus[doc] for doc in docs],
        "labels": [float(max(0, qrels.get(doc, 0))) for doc in docs],
        "ideal": sorted((float(grade) for grade in qrels.values() if grade > 0), reverse=True)[:10],
    }


def beir(folder: Path, validation: float, test: float | None = None, first: bool = True) -> dict[str, list[Row]]:
    """The parts of a collection in BEIR layout.

    Args:
        folder: Of the collection.
        validation: Share of the training queries that choose learning rates.
        test: Share of all queries that are the test part, where the collection has no test split of its own.
        first: Whether the negatives of training are BM25's first ones; else they are drawn from its candidates.

    Returns:
        Rows by part. Training queries that are in another part, or nearly, are left out.
    """
    collection = load(f"beir:{folder}")
    own = "train" in collection.splits
    queries = {split: collection.queries(split) for split in collection.splits}
    judged = {split: collection.qrels(split) for split in collection.splits}
    search = BM25(collection.corpus)
    parts: dict[str, dict[str, tuple[str, Mapping[str, int]]]] = {"train": {}, "validation": {}, "test": {}}
    for split in collection.splits:
        for query, qrels in judged[split].items():
            if not any(grade > 0 for grade in qrels.values()):
                continue
            text = queries[split][query]
            place = share_of(text)
            if own:
                part = split if split != "train" else "validation" if place < validation else "train"
            else:
                assert test is not None
                part = "test" if place < test else "validation" if place < test + validation else "train"
            if part in parts:
                parts[part][query] = (text, qrels)
    for part, others in (("train", ("validation", "test")), ("validation", ("test",))):
        held_out = [text for other in others for text, _ in parts[other].values()]
        texts = {query: text for query, (text, _) in parts[part].items()}
        for leak in find_leaks(texts, held_out):
            del parts[part][leak.query]
    rows: dict[str, list[Row]] = {}
    for part, members in parts.items():
        found = search.search({query: text for query, (text, _) in members.items()}, DEPTH)
        make = partial(training_row, first=first) if part == "train" else ranking_row
        rows[part] = [make(text, qrels, found[query], collection.corpus) for query, (text, qrels) in members.items()]
    return rows


def squad_paragraphs(data: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The paragraphs of SQuAD's training part by name, and each question with the name of its paragraph."""
    articles = json.loads((data / "squad" / "train.json").read_text(encoding="utf-8"))["data"]
    paragraphs: dict[str, str] = {}
    questions: list[tuple[str, str]] = []
    for article in articles:
        for paragraph in article["paragraphs"]:
            name = str(len(paragraphs))
            paragraphs[name] = paragraph["context"]
            questions += [(question["question"], name) for question in paragraph["qas"]]
    return paragraphs, questions


def reranker_start(data: Path) -> list[Row]:
    """What a reranker is trained on once, before it meets a collection: SQuAD's questions against its paragraphs."""
    paragraphs, questions = squad_paragraphs(data)
    chosen = random.Random("start").sample(questions, min(4000, len(questions)))
    found = BM25(paragraphs).search({str(i): text for i, (text, _) in enumerate(chosen)}, DOCS)
    return [training_row(text, {name: 1}, found[str(i)], paragraphs) for i, (text, name) in enumerate(chosen)]
