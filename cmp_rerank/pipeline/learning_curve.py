"""Quality against the number of training queries: would more labels help?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmp_rerank.evaluation.statistics import bootstrap_means, interval

#: Stands for all training queries in a list of sizes.
ALL = "all"
_LEVEL = 0.95


def sizes_of(wanted: Sequence[int | str], available: int) -> list[int]:
    """The numbers of queries to train on, the smallest first; more than there are is all.

    Args:
        wanted: numbers of queries, or "all".
        available: how many there are.

    Raises:
        ValueError: fewer than two different numbers are left.

    Example:
        >>> sizes_of([50, "all", 100, 400], 120)
        [50, 100, 120]
    """
    sizes = sorted({available if size == ALL else min(int(size), available) for size in wanted})
    if len(sizes) < 2:
        raise ValueError(
            f"sizes must have two numbers of queries at least, to compare them; got {list(wanted)!r} of "
            f"{available:,} training queries; choose smaller ones"
        )
    return sizes


def sampled(rows: Any, size: int, seed: int) -> Any:
    """The training data of some queries: a smaller sample is part of a larger one of the same seed.

    Args:
        rows: training data with a column `query`; all rows of a query stay together.
        size: how many queries.
        seed: of the sample.

    Returns:
        The rows of these queries, in their order.

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_dict({"query": ["bees", "pandas", "bees", "rain"], "label": [1, 1, 0, 1]})
        >>> small, large = (set(sampled(rows, size, seed=0)["query"]) for size in (1, 2))
        >>> len(small), len(large), small < large
        (1, 2, True)
    """
    queries = list(rows["query"])
    order = sorted(set(queries), key=lambda query: hashlib.sha256(f"{seed} {query}".encode()).digest())
    chosen = set(order[:size])
    return rows.select([number for number, query in enumerate(queries) if query in chosen])


def learning_curve(
    measure: str, values: Mapping[int, Sequence[Mapping[str, float]]], *, resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Means and intervals by the number of training queries, and what they say of more labels.

    Args:
        measure: name of the measure.
        values: number of training queries -> for each training seed the value of each validation query. Under 0 is
            the model before training, where it can rank. A size whose trainings have all diverged is not there.
        resamples: bootstrap samples, of queries and seeds.
        seed: of the samples.

    Returns:
        Plain data: `points`, each with `size`, `mean`, `low`, `high` and `seeds` (the mean of each); `last`, the
        difference of the two largest sizes with its interval; and `sentence`. With fewer than two sizes there are no
        points and no difference.

    Example:
        >>> values = {size: [{f"q{i}": size / 100 + i / 1000 for i in range(40)}] for size in (10, 20)}
        >>> print(learning_curve("RR", values)["sentence"])
        More labels would probably help: from 10 to 20 training queries, RR changes by +0.100 (95% interval +0.100 to
        +0.100; 40 validation queries, 1 training seed).
    """
    sizes = sorted(values)
    if len(sizes) < 2:
        sentence = "There is no learning curve: trainings have diverged, and fewer than two sizes are left."
        return {"measure": measure, "level": _LEVEL, "points": [], "last": None, "sentence": sentence}
    queries = list(values[sizes[0]][0])
    # (seeds, queries, 1) for each size
    table = [np.array([[one[query] for query in queries] for one in values[size]])[:, :, None] for size in sizes]
    means = bootstrap_means(table, resamples=resamples, seed=seed)
    points = []
    for size, array, samples in zip(sizes, table, means, strict=True):
        low, high = interval(samples, _LEVEL)
        by_seed = array.mean(axis=(1, 2)).tolist()
        points.append({"size": size, "mean": float(array.mean()), "low": low, "high": high, "seeds": by_seed})
    low, high = interval(means[-1] - means[-2], _LEVEL)
    last = {
        "from": sizes[-2],
        "to": sizes[-1],
        "difference": points[-1]["mean"] - points[-2]["mean"],
        "low": low,
        "high": high,
    }
    seeds = len(values[sizes[-1]])
    sentence = (
        f"{_answer(low, high)}: from {last['from']:,} to {last['to']:,} training queries, {measure} changes by "
        f"{last['difference']:+.3f} ({_LEVEL:.0%} interval {low:+.3f} to {high:+.3f}; {len(queries):,} validation "
        f"queries, {seeds} training {'seed' if seeds == 1 else 'seeds'})."
    )
    return {"measure": measure, "level": _LEVEL, "points": points, "last": last, "sentence": sentence}


def _answer(low: float, high: float) -> str:
    if low > 0:
        return "More labels would probably help"
    return (
        "More labels of this kind would probably not help" if high < 0 else "Whether more labels would help is open"
    )


def chart(curve: Mapping[str, Any]) -> dict[str, dict[str, list[list[float]]]]:
    """A curve as the report draws it: the means, and the ends of their intervals."""
    series = {"mean": "mean", "lower end of the interval": "low", "upper end": "high"}
    points = curve["points"]
    title = f"validation {curve['measure']} by training queries"
    if not points:
        return {}
    return {title: {name: [[point["size"], point[key]] for point in points] for name, key in series.items()}}
