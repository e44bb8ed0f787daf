"""Dividing queries: shares, near-duplicates on one side, and the same whatever the order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.collections import Collection, Split, divide, divided, load
from cmp_rerank.collections.splits import THRESHOLD
from cmp_rerank.text.near_duplicates import shingles

WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(" ".join)
QUERIES = st.dictionaries(st.integers(0, 99).map("q{}".format), WORDS, min_size=12, max_size=30)


def distinct(count: int) -> dict[str, str]:
    """Queries that share no two words."""
    return {f"q{i}": f"alpha{i} beta{i} gamma{i} delta{i}" for i in range(count)}


@given(st.integers(10, 60), st.integers(0, 5), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_shares_are_met_where_no_queries_are_alike(count: int, seed: int, dev: float, test: float) -> None:
    parts = divide(distinct(count), {"dev": dev, "test": test}, seed=seed)
    assert list(parts) == ["train", "dev", "test"]
    assert len(parts["dev"]) == max(1, round(dev * count))
    assert len(parts["test"]) == max(1, round(test * count))
    assert sorted(name for part in parts.values() for name in part) == sorted(distinct(count))


@settings(max_examples=50)
@given(QUERIES, st.integers(0, 3))
def test_near_duplicates_are_on_one_side(queries: dict[str, str], seed: int) -> None:
    try:
        parts = divide(queries, {"test": 0.3}, seed=seed)
    except ValueError:
        return
    side = {name: part for part, names in parts.items() for name in names}
    assert sorted(side) == sorted(queries)
    assert parts["test"]
    assert parts["train"]
    for name, text in queries.items():
        for other, second in queries.items():
            if text == second:
                assert side[name] == side[other]
    reordered = dict(sorted(queries.items(), key=lambda item: item[1], reverse=True))
    again = divide(reordered, {"test": 0.3}, seed=seed)
    assert {part: set(names) for part, names in again.items()} == {part: set(names) for part, names in parts.items()}


def test_queries_that_differ_in_one_word_stay_together() -> None:
    queries = distinct(40)
    copies = {f"c{i}": f"what alpha{i} beta{i} gamma{i} delta{i} is good for you" for i in range(40)}
    more = {f"m{i}": text + " now" for i, text in enumerate(copies.values())}
    one, two = (set(shingles(texts["0"], 2).tolist()) for texts in ({"0": copies["c3"]}, {"0": more["m3"]}))
    assert THRESHOLD < len(one & two) / len(one | two) < 1, "the canary: they are alike, and not the same"
    parts = divide({**queries, **copies, **more}, {"test": 0.3}, seed=2)
    side = {name: part for part, names in parts.items() for name in names}
    assert all(side[f"c{i}"] == side[f"m{i}"] for i in range(40))
    assert any(side[f"q{i}"] != side[f"c{i}"] for i in range(40)), "others are divided"


def test_the_seed_decides() -> None:
    parts = [divide(distinct(30), {"test": 0.3}, seed=seed)["test"] for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_too_few_queries() -> None:
    same = {f"q{i}": "what do pandas eat" for i in range(9)}
    with pytest.raises(ValueError, match="3 splits need as many queries that are not nearly the same; got 1"):
        divide(same, {"dev": 0.2, "test": 0.2})
    assert divide(distinct(3), {"dev": 0.1, "test": 0.1}).keys() == {"train", "dev", "test"}


def test_queries_of_emoji_are_different_queries() -> None:
    parts = divide({str(i): text for i, text in enumerate("🍕🍔🐼🐝🌧🌊🔥🎈")}, {"dev": 0.25})
    assert [len(part) for part in parts.values()] == [6, 2]


@given(st.lists(st.integers(1, 9), min_size=3, max_size=6), st.integers(0, 3))
def test_large_groups_leave_no_split_empty(sizes: list[int], seed: int) -> None:
    queries = {
        f"q{group}_{i}": f"alpha{group} beta{group} gamma{group} delta{group}"
        for group, size in enumerate(sizes)
        for i in range(size)
    }
    parts = divide(queries, {"dev": 0.45, "test": 0.45}, seed=seed)
    assert all(parts.values())
    assert sum(map(len, parts.values())) == len(queries)


def test_a_collection_is_divided_with_all_that_belongs_to_its_queries() -> None:
    queries = distinct(20)
    qrels = {query: {"d": i % 3} for i, query in enumerate(queries)}
    first, second = dict(list(queries.items())[:12]), dict(list(queries.items())[12:])
    collection = Collection(
        "x",
        {"d": "text"},
        {
            "train": Split(first, {q: qrels[q] for q in first}, dict.fromkeys(first, 2.0), {"q1": {"d": [(0, 2)]}}),
            "test": Split({**second, "unjudged": "nobody knows"}, {q: qrels[q] for q in second}),
        },
        runs={"bm25": {"q1": {"d": 1.0}}},
    )
    parts = divided(collection, {"test": 0.25}, seed=1)
    assert parts.splits == ("train", "test")
    assert len(parts.qrels("test")) == 5
    assert {**parts.qrels("train"), **parts.qrels("test")} == qrels
    assert "unjudged" not in parts.queries()
    weights = {**(parts.weights("train") or {}), **(parts.weights("test") or {})}
    assert weights == {query: 2.0 if query in first else 1.0 for query in queries}
    assert parts.support == {"q1": {"d": [(0, 2)]}}
    assert parts.run("bm25") == collection.run("bm25")
    assert load(collection, split={"test": 0.25}, seed=1).qrels("test") == parts.qrels("test")


def test_splits_that_contradict_each_other_are_not_divided_anew() -> None:
    queries = distinct(5)
    first = Split(queries, {query: {"d": 1} for query in queries})
    second = Split({"q0": queries["q0"]}, {"q0": {"e": 2, "d": 0}})
    collection = Collection("x", {"d": "text", "e": "other"}, {"train": first, "test": second})
    with pytest.raises(ValueError, match="x: a pair has one grade; got 1 and 0 in two splits, for query 'q0' and"):
        divided(collection, 0.2)
    second.qrels["q0"]["d"] = 1  # type: ignore[index]
    parts = divided(collection, 0.2)
    judged = {query: grades for name in parts.splits for query, grades in parts.qrels(name).items()}
    assert judged["q0"] == {"d": 1, "e": 2}
