"""BM25 and fusion against their formulas, dense retrieval against single pairs, negatives against their rules."""

from __future__ import annotations

import builtins
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.demo.extracts import Extracts
from cmp_rerank.ir import rank
from cmp_rerank.ir.retrieval import BM25, Dense, combine, fuse, sample_negatives

DOCUMENTS = {
    "d1": "red apple green apple",
    "d2": "green pear",
    "d3": "red red wine and bread and cheese",
    "d4": "bread",
    "d5": "green pear",
}
QUERIES = {"q1": "green apple", "q2": "red bread bread", "q3": "unknown words", "q4": ""}


def slow_bm25(query: str, k1: float, b: float) -> dict[str, float]:
    """Lucene's BM25, written down as the formula: idf * tf / (tf + k1 (1 - b + b length / mean length))."""
    texts = {name: text.split() for name, text in DOCUMENTS.items()}
    mean = sum(map(len, texts.values())) / len(texts)
    scores = {}
    for name, text in texts.items():
        tf, score = Counter(text), 0.0
        for term in query.split():
            df = sum(term in other for other in texts.values())
            idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            score += idf * tf[term] / (tf[term] + k1 * (1 - b + b * len(text) / mean))
        if score > 0:
            scores[name] = score
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (1.2, 0.0), (2.0, 1.0)])
def test_bm25_is_its_formula(k1: float, b: float) -> None:
    run = BM25(DOCUMENTS, k1=k1, b=b, language=None, stopwords=False).search(QUERIES)
    assert list(run) == list(QUERIES)
    assert run["q3"] == {}
    assert run["q4"] == {}
    for query in ("q1", "q2"):
        expected = slow_bm25(QUERIES[query], k1, b)
        assert len(expected) > 2
        assert run[query] == pytest.approx(expected, rel=1e-5)
        assert list(run[query]) == [document for document, _ in rank(run[query])]


def test_ties_across_the_cut_go_to_the_higher_id() -> None:
    documents = dict.fromkeys(("b", "d", "a", "c"), "same text") | {"z": "other text here"}
    run = BM25(documents).search({"q": "same"}, depth=2)
    assert list(run["q"]) == ["d", "c"]


def test_stemming_and_stop_words() -> None:
    documents = {"a": "retrieving the documents", "b": "something else"}
    assert list(BM25(documents).search({"q": "retrieval of document"})["q"]) == ["a"]
    assert BM25(documents, language=None).search({"q": "document"})["q"] == {}
    assert BM25(documents).search({"q": "the"})["q"] == {}
    assert list(BM25(documents, stopwords=False).search({"q": "the"})["q"]) == ["a"]


def test_documents_without_a_single_term_find_nothing() -> None:
    assert BM25({"a": "the of", "b": ""}).search({"q": "anything"}) == {"q": {}}
    assert BM25(DOCUMENTS).search({}) == {}


def test_progress_ends_at_the_number_of_queries() -> None:
    seen: list[tuple[int, int]] = []
    BM25(DOCUMENTS).search({str(i): "red" for i in range(250)}, progress=lambda *done: seen.append(done))
    assert seen == [(100, 250), (200, 250), (250, 250)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": -1.0}, "k1 must be at least 0, got -1.0"),
        ({"b": 1.5}, "b must lie between 0 and 1, got 1.5"),
        ({"language": "klingon"}, "got 'klingon'"),
    ],
)
def test_bm25_refuses_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BM25(DOCUMENTS, **options)


def test_bad_depth_and_no_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="no document"):
        BM25({})
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        BM25(DOCUMENTS).search(QUERIES, depth=0)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "bm25s":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"cmp-rerank\[retrieval\]"):
        BM25(DOCUMENTS)
    with pytest.raises(ImportError, match=r"cmp-rerank\[retrieval\]"):
        Extracts(DOCUMENTS)


class CountsOfLetters:
    """A bi-encoder that anybody can check: the normalised counts of some letters."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_document(self, texts: list[str], **options: Any) -> np.ndarray:
        assert options["normalize_embeddings"]
        self.batches.append(len(texts))
        counts = np.array([[text.count(letter) + 0.01 for letter in "abdegnpr"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    encode_query = encode_document


def similarity(a: str, b: str) -> float:
    one, two = CountsOfLetters().encode_document([a, b], normalize_embeddings=True)
    return float(one @ two)


def test_dense_search_and_rerank_are_one_pair_at_a_time() -> None:
    index = Dense(DOCUMENTS, CountsOfLetters(), batch_size=2)  # type: ignore[arg-type]
    run = index.search(QUERIES, depth=3, block=3)
    for query, text in QUERIES.items():
        expected = {name: similarity(text, document) for name, document in DOCUMENTS.items()}
        best = [name for name, _ in rank({name: round(value, 5) for name, value in expected.items()})][:3]
        assert list(run[query]) == best
        assert run[query] == pytest.approx({name: expected[name] for name in best}, abs=1e-5)
    candidates = {"q2": {"d4": 1.0, "d1": 0.5}, "q3": {}}
    assert index.rerank(QUERIES, candidates) == {
        "q2": pytest.approx({name: similarity(QUERIES["q2"], DOCUMENTS[name]) for name in ("d4", "d1")}, abs=1e-5),
        "q3": {},
    }


def test_dense_batches_and_errors() -> None:
    model = CountsOfLetters()
    seen: list[tuple[int, int]] = []
    index = Dense(DOCUMENTS, model, batch_size=2, progress=lambda *done: seen.append(done))  # type: ignore[arg-type]
    assert model.batches == [2, 2, 1]
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert index.search({}) == {}
    with pytest.raises(ValueError, match="document 'nowhere' for query 'q1'"):
        index.rerank(QUERIES, {"q1": {"nowhere": 1.0}})
    with pytest.raises(ValueError, match="no document"):
        Dense({}, model)  # type: ignore[arg-type]


def test_fusion_is_its_formula() -> None:
    first, second = {"q": {"a": 9.0, "b": 8.0, "c": 8.0}, "p": {"x": 1.0}}, {"q": {"c": 0.2, "d": 0.1}}
    fused = fuse([first, second], k=10)
    assert fused == {"q": {"a": 1 / 11, "c": 1 / 12 + 1 / 11, "b": 1 / 13, "d": 1 / 12}, "p": {"x": 1 / 11}}
    with pytest.raises(ValueError, match="two runs or more, got 1"):
        fuse([first])
    with pytest.raises(ValueError, match="k must be at least 0, got -1"):
        fuse([first, second], k=-1)


def test_combination_is_its_formula() -> None:
    first, second = {"q": {"a": 8.0, "b": 2.0}, "p": {"x": 0.0}}, {"q": {"b": 0.5, "c": 0.1, "d": -0.3}, "r": {}}
    combined = combine([first, second])
    assert combined == {"q": {"a": 1.0, "b": 0.25 + 1.0, "c": pytest.approx(0.2), "d": 0.0}, "p": {"x": 0.0}, "r": {}}
    with pytest.raises(ValueError, match="two runs or more, got 1"):
        combine([first])


ids = st.integers(0, 30).map("d{:02}".format)


@given(
    run=st.dictionaries(ids, st.floats(-5, 5), max_size=20),
    relevant=st.sets(ids, min_size=1, max_size=3),
    band=st.tuples(st.integers(1, 15), st.integers(0, 10)),
    count=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_negatives_keep_their_rules(
    run: dict[str, float], relevant: set[str], band: tuple[int, int], count: int, seed: int
) -> None:
    documents = [f"d{i:02}" for i in range(31)]
    ranks = (band[0], band[0] + band[1])
    qrels = {"other": {"d00": 1}, "q": {**dict.fromkeys(relevant, 1), "d30": 0}}
    drawn = sample_negatives(qrels, documents, count, {"q": run}, ranks, seed)["q"]
    inside = [name for name, _ in rank(run) if name not in relevant - {"d30"}][ranks[0] - 1 : ranks[1]]
    assert len(drawn) == len(set(drawn)) == count
    assert not set(drawn) & (relevant - {"d30"})
    hard = min(count, len(inside))
    assert set(drawn[:hard]) <= set(inside)
    # The same without the other query, and another draw with another seed or the same.
    assert sample_negatives({"q": qrels["q"]}, documents, count, {"q": run}, ranks, seed)["q"] == drawn


def test_negatives_depend_on_the_seed_and_cover_the_band() -> None:
    run = {"q": {f"d{i}": float(-i) for i in range(10)}}
    drawn = [sample_negatives({"q": {"d0": 1}}, run["q"], 1, run, (3, 6), seed)["q"][0] for seed in range(60)]
    assert set(drawn) == {"d3", "d4", "d5", "d6"}
    randoms = [sample_negatives({"q": {"d0": 1}}, run["q"], 1, seed=seed)["q"][0] for seed in range(200)]
    assert set(randoms) == {f"d{i}" for i in range(1, 10)}


def test_negatives_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="query 'q': 3 negatives"):
        sample_negatives({"q": {"a": 1}}, ["a", "b", "c"], 3)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        sample_negatives({"q": {"a": 1}}, ["a", "b"], 0)
    with pytest.raises(ValueError, match="ranks must be"):
        sample_negatives({"q": {"a": 1}}, ["a", "b"], 1, {}, ranks=(5, 2))
