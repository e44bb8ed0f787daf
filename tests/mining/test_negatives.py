"""Negatives against their rules, and what cannot be drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.ir import rank
from cmp_rerank.mining import sample_negatives

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


def test_queries_draw_independently() -> None:
    documents = [f"d{i}" for i in range(100)]
    drawn = sample_negatives({f"q{i}": {"d0": 1} for i in range(10)}, documents, 3)
    assert len({tuple(each) for each in drawn.values()}) == 10


def test_negatives_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="query 'q' needs 3 negatives; got 2 documents"):
        sample_negatives({"q": {"a": 1}}, ["a", "b", "c"], 3)
    with pytest.raises(ValueError, match="count must be a whole number of at least 1; got 0"):
        sample_negatives({"q": {"a": 1}}, ["a", "b"], 0)
    with pytest.raises(ValueError, match="ranks must be"):
        sample_negatives({"q": {"a": 1}}, ["a", "b"], 1, {}, ranks=(5, 2))
    with pytest.raises(ValueError, match=r"ranks must be \(first, last\) .*; got 5"):
        sample_negatives({"q": {"a": 1}}, ["a", "b"], 1, {}, ranks=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="documents must be a list of ids, or texts by id; got the string 'ab'"):
        sample_negatives({"q": {"a": 1}}, "ab", 1)
    with pytest.raises(ValueError, match=r"qrels must map query ids to .*; got 1 for query 'a'"):
        sample_negatives({"a": 1}, ["a", "b"], 1)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"run must map query ids to .*; got the string 'bm25.trec'; read the file"):
        sample_negatives({"q": {"a": 1}}, ["a", "b"], 1, "bm25.trec")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ids are strings; got the document id 1 in documents"):
        sample_negatives({"q": {"a": 1}}, [1, 2], 1)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="ids are strings; got the document id 1 in qrels"):
        sample_negatives({"q": {1: 1}}, ["1", "2"], 1)  # type: ignore[dict-item]
