"""What mining did, in numbers and in sentences."""

from __future__ import annotations

from dataclasses import dataclass, field

from cmp_rerank.reranking.result import Counts


@dataclass
class MiningCounts:
    """Numbers of what was mined and of what was left out.

    Attributes:
        queries: Queries with a text that the judgments (without judgments: the runs) name.
        mined: Queries with rows in the dataset.
        rows: Rows of the dataset.
        positives: Positives of these queries.
        negatives: Negatives of these queries by source: the name of each run, and "random"; without judgments, all
            documents.
        filtered: Documents left out by a limit or a margin of their score.
        unscored_positives: Queries for which a margin could not be applied: no run has a score for a positive.
        filled: Random negatives that stand in where the runs had too few.
        fewer: Queries with fewer negatives than asked for (``short="keep"``).
        too_few: Queries left out since they have too few negatives.
        leaked: Queries left out since the test split has them, or nearly.
        without_text: Queries left out since they have no text.
        without_positive: Queries left out since no document with a text is judged relevant.
        not_in_runs: Queries that no run has.
        missing_texts: Documents left out since they have no text.
        unscored: Documents without a score of the teacher.
        unlabelled: Queries left out since the teacher knows too few of their documents.
        read: What models have scored, for filters and labels; of it, pairs that exceed the window.
    """

    queries: int = 0
    mined: int = 0
    rows: int = 0
    positives: int = 0
    negatives: dict[str, int] = field(default_factory=dict)
    filtered: int = 0
    unscored_positives: int = 0
    filled: int = 0
    fewer: int = 0
    too_few: int = 0
    leaked: int = 0
    without_text: int = 0
    without_positive: int = 0
    not_in_runs: int = 0
    missing_texts: int = 0
    unscored: int = 0
    unlabelled: int = 0
    read: Counts = field(default_factory=Counts)

    def summary(self) -> str:
        """One line.

        Example:
            >>> MiningCounts(queries=3, mined=2, rows=2, positives=2, negatives={"bm25": 9, "random": 5}).summary()
            '2 rows from 2 of 3 queries: 2 positives, 14 negatives (bm25 9, random 5)'
        """
        sources = ", ".join(f"{name} {number:,}" for name, number in self.negatives.items() if number)
        return (
            f"{self.rows:,} rows from {self.mined:,} of {self.queries:,} queries: {self.positives:,} positives, "
            f"{sum(self.negatives.values()):,} negatives" + (f" ({sources})" if sources else "")
        )

    def notes(self) -> list[str]:
        """What a reader should know: one sentence for each number that is not 0.

        Example:
            >>> MiningCounts(leaked=2, fewer=1).notes()
            ['queries left out, in the test split or nearly: 2', 'queries with fewer negatives: 1']
        """
        notes = [f"{what}: {number:,}" for what, number in self._left_out() if number]
        return notes + ([f"scored by models: {self.read}"] if self.read.cut else [])

    def _left_out(self) -> list[tuple[str, int]]:
        return [
            ("queries left out, without a text", self.without_text),
            ("queries left out, in the test split or nearly", self.leaked),
            ("queries left out, no document with a text is judged relevant", self.without_positive),
            ("queries left out, too few negatives", self.too_few),
            ("queries left out, the teacher knows too few of their documents", self.unlabelled),
            ("queries that no run has", self.not_in_runs),
            ("queries with fewer negatives", self.fewer),
            ("queries without a margin, no run has a score of their positives", self.unscored_positives),
            ("documents left out, without a text", self.missing_texts),
            ("documents left out by their scores", self.filtered),
            ("documents without a score of the teacher", self.unscored),
            ("random negatives that stand in where runs had too few", self.filled),
        ]
