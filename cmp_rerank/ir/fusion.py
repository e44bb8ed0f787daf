"""Several runs as one: reciprocal rank fusion, and the sum of scaled scores."""

from __future__ import annotations

from collections.abc import Sequence

from cmp_rerank.ir.arguments import check_number, check_runs
from cmp_rerank.ir.files import Run
from cmp_rerank.ir.ranking import rank


def fuse(runs: Sequence[Run], k: int = 60) -> Run:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): a document's score is the sum of 1 / (k + rank).

    It needs no tuning: ranks are comparable where scores are not.

    Args:
        runs: two or more runs; a document that a run lacks gets nothing from it.
        k: how little the first ranks stand out; at least 0. 60 is the value of the paper.

    Returns:
        A run with every query and document of any of them.

    Raises:
        ValueError: fewer than two runs, something else than a list of runs, or ``k`` below 0.

    Example:
        >>> fused = fuse([{"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 0.9, "c": 0.1}}])
        >>> [document for document, _ in rank(fused["q"])]
        ['b', 'a', 'c']
    """
    check_runs(runs)
    check_number("k", k, 0)
    fused: dict[str, dict[str, float]] = {}
    for run in runs:
        for query, scores in run.items():
            found = fused.setdefault(query, {})
            for place, (document, _) in enumerate(rank(scores), start=1):
                found[document] = found.get(document, 0.0) + 1 / (k + place)
    return fused


def combine(runs: Sequence[Run]) -> Run:
    """Sum of scores (CombSUM, Fox and Shaw 1994), those of each run as shares of its best one of the query.

    Unlike ranks, scores say by how much a document is better; scores below 0 count as 0.

    Args:
        runs: two or more runs; a document that a run lacks gets nothing from it.

    Returns:
        A run with every query and document of any of them; scores lie between 0 and the number of runs.

    Raises:
        ValueError: fewer than two runs, or something else than a list of runs.

    Example:
        >>> combine([{"q": {"a": 4.0, "b": 3.0}}, {"q": {"b": 0.5, "c": 0.25}}])
        {'q': {'a': 1.0, 'b': 1.75, 'c': 0.5}}
    """
    check_runs(runs)
    combined: dict[str, dict[str, float]] = {}
    for run in runs:
        for query, scores in run.items():
            found = combined.setdefault(query, {})
            best = max(scores.values(), default=0.0)
            for document, score in scores.items():
                found[document] = found.get(document, 0.0) + (max(score, 0.0) / best if best > 0 else 0.0)
    return combined
