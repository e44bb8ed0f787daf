"""The loop of an evaluation: takes the blocks of one run, collects the values of all measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cmp_rerank.collections.matching import some
from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.evaluation.measures import Parsed, computations
from cmp_rerank.evaluation.ranked import RankedBlock
from cmp_rerank.evaluation.result import Evaluation, Ties
from cmp_rerank.ir import Block


class RunScorer:
    """Evaluates one run, block by block.

    Args:
        judged: The judgments; their queries are the rows of the values.
        measures: The measures; the columns.
        rank_order: As for :func:`cmp_rerank.evaluation.evaluate`.
        precision: As for :func:`cmp_rerank.evaluation.evaluate`.
    """

    def __init__(self, judged: Judgments, measures: Sequence[Parsed], rank_order: str, precision: str) -> None:
        self.judged, self.measures = judged, tuple(measures)
        self.rank_order, self.precision = rank_order, precision
        self.values = np.stack([measure.without_results(judged) for measure in self.measures], axis=1)
        self.found = np.zeros(len(judged.queries), dtype=bool)
        self.unjudged: list[str] = []
        self.rows, self.judged_rows = 0, 0
        self.first_documents: list[str] = []
        self.cutoffs = sorted({m.cutoff for m in self.measures}, key=lambda k: (k is None, k))
        self.ties = np.zeros((len(self.cutoffs), 2), dtype=np.int64)
        self.computations = computations(self.measures)

    def add(self, blocks: Iterable[Block]) -> None:
        """Evaluate the queries of these blocks."""
        for block in blocks:
            self._add(RankedBlock.of(block, self.judged, self.rank_order, self.precision))

    def _add(self, ranked: RankedBlock) -> None:
        for i in np.flatnonzero(ranked.number < 0).tolist():
            if ranked.block.queries[i] not in self.judged.skipped:
                self.unjudged.append(ranked.block.queries[i])
        if not self.rows and len(ranked.block):
            self.first_documents = ranked.ranking(0, 3)
        self.rows += len(ranked.block)
        self.judged_rows += len(ranked.rows)
        judged = ranked.number >= 0
        known = ranked.number[judged]
        self.found[known] = True
        self._count_ties(judged, ranked.block.bounds, ranked.tied)
        for columns, compute in self.computations:
            values = compute(ranked).reshape(len(judged), len(columns))
            self.values[known[:, None], columns] = values[judged]

    def _count_ties(self, judged: np.ndarray, bounds: np.ndarray, tied: np.ndarray) -> None:
        if not tied.any():
            return
        before = np.concatenate(([0], np.cumsum(tied)))
        starts, stops = bounds[:-1], bounds[1:]
        for i, cutoff in enumerate(self.cutoffs):
            ends = stops if cutoff is None else np.minimum(starts + cutoff, stops)
            across = tied[ends - 1] if cutoff is not None else np.zeros(len(ends), dtype=bool)
            above = before[ends] > before[starts]
            self.ties[i] += [np.sum(across & judged), np.sum(above & judged)]

    def result(self, missing: str, unjudged: str, empty: str) -> Evaluation:
        """What was collected, after the policies for queries.

        Raises:
            ValueError: For what a policy refuses, and for a run without any judged query.
        """
        judged = self.judged
        if self.rows == 0 and empty == "error":
            raise ValueError("the run is empty; pass empty='allow' if that is meant")
        if self.unjudged and unjudged == "error":
            raise ValueError(f"{len(self.unjudged)} queries have no judgment, for example {self.unjudged[0]!r}")
        if self.rows and not self.found.any():
            run = self.unjudged or sorted(judged.skipped)
            raise ValueError(
                f"no query of the run is judged; got {len(run):,} in the run ({some(run)}) and "
                f"{len(judged.queries):,} in the qrels ({some(judged.queries)}); match the ids"
            )
        absent = tuple(judged.queries[i] for i in np.flatnonzero(~self.found).tolist())
        if absent and missing == "error":
            raise ValueError(f"{len(absent)} judged queries are not in the run, for example {absent[0]!r}")
        keep = self.found if missing == "skip" else np.ones_like(self.found)
        if not keep.any():
            raise ValueError("no judged query is left: the run is empty and missing='skip'")
        ties = zip(self.cutoffs, self.ties.tolist(), strict=True) if self.rank_order == "score" else ()
        return Evaluation(
            tuple(measure.name for measure in self.measures),
            tuple(judged.queries[i] for i in np.flatnonzero(keep).tolist()),
            self.values[keep],
            absent,
            len(self.unjudged),
            tuple(Ties(cutoff, across, above) for cutoff, (across, above) in ties),
            frozenset(measure.name for measure in self.measures if measure.is_sum),
            self._nothing_judged(),
        )

    def _nothing_judged(self) -> str:
        """That no document of the run is judged for its query, as a note: the ids may be those of other files."""
        if self.judged_rows or not self.rows:
            return ""
        return (
            f"none of the {self.rows:,} documents of the run is judged for its query: the run has documents such as "
            f"{some(self.first_documents)}, and the qrels {some(list(self.judged.doc_number)[:3])}; do the ids match?"
        )
