"""The rule: against slow loops, its invariants, and what it does to simulated users."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.evaluation.statistics import mean_error
from cmp_rerank.guard.choice import choose, paired, pick

# Values as measures give them, with many ties.
VALUES = st.sampled_from([0.0, 0.25, 0.5, 0.63, 1.0])
TABLES = st.tuples(st.integers(1, 6), st.integers(1, 12)).flatmap(
    lambda shape: st.lists(
        st.lists(VALUES, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


def slow_gain(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    differences = [a - b for a, b in zip(one, other, strict=True)]
    if len(differences) < 2:
        return differences[0], math.inf
    if max(differences) - min(differences) < 1e-12:
        return differences[0], 0.0
    return statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def slow_pick(table: list[list[float]], hads: list[int], k: float) -> int:
    had = hads[0]
    for other in hads:
        if statistics.fmean(table[other]) > statistics.fmean(table[had]):
            had = other
    good = []
    for i, row in enumerate(table):
        gain, error = slow_gain(row, table[had])
        if gain > k * error:
            good.append(i)
    if not good:
        return had
    best = good[0]
    for i in good:
        if statistics.fmean(table[i]) > statistics.fmean(table[best]):
            best = i
    for i in good:
        loss, error = slow_gain(table[best], table[i])
        if loss <= k * error:
            return i
    raise AssertionError("the best one is not below itself")


def slow_choose(table: list[list[float]], hads: list[int], k: float, folds: int, repeats: int, seed: int) -> int:
    queries = len(table[0])
    if queries == 1:
        return slow_pick(table, hads, k)
    rng = np.random.default_rng(seed)
    held_out = [0.0] * queries
    for _ in range(repeats):
        fold_of = [int(place) % min(folds, queries) for place in rng.permutation(queries)]
        for q in range(queries):
            others = [i for i in range(queries) if fold_of[i] != fold_of[q]]
            held_out[q] += table[slow_pick([[row[i] for i in others] for row in table], hads, k)][q] / repeats
    had = slow_pick([table[i] for i in hads], list(range(len(hads))), math.inf)
    gain, error = slow_gain(held_out, table[hads[had]])
    return slow_pick(table, hads, k) if gain > k * error + 1e-12 else hads[had]


def exact(table: list[list[float]]) -> np.ndarray:
    """Values that sums of any order tell apart in the same way: the oracle adds up otherwise."""
    return np.asarray(table) + np.arange(len(table))[:, None] * 1e-6


@given(TABLES, st.sampled_from([0.0, 0.7, 1.1, 2.1]), st.integers(1, 3))
def test_pick_is_a_slow_loop(table: list[list[float]], k: float, hads: int) -> None:
    values = exact(table)
    numbers = list(range(min(hads, len(table))))
    assert pick(values, numbers, k) == slow_pick(values.tolist(), numbers, k)


@settings(max_examples=50)
@given(TABLES, st.sampled_from([0.5, 0.9, 1.7]), st.integers(2, 5), st.integers(0, 3))
def test_choose_is_a_slow_loop(table: list[list[float]], k: float, folds: int, seed: int) -> None:
    values = exact(table)
    hads = list(range(min(2, len(table))))
    chosen = choose(values, hads, standard_errors=k, folds=folds, repeats=2, seed=seed).chosen
    assert chosen == slow_choose(values.tolist(), hads, k, folds, 2, seed)


@given(st.lists(VALUES, min_size=2, max_size=20))
def test_standard_errors_are_those_of_comparisons(differences: list[float]) -> None:
    error = mean_error(np.array(differences))
    assert error is not None
    assert float(paired(np.array(differences))[1]) == pytest.approx(error.standard_error, abs=1e-15)


@given(TABLES, st.integers(0, 3), st.sampled_from([0.0, 1.0]))
def test_never_worse_on_these_queries_than_what_the_user_had(table: list[list[float]], seed: int, k: float) -> None:
    values = np.asarray(table)
    hads = list(range(min(2, len(table))))
    choice = choose(values, hads, standard_errors=k, repeats=1, folds=3, seed=seed)
    means = values.mean(axis=1)
    assert means[choice.had] == means[hads].max()
    assert choice.chosen in (choice.had, choice.picked)
    if choice.chosen not in hads:
        assert means[choice.chosen] > means[choice.had]
        assert choice.gains[choice.chosen] > k * choice.errors[choice.chosen]
        assert choice.cross_validated_gain > k * choice.cross_validated_error
    assert choice.shares.sum() == pytest.approx(1)


@given(TABLES)
def test_one_query_changes_nothing(table: list[list[float]]) -> None:
    values = np.asarray(table)[:, :1]
    choice = choose(values, [0])
    assert (choice.chosen, choice.cross_validated_error) == (0, math.inf)


@given(TABLES, st.floats(0.1, 5), st.floats(-3, 3))
def test_unit_and_origin_of_the_measure_do_not_matter(table: list[list[float]], unit: float, origin: float) -> None:
    values = exact(table)
    first, second = (choose(v, repeats=1, standard_errors=0.9) for v in (values, unit * values + origin))
    assert first.chosen == second.chosen


@given(TABLES)
def test_a_copy_of_what_the_user_had_is_never_chosen(table: list[list[float]]) -> None:
    values = np.asarray(table + table[:1])
    assert choose(values, repeats=1, standard_errors=0).chosen != len(table)


@given(st.integers(2, 60), st.floats(0.01, 1), st.floats(0, 1))
def test_one_better_query_is_no_reason(queries: int, more: float, value: float) -> None:
    """Its gain is exactly one standard error, up to rounding."""
    had = np.full(queries, value)
    better = had.copy()
    better[queries // 2] += more
    assert pick(np.stack([had, better]), [0], 1.0) == 0
    assert pick(np.stack([had, better]), [0], 0.99) == 1


def test_of_equals_the_simpler_one() -> None:
    had, good = [0.2, 0.3, 0.1, 0.4], [0.6, 0.7, 0.4, 0.9]
    assert choose(np.array([had, good, good])).chosen == 1
    assert choose(np.array([had, had, good]), [0, 1]).had == 0


def test_nearly_as_good_is_good_enough_only_within_a_standard_error() -> None:
    rng = np.random.default_rng(0)
    had = rng.uniform(0, 0.2, 100)
    simple = had + 0.3 + rng.normal(0, 0.05, 100)
    assert choose(np.stack([had, simple, simple + rng.normal(0.001, 0.05, 100)])).chosen == 1
    assert choose(np.stack([had, simple, simple + rng.normal(0.05, 0.05, 100)])).chosen == 2


def test_a_gain_that_is_due_to_the_choice_is_seldom_confirmed() -> None:
    """Of many candidates that are only noisy, one always looks good; on other queries it mostly does not."""
    rng = np.random.default_rng(1)
    picked, chosen = [], []
    for _ in range(60):
        had = rng.uniform(0.3, 0.6, 60)
        choice = choose(np.concatenate([had[None], had + rng.normal(0, 0.2, (40, 60))]), repeats=2)
        picked.append(choice.picked > 0)
        chosen.append(choice.chosen > 0)
    assert np.mean(picked) > 0.95
    assert np.mean(chosen) < 0.4


def test_the_same_seed_gives_the_same_choice_and_another_one_other_folds() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, (5, 30))
    first, again, other = (choose(values, seed=seed, repeats=1) for seed in (0, 0, 1))
    assert np.array_equal(first.shares, again.shares)
    assert first.cross_validated_gain == again.cross_validated_gain
    assert not np.array_equal(first.shares, other.shares)


def simulated(rng: np.random.Generator, queries: int, effect: float) -> np.ndarray:
    """What the user had, and eight candidates on the way to one whose true gain is `effect` standard errors."""
    had = rng.beta(1, 1, queries)
    way = np.arange(1, 9)[:, None] / 8
    common, own = rng.standard_normal(queries), rng.standard_normal((8, queries))
    spread = 0.25
    shift = effect * spread / math.sqrt(queries)
    return np.concatenate([had[None], had + way * (shift + spread * common) + 0.3 * spread * np.sqrt(way) * own])


def outcomes(effect: float, queries: int = 50, times: int = 250) -> dict[str, float]:
    rng = np.random.default_rng(0)
    chosen = [choose(simulated(rng, queries, effect), repeats=1).chosen for _ in range(times)]
    return {"new": np.mean([c > 0 for c in chosen]).item(), "effect": effect * np.mean(chosen).item() / 8}


@pytest.mark.parametrize("effect", [0.0, -0.5, -1.0, -2.0])
def test_without_a_true_gain_little_is_handed_over_and_little_is_lost(effect: float) -> None:
    found = outcomes(effect)
    assert found["new"] < 0.2
    assert found["effect"] > -0.05  # the expected loss, in standard errors of a comparison


def test_a_large_true_gain_is_nearly_always_taken() -> None:
    found = outcomes(4.0)
    assert found["new"] > 0.95
    assert found["effect"] > 3.2


def test_without_cross_validation_far_more_would_be_handed_over() -> None:
    """The canary of the simulations: there is something to be optimistic about."""
    rng = np.random.default_rng(0)
    picked = [pick(simulated(rng, 50, 0.0), [0], 1.0) > 0 for _ in range(250)]
    assert np.mean(picked) > 0.25


@pytest.mark.parametrize(
    ("values", "hads", "message"),
    [
        ([[0.1, float("nan")]], [0], "with NaN or infinity"),
        ([0.1, 0.2], [0], r"got one of shape \(2,\)"),
        (np.empty((2, 0)), [0], r"got one of shape \(2, 0\)"),
        ([[0.1, 0.2]], [1], "hads must name candidates, by numbers from 0 to 0; got \\[1\\]"),
        ([[0.1, 0.2]], [], "got \\[\\]"),
    ],
)
def test_refused(values: Any, hads: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(values, hads)
