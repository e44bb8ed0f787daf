"""Which passages of a document were scored, where they are, and which of them won."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor


class ScoredPassage(NamedTuple):
    """A passage of a document.

    Attributes:
        start: Its first character in the document.
        end: The character after its last one.
        score: The logit of the query with this passage.
    """

    start: int
    end: int
    score: float


class ScoredDocuments(NamedTuple):
    """Documents with their passages.

    Attributes:
        scores: (documents, labels) logits, combined from those of the passages.
        passages: For each document its passages, in their order.
    """

    scores: Tensor
    passages: list[list[ScoredPassage]]


def best_first(passages: list[ScoredPassage]) -> list[ScoredPassage]:
    """Passages by their scores; of equals the first.

    >>> best_first([ScoredPassage(0, 9, 1.0), ScoredPassage(5, 14, 2.0)])[0]
    ScoredPassage(start=5, end=14, score=2.0)
    """
    return sorted(passages, key=lambda passage: -passage.score)


def characters(document: str, offsets: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """Where tokens of a document stand in its text, without white space around.

    Args:
        document: The text.
        offsets: (tokens of the document, 2) the characters that each token stands for.
        first: The first token.
        last: The token after the last one.

    Example:
        >>> characters("a cat sat", np.array([[0, 1], [1, 5], [5, 9]]), 1, 3)
        (2, 9)
    """
    if first >= last:
        return 0, 0
    start, end = int(offsets[first:last, 0].min()), int(offsets[first:last, 1].max())
    text = document[start:end]
    begin = start + len(text) - len(text.lstrip())
    # Of white space alone, nothing is left at its end.
    return begin, max(begin, end - len(text) + len(text.rstrip()))
