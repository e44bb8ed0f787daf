"""Qrels, checked and numbered, so that the rows of a run find their grades by array look-ups."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any

import numpy as np

from cmp_rerank.ir import Block, Qrels, read_qrels
from cmp_rerank.ir.arguments import check_run
from cmp_rerank.ir.blocks import fingerprints, with_query
from cmp_rerank.ir.grades import LARGEST, as_grade
from cmp_rerank.ir.ranking import check_choice

NO_RELEVANT = ("keep", "skip", "error")


class Judgments:
    """Qrels, checked and numbered so that the rows of a block find their grades by array look-ups.

    Args:
        qrels: Query id -> document id -> grade, or the path of a qrels file.
        no_relevant: As for :func:`cmp_rerank.evaluation.evaluate`.
        duplicates: A pair judged twice in the file, as for :func:`cmp_rerank.ir.read_qrels`.

    Attributes:
        queries: Ids of the judged queries; the denominator.
        query_number: Query id -> its number.
        float_grade: A grade that was given as a float, such as 1.0; None where all are integers.

    Raises:
        ValueError: There is no judged query, a grade is no integer, or what the policy refuses.

    Example:
        >>> judged = Judgments({"q1": {"a": 2, "b": 0}, "q2": {"a": 0}, "q3": {}}, no_relevant="skip")
        >>> judged.queries, judged.query_number
        (('q1',), {'q1': 0})
    """

    def __init__(
        self, qrels: Qrels | str | os.PathLike[str], no_relevant: str = "keep", duplicates: str = "error"
    ) -> None:
        check_choice("no_relevant", no_relevant, NO_RELEVANT)
        if isinstance(qrels, str | os.PathLike):
            qrels = read_qrels(qrels, duplicates=duplicates)
        check_run("qrels", qrels)
        kept = {query: grades for query, grades in qrels.items() if grades}
        self.float_grade: Any = None
        for query, grades in kept.items():
            for doc, grade in grades.items():
                if not isinstance(doc, str) or type(grade) is not int or not -LARGEST <= grade <= LARGEST:
                    self._check(query, doc, grade)
        without = [query for query, grades in kept.items() if not any(grade > 0 for grade in grades.values())]
        if without and no_relevant == "error":
            raise ValueError(f"{len(without)} judged queries have no relevant document, for example {without[0]!r}")
        if no_relevant == "skip":
            for query in without:
                del kept[query]
        if not kept:
            raise ValueError("there is no judged query; nothing can be evaluated")
        self.queries = tuple(kept)
        self.query_number = {query: number for number, query in enumerate(self.queries)}
        self.skipped = frozenset(without) if no_relevant == "skip" else frozenset()
        self.doc_number: dict[str, int] = {}
        sizes, docs, grades_flat = [], [], []
        for grades in kept.values():
            sizes.append(len(grades))
            for doc, grade in grades.items():
                docs.append(self.doc_number.setdefault(doc, len(self.doc_number)))
                grades_flat.append(int(grade))
        # A (query, document) pair is one integer; sorted, so that a binary search finds its grade.
        keys = (np.repeat(np.arange(len(sizes)), sizes).astype(np.int64) << 32) | np.array(docs, dtype=np.int64)
        order = np.argsort(keys)
        self.keys, self.grades = keys[order], np.array(grades_flat, dtype=np.int64)[order]
        self.starts = np.searchsorted(self.keys, np.arange(len(sizes) + 1, dtype=np.int64) << 32)
        self.doc_names = list(self.doc_number)
        self._hashes: np.ndarray | None = None

    def _check(self, query: str, doc: object, grade: Any) -> None:
        if not isinstance(doc, str):
            raise ValueError(f"query {query!r}: document ids must be strings; got {doc!r}; convert them")
        try:
            as_grade(grade)
        except ValueError as error:
            raise ValueError(
                f"query {query!r}, document {doc!r}: {error}; were run and qrels swapped? Grades belong into the "
                "qrels, scores into the run"
            ) from None
        if not isinstance(grade, Integral):
            self.float_grade = grade

    def find(self, block: Block, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which rows of a block are judged.

        Args:
            block: The block.
            number: (queries of the block,) Number of each query in the judgments, -1 for one without.

        Returns:
            Rows, ascending, with their grades and their documents' numbers.
        """
        sizes = np.diff(block.bounds)
        if isinstance(block.docs, list):
            return self._find_by_name(block.docs, np.repeat(number, sizes))
        parts = [
            np.arange(self.starts[q], self.starts[q + 1]) if q >= 0 else np.empty(0, int) for q in number.tolist()
        ]
        entries = np.concatenate(parts)
        if self._hashes is None:
            import pyarrow as pa

            self._hashes = fingerprints(pa.array(self.doc_names))
        doc = self.keys[entries] & 0xFFFFFFFF
        table = with_query(self._hashes[doc], np.repeat(np.arange(len(number)), [len(part) for part in parts]))
        order = np.argsort(table)
        table, entries, doc = table[order], entries[order], doc[order]
        if not len(table) or np.any(table[1:] == table[:-1]):  # the second has a chance of one in 10^12
            return self._find_by_name(block.doc_list(), np.repeat(number, sizes))
        hashes = with_query(fingerprints(block.docs), np.repeat(np.arange(len(number)), sizes))
        place = np.minimum(np.searchsorted(table, hashes), len(table) - 1)
        rows = np.flatnonzero(table[place] == hashes)
        place = place[rows]
        found, names = block.docs.take(rows).to_pylist(), self.doc_names
        same = [name == names[d] for name, d in zip(found, doc[place].tolist(), strict=True)]
        rows, place = rows[same], place[same]
        return rows, self.grades[entries[place]], doc[place]

    def _find_by_name(self, docs: list[str], query: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        get = self.doc_number.get
        doc = np.fromiter((get(name, -1) for name in docs), dtype=np.int64, count=len(docs))
        rows = np.flatnonzero((query >= 0) & (doc >= 0))
        keys = (query[rows] << 32) | doc[rows]
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        hit = self.keys[place] == keys
        return rows[hit], self.grades[place[hit]], doc[rows[hit]]

    def grades_of(self, query: int) -> dict[str, int]:
        """The judgments of one query, with document ids."""
        docs, grades = self._of(query)
        return {self.doc_names[doc]: grade for doc, grade in zip(docs, grades, strict=True)}

    def coded(self, query: int) -> dict[str, int]:
        """The judgments of one query, with document numbers for ids, for trec_eval's code.

        Where all grades of a query are negative, that code reads and writes outside of the array in which it counts
        documents by grade: it gives the counts of another query, never ends, or ends the process. A document of grade
        0 that no run holds prevents it; without a relevant document all values are 0 anyway.
        """
        docs, grades = self._of(query)
        padding = {"padding": 0} if max(grades) < 0 else {}  # gdeval refuses an empty id
        return {f"d{doc}": grade for doc, grade in zip(docs, grades, strict=True)} | padding

    def _of(self, query: int) -> tuple[list[int], list[int]]:
        """Numbers and grades of the judged documents of one query."""
        part = slice(int(self.starts[query]), int(self.starts[query + 1]))
        return (self.keys[part] & 0xFFFFFFFF).tolist(), self.grades[part].tolist()

    def grade_above(self, most: int) -> tuple[str, str, int] | None:
        """A query, its document and its grade, if there is a grade above ``most``."""
        above = np.flatnonzero(self.grades > most)
        if not len(above):
            return None
        key = int(self.keys[above[0]])
        return self.queries[key >> 32], self.doc_names[key & 0xFFFFFFFF], int(self.grades[above[0]])
