"""Fusion against its formulas, and what it refuses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.ir import combine, fuse, rank

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
RUNS = st.lists(
    st.dictionaries(st.sampled_from("qp"), st.dictionaries(st.sampled_from("abcde"), NUMBERS, max_size=5)),
    min_size=2,
    max_size=3,
)
SCALES = ("max", "minmax", "z", "none")


def slow_scaled(scores: dict[str, float], scale: str) -> dict[str, float]:
    low, high = min(scores.values()), max(scores.values())
    if scale == "max":
        return {d: max(s, 0) / high if high > 0 else 0 for d, s in scores.items()}
    if scale == "minmax":
        return {d: (s - low) / (high - low) if high > low else 1 for d, s in scores.items()}
    if scale == "z":
        mean, deviation = statistics.fmean(scores.values()), statistics.pstdev(scores.values())
        return {d: (s - mean) / deviation if high > low else 0 for d, s in scores.items()}
    return scores


@pytest.mark.parametrize("scale", SCALES)
def test_weighted_combination_is_a_slow_loop(scale: str) -> None:
    runs = [
        {"q": {"a": 8.0, "b": 2.0, "c": -1.0}, "p": {"x": -3.0}},
        {"q": {"b": -0.5, "c": -0.1, "d": -0.3}, "r": {}, "p": {"y": 2.0, "z": 2.0}},
        {"q": {"e": 5.0}},
    ]
    weights = [0.5, 2.0, 1.0]
    expected: dict[str, dict[str, float]] = {"q": {}, "p": {}, "r": {}}
    for query, names in (("q", "abcde"), ("p", "xyz")):
        for document in names:
            total = 0.0
            for run, weight in zip(runs, weights, strict=True):
                if run.get(query):
                    scaled = slow_scaled(run[query], scale)
                    total += weight * scaled.get(document, min(0, *scaled.values()))
            expected[query][document] = total
    combined = combine(runs, weights, scale=scale)
    assert combined == {query: pytest.approx(scores) for query, scores in expected.items()}
    best = combine(runs, weights, scale=scale, depth=2)
    assert best == {query: dict(rank(scores)[:2]) for query, scores in combined.items()}
    assert list(best["q"]) == [document for document, _ in rank(best["q"])]


@given(RUNS, st.sampled_from(SCALES))
def test_a_document_that_a_run_lacks_is_not_above_one_that_it_has(
    runs: list[dict[str, dict[str, float]]], scale: str
) -> None:
    alone = combine([runs[0], *({} for _ in runs[1:])], scale=scale)
    together = combine(runs, [1.0, *(0.0 for _ in runs[1:])], scale=scale)
    for query, scores in together.items():
        found = alone.get(query, {})
        assert {document: scores[document] for document in found} == found
        lacking = [score for document, score in scores.items() if document not in found]
        assert all(missed <= score for missed in lacking for score in found.values())
        assert all(map(math.isfinite, scores.values()))


@given(RUNS, st.sampled_from(["minmax", "z"]), st.floats(0.01, 100), st.integers(-1000, 1000))
def test_scales_forget_units(
    runs: list[dict[str, dict[str, float]]], scale: str, factor: float, offset: float
) -> None:
    runs = [{q: {d: float(round(s)) for d, s in scores.items()} for q, scores in run.items()} for run in runs]
    moved = [{q: {d: factor * s + offset for d, s in scores.items()} for q, scores in runs[0].items()}, *runs[1:]]
    before, after = combine(runs, scale=scale), combine(moved, scale=scale)
    assert after == {query: pytest.approx(scores, abs=1e-6) for query, scores in before.items()}


@given(RUNS)
def test_fusion_with_weights_is_a_slow_loop_and_needs_ranks_only(runs: list[dict[str, dict[str, float]]]) -> None:
    weights = [0.5, 0.0, 3.0][: len(runs)]
    fused = fuse(runs, 2, weights)
    for query in {query for run in runs for query in run}:
        for document in {document for run in runs for document in run.get(query, {})}:
            total = 0.0
            for run, weight in zip(runs, weights, strict=True):
                names = [name for name, _ in rank(run.get(query, {}))]
                total += weight / (3 + names.index(document)) if document in names else 0
            assert fused[query][document] == pytest.approx(total)
    places = [{q: {d: -float(i) for i, (d, _) in enumerate(rank(s))} for q, s in run.items()} for run in runs]
    assert fuse(places, 2, weights) == fused
    assert fuse(runs, 2, weights, depth=1) == {query: dict(rank(scores)[:1]) for query, scores in fused.items()}


# Ranks and weights by which documents often tie, though by other sums.
TIES = st.lists(
    st.fixed_dictionaries(
        {"q": st.permutations("abcd").map(lambda order: {d: float(i) for i, d in enumerate(order)})}
    ),
    min_size=3,
    max_size=4,
)


@given(TIES, st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.7]), min_size=4, max_size=4), st.data())
def test_the_order_of_the_runs_does_not_matter(
    runs: list[dict[str, dict[str, float]]], weights: list[float], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(runs))))
    moved, factors = [runs[i] for i in order], [weights[i] for i in order]
    assert fuse(moved, weights=factors) == fuse(runs, weights=weights[: len(runs)])
    for scale in SCALES:
        assert combine(moved, factors, scale=scale) == combine(runs, weights[: len(runs)], scale=scale)


def test_documents_with_the_same_places_tie() -> None:
    """Each has the places 1, 2 and 3: 1/6 + 1/7 + 1/8 is not always the same float, in other orders."""
    runs = [{"q": dict(zip(order, (3.0, 2.0, 1.0), strict=True))} for order in ("abc", "bca", "cab")]
    assert len(set(fuse(runs, k=5)["q"].values())) == 1
    thirds = [{"q": dict(zip(order, (0.1, 0.2, 0.3), strict=True))} for order in ("abc", "bca", "cab")]
    assert len(set(combine(thirds, scale="none")["q"].values())) == 1


def test_equal_scores_have_a_value_on_each_scale() -> None:
    one, other = {"q": {"a": 0.1, "b": 0.1, "c": 0.1}}, {"q": {}}
    for scale, value in (("max", 1.0), ("minmax", 1.0), ("z", 0.0), ("none", 0.1)):
        assert combine([one, other], scale=scale) == {"q": dict.fromkeys("abc", value)}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_without_a_scale_are_refused(scale: str, score: float) -> None:
    runs = [{"q": {"a": 1.0}}, {"q": {"a": 1.0, "b": score}}]
    with pytest.raises(ValueError, match=f"got .* for document '.' and query 'q' in run 2.* scale '{scale}'"):
        combine(runs, scale=scale)


@pytest.mark.parametrize("fusion", [fuse, combine])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0]}, "weights must be a list with a number for each of the 2 runs; got a list of 1"),
        ({"weights": "11"}, "weights must be a list with a number for each of the 2 runs; got the string '11'"),
        ({"weights": [1.0, -1.0]}, "weight 2 must be a number of at least 0; got -1.0"),
        ({"weights": [0, 0]}, r"one weight at least must be above 0; got \[0, 0\]"),
        ({"depth": 0}, "depth must be a whole number of at least 1; got 0"),
    ],
)
def test_bad_weights_and_depth_are_refused(
    fusion: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fusion([{"q": {"a": 1.0}}, {"q": {"b": 1.0}}], **options)


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="scale must be one of 'max', 'minmax', 'z', 'none'; got 'rank'"):
        combine([{}, {}], scale="rank")


def test_fusion_is_its_formula() -> None:
    first, second = {"q": {"a": 9.0, "b": 8.0, "c": 8.0}, "p": {"x": 1.0}}, {"q": {"c": 0.2, "d": 0.1}}
    fused = fuse([first, second], k=10)
    assert fused == {"q": {"a": 1 / 11, "c": 1 / 12 + 1 / 11, "b": 1 / 13, "d": 1 / 12}, "p": {"x": 1 / 11}}
    with pytest.raises(ValueError, match="two runs or more; got 1"):
        fuse([first])
    with pytest.raises(ValueError, match="k must be a number of at least 0; got -1"):
        fuse([first, second], k=-1)


def test_combination_is_its_formula() -> None:
    first, second = {"q": {"a": 8.0, "b": 2.0}, "p": {"x": 0.0}}, {"q": {"b": 0.5, "c": 0.1, "d": -0.3}, "r": {}}
    combined = combine([first, second])
    assert combined == {"q": {"a": 1.0, "b": 0.25 + 1.0, "c": pytest.approx(0.2), "d": 0.0}, "p": {"x": 0.0}, "r": {}}
    with pytest.raises(ValueError, match="two runs or more; got 1"):
        combine([first])


@pytest.mark.parametrize("fusion", [fuse, combine])
def test_runs_of_another_shape_are_refused(fusion: Callable[[Any], object]) -> None:
    run = {"q": {"a": 1.0}}
    for runs, message in (
        ((part for part in [run, run]), r"runs must be a list of runs; got a generator; write \[first, second\]"),
        ({"one": run, "two": run}, "runs must be a list of runs; got a dict of 2"),
        ([run, "run.trec"], "run 2 must map query ids to .*; got the string 'run.trec'; read the file with"),
        ([{"a": 1.0}, run], "run 1 must map query ids to .*; got 1.0 for query 'a'; give each query a dictionary"),
    ):
        with pytest.raises(ValueError, match=message):
            fusion(runs)
