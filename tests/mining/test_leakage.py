"""Leaks against a comparison of all with all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.ir import read_qrels, read_queries
from cmp_rerank.mining import find_leaks, mine

words = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join)


def pairs(text: str) -> set[tuple[str, ...]]:
    tokens = text.lower().split()
    return {tuple(tokens[i : i + 2]) for i in range(len(tokens) - 1)} or {tuple(tokens)}


@settings(max_examples=100, deadline=None)
@given(
    train=st.lists(words, max_size=8),
    test=st.lists(words, max_size=8),
    threshold=st.sampled_from([0.2, 1 / 3, 0.5, 0.6, 0.75, 0.8, 1.0]),
)
def test_each_pair_is_found(train: list[str], test: list[str], threshold: float) -> None:
    expected = {}
    for number, text in enumerate(train):
        for other in test:
            one, two = pairs(text), pairs(other)
            similarity = len(one & two) / len(one | two)
            if similarity >= threshold:
                expected[str(number)] = max(similarity, expected.get(str(number), 0.0))
    queries = {str(number): text for number, text in enumerate(train)}
    found = find_leaks(queries, test, threshold)
    assert {leak.query: leak.similarity for leak in found} == expected
    for leak in found:
        one, two = pairs(queries[leak.query]), pairs(leak.test_query)
        assert len(one & two) / len(one | two) == leak.similarity


def test_case_and_punctuation_do_not_hide_a_leak() -> None:
    train = {"a": "What do pandas eat?", "b": "what do bees eat", "c": "Pandas"}
    found = find_leaks(train, {"t": "what do PANDAS eat", "u": "pandas!"}, threshold=1)
    assert [(leak.query, leak.test_query) for leak in found] == [("a", "what do PANDAS eat"), ("c", "pandas!")]


def test_queries_without_a_word_are_not_all_one_query() -> None:
    train = {"a": "🍕", "b": "+=", "c": "क्या", "d": " 🍔"}
    assert [(leak.query, leak.test_query) for leak in find_leaks(train, ["🍔", "?"])] == [("d", "🍔")]


def test_threshold_is_checked() -> None:
    for threshold in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="threshold must be"):
            find_leaks({}, [], threshold)


def test_leaks_are_left_out_and_counted() -> None:
    queries = {"a": "what do pandas eat", "b": "who makes honey", "t": "What do pandas eat?"}
    corpus = {"1": "bamboo", "2": "bees", "3": "rain"}
    qrels = {"a": {"1": 1}, "b": {"2": 1}}
    mined = mine(queries, corpus, qrels, negatives=1, test_queries={"t": queries["t"]})
    assert mined.dataset["query"] == ["who makes honey"]
    assert mined.notes() == ["queries left out, in the test split or nearly: 1"]


def test_scifact_has_claims_on_both_sides(shared_data: Path) -> None:
    folder = shared_data / "scifact"
    queries = read_queries(folder / "queries.jsonl")
    train, test = ({q: queries[q] for q in read_qrels(folder / "qrels" / f"{s}.tsv")} for s in ("train", "test"))
    assert len(find_leaks(train, test, 1)) == 3
    found = find_leaks(train, test)
    assert len(found) == 83
    assert all(leak.query not in test for leak in found)
