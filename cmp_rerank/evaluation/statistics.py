"""Statistics of a comparison: intervals, paired tests, correction for several tests, power.

The unit is the query. All functions take differences or values per query, whatever the measure is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CELLS = 4_000_000  # size of the largest temporary array of the resampling loops, in numbers


@dataclass(frozen=True)
class MeanError:
    """The standard error of a mean difference, from queries and from training seeds.

    Attributes:
        standard_error: Square root of the sum of the variances of the mean.
        degrees: Degrees of freedom, by Welch and Satterthwaite where several variances are summed.
    """

    standard_error: float
    degrees: float


def mean_error(differences: np.ndarray, seed_means: Sequence[np.ndarray] = ()) -> MeanError | None:
    """Standard error of a mean of per-query differences.

    Args:
        differences: (queries,) Differences, each averaged over the seeds of both systems.
        seed_means: For each system that was trained with several seeds, (seeds,) the mean of each seed over
            the queries. Their variance is added: another seed would give another mean.

    Returns:
        The error, or None with fewer than two queries, where there is nothing to estimate it from.

    Example:
        >>> mean_error(np.array([0.1, 0.3, 0.2, 0.2])).degrees
        3.0
    """
    if len(differences) < 2:
        return None
    spread = float(np.var(differences, ddof=1))
    if np.ptp(differences) <= 1e-12 * np.max(np.abs(differences)):
        spread = 0.0  # the same difference for every query, up to rounding
    parts = [(spread / len(differences), len(differences) - 1)]
    parts += [(float(np.var(means, ddof=1)) / len(means), len(means) - 1) for means in seed_means if len(means) > 1]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return MeanError(0.0, float(len(differences) - 1))
    degrees = variance**2 / sum(part**2 / degree for part, degree in parts)
    return MeanError(math.sqrt(variance), float(degrees))


def t_test(mean: float, error: MeanError | None) -> float:
    """Two-sided p value of a mean difference.

    With one seed per system this is the paired t-test of :func:`scipy.stats.ttest_rel`. A mean of exactly 0
    has p = 1, also where the error is 0 or unknown; a difference that is the same for every query has p = 0.

    Example:
        >>> x = np.array([0.5, 0.7, 0.6, 0.9]) - np.array([0.4, 0.6, 0.2, 0.5])
        >>> round(t_test(x.mean(), mean_error(x)), 4)
        0.0632
    """
    from scipy.stats import t

    if mean == 0 or error is None:
        return 1.0
    if error.standard_error == 0:
        return 0.0
    return float(2 * t.sf(abs(mean) / error.standard_error, error.degrees))


def randomisation_test(differences: np.ndarray, *, resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """Two-sided p values of paired randomisation tests: the signs of the differences are drawn at random.

    Where there are no more than `resamples` sign patterns, all are enumerated and p is exact.
    With random signs p = (1 + number of draws at least as extreme) / (1 + draws), which is never 0.

    Args:
        differences: (queries, comparisons) Differences per query; all comparisons share the signs drawn.
        resamples: Number of draws.
        seed: Seed of the draws.

    Returns:
        (comparisons,) p values. Source: Smucker, Allan, Carterette (CIKM 2007).

    Example:
        >>> randomisation_test(np.array([[0.1], [0.2], [0.3]]))
        array([0.25])
    """
    # A difference of 0 has no sign, and leaving the row out where all are 0 makes more cases exact.
    differences = differences[np.any(differences != 0, axis=1)]
    n, comparisons = differences.shape
    observed = np.abs(differences.sum(axis=0))
    # Sums of the same numbers in another order differ in the last bits; that must not decide "as extreme".
    threshold = observed - 1e-9 * np.maximum(np.abs(differences).sum(axis=0), 1e-300)
    exact = n < 63 and 2**n <= resamples
    total = 2**n if exact else resamples
    rng = np.random.default_rng(seed)
    extreme = np.zeros(comparisons, dtype=np.int64)
    step = max(1, _CELLS // max(n, 1))
    for start in range(0, total, step):
        count = min(step, total - start)
        if exact:
            bits: np.ndarray = (np.arange(start, start + count)[:, None] >> np.arange(n)) & 1
        else:
            bits = np.unpackbits(rng.integers(0, 256, (count, -(-n // 8)), dtype=np.uint8), axis=1)[:, :n]
        sums = (bits * 2.0 - 1.0) @ differences
        extreme += np.sum(np.abs(sums) >= threshold, axis=0)
    return extreme / total if exact else (extreme + 1) / (total + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values that can be compared with alpha for the whole family.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for done, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def bootstrap_means(systems: Sequence[np.ndarray], *, resamples: int = 10_000, seed: int = 0) -> list[np.ndarray]:
    """Means of bootstrap samples: queries are drawn with replacement, and seeds within each system.

    All systems see the same draws of queries, so that differences of the results are paired.

    Args:
        systems: One array (seeds, queries, measures) for each system.
        resamples: Number of bootstrap samples.
        seed: Seed of the draws.

    Returns:
        One array (resamples, measures) for each system.

    Example:
        >>> values = np.linspace(0, 1, 50).reshape(1, 50, 1)
        >>> means, = bootstrap_means([values], resamples=200)
        >>> means.shape, bool(abs(means.mean() - 0.5) < 0.02)
        ((200, 1), True)
    """
    rng = np.random.default_rng(seed)
    queries = systems[0].shape[1]
    results = [np.empty((resamples, values.shape[2])) for values in systems]
    # (queries, columns): one column for each seed and measure of each system, so that one product does them all.
    table = np.concatenate([values.transpose(1, 0, 2).reshape(queries, -1) for values in systems], axis=1)
    step = max(1, _CELLS // queries)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(0, queries, (count, queries)) + np.arange(count)[:, None] * queries
        weights = np.bincount(drawn.ravel(), minlength=count * queries).reshape(count, queries)
        columns = (weights.astype(np.float64) @ table) / queries  # (count, columns)
        first = 0
        for values, means in zip(systems, results, strict=True):
            seeds, _, measures = values.shape
            by_seed = columns[:, first : first + seeds * measures].reshape(count, seeds, measures)
            first += seeds * measures
            if seeds == 1:
                means[start : start + count] = by_seed[:, 0]
            else:
                picked = rng.integers(0, seeds, (count, seeds))
                means[start : start + count] = np.take_along_axis(by_seed, picked[:, :, None], axis=1).mean(axis=1)
    return results


def interval(samples: np.ndarray, level: float) -> tuple[float, float]:
    """Percentile interval of bootstrap samples.

    Example:
        >>> interval(np.arange(101.0), 0.5)
        (25.0, 75.0)
    """
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def minimum_detectable_effect(error: MeanError | None, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The minimum detectable effect: the smallest true difference that a two-sided t-test on these queries finds.

    For that difference the test at level `alpha` is significant with probability `power`, given the observed
    spread of the differences. It is solved from the noncentral t distribution. A difference that is not
    significant says little about true differences below this one: the query set is too small.

    Args:
        error: The standard error of the mean difference.
        alpha: Level of significance.
        power: Probability that the test is significant; 0.5 or more.

    Returns:
        The difference in the unit of the measure; None where the spread is 0 or unknown.

    Example:
        >>> round(minimum_detectable_effect(MeanError(0.01, 99.0)), 4)
        0.0283
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    if error is None or error.standard_error == 0:
        return None
    critical = float(t.isf(alpha / 2, error.degrees))

    def excess(shift: float) -> float:
        # The other tail adds less than 1e-5 where the power is 1/2 or more, and scipy gives NaN far out.
        return float(nct.sf(critical, error.degrees, shift)) - power

    high = critical + 1.0
    while excess(high) < 0:
        high += critical
    return float(brentq(excess, 0.0, high)) * error.standard_error
