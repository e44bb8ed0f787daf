"""Whole queries of a run, ranked and judged: what every measure is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.ir import Block, rank_rows


def order_rows(block: Block, rank_order: str, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """The ranking of each query of a block, and its ties, as :func:`cmp_rerank.ir.rank_rows` gives them.

    With ``rank_order="given"`` the ranks of the file decide, and there are no ties.
    """
    place = np.repeat(np.arange(len(block.queries)), np.diff(block.bounds))
    if rank_order == "given":
        return np.lexsort((block.ranks, place)), np.zeros(len(block), dtype=bool)
    return rank_rows(place, block.scores, block.doc, precision)


@dataclass(frozen=True, eq=False)
class RankedBlock:
    """Some whole queries of a run, their ranking, and which of their documents are judged.

    Attributes:
        block: The queries, documents and scores.
        judged: The judgments.
        number: (queries of the block,) The query's number in the judgments; -1 for a query without.
        order: (rows,) Row numbers, query after query, best first.
        tied: (rows,) In ranked order, whether the score is that of the next row of the query.
        rank: (rows,) The rank of each row, from 0.
        given_ranks: (rows,) The rank that the source gives, from 1; the rank by score where it gives none.
        rows: (judged rows,) Row numbers, ascending.
        grades: (judged rows,) Their grades.
        docs: (judged rows,) Their documents' numbers in the judgments.
    """

    block: Block
    judged: Judgments
    number: np.ndarray
    order: np.ndarray
    tied: np.ndarray
    rank: np.ndarray
    given_ranks: np.ndarray
    rows: np.ndarray
    grades: np.ndarray
    docs: np.ndarray

    @classmethod
    def of(cls, block: Block, judged: Judgments, rank_order: str, precision: str) -> RankedBlock:
        """Rank a block and find its judged rows."""
        number = np.array([judged.query_number.get(query, -1) for query in block.queries], dtype=np.int64)
        order, tied = order_rows(block, rank_order, precision)
        rank = np.empty(len(block), dtype=np.int64)
        rank[order] = np.arange(len(block)) - np.repeat(block.bounds[:-1], np.diff(block.bounds))
        given_ranks = block.ranks if block.given or rank_order == "given" else rank + 1
        return cls(block, judged, number, order, tied, rank, given_ranks, *judged.find(block, number))

    @cached_property
    def sizes(self) -> np.ndarray:
        """(queries of the block,) Number of documents of each query."""
        return np.diff(self.block.bounds)

    @cached_property
    def place(self) -> np.ndarray:
        """(rows,) The place of each row's query in the block."""
        return np.repeat(np.arange(len(self.number)), self.sizes)

    def ranking(self, place: int, cutoff: int | None = None) -> list[str]:
        """Document ids of one query of the block, best first; no more than `cutoff`."""
        start, stop = self.block.bounds[place : place + 2].tolist()
        rows = self.order[start : stop if cutoff is None else min(start + cutoff, stop)]
        docs = self.block.docs
        return [docs[row] for row in rows.tolist()] if isinstance(docs, list) else docs.take(rows).to_pylist()
