"""Building a BM25 index: blocks change nothing, and what is read is read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.ir import postings
from cmp_rerank.ir.postings import Postings, build_postings, lucene_lengths

TEXTS = st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.text("ab c", max_size=12), min_size=1, max_size=9)


def split(texts: object) -> list[list[str]]:
    return [text.split() for text in texts]  # type: ignore[attr-defined]


class Watched(Mapping[str, str]):
    """Texts that count how often each is read, and cannot be looked up."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts, self.read = texts, [0] * len(texts)

    def __getitem__(self, name: str) -> str:
        place = list(self.texts).index(name)
        self.read[place] += 1
        return self.texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)


def by_term(built: Postings) -> dict[str, list[tuple[int, float]]]:
    found = {}
    for term, number in built.vocabulary.items():
        part = slice(*built.bounds[number : number + 2])
        found[term] = list(zip(built.rows[part].tolist(), built.scores[part].tolist(), strict=True))
    return found


@given(TEXTS, st.integers(1, 4), st.floats(0, 3), st.floats(0, 1))
def test_postings_are_a_slow_loop_in_blocks_of_any_size(
    texts: dict[str, str], size: int, k1: float, b: float
) -> None:
    documents = [text.split() for text in texts.values()]
    mean = sum(map(len, documents)) / len(documents)
    expected: dict[str, list[tuple[int, float]]] = {}
    for row, document in enumerate(documents):
        for term in dict.fromkeys(document):
            df, tf = sum(term in other for other in documents), document.count(term)
            idf = np.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            score = idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
            expected.setdefault(term, []).append((row, pytest.approx(score, rel=1e-6)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings, "_BLOCK", size)
        watched, seen = Watched(texts), []
        built = build_postings(watched, split, k1, b, progress=lambda *done: seen.append(done))
    assert by_term(built) == expected
    assert list(built.vocabulary) == list(dict.fromkeys(term for document in documents for term in document))
    assert list(built.ids) == list(texts)
    assert watched.read == [1] * len(texts)
    assert seen == [(min(start + size, len(texts)), len(texts)) for start in range(0, len(texts), size)]


def test_what_lies_on_disk_meanwhile_is_gone(tmp_path: Path) -> None:
    built = build_postings({"a": "x y", "b": "x"}, split, 1.5, 0.75, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert by_term(built)["x"][1][0] == 1


def small_float(length: int) -> int:
    """Lucene's SmallFloat: byte4ToInt(intToByte4(length)), bit by bit."""
    if length < 24:
        return length
    rest = length - 24
    bits = rest.bit_length()
    if bits < 4:
        encoded = rest
    else:
        shift = bits - 4
        encoded = ((rest >> shift) & 0x07) | ((shift + 1) << 3)
    mantissa, shift = encoded & 0x07, (encoded >> 3) - 1
    return 24 + (mantissa if shift == -1 else (mantissa | 0x08) << shift)


def test_lengths_are_those_of_lucene() -> None:
    lengths = np.arange(100_000)
    assert lucene_lengths(lengths).tolist() == [small_float(length) for length in lengths.tolist()]


def test_lengths_of_lucene_change_scores_of_long_documents_only() -> None:
    texts = {"short": "a b", "long": "a " * 59}
    exact, lucene = (build_postings(texts, split, 0.9, 0.4, lengths) for lengths in ("exact", "lucene"))
    scores = [by_term(built)["a"] for built in (exact, lucene)]
    assert scores[0][0] == scores[1][0]
    assert scores[0][1][1] < scores[1][1][1]  # 59 terms count as 56
