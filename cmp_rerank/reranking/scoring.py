"""From the candidates of a group to its new run: scores of the model, the rest below, joined with the first stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cmp_rerank.ir import Run, rank
from cmp_rerank.reranking.groups import Group
from cmp_rerank.reranking.result import Counts, Scored
from cmp_rerank.reranking.scorers import GroupScorer, PairScores

#: First stage and scores of the model, of the same queries -> the run over all candidates, best first.
Mix = Callable[[Run, Run], Mapping[str, Mapping[str, float]]]


class NotFiniteError(ValueError):
    """A score of a model is NaN or infinite, as after a training that diverged."""


def score_group(group: Group, pairs: list[tuple[str, str]], scorer: GroupScorer, mix: Mix | None = None) -> Scored:
    """The new scores of a group, best first; documents below the depth stay below, in their order.

    Raises:
        NotFiniteError: A score is not finite.
    """
    answer = scorer(pairs) if pairs else PairScores(np.empty(0))
    candidates = group.candidates
    if not np.isfinite(answer.scores).all():
        at = int(np.isfinite(answer.scores).argmin())
        query, doc = candidates[at]
        raise NotFiniteError(
            f"scores must be finite; the model's score for query {query!r} and document {doc!r} is "
            f"{answer.scores[at]}; check the model, or load it in 32 bits"
        )
    run: dict[str, dict[str, float]] = {query: {} for query in group.ranked}
    for (query, doc), score in zip(candidates, answer.scores.tolist(), strict=True):
        run[query][doc] = score
    told: dict[str, dict[str, list[tuple[int, int, float]]]] = {}
    for (query, doc), found in zip(candidates, answer.found, strict=bool(answer.found)):
        told.setdefault(query, {})[doc] = found
    counts = Counts(len(group.ranked), len(pairs), answer.cut, answer.passages)
    joined = (mix or without_mixing)(group.ranked, run)
    return Scored({query: dict(joined[query]) for query in group.ranked}, counts, told)


def without_mixing(first_stage: Run, scores: Run) -> dict[str, dict[str, float]]:
    """The model's scores alone."""
    return {query: with_rest(scores[query], list(ranked)) for query, ranked in first_stage.items()}


def with_rest(scores: Mapping[str, float], ranked: list[str]) -> dict[str, float]:
    """New scores of the first documents of a ranking, best first, and below them the others in their order.

    Example:
        >>> with_rest({"a": 0.5, "b": 2.0}, ["a", "b", "c", "d"])
        {'b': 2.0, 'a': 0.5, 'c': -0.5, 'd': -1.5}
    """
    ordered = dict(rank(scores))
    lowest = min(ordered.values(), default=0.0)
    # Steps that a rounded number can still show, whatever the size of the scores.
    step = max(1.0, abs(lowest) * 1e-6)
    for place, doc in enumerate(ranked[len(ordered) :], 1):
        ordered[doc] = lowest - place * step
    return ordered
