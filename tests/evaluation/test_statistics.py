"""Statistics against scipy, against complete enumeration, and against what they promise, by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy_seeds import drawn_by

from cmp_rerank.evaluation.statistics import (
    bootstrap_means,
    holm,
    interval,
    mean_error,
    minimum_detectable_effect,
    randomisation_test,
    t_test,
)


def pairs(seed: int, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two systems as measures have them: correlated, bounded, full of ties."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    a, b = (np.clip(np.round(0.5 + 0.3 * (hard + rng.normal(size=n) + s), 1), 0, 1) for s in (0.0, shift))
    return a, b


@pytest.mark.parametrize(
    ("seed", "n", "shift"), [(0, 43, 0.0), (1, 43, 0.8), (2, 300, 0.1), (3, 3, 0.5), (4, 10, -0.5)]
)
def test_t_test_is_scipys(seed: int, n: int, shift: float) -> None:
    a, b = pairs(seed, n, shift)
    difference = b - a
    expected = stats.ttest_rel(b, a)
    error = mean_error(difference)
    assert error is not None
    assert error.degrees == n - 1
    assert error.standard_error == pytest.approx(stats.sem(difference))
    assert t_test(difference.mean(), error) == pytest.approx(expected.pvalue, rel=1e-10)


def test_t_test_at_the_edges() -> None:
    assert mean_error(np.array([0.5])) is None
    assert t_test(0.5, None) == 1.0
    same = mean_error(np.array([0.1 + 0.2, 0.3, 0.3]))  # 0.30000000000000004 and 0.3
    assert same is not None
    assert same.standard_error == 0.0
    assert t_test(0.3, same) == 0.0
    assert t_test(0.0, same) == 1.0
    zero = mean_error(np.zeros(5))
    assert t_test(0.0, zero) == 1.0
    assert minimum_detectable_effect(zero) is None
    assert minimum_detectable_effect(None) is None


def test_seeds_add_the_variance_of_their_means() -> None:
    difference = np.array([0.1, -0.2, 0.3, 0.4])
    means_a, means_b = np.array([0.5, 0.6, 0.4]), np.array([0.2, 0.3])
    error = mean_error(difference, [means_a, means_b])
    v = [difference.var(ddof=1) / 4, means_a.var(ddof=1) / 3, means_b.var(ddof=1) / 2]
    assert error is not None
    assert error.standard_error == pytest.approx(math.sqrt(sum(v)))
    assert error.degrees == pytest.approx(sum(v) ** 2 / (v[0] ** 2 / 3 + v[1] ** 2 / 2 + v[2] ** 2 / 1))
    assert mean_error(difference, [np.array([0.5])]) == mean_error(difference)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9), st.integers(0, 3))
@settings(deadline=None)
def test_randomisation_is_exact_where_it_can_be(numbers: list[int], zeros: int) -> None:
    difference = np.array([*numbers, *[0] * zeros]) / 10
    observed = abs(sum(numbers))
    extreme = sum(
        abs(sum(s * x for s, x in zip(signs, numbers, strict=True))) >= observed
        for signs in itertools.product([-1, 1], repeat=len(numbers))
    )
    assert randomisation_test(difference[:, None])[0] == pytest.approx(extreme / 2 ** len(numbers))


def test_queries_without_a_difference_leave_the_randomisation_test_exact() -> None:
    difference = np.array([0.3, 0.2, 0.4, 0.1, 0.2, -0.1])
    exact = randomisation_test(difference[:, None])[0]
    assert 0 < exact * 2**6 == round(exact * 2**6) < 2**6  # canary: a share of all sign patterns
    assert randomisation_test(np.concatenate([difference, np.zeros(60)])[:, None], resamples=100)[0] == exact


def test_randomisation_is_scipys_and_shares_its_signs() -> None:
    a, b = pairs(5, 60, 0.25)
    difference = b - a
    p = randomisation_test(np.stack([difference, -2 * difference], axis=1), resamples=20_000)
    assert p[0] == p[1]
    theirs = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        **drawn_by(1),
    ).pvalue
    assert 0.01 < theirs < 0.9  # canary: a p value that can be told from 0 and 1
    assert p[0] == pytest.approx(theirs, abs=4 * math.sqrt(2 * theirs * (1 - theirs) / 20_000))
    assert randomisation_test(np.full((100, 1), 0.1), resamples=999)[0] == 1 / 1000  # never 0
    assert randomisation_test(np.zeros((100, 1)))[0] == 1.0


def test_randomisation_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pairs(6, 50, 0.3)
    whole = randomisation_test((b - a)[:, None], resamples=1000, seed=3)
    monkeypatch.setattr("cmp_rerank.evaluation.statistics._CELLS", 50 * 8 * 7)
    chunked = randomisation_test((b - a)[:, None], resamples=1000, seed=3)
    assert chunked[0] == pytest.approx(whole[0], abs=0.05)
    exact = randomisation_test((b - a)[:8, None])
    monkeypatch.setattr("cmp_rerank.evaluation.statistics._CELLS", 24)
    assert randomisation_test((b - a)[:8, None]) == exact


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_step_down_procedure(p: list[float]) -> None:
    """The corrected value is the lowest level at which the stepwise procedure rejects."""
    adjusted = holm(p)

    def rejected(alpha: float) -> set[int]:
        out: set[int] = set()
        for step, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            if p[i] > alpha / (len(p) - step):
                break
            out.add(i)
        return out

    for i, value in enumerate(adjusted):
        assert p[i] <= value <= 1
        if value < 1:
            assert i in rejected(value * (1 + 1e-9) + 1e-12)
        if value > 1e-6:
            assert i not in rejected(value * (1 - 1e-6)) or value == p[i] == 0


def test_bootstrap_is_scipys() -> None:
    a, b = pairs(7, 80, 0.3)
    boot_a, boot_b = bootstrap_means([a[None, :, None], b[None, :, None]], resamples=20_000)
    rng = np.random.default_rng(2)
    for ours, sample in ((boot_a[:, 0], (a,)), (boot_b[:, 0] - boot_a[:, 0], (b - a,))):
        theirs = stats.bootstrap(
            sample, np.mean, method="percentile", n_resamples=20_000, confidence_level=0.9, **drawn_by(rng)
        ).confidence_interval
        width = theirs.high - theirs.low
        assert interval(ours, 0.9) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)


def test_bootstrap_draws_seeds_within_a_system() -> None:
    flat = np.full((1, 30, 1), 0.5)
    seeds = np.stack([np.full((30, 1), 0.2), np.full((30, 1), 0.8)])
    means_flat, means_seeds = bootstrap_means([flat, seeds], resamples=4000)
    assert np.allclose(means_flat, 0.5)
    values, counts = np.unique(means_seeds.round(6), return_counts=True)
    assert values.tolist() == [0.2, 0.5, 0.8]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_bootstrap_in_chunks_and_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = pairs(8, 40)
    (first,) = bootstrap_means([a[None, :, None]], resamples=500, seed=1)
    (again,) = bootstrap_means([a[None, :, None]], resamples=500, seed=1)
    (other,) = bootstrap_means([a[None, :, None]], resamples=500, seed=2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    monkeypatch.setattr("cmp_rerank.evaluation.statistics._CELLS", 40 * 33)
    (chunked,) = bootstrap_means([a[None, :, None]], resamples=500, seed=1)
    assert chunked.std() == pytest.approx(first.std(), rel=0.15)
    assert chunked.std() == pytest.approx(a.std() / math.sqrt(40), rel=0.15)


def null_rates(pairs_drawn: int, queries: int, seed: int) -> tuple[float, float]:
    """How often two systems that do not differ are called different at 5%, by the t and the randomisation test."""
    rng = np.random.default_rng(seed)
    t_found = random_found = 0
    for _ in range(pairs_drawn):
        hard = rng.normal(size=queries)
        a, b = (np.clip(np.round(0.5 + 0.3 * (hard + rng.normal(size=queries)), 1), 0, 1) for _ in range(2))
        difference = b - a
        t_found += t_test(difference.mean(), mean_error(difference)) < 0.05
        random_found += (
            randomisation_test(difference[:, None], resamples=999, seed=int(rng.integers(2**31)))[0] < 0.05
        )
    return t_found / pairs_drawn, random_found / pairs_drawn


def test_under_the_null_no_more_than_5_percent_are_called_significant() -> None:
    """2,000 simulated pairs; 3 standard deviations of that many draws are 0.0146."""
    margin = 3 * math.sqrt(0.05 * 0.95 / 2000)
    for rate in null_rates(2000, 50, seed=11):
        assert 0.05 - margin < rate < 0.05 + margin


def test_the_minimum_detectable_effect_is_found_as_often_as_promised() -> None:
    rng = np.random.default_rng(12)
    queries, spread = 40, 0.2
    error = mean_error(rng.normal(size=queries))
    assert error is not None
    true_error = type(error)(spread / math.sqrt(queries), queries - 1)
    for power in (0.5, 0.8):
        shift = minimum_detectable_effect(true_error, power=power)
        assert shift is not None
        found = 0
        for _ in range(2000):
            sample = rng.normal(shift, spread, size=queries)
            found += t_test(sample.mean(), mean_error(sample)) < 0.05
        assert found / 2000 == pytest.approx(power, abs=3 * math.sqrt(power * (1 - power) / 2000))


def test_with_seeds_the_t_test_holds_its_level_for_training_again() -> None:
    """Two recipes with the same distribution of seed effects; without the seeds far too many would be different."""
    rng = np.random.default_rng(13)
    queries, seeds, draws = 60, 5, 1000
    with_seeds = without = 0
    for _ in range(draws):
        hard = rng.normal(scale=0.2, size=queries)
        a, b = (
            hard + rng.normal(scale=0.03, size=(seeds, 1)) + rng.normal(scale=0.05, size=(seeds, queries))
            for _ in range(2)
        )
        difference = b.mean(axis=0) - a.mean(axis=0)
        mean = difference.mean()
        with_seeds += t_test(mean, mean_error(difference, [a.mean(axis=1), b.mean(axis=1)])) < 0.05
        without += t_test(mean, mean_error(difference)) < 0.05
    assert with_seeds / draws < 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)
    assert with_seeds / draws > 0.01
    assert without / draws > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("queries", [10, 43, 300])
def test_the_null_at_other_sizes(queries: int) -> None:
    for rate in null_rates(4000, queries, seed=queries):
        assert rate < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
