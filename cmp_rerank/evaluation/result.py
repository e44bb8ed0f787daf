"""The result of an evaluation: values by query, their means, and what a reader of the figures should know."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Ties:
    """How many queries have equal scores around a cut-off.

    Attributes:
        cutoff: The rank; None for the whole ranking.
        across: Queries where the documents at the cut-off and just below it have the same score, so that
            the tie rule, not the system, chose what is above.
        above: Queries with a tie that involves a document at or above the cut-off.
    """

    cutoff: int | None
    across: int
    above: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Values of some measures for the queries of one run.

    Attributes:
        measures: Names, in the order asked for.
        queries: Query ids: every judged query, except what a policy left out.
        values: (queries, measures) float64, never NaN.
        missing: Judged queries for which the run has no document.
        unjudged: Number of queries of the run without any judgment; they do not count.
        ties: One entry for each cut-off (None for measures without); empty when the given rank decides.
        sums: Measures that are added up over queries rather than averaged, such as NumRet.
        nothing_judged: Where no document of the run is judged for its query: documents of both, in words.

    Example:
        >>> from cmp_rerank import evaluate
        >>> found = evaluate({"q1": {"a": 2.0, "b": 1.0}}, {"q1": {"b": 1}, "q2": {"a": 1}}, "RR@10 R@5")
        >>> found["RR@10"], found.means, found.missing
        (0.25, {'RR@10': 0.25, 'R@5': 0.5}, ('q2',))
    """

    measures: tuple[str, ...]
    queries: tuple[str, ...]
    values: np.ndarray
    missing: tuple[str, ...] = ()
    unjudged: int = 0
    ties: tuple[Ties, ...] = ()
    sums: frozenset[str] = field(default_factory=frozenset)
    nothing_judged: str = ""

    #: What is evaluated, in the plural.
    unit: ClassVar[str] = "queries"

    @property
    def means(self) -> dict[str, float]:
        """Measure -> mean over the queries (sum, for measures that count)."""
        totals = self.values.sum(axis=0)
        return {
            name: float(total if name in self.sums else total / len(self.queries))
            for name, total in zip(self.measures, totals, strict=True)
        }

    @property
    def per_query(self) -> dict[str, dict[str, float]]:
        """Measure -> query -> value."""
        return {
            name: dict(zip(self.queries, self.values[:, i].tolist(), strict=True))
            for i, name in enumerate(self.measures)
        }

    def __repr__(self) -> str:
        means = ", ".join(f"{name}={value:.4f}" for name, value in self.means.items())
        return f"<Evaluation of {len(self.queries)} queries: {means}>"

    def __getitem__(self, measure: str) -> float:
        """The mean of one measure."""
        if measure not in self.measures:
            raise KeyError(f"{measure!r} was not evaluated; there are {', '.join(self.measures)}")
        return self.means[measure]

    def column(self, measure: str) -> np.ndarray:
        """(queries,) The values of one measure, in the order of `queries`."""
        self[measure]
        return self.values[:, self.measures.index(measure)]

    def to_dict(self, *, per_query: bool = True) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        result: dict[str, Any] = {
            "means": self.means,
            "queries": len(self.queries),
            "missing": list(self.missing),
            "unjudged": self.unjudged,
            "ties": [vars(ties) for ties in self.ties],
        }
        if per_query:
            result["per_query"] = self.per_query
        return result

    def to_json(self, *, per_query: bool = True, indent: int | None = None) -> str:
        """The same as a JSON string."""
        return json.dumps(self.to_dict(per_query=per_query), indent=indent, allow_nan=False)

    def notes(self) -> list[str]:
        """What a reader of the figures should know: missing and unjudged queries, ties at the cut-offs."""
        notes = []
        if self.missing:
            judged = len({*self.queries, *self.missing})  # missing ones may be left out of the queries
            notes.append(f"{len(self.missing)} of {judged} judged queries are not in the run")
        if self.unjudged:
            notes.append(f"{self.unjudged} queries of the run have no judgment and do not count")
        if self.nothing_judged:
            notes.append(self.nothing_judged)
        for ties in self.ties:
            if ties.cutoff is not None and ties.across:
                notes.append(
                    f"ties cross rank {ties.cutoff} in {ties.across} of {len(self.queries)} queries: the document id "
                    "decides what is above"
                )
        return notes

    def __rich__(self) -> Any:
        """The means as a table, for rich."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{len(self.queries)} queries")
        table.add_column("measure")
        table.add_column("value", justify="right")
        for name, value in self.means.items():
            table.add_row(Text(name), f"{value:.4f}")
        if notes := self.notes():
            table.caption = Text("\n".join(notes))
        return table
