"""Evaluate one run: our ranking rule decides the ranks, ir-measures' providers compute the measures from them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from cmp_rerank.evaluation.measures import Measure, parse_measures
from cmp_rerank.ir import Block, Qrels, Run, UngroupedError, blocks_of, rank_rows, read_qrels, stream_run
from cmp_rerank.ir.blocks import fingerprints, with_query
from cmp_rerank.ir.ranking import PRECISIONS, RANK_ORDERS, check_choice

MISSING = ("zero", "skip", "error")
UNJUDGED = ("ignore", "error")
NO_RELEVANT = ("keep", "skip", "error")
RunLike = Run | str | os.PathLike[str]
QrelsLike = Union[Qrels, str, "os.PathLike[str]", "Judgments"]


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
    """

    measures: tuple[str, ...]
    queries: tuple[str, ...]
    values: np.ndarray
    missing: tuple[str, ...] = ()
    unjudged: int = 0
    ties: tuple[Ties, ...] = ()
    sums: frozenset[str] = field(default_factory=frozenset)

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
            notes.append(f"{len(self.missing)} of {len(self.queries)} judged queries are not in the run")
        if self.unjudged:
            notes.append(f"{self.unjudged} queries of the run have no judgment and do not count")
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

        table = Table(title=f"{len(self.queries)} queries")
        table.add_column("measure")
        table.add_column("value", justify="right")
        for name, value in self.means.items():
            table.add_row(name, f"{value:.4f}")
        if notes := self.notes():
            table.caption = "\n".join(notes)
        return table


def evaluate(
    run: RunLike,
    qrels: QrelsLike,
    measures: str | Iterable[Any],
    *,
    rank_order: str = "score",
    precision: str = "double",
    missing: str = "zero",
    unjudged: str = "ignore",
    no_relevant: str = "keep",
    duplicates: str = "error",
    nan: str = "error",
    empty: str = "error",
    format: str | None = None,
) -> Evaluation:
    """Evaluate a run against relevance judgments.

    The denominator is every judged query; a query that the run does not have counts 0. The ranks come from
    :func:`cmp_rerank.ir.rank`; the providers of ir-measures (pytrec_eval, trec_eval's code) see these
    ranks as scores, so that their own tie rules and their 32-bit scores never decide anything.

    ``MSMARCO-MRR@k`` is defined as MS MARCO's script does: the rank that the file gives decides (a file that
    counts from 0 is shifted by one), a document of grade 1 or more is relevant, all judged queries are in the
    denominator. A run in memory has no given ranks, so it has those that ``write_run`` would write.

    Args:
        run: Query id -> document id -> score, or the path of a run file, which is streamed: memory does not
            grow with the number of its lines.
        qrels: Query id -> document id -> grade, the path of a qrels file, or :class:`Judgments`, which saves
            the preparation when several runs are evaluated.
        measures: As :func:`parse_measures` takes them, for example ``"nDCG@10 RR@10"``.
        rank_order: "score" applies the ranking rule; "given" takes the rank column of the file, or the order
            of each mapping, for every measure.
        precision: "double" compares scores as they are (trec_eval 10), "single" rounds them to 32 bits first
            (trec_eval 9, pytrec_eval).
        missing: A judged query that is not in the run: "zero" counts it as 0, "skip" leaves it out of the
            denominator (trec_eval without -c), "error".
        unjudged: A query of the run without judgments: "ignore" or "error".
        no_relevant: A judged query without any document of grade 1 or more: "keep" counts it as every other
            (trec_eval), "skip" leaves it out, "error".
        duplicates: A document twice in one query of the file: "error", "first", "last" or "max".
        nan: A score of the file that is NaN: "error", "lowest" or "drop". In memory it is always an error.
        empty: A run without any document: "error" or "allow" (all values are 0, if `missing` is "zero").
        format: Format of the run file; None looks at it.

    Returns:
        Values per query and their means.

    Raises:
        ValueError: For unknown options and measures, for what a policy refuses, for files that cannot be
            read (with file and line), for a run that has no query in common with the judgments.

    Example:
        >>> qrels = {"q1": {"d1": 1, "d2": 0}, "q2": {"d5": 2}}
        >>> run = {"q1": {"d1": 1.0, "d2": 3.0}}
        >>> {name: round(mean, 4) for name, mean in evaluate(run, qrels, "RR nDCG@10").means.items()}
        {'RR': 0.25, 'nDCG@10': 0.3155}
    """
    for name, value, choices in (
        ("rank_order", rank_order, RANK_ORDERS),
        ("precision", precision, tuple(PRECISIONS)),
        ("missing", missing, MISSING),
        ("unjudged", unjudged, UNJUDGED),
        ("no_relevant", no_relevant, NO_RELEVANT),
        ("empty", empty, ("error", "allow")),
    ):
        check_choice(name, value, choices)
    judged = qrels if isinstance(qrels, Judgments) else Judgments(qrels, no_relevant)
    scorer = _Scorer(judged, parse_measures(measures), rank_order, precision)
    if isinstance(run, Mapping):
        scorer.add(blocks_of(run))
    else:
        policies: dict[str, Any] = {"duplicates": duplicates, "nan": nan, "empty": empty, "format": format}
        try:
            scorer.add(stream_run(run, **policies))
        except UngroupedError:
            scorer = _Scorer(judged, scorer.measures, rank_order, precision)
            scorer.add(stream_run(run, **policies, whole=True))
    return scorer.result(missing, unjudged, empty)


class Judgments:
    """Qrels, checked and numbered so that the rows of a block find their grades by array look-ups."""

    def __init__(self, qrels: Qrels | str | os.PathLike[str], no_relevant: str = "keep") -> None:
        if not isinstance(qrels, Mapping):
            qrels = read_qrels(qrels)
        kept = {query: grades for query, grades in qrels.items() if grades}
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
        for query, grades in kept.items():
            sizes.append(len(grades))
            for doc, grade in grades.items():
                if not isinstance(doc, str) or isinstance(grade, bool) or int(grade) != grade:
                    raise ValueError(
                        f"query {query!r}: judgments map document ids (strings) to integers, got {doc!r}: {grade!r}"
                    )
                docs.append(self.doc_number.setdefault(doc, len(self.doc_number)))
                grades_flat.append(int(grade))
        # A (query, document) pair is one integer; sorted, so that a binary search finds its grade.
        keys = (np.repeat(np.arange(len(sizes)), sizes).astype(np.int64) << 32) | np.array(docs, dtype=np.int64)
        order = np.argsort(keys)
        self.keys, self.grades = keys[order], np.array(grades_flat, dtype=np.int64)[order]
        self.starts = np.searchsorted(self.keys, np.arange(len(sizes) + 1, dtype=np.int64) << 32)
        self.doc_names = list(self.doc_number)
        self._hashes: np.ndarray | None = None

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

    def coded(self, query: int) -> dict[str, int]:
        """The judgments of one query, with document numbers for ids."""
        part = slice(int(self.starts[query]), int(self.starts[query + 1]))
        docs = (self.keys[part] & 0xFFFFFFFF).tolist()
        return {f"d{doc}": grade for doc, grade in zip(docs, self.grades[part].tolist(), strict=True)}


def order_rows(block: Block, rank_order: str, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """The ranking of each query of a block, and its ties, as :func:`cmp_rerank.ir.rank_rows` gives them.

    With ``rank_order="given"`` the ranks of the file decide, and there are no ties.
    """
    place = np.repeat(np.arange(len(block.queries)), np.diff(block.bounds))
    if rank_order == "given":
        return np.lexsort((block.ranks, place)), np.zeros(len(block), dtype=bool)
    return rank_rows(place, block.scores, block.doc, precision)


def _groups(measures: Sequence[Measure]) -> dict[tuple[int | None, bool, bool], list[int]]:
    """Measures that share one call of the provider: (depth, to the last judged document, judged documents only).

    Those of judged documents only are apart, since the provider may take NumRet from what it has counted for them.

    What suffices for the deepest measure suffices for the others. RR with a cut-off is the exception: its
    provider sorts in Python, and is quick only on the few documents that it needs.
    """
    groups: dict[tuple[int | None, bool, bool], list[int]] = {}
    shared = [m for m in measures if m.ir is not None and m.to_last_judged and not (m.ir.NAME == "RR" and m.cutoff)]
    depths = [m.depth for m in shared]
    deepest = None if None in depths else max(depths, default=None)  # type: ignore[type-var]
    for i, measure in enumerate(measures):
        if measure.ir is not None:
            depth = deepest if measure in shared else measure.depth
            judged_only = bool(measure.ir.params.get("judged_only"))
            groups.setdefault((depth, measure.to_last_judged, judged_only), []).append(i)
    return groups


class _Scorer:
    """Takes the blocks of one run, collects the values."""

    def __init__(self, judged: Judgments, measures: Sequence[Measure], rank_order: str, precision: str) -> None:
        self.judged, self.measures = judged, tuple(measures)
        self.rank_order, self.precision = rank_order, precision
        self.values = np.empty((len(judged.queries), len(self.measures)))
        self.values[:] = [measure.default for measure in self.measures]
        self.found = np.zeros(len(judged.queries), dtype=bool)
        self.unjudged: list[str] = []
        self.rows = 0
        self.cutoffs = sorted({m.cutoff for m in self.measures}, key=lambda k: (k is None, k))
        self.ties = np.zeros((len(self.cutoffs), 2), dtype=np.int64)
        self.groups = _groups(self.measures)
        # Names and scores of ranks; unjudged documents are all alike to a measure.
        self.names: list[str] = []
        self.scores: list[float] = []

    def add(self, blocks: Iterable[Block]) -> None:
        """Evaluate the queries of these blocks."""
        for block in blocks:
            self._add(block)

    def _add(self, block: Block) -> None:
        judged = self.judged
        number = np.array([judged.query_number.get(query, -1) for query in block.queries], dtype=np.int64)
        for i in np.flatnonzero(number < 0).tolist():
            if block.queries[i] not in judged.skipped:
                self.unjudged.append(block.queries[i])
        self.rows += len(block)
        known = number[number >= 0]
        self.found[known] = True
        sizes = np.diff(block.bounds)
        place = np.repeat(np.arange(len(number)), sizes)  # (rows,) query of the row, in the block
        order, tied = order_rows(block, self.rank_order, self.precision)
        rows, grades, docs = judged.find(block, number)
        rank = np.empty(len(block), dtype=np.int64)
        rank[order] = np.arange(len(block)) - np.repeat(block.bounds[:-1], sizes)  # from 0
        self._count_ties(number, block.bounds, tied)
        for group in self.groups.items():
            self._provide(*group, number, sizes, place[rows], rank[rows], docs)
        for i, measure in enumerate(self.measures):
            if measure.ir is None:
                ranks = block.ranks if block.given or self.rank_order == "given" else rank + 1
                values = _msmarco(block, ranks, rows[grades > 0], measure.cutoff or 10)
                self.values[known, i] = values[number >= 0]

    def _count_ties(self, number: np.ndarray, bounds: np.ndarray, tied: np.ndarray) -> None:
        if not tied.any():
            return
        before = np.concatenate(([0], np.cumsum(tied)))
        starts, stops = bounds[:-1], bounds[1:]
        for i, cutoff in enumerate(self.cutoffs):
            ends = stops if cutoff is None else np.minimum(starts + cutoff, stops)
            across = tied[ends - 1] if cutoff is not None else np.zeros(len(ends), dtype=bool)
            above = before[ends] > before[starts]
            self.ties[i] += [np.sum(across & (number >= 0)), np.sum(above & (number >= 0))]

    def _provide(
        self,
        need: tuple[int | None, bool, bool],
        members: list[int],
        number: np.ndarray,
        sizes: np.ndarray,
        hit_place: np.ndarray,
        hit_rank: np.ndarray,
        hit_doc: np.ndarray,
    ) -> None:
        """Let the provider compute the measures of one group for the judged queries of a block."""
        import ir_measures

        depth, to_last_judged, _ = need
        length = sizes if depth is None else np.minimum(sizes, depth)
        inside = hit_rank < length[hit_place]
        hit_place, hit_rank, hit_doc = hit_place[inside], hit_rank[inside], hit_doc[inside]
        if to_last_judged:
            length = np.ones_like(sizes)
            np.maximum.at(length, hit_place, hit_rank + 1)
        for r in range(len(self.names), int(length.max(initial=0))):
            self.names.append(f"u{r}")
            self.scores.append(-float(r))
        by_place = np.argsort(hit_place, kind="stable")
        ends = np.cumsum(np.bincount(hit_place, minlength=len(sizes))).tolist()
        ranks, docs = hit_rank[by_place].tolist(), hit_doc[by_place].tolist()
        run, qrels, start = {}, {}, 0
        for query, n, end in zip(number.tolist(), length.tolist(), ends, strict=True):
            if query >= 0:
                names = self.names[:n]
                for hit in range(start, end):
                    names[ranks[hit]] = f"d{docs[hit]}"
                run[str(query)] = dict(zip(names, self.scores, strict=False))
                qrels[str(query)] = self.judged.coded(query)
            start = end
        if not run:
            return
        column = {self.measures[i].ir: i for i in members}
        for metric in ir_measures.evaluator(list(column), qrels).iter_calc(run):
            self.values[int(metric.query_id), column[metric.measure]] = metric.value

    def result(self, missing: str, unjudged: str, empty: str) -> Evaluation:
        """What was collected, after the policies for queries."""
        judged = self.judged
        if self.rows == 0 and empty == "error":
            raise ValueError("the run is empty; pass empty='allow' if that is meant")
        if self.unjudged and unjudged == "error":
            raise ValueError(f"{len(self.unjudged)} queries have no judgment, for example {self.unjudged[0]!r}")
        if self.rows and not self.found.any():
            raise ValueError(
                "no query of the run is judged: the run has queries such as "
                f"{(self.unjudged or sorted(judged.skipped))[0]!r}, the qrels such as {judged.queries[0]!r}"
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
        )


def _msmarco(block: Block, ranks: np.ndarray, relevant: np.ndarray, cutoff: int) -> np.ndarray:
    """(queries,) 1 / rank of the first relevant document at or above the cut-off, 0 if there is none.

    As in MS MARCO's script, a document stands at the rank that the file gives, also when ranks below it are
    missing, and the last of several lines with the same rank stands there.
    """
    lowest = np.minimum.reduceat(ranks, block.bounds[:-1])
    if (lowest < 0).any():
        query = block.queries[int(np.argmin(lowest))]
        raise ValueError(f"MSMARCO-MRR needs ranks that count from 1 (or 0); query {query!r} has rank {lowest.min()}")
    values = np.zeros(len(block.queries))
    for row in relevant.tolist():
        place = int(np.searchsorted(block.bounds, row, side="right")) - 1
        rank = int(ranks[row]) + int(lowest[place] == 0)
        replaced = np.any(ranks[row + 1 : block.bounds[place + 1]] == ranks[row])
        if rank <= cutoff and not replaced:
            values[place] = max(values[place], 1 / rank)
    return values
