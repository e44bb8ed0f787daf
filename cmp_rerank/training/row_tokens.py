"""Tokenising rows of a dataset: all pairs that a row has of its own, and how long a row is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from cmp_rerank.ablations import Example
from cmp_rerank.ablations.base import derived_seed
from cmp_rerank.models.pairs import Truncation
from cmp_rerank.training.collator import Preparer, RerankerCollator

logger = logging.getLogger(__name__)

#: Characters that count as a token in a row that cannot be tokenised.
_CHARACTERS = 4


class RowTokeniser:
    """Tokenises rows, a few thousand pairs at a time; one bad row does not hinder the others.

    Args:
        preparer: tokenises pairs.
        collator: makes columns of rows.
    """

    def __init__(self, preparer: Preparer, collator: RerankerCollator) -> None:
        self.preparer, self.collator = preparer, collator
        #: Why a row could not be tokenised, by the last call; "" where all could.
        self.problem = ""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> tuple[list[list[Example] | None], Truncation]:
        """Tokenise rows of one dataset.

        Returns:
            The pairs of each row; None for a row that cannot be tokenised. And what the window cut.
        """
        self.problem = ""
        self.preparer.truncation = Truncation()
        try:
            return self._together(rows), self.preparer.truncation
        except Exception:  # whatever a tokenizer, a segmenter or a scorer does with a text
            self.preparer.truncation = Truncation()
        found: list[list[Example] | None] = []
        for row in rows:
            try:
                found += self._together([row])
            except Exception as error:
                self.problem = self.problem or str(error)
                found.append(None)
        return found, self.preparer.truncation

    def _together(self, rows: Sequence[dict[str, Any]]) -> list[list[Example] | None]:
        return list(self.preparer.own_pairs(self.collator.columns(list(rows))))


def content_of(row: dict[str, Any]) -> int:
    """A number that stands for all that a row holds: labels, too, since the support in a passage depends on them.

    Example:
        >>> row = {"query": "who", "passage": "it was", "label": 1.0}
        >>> content_of(row) == content_of(dict(row)) != content_of(row | {"label": 0.0})
        True
    """
    return derived_seed(repr(row))


def warn_of(problem: str) -> None:
    """Say that some rows could not be tokenised."""
    logger.warning(
        "Some rows could not be tokenised in advance (%s). For batches of similar length they count by their "
        "characters; they are tokenised when their batch is collated.",
        problem,
    )


def row_length(row: dict[str, Any], examples: Sequence[Example] | None) -> int:
    """The tokens of a row, 0 without pairs; a guess by its characters where it could not be tokenised.

    Example:
        >>> row_length({"query": "who", "docs": ["it was", "her"], "label": 1.0}, None)
        4
    """
    if examples is not None:
        return sum(len(example) for example in examples)
    return 1 + sum(map(len, texts(row))) // _CHARACTERS


def texts(row: dict[str, Any]) -> list[str]:
    """All texts of a row."""
    values = (value if isinstance(value, list | tuple) else [value] for value in row.values())
    return [text for value in values for text in value if isinstance(text, str)]


def pairs_of(row: dict[str, Any]) -> int:
    """How many pairs a row has, about; at least 1.

    Example:
        >>> pairs_of({"query": "who", "docs": ["it was", "her"], "label": 1.0})
        2
    """
    columns = {name: value for name, value in row.items() if name != "dataset_name"}
    return max(1, len(texts(columns)) - 1)  # one of the texts is the query
