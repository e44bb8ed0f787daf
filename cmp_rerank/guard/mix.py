"""How the scores of a model are joined with those of the first stage: the same while choosing and in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cmp_rerank.ir import Run, combine, rank
from cmp_rerank.ir.arguments import check_count, check_number
from cmp_rerank.ir.fusion import SCALES
from cmp_rerank.ir.ranking import check_choice


@dataclass(frozen=True)
class Mix:
    """The weighted sum of the model's scores and those of the first stage.

    Attributes:
        weight: Share of the model's score, from 0 (the first stage alone) to 1 (the model alone).
        scale: How the scores of one query are made comparable before they are added, see
            :func:`cmp_rerank.ir.combine`.
        depth: How many candidates of each query the model scores.

    Raises:
        ValueError: An attribute is out of its range.

    Example:
        >>> first_stage = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
        >>> mix = Mix(0.75, "minmax", depth=2)
        >>> mix.top(first_stage)
        {'q': {'a': 3.0, 'b': 2.0}}
        >>> mix(first_stage, {"q": {"a": -7.0, "b": -5.0}})
        {'q': {'b': 0.75, 'a': 0.25, 'c': -0.25}}
    """

    weight: float
    scale: str
    depth: int

    def __post_init__(self) -> None:
        check_number("weight", self.weight, 0, 1)
        check_choice("scale", self.scale, SCALES)
        check_count("depth", self.depth)

    def top(self, first_stage: Run) -> dict[str, dict[str, float]]:
        """The candidates that the model scores, with the scores of the first stage, best first."""
        return {query: dict(rank(scores)[: self.depth]) for query, scores in first_stage.items()}

    def __call__(self, first_stage: Run, scores: Run) -> dict[str, dict[str, float]]:
        """The run that is ranked by both.

        Args:
            first_stage: Query id -> document id -> score.
            scores: The model's scores of the candidates that :meth:`top` gives; not looked at where the first stage
                is alone.

        Returns:
            A run over the documents of the first stage; those below the depth keep their order, below the others.
        """
        if self.weight == 0:
            return {query: dict(rank(found)) for query, found in first_stage.items()}
        if self.weight == 1:
            return _with_rest(first_stage, scores)
        runs = [self.top(first_stage), scores]
        return _with_rest(first_stage, combine(runs, [1 - self.weight, self.weight], scale=self.scale))


def _with_rest(first_stage: Run, scores: Run) -> dict[str, dict[str, float]]:
    """The documents of the first stage: first the scored ones, then the others in their order."""
    return {query: _one_query(found, scores.get(query, {})) for query, found in first_stage.items()}


def _one_query(found: Mapping[str, float], scored: Mapping[str, float]) -> dict[str, float]:
    ordered = dict(rank(scored))
    lowest = min(ordered.values(), default=0.0)
    # Steps that a rounded number can still show, whatever the size of the scores.
    step = max(0.5, abs(lowest) * 1e-6)
    rest = (document for document, _ in rank(found) if document not in scored)
    return ordered | {document: lowest - place * step for place, document in enumerate(rest, 1)}
