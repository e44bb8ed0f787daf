"""MRR as MS MARCO's script computes it: the rank that the file gives decides, scores mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cmp_rerank.ir.arguments import check_count

if TYPE_CHECKING:
    from cmp_rerank.evaluation.judgments import Judgments
    from cmp_rerank.evaluation.ranked import RankedBlock


class MsMarcoMRR:
    """1 / rank of the first relevant document at or above the cut-off, 0 if there is none.

    As in MS MARCO's script, a document stands at the rank that the file gives, also when ranks below it are
    missing, and the last of several lines with the same rank stands there. A document of grade 1 or more is
    relevant. A file that counts from 0 is shifted by one.

    Args:
        cutoff: The lowest rank that counts; None takes 10, as the script does.

    Source: https://github.com/microsoft/MSMARCO-Passage-Ranking, ``ms_marco_eval.py``.
    """

    #: The rank column of a file is read, and must hold ranks.
    by_given_rank = True
    default = 0.0
    is_sum = False

    def __init__(self, cutoff: int | None = None) -> None:
        check_count("the cut-off of MSMARCO-MRR", 10 if cutoff is None else cutoff)
        self.cutoff = 10 if cutoff is None else cutoff
        self.name = f"MSMARCO-MRR@{self.cutoff}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(cutoff={self.cutoff})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MsMarcoMRR) and self.cutoff == other.cutoff

    def __hash__(self) -> int:
        return hash(self.name)

    def without_results(self, judged: Judgments) -> np.ndarray:
        """(queries,) The values of judged queries for which the run has no document."""
        return np.zeros(len(judged.queries))

    def on_block(self, ranked: RankedBlock) -> np.ndarray:
        """(queries,) The values of the queries of a block."""
        block, ranks = ranked.block, ranked.given_ranks
        lowest = np.minimum.reduceat(ranks, block.bounds[:-1])
        if (lowest < 0).any():
            query = block.queries[int(np.argmin(lowest))]
            raise ValueError(
                f"{self.name} needs ranks that count from 1 (or 0); query {query!r} has rank {lowest.min()}; number "
                "the ranks anew, or take RR, which goes by scores"
            )
        values = np.zeros(len(block.queries))
        for row in ranked.rows[ranked.grades > 0].tolist():
            place = int(np.searchsorted(block.bounds, row, side="right")) - 1
            rank = int(ranks[row]) + int(lowest[place] == 0)
            replaced = np.any(ranks[row + 1 : block.bounds[place + 1]] == ranks[row])
            if rank <= self.cutoff and not replaced:
                values[place] = max(values[place], 1 / rank)
        return values
