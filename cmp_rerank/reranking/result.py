"""What a group of queries becomes: scores, passages that won, and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Counts:
    """What a reranking has read.

    Attributes:
        queries: Queries of the run.
        pairs: (query, document) pairs that were scored.
        cut: Pairs that do not fit into the model's window, whose end the model did not read.
        passages: Passages that were scored, where documents are divided; else 0.

    Example:
        >>> counts = Counts(queries=2, pairs=20, cut=5)
        >>> counts.add(Counts(queries=1, pairs=10))
        >>> print(counts)
        30 pairs of 3 queries; 5 of the pairs (16.7%) exceed the window, and were cut
    """

    queries: int = 0
    pairs: int = 0
    cut: int = 0
    passages: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of others."""
        for each in fields(Counts):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def __str__(self) -> str:
        text = f"{self.pairs} pairs of {self.queries} queries"
        if self.passages:
            return f"{text}, read as {self.passages} passages"
        if self.cut:
            text += f"; {self.cut} of the pairs ({self.cut / self.pairs:.1%}) exceed the window, and were cut"
        return text


@dataclass(frozen=True)
class Scored:
    """A group of queries with its new scores.

    Attributes:
        run: Query -> document -> score, best first.
        counts: What was read for them.
        passages: Query -> document -> its passages as (start, end, score), where they were asked for.
    """

    run: dict[str, dict[str, float]]
    counts: Counts
    passages: Mapping[str, Mapping[str, list[tuple[int, int, float]]]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For a line of the journal; numbers keep all their digits."""
        return {"run": self.run} | ({"passages": self.passages} if self.passages else {})

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Scored:
        """From a line of the journal."""
        return cls(record["run"], Counts(**record["counts"]), record.get("passages", {}))
