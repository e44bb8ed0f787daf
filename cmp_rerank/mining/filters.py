"""Which negatives are kept: limits of their scores, and margins below the positives.

A document that scores as high as the positives may be a positive that nobody has judged (a false negative). A margin
leaves such documents out (NV-Retriever, arXiv 2407.15831, calls it positive-aware mining).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cmp_rerank.mining.options import MiningOptions


@dataclass(frozen=True)
class ScoreFilter:
    """The scores that a negative may have.

    Attributes:
        min_score: The lowest score; None: no limit.
        max_score: The highest score; None: no limit.
        absolute_margin: How much less than every positive it must score; None: no margin.
        relative_margin: The same, in shares of the size of the positive's score.

    Example:
        >>> margin = ScoreFilter(relative_margin=0.1)
        >>> [margin.keeps(score, [8.0, 10.0]) for score in (7.0, 7.5)]
        [True, False]
        >>> margin.keeps(-11.5, [-10.0]), margin.keeps(-10.5, [-10.0])
        (True, False)
    """

    min_score: float | None = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None

    @classmethod
    def of(cls, options: MiningOptions) -> ScoreFilter:
        """The filter that the options ask for."""
        return cls(options.min_score, options.max_score, options.absolute_margin, options.relative_margin)

    @property
    def needs_positives(self) -> bool:
        """Whether the scores of the positives matter."""
        return self.absolute_margin is not None or self.relative_margin is not None

    @property
    def active(self) -> bool:
        """Whether there is any limit."""
        return self != ScoreFilter()

    def keeps(self, score: float, positives: Iterable[float]) -> bool:
        """Whether a negative with this score is kept.

        Args:
            score: Its score.
            positives: Scores of the query's positives by the same model or run; none: no margin.
        """
        if self.min_score is not None and score < self.min_score:
            return False
        if self.max_score is not None and score > self.max_score:
            return False
        for positive in positives:
            if self.absolute_margin is not None and score > positive - self.absolute_margin:
                return False
            if self.relative_margin is not None and score > positive - abs(positive) * self.relative_margin:
                return False
        return True
