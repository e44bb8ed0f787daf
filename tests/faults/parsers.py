"""Every reader of files, with good input that a test can damage."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_models
from optional_libraries import datasets
from pipeline_data import CORPUS, QRELS, QUERIES, collection, settings

from cmp_rerank.collections import load
from cmp_rerank.evaluation.report import read_curves
from cmp_rerank.ir import (
    read_corpus,
    read_qrels,
    read_queries,
    read_run,
    read_samples,
    read_top1000,
    stream_run,
    write_corpus,
    write_qrels,
    write_queries,
    write_run,
    write_samples,
    write_top1000,
)
from cmp_rerank.pipeline.config import load as read_config
from cmp_rerank.pipeline.document import dump
from cmp_rerank.reader.files import read_questions
from cmp_rerank.reader.prediction_files import read_predictions

RUN = {query: {doc: float(len(text)) / (i + 1) for i, (doc, text) in enumerate(CORPUS.items())} for query in QUERIES}
TABLE: list[dict[str, Any]] = [
    {"query": query, "positive": CORPUS[next(iter(QRELS[name]))], "negative": list(CORPUS.values())[i], "label": 1}
    for i, (name, query) in enumerate(QUERIES.items())
]
QUESTIONS: list[dict[str, Any]] = [
    {"id": f"q{i}", "question": query, "context": text, "answers": {"text": [text.split()[0]], "answer_start": [0]}}
    for i, (query, text) in enumerate(zip(tiny_models.QUERIES, tiny_models.PASSAGES, strict=True))
]
SGML = "".join(
    f"<DOC>\n<DOCNO>{doc}</DOCNO>\n<TITLE>a</TITLE>\n<TEXT>{text}</TEXT>\n</DOC>\n" for doc, text in CORPUS.items()
)
TOPICS = "".join(f"<top>\n<num> Number: {name}\n<title> {query}\n</top>\n" for name, query in QUERIES.items())


@dataclass(frozen=True)
class Parser:
    """A reader of files.

    Attributes:
        name: What is read: the name of a file or folder.
        make: Writes good input to a path.
        read: Reads all of it.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]


def _text(path: Path, content: str) -> None:
    raw = content.encode()
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)


def _json(content: Any) -> Callable[[Path], None]:
    return lambda path: _text(path, json.dumps(content))


def _lines(rows: Iterable[Mapping[str, Any]]) -> Callable[[Path], None]:
    return lambda path: _text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _cells(delimiter: str) -> Callable[[Path], None]:
    rows = [TABLE[0].keys(), *(row.values() for row in TABLE)]
    return lambda path: _text(path, "".join(delimiter.join(f'"{cell}"' for cell in row) + "\n" for row in rows))


def _parquet(rows: list[dict[str, Any]]) -> Callable[[Path], object]:
    return lambda path: datasets.Dataset.from_list(rows).to_parquet(path)


def _saved(rows: list[dict[str, Any]]) -> Callable[[Path], object]:
    return lambda path: datasets.Dataset.from_list(rows).save_to_disk(path)


def _msmarco(folder: Path) -> None:
    folder.mkdir()
    write_corpus(folder / "collection.tsv", CORPUS)
    write_queries(folder / "queries.dev.tsv", QUERIES)
    write_qrels(folder / "qrels.dev.tsv", QRELS, format="msmarco")
    write_run(folder / "bm25.run", RUN)


def _trec(folder: Path) -> None:
    folder.mkdir()
    (folder / "docs.sgml").write_text(SGML)
    (folder / "topics.txt").write_text(TOPICS)
    write_qrels(folder / "qrels.test.txt", QRELS)


def _retrieval(folder: Path) -> None:
    folder.mkdir()
    _saved([{"_id": doc, "title": "", "text": text} for doc, text in CORPUS.items()])(folder / "corpus")
    _saved([{"_id": name, "text": text} for name, text in QUERIES.items()])(folder / "queries")
    rows = [{"query-id": q, "corpus-id": d, "score": g} for q, grades in QRELS.items() for d, g in grades.items()]
    _saved(rows)(folder / "qrels")


def _loaded(kind: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        found = load(f"{kind}:{path}")
        dict(found.corpus.items())
        for split in found.splits:
            found.part(split)
        for run in found.runs:
            found.run(run)

    return read


def _squad() -> dict[str, Any]:
    paragraphs = [
        {
            "context": row["context"],
            "qas": [
                {
                    "id": row["id"],
                    "question": row["question"],
                    "answers": [{"text": row["answers"]["text"][0], "answer_start": 0}],
                    "is_impossible": False,
                }
            ],
        }
        for row in QUESTIONS
    ]
    return {"version": "v2.0", "data": [{"title": "animals", "paragraphs": paragraphs}]}


def _hotpotqa() -> list[dict[str, Any]]:
    return [
        {
            "_id": row["id"],
            "question": row["question"],
            "answer": row["answers"]["text"][0],
            "supporting_facts": [["one", 0]],
            "context": [["one", [row["context"]]], ["two", ["Rain fell.", " All day."]]],
        }
        for row in QUESTIONS
    ]


def _settings(path: Path) -> None:
    made = settings(path, data={"collection": "beir:somewhere"}, loss={"kind": "BinaryCrossEntropyLoss"})
    path.write_text(dump({**made, "model": {"name": "some/model"}, "ablations": [{"kind": "drop", "p": 0.1}]}))


def _csv_curves(path: Path) -> None:
    path.write_text("epoch,steps,MRR@10,nDCG@10\n" + "".join(f"{i / 2},{i},0.{i}5,0.{i}7\n" for i in range(6)))


def _consumed(path: Path) -> None:
    for _ in stream_run(path, empty="allow"):
        pass


CURVES = {"nDCG@10": {"a": [[1, 0.5], [2, 0.6]], "b": [[1, 0.5], [2, 0.25]]}}

PARSERS = [
    Parser("run.trec", lambda path: write_run(path, RUN), read_run),
    Parser("run.trec.gz", lambda path: write_run(path, RUN), read_run),
    Parser("stream.trec", lambda path: write_run(path, RUN), _consumed),
    Parser("run.tsv", lambda path: write_run(path, RUN), read_run),
    Parser("run.json", lambda path: write_run(path, RUN), read_run),
    Parser("run.json.gz", lambda path: write_run(path, RUN), read_run),
    Parser("top1000.dev", lambda path: write_top1000(path, QUERIES, CORPUS, RUN), read_top1000),
    Parser("top1000.dev.gz", lambda path: write_top1000(path, QUERIES, CORPUS, RUN), read_run),
    Parser("qrels.txt", lambda path: write_qrels(path, QRELS), read_qrels),
    Parser("qrels.tsv", lambda path: write_qrels(path, QRELS), read_qrels),
    Parser("qrels.json", lambda path: write_qrels(path, QRELS), read_qrels),
    Parser("qrels.txt.gz", lambda path: write_qrels(path, QRELS), read_qrels),
    Parser("corpus.jsonl", lambda path: write_corpus(path, CORPUS), read_corpus),
    Parser("corpus.jsonl.gz", lambda path: write_corpus(path, CORPUS), read_corpus),
    Parser("queries.tsv", lambda path: write_queries(path, QUERIES), read_queries),
    Parser("samples.json", lambda path: write_samples(path, QUERIES, CORPUS, QRELS, RUN), read_samples),
    Parser("samples.jsonl", lambda path: write_samples(path, QUERIES, CORPUS, QRELS, RUN), read_samples),
    Parser("curves.json", _json(CURVES), read_curves),
    Parser("curves.csv", _csv_curves, read_curves),
    Parser("train.yaml", _settings, read_config),
    Parser("squad.json", _json(_squad()), read_questions),
    Parser("squad.json.gz", _json(_squad()), read_questions),
    Parser("hotpotqa.json", _json(_hotpotqa()), read_questions),
    Parser("table.json", _json(QUESTIONS), read_questions),
    Parser("table.jsonl", _lines(QUESTIONS), read_questions),
    Parser("table.parquet", _parquet(QUESTIONS), read_questions),
    Parser("questions", _saved(QUESTIONS), read_questions),
    Parser("predictions.json", _json({"answer": {"q1": "bees", "q2": ""}, "sp": {}}), read_predictions),
    Parser("pairs.csv", _cells(","), _loaded("table")),
    Parser("pairs.tsv.gz", _cells("\t"), _loaded("table")),
    Parser("pairs.jsonl", _lines(TABLE), _loaded("table")),
    Parser("pairs.json", _json(TABLE), _loaded("table")),
    Parser("pairs.parquet", _parquet(TABLE), _loaded("table")),
    Parser("beir", lambda path: collection().write_beir(path), _loaded("beir")),
    Parser("msmarco", _msmarco, _loaded("msmarco")),
    Parser("trec", _trec, _loaded("trec")),
    Parser("pairs", _saved(TABLE), _loaded("hf")),
    Parser("retrieval", _retrieval, _loaded("hf")),
]
