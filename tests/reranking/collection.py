"""A small collection of texts of many lengths, with a run that is deeper than what is scored."""

from __future__ import annotations

import random
from pathlib import Path

import tiny_models

from cmp_rerank.ir import write_corpus, write_queries, write_run

_rng = random.Random(0)
_words = [word for text in tiny_models.TEXTS[:5] for word in text.split()]
CORPUS = {f"d{i}": " ".join(_rng.choices(_words, k=_rng.randint(1, 60))) for i in range(40)}
QUERIES = {f"q{i}": " ".join(_rng.choices(_words, k=_rng.randint(1, 6))) for i in range(15)}
RUN = {
    query: {doc: float(-place) for place, doc in enumerate(_rng.sample(sorted(CORPUS), _rng.randint(1, 9)))}
    for query in QUERIES
}


def write(folder: Path) -> Path:
    """Write it as files."""
    write_queries(folder / "queries.jsonl", QUERIES)
    write_corpus(folder / "corpus.jsonl", CORPUS)
    write_run(folder / "first.trec", RUN)
    return folder
