"""Several runs as one: reciprocal rank fusion, and the weighted sum of scaled scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from cmp_rerank.ir.arguments import check_count, check_number, check_runs, kind
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.ranking import check_choice, rank

SCALES = ("max", "minmax", "z", "none")


def fuse(
    runs: Sequence[Run], k: float = 60, weights: Sequence[float] | None = None, depth: int | None = None
) -> dict[str, dict[str, float]]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): a document's score is the sum of 1 / (k + rank).

    It needs no tuning: ranks are comparable where scores are not.

    Args:
        runs: two or more runs; a document that a run lacks gets nothing from it.
        k: how little the first ranks stand out; at least 0. 60 is the value of the paper.
        weights: a factor for each run, at least 0; None: 1 for each, as in the paper.
        depth: only so many documents of each query are kept, the best ones; None: all.

    Returns:
        A run with every query of any of them, and its documents.

    Raises:
        ValueError: fewer than two runs, something else than a list of runs, NaN for a score, or an argument out of
            its range.

    Example:
        >>> fused = fuse([{"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 0.9, "c": 0.1}}])
        >>> [document for document, _ in rank(fused["q"])]
        ['b', 'a', 'c']
        >>> fuse([{"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 0.9}}], k=1, weights=[1, 0.5], depth=1)
        {'q': {'b': 0.583...}}
    """
    check_runs(runs)
    check_number("k", k, 0)
    _check_depth(depth)
    parts: dict[str, dict[str, list[float]]] = {}
    for run, weight in zip(runs, _weights(weights, len(runs)), strict=True):
        for query, scores in run.items():
            found = parts.setdefault(query, {})
            for place, (document, _) in enumerate(rank(scores), start=1):
                found.setdefault(document, []).append(weight / (k + place))
    return _cut({query: {doc: _sum(each) for doc, each in found.items()} for query, found in parts.items()}, depth)


def combine(
    runs: Sequence[Run], weights: Sequence[float] | None = None, *, scale: str = "max", depth: int | None = None
) -> dict[str, dict[str, float]]:
    """Weighted sum of scores (CombSUM, Fox and Shaw 1994), after those of each query and run are put on one scale.

    Unlike ranks, scores say by how much a document is better. A document that a run lacks gets 0 from it, or the
    lowest scaled score that the run gave for this query where that is below 0. So it is never above a document that
    the run has found. A run that lacks the query, or found nothing for it, adds 0 to each of its documents.

    Args:
        runs: two or more runs.
        weights: a factor for each run, at least 0; None: 1 for each.
        scale: how the scores s of one query in one run are made comparable.

            - "max": s / the highest; scores below 0 count as 0, and all are 0 where the highest is not above 0.
            - "minmax": (s - lowest) / (highest - lowest); where all scores are equal, each is 1, as the highest is.
            - "z": (s - mean) / standard deviation; where all scores are equal, each is 0, as the mean is.
            - "none": s as it is, for runs whose scores are on one scale already.
        depth: only so many documents of each query are kept, the best ones; None: all.

    Returns:
        A run with every query of any of them, and its documents.

    Raises:
        ValueError: fewer than two runs, something else than a list of runs, a score that is NaN or has no finite
            scaled value, or an argument out of its range.

    Example:
        >>> bm25, dense = {"q": {"a": 4.0, "b": 3.0}}, {"q": {"b": 0.5, "c": 0.25}}
        >>> combine([bm25, dense])
        {'q': {'a': 1.0, 'b': 1.75, 'c': 0.5}}
        >>> combine([bm25, dense], weights=[1, 2], scale="minmax", depth=2)
        {'q': {'b': 2.0, 'a': 1.0}}
    """
    check_runs(runs)
    check_choice("scale", scale, SCALES)
    _check_depth(depth)
    factors = _weights(weights, len(runs))
    combined: dict[str, dict[str, float]] = {}
    for query in dict.fromkeys(query for run in runs for query in run):
        parts = [_scaled(run.get(query, {}), scale, place, query) for place, run in enumerate(runs, start=1)]
        floors = [min(0.0, *part.values()) if part else 0.0 for part in parts]
        combined[query] = {
            document: _sum(
                factor * part.get(document, floor) for factor, part, floor in zip(factors, parts, floors, strict=True)
            )
            for document in dict.fromkeys(document for part in parts for document in part)
        }
    return _cut(combined, depth)


def _sum(parts: Iterable[float]) -> float:
    """The sum, exact up to one rounding: documents that tie do so in whatever order the runs come."""
    values = list(parts)
    try:
        return math.fsum(values)
    except OverflowError:  # infinite, or nearly
        return sum(values)


def _scaled(scores: Mapping[str, float], scale: str, place: int, query: str) -> dict[str, float]:
    """The scores of one query in one run, on the scale."""
    if not scores:
        return {}
    values = [float(score) for score in scores.values()]
    scaled = values if any(map(math.isnan, values)) else _SCALE[scale](values)
    for document, before, after in zip(scores, values, scaled, strict=True):
        if not math.isfinite(after):
            raise ValueError(
                f"scores must be numbers that can be added; got {before} for document {document!r} and query "
                f"{query!r} in run {place}, which is {after} on the scale {scale!r}; use fuse, which needs ranks "
                "only, or leave the document out"
            )
    return dict(zip(scores, scaled, strict=True))


def _by_max(values: list[float]) -> list[float]:
    highest = max(values)
    return [max(value, 0.0) / highest if highest > 0 else 0.0 for value in values]


def _by_range(values: list[float]) -> list[float]:
    lowest, highest = min(values), max(values)
    return [(value - lowest) / (highest - lowest) if highest > lowest else 1.0 for value in values]


def _by_deviation(values: list[float]) -> list[float]:
    # Moving and stretching the scores changes no z-score, and between 0 and 1 nothing is too small to be squared.
    # fsum is exact: the mean of equal scores is that score, and the order of the documents does not matter.
    values = _by_range(values)
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / (deviation or 1.0) for value in values]


_SCALE: dict[str, Callable[[list[float]], list[float]]] = {
    "max": _by_max,
    "minmax": _by_range,
    "z": _by_deviation,
    "none": list,
}


def _weights(weights: Sequence[float] | None, runs: int) -> list[float]:
    """The factor of each run."""
    if weights is None:
        return [1.0] * runs
    if isinstance(weights, str | Mapping) or not isinstance(weights, Sequence) or len(weights) != runs:
        raise ValueError(f"weights must be a list with a number for each of the {runs} runs; got {kind(weights)}")
    for place, weight in enumerate(weights, start=1):
        check_number(f"weight {place}", weight, 0)
    if not any(weights):
        raise ValueError(
            f"one weight at least must be above 0; got {list(weights)!r}; leave weights out for equal ones"
        )
    return [float(weight) for weight in weights]


def _check_depth(depth: int | None) -> None:
    if depth is not None:
        check_count("depth", depth)


def _cut(run: dict[str, dict[str, float]], depth: int | None) -> dict[str, dict[str, float]]:
    """The best ``depth`` documents of each query."""
    if depth is None:
        return run
    return {query: dict(rank(scores)[:depth]) for query, scores in run.items()}
