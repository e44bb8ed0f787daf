"""Memory does not grow with the run: Python's own, counted byte by byte, from group to group."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from sentence_transformers import CrossEncoder

from cmp_rerank.ir import reading
from cmp_rerank.reranking import rerank_run

DEPTH, QUERIES = 10, 200
PER_GROUP = 2 * DEPTH
#: Bytes that a finished group may leave behind: its digest, and its place in a dictionary.
LEFT = 300


class Generated(Mapping[str, str]):
    """Texts made when they are asked for: a new string each time, which stays in memory only if someone keeps it."""

    def __getitem__(self, name: str) -> str:
        return f"cats and dogs {name} sleep" + " a lot" * (int(name[1:]) % 3)

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return (f"d{number}" for number in itertools.count())

    def __len__(self) -> int:
        return 10**9


class Length:
    """Scores a pair by its length."""

    def predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        return [float(len(text)) for _, text in pairs]


class Hoarder(Length):
    """Also keeps the pairs: the least that a leak would be."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        self.kept += pairs
        return super().predict(pairs)


def left_by_a_group(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """Bytes more for each group of the second half of a run file."""
    monkeypatch.setattr(reading, "_BYTES_PER_BLOCK", 4096)  # many blocks, though the file is small
    first = folder / "first.trec"
    with first.open("w") as file:
        for query, place in itertools.product(range(QUERIES), range(DEPTH)):
            file.write(f"q{query} Q0 d{query * 31 + place * 7} {place + 1} {-place} run\n")
    marks: list[int] = []

    def mark(done: int, pairs: int) -> None:
        if done in (pairs // 2, pairs):
            gc.collect()
            marks.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start(1)
    try:
        rerank_run(
            model, Generated(), Generated(), first, out=folder / "o.trec", pairs_per_group=PER_GROUP, progress=mark
        )
    finally:
        tracemalloc.stop()
    half, whole = marks
    return (whole - half) / (QUERIES * DEPTH / PER_GROUP / 2)


def test_a_finished_group_leaves_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert left_by_a_group(Length(), tmp_path, monkeypatch) < LEFT


def test_so_it_is_with_a_cross_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: CrossEncoder = tiny_models.cross_encoder(tmp_path / "model")
    assert left_by_a_group(model, tmp_path, monkeypatch) < LEFT


def test_a_leak_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert left_by_a_group(Hoarder(), tmp_path, monkeypatch) > 5 * LEFT
