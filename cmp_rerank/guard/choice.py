"""The rule of the guard: which candidate is handed over, given the values of all for each query.

Candidates are numbered from the simplest to the one farthest from what the user had. "Paired" is meant throughout: a
gain is the mean over queries of the difference of two candidates, and its standard error that of this mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Choice:
    """What the rule chose, and why; candidates are given by their numbers.

    Attributes:
        had: What the user had: the best of those named so.
        picked: What is picked on all queries.
        chosen: What is handed over: `picked`, or `had` where the cross-validation does not confirm it.
        gains: (candidates,) Gain of each candidate over `had`.
        errors: (candidates,) Its standard error; infinite with fewer than two queries.
        cross_validated_gain: Gain over `had` of what is picked on the other folds, measured on each fold.
        cross_validated_error: Its standard error.
        shares: (candidates,) In what share of the folds each candidate is picked.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> first_stage = rng.uniform(0.2, 0.6, 50)
        >>> choice = choose(np.stack([first_stage, first_stage + rng.uniform(0, 0.2, 50)]))
        >>> choice.had, choice.chosen, choice.gains.round(2).tolist()
        (0, 1, [0.0, 0.11])
    """

    had: int
    picked: int
    chosen: int
    gains: np.ndarray
    errors: np.ndarray
    cross_validated_gain: float
    cross_validated_error: float
    shares: np.ndarray


def choose(
    values: np.ndarray,
    hads: Sequence[int] = (0,),
    *,
    standard_errors: float = 1.0,
    folds: int = 10,
    repeats: int = 10,
    seed: int = 0,
) -> Choice:
    """Choose a candidate: what the user had, unless another one gains more than its standard error.

    1. What the user had is the best of ``hads`` on all queries, of equals the simplest.
    2. :func:`pick` picks a candidate on all queries.
    3. The whole of :func:`pick` is cross-validated: it picks on all folds but one, what it picks is measured on that
       one. So no query takes part in the choice of the candidate that it measures.
    4. The picked candidate is handed over if this cross-validated gain, too, is larger than ``standard_errors`` of
       its standard errors. If not, the user keeps what they had.

    So a new candidate has a higher mean on these queries than what the user had, by construction.

    Args:
        values: (candidates, queries) Value of each candidate for each query, the simplest candidate first.
        hads: Numbers of the candidates that the user had.
        standard_errors: How many standard errors a gain must exceed.
        folds: Number of folds, at most the number of queries.
        repeats: How often the folds are drawn; the values that a query gets are averaged.
        seed: Seed of the folds.

    Returns:
        The choice.

    Raises:
        ValueError: The values are no table of finite numbers, or no candidate is one that the user had.

    Source: Breiman, Friedman, Olshen and Stone, Classification and Regression Trees (1984), section 3.4.3, for the
    rule of one standard error; Varma and Simon (2006, doi:10.1186/1471-2105-7-91) for cross-validating the choice.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> first_stage = rng.uniform(0.2, 0.6, 50)
        >>> better, same = first_stage + rng.uniform(0, 0.2, 50), first_stage + rng.normal(0, 0.2, 50)
        >>> choose(np.stack([first_stage, same, better])).chosen
        2
        >>> choose(np.stack([first_stage, same])).chosen
        0
    """
    values = _checked(values, hads)
    had = _best(values, hads)
    gains, errors = paired(values - values[had])
    picked = pick(values, hads, standard_errors)
    held_out, shares = _cross_validate(values, hads, standard_errors, folds, repeats, seed)
    gain, error = paired(held_out - values[had])
    confirmed = gain > _bar(standard_errors, error)
    return Choice(had, picked, picked if confirmed else had, gains, errors, float(gain), float(error), shares)


def pick(values: np.ndarray, hads: Sequence[int], standard_errors: float) -> int:
    """The simplest of the good candidates, without cross-validation.

    Good is what gains more than ``standard_errors`` standard errors over the best of ``hads``. Of these, the one of
    the highest mean is found; the simplest one that is not more than ``standard_errors`` standard errors below it is
    picked. Where none is good, it is the best of ``hads``.

    Args:
        values: (candidates, queries) As for :func:`choose`.
        hads: As there.
        standard_errors: As there.

    Returns:
        The number of a candidate.

    Example:
        >>> had, good, also_good = [0.1, 0.3, 0.2], [0.5, 0.7, 0.4], [0.4, 0.8, 0.5]
        >>> pick(np.array([had, good, also_good]), [0], 1.0)
        1
    """
    had = _best(values, hads)
    gains, errors = paired(values - values[had])
    good = np.flatnonzero(gains > _bar(standard_errors, errors))
    if not len(good):
        return had
    best = good[np.argmax(gains[good])]
    losses, errors = paired(values[best] - values[good])
    return int(good[np.flatnonzero(losses <= _bar(standard_errors, errors))[0]])


def paired(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the queries, and their standard errors, as :func:`cmp_rerank.evaluation.statistics.mean_error`.

    Args:
        differences: (..., queries) Differences of two candidates.

    Returns:
        (...) The means, and (...) the standard errors: infinite with fewer than two queries, where nothing can be
        said, and 0 where the difference is the same for every query, up to rounding.

    Example:
        >>> mean, error = paired(np.array([0.1, 0.3, 0.2, 0.2]))
        >>> round(float(mean), 3), round(float(error), 3)
        (0.2, 0.041)
    """
    queries = differences.shape[-1]
    means = differences.mean(axis=-1)
    if queries < 2:
        return means, np.full_like(means, np.inf)
    same = np.ptp(differences, axis=-1) <= 1e-12 * np.abs(differences).max(axis=-1)
    return means, np.where(same, 0.0, differences.std(axis=-1, ddof=1) / np.sqrt(queries))


def _bar(standard_errors: float, errors: np.ndarray) -> np.ndarray:
    """What a gain must exceed: nothing exceeds an error that is infinite, not even 0 times.

    Where one query alone differs, its gain is exactly one standard error; rounding must not decide then.
    """
    return np.multiply(
        standard_errors * (1 + 1e-9), errors, out=np.full_like(errors, np.inf), where=np.isfinite(errors)
    )


def _best(values: np.ndarray, hads: Sequence[int]) -> int:
    means = values.mean(axis=1)
    return max(sorted(hads), key=lambda had: means[had])  # of equals, max takes the first


def _cross_validate(
    values: np.ndarray, hads: Sequence[int], standard_errors: float, folds: int, repeats: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(queries,) The value of what was picked without the query, and (candidates,) how often each was picked."""
    candidates, queries = values.shape
    folds = min(folds, queries)
    rng = np.random.default_rng(seed)
    sums, counts = np.zeros(queries), np.zeros(candidates)
    for _ in range(repeats):
        fold_of = rng.permutation(queries) % folds
        for fold in range(folds):
            held_out = fold_of == fold
            # With one query only there is no other to pick on, and what the user had is kept.
            picked = pick(values[:, ~held_out], hads, standard_errors) if queries > 1 else _best(values, hads)
            sums[held_out] += values[picked, held_out]
            counts[picked] += 1
    return sums / repeats, counts / counts.sum()


def _checked(values: np.ndarray, hads: Sequence[int]) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            "values must be a table (candidates, queries) of finite numbers with a candidate and a query at least; "
            f"got one of shape {values.shape}{'' if np.isfinite(values).all() else ' with NaN or infinity'}; "
            "evaluate each candidate on the same queries"
        )
    if not hads or not all(0 <= had < len(values) for had in hads):
        raise ValueError(
            f"hads must name candidates, by numbers from 0 to {len(values) - 1}; got {list(hads)}; one of them at "
            "least is what the user had"
        )
    return values
