"""A measure in one file: whether a relevant document is among the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class FoundEarly:
    def __init__(self, cutoff: int = 3) -> None:
        self.cutoff = cutoff
        self.name = f"FoundEarly@{cutoff}"

    def per_query(self, grades: Mapping[str, int], ranking: Sequence[str]) -> float:
        return float(any(grades.get(document, 0) > 0 for document in ranking[: self.cutoff]))
