"""Measures of ir-measures: their names, what of a ranking each of them needs, and the call of their providers.

The providers (pytrec_eval, trec_eval's own code) see our ranks as scores, so that their own tie rules and their
32-bit scores never decide anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.evaluation.ranked import RankedBlock
from cmp_rerank.ir.grades import LARGEST

# With a cut-off these depend on the documents above it only, and of those only on the judged ones and their
# ranks. Judged@k counts unjudged documents too, so it needs all k.
_TOP_JUDGED = {"P", "AP", "nDCG", "R", "RR", "Success"}
_TOP_ALL = {"Judged"}
# Without a cut-off these change only where a judged document stands.
_JUDGED = {"AP", "nDCG", "RR", "Rprec", "IPrec", "Bpref", "infAP"}
# What they count is in the judgments alone; a query that the run lacks counts, too, as in trec_eval -c.
_OF_JUDGMENTS = {"NumQ", "NumRel"}
# The script gdeval, which computes ERR and nDCG(dcg='exp-log2'), takes no grade above this one.
_GDEVAL_GRADES = 4
_MOST_CUTOFF = 1_000_000_000  # providers hold it as a 32-bit number
# The score that stands for the first rank; each rank below has one less. All are above 0, the score that Compat gives
# to a document that the run lacks, and whole numbers up to this one are different in 32 bits.
_FIRST_SCORE = 2.0**24


@dataclass(frozen=True)
class ProvidedMeasure:
    """A measure of ir-measures, and how much of a ranking decides it.

    Attributes:
        name: The name it is reported under, in ir-measures' spelling.
        ir: The measure of ir-measures.
        cutoff: The k of ``@k``, if it has one.
        depth: The provider needs no rank below this one; None when it needs all.
        to_last_judged: The provider needs no rank below the last judged document (within `depth`) either.
    """

    name: str
    ir: Any
    cutoff: int | None
    depth: int | None
    to_last_judged: bool

    @property
    def is_sum(self) -> bool:
        """Whether queries are added up (NumRet, NumQ) rather than averaged."""
        return type(self.ir.aggregator()).__name__ == "SumAgg"

    @property
    def default(self) -> float:
        """The value of a query for which the run has no document."""
        return float(self.ir.DEFAULT)

    def without_results(self, judged: Judgments) -> np.ndarray:
        """(queries,) The values of judged queries for which the run has no document.

        Raises:
            ValueError: A grade is beyond what the measure takes.
        """
        if self.ir.NAME == "ERR" or dict(self.ir.params).get("dcg") == "exp-log2":
            found = judged.grade_above(_GDEVAL_GRADES)
            if found is not None:
                query, doc, grade = found
                raise ValueError(
                    f"{self.name} takes grades of at most {_GDEVAL_GRADES}; got {grade} for query {query!r}, "
                    f"document {doc!r}; map the grades to fewer levels, or take nDCG"
                )
        values = np.full(len(judged.queries), self.default)
        if self.ir.NAME in _OF_JUDGMENTS:
            import ir_measures

            qrels = {str(query): judged.coded(query) for query in range(len(values))}
            nothing = {query: {"": 0.0} for query in qrels}
            for metric in ir_measures.evaluator([self.ir], qrels).iter_calc(nothing):
                values[int(metric.query_id)] = metric.value
        return values


def parse_provided(item: Any) -> ProvidedMeasure:
    """Read a name in ir-measures' notation, or take one of its objects.

    Raises:
        NameError: There is no measure of that name.
        ValueError: The name or its parameters cannot be read, or no provider computes it.
    """
    import ir_measures

    try:
        ir: Any = ir_measures.parse_measure(item)
        ir.validate_params()
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(
            f"cannot read the measure {item!r} ({error}); write it as ir-measures does, for example nDCG@10 or "
            "AP(rel=2)@1000"
        ) from None
    if not ir_measures.DefaultPipeline.supports(ir):
        raise ValueError(
            f"no provider that is installed computes {ir} for plain runs and qrels; see ir-measures' documentation "
            "for the package that does"
        )
    cutoff: int | None = dict(ir.params).get("cutoff")
    if cutoff is not None and not 1 <= cutoff <= _MOST_CUTOFF:
        raise ValueError(f"the cut-off must be at least 1, and at most {_MOST_CUTOFF:,}; got {item!r}")
    rel = dict(ir.params).get("rel")
    if rel is not None and rel < 1:
        raise ValueError(f"rel, the least grade of a relevant document, must be at least 1; got {item!r}")
    gains = dict(ir.params).get("gains") or {}
    if not all(type(gain) is int and 0 <= gain <= LARGEST for gain in gains.values()):
        raise ValueError(f"gains must be integers from 0 to {LARGEST:,}; got {item!r}")
    recall = dict(ir.params).get("recall")
    if recall is not None and not (0 <= recall <= 1 and recall == round(recall, 2)):
        # The provider writes it with two digits, and would compute another one.
        raise ValueError(f"the recall must be from 0 to 1, with at most two digits after the point; got {item!r}")
    judged = False
    depth: int | None = None
    # With judged_only the provider removes unjudged documents before it cuts, so every rank can matter.
    if not ir.params.get("judged_only"):
        judged = ir.NAME in (_TOP_JUDGED if cutoff else _JUDGED)
        depth = cutoff if ir.NAME in _TOP_JUDGED | _TOP_ALL else None
    return ProvidedMeasure(str(ir), ir, cutoff, depth, judged)


def grouped(measures: Sequence[ProvidedMeasure]) -> list[ProvidedGroup]:
    """Put measures together that share one call of the provider.

    Those of judged documents only are apart, since the provider may take NumRet from what it has counted for them; so
    are those of each set of gains, since it may compute nDCG without gains from the grades that are mapped to them.
    What suffices for the deepest measure suffices for the others. RR with a cut-off is the exception: its
    provider sorts in Python, and is quick only on the few documents that it needs.
    """
    shared = [m for m in measures if m.to_last_judged and not (m.ir.NAME == "RR" and m.cutoff)]
    depths = [m.depth for m in shared]
    deepest = None if None in depths else max(depths, default=None)  # type: ignore[type-var]
    groups: dict[tuple[int | None, bool, bool, str], list[ProvidedMeasure]] = {}
    for measure in measures:
        depth = deepest if measure in shared else measure.depth
        judged_only, gains = bool(measure.ir.params.get("judged_only")), repr(measure.ir.params.get("gains"))
        groups.setdefault((depth, measure.to_last_judged, judged_only, gains), []).append(measure)
    return [ProvidedGroup(members, depth, last) for (depth, last, _, _), members in groups.items()]


class ProvidedGroup:
    """Measures that one call of the provider computes.

    Args:
        measures: The measures.
        depth: The provider needs no rank below this one; None when it needs all.
        to_last_judged: It needs no rank below the last judged document either.
    """

    def __init__(self, measures: Sequence[ProvidedMeasure], depth: int | None, to_last_judged: bool) -> None:
        self.measures, self.depth, self.to_last_judged = measures, depth, to_last_judged
        # Names and scores of ranks; unjudged documents are all alike to a measure.
        self._names: list[str] = []
        self._scores: list[float] = []

    def on_block(self, ranked: RankedBlock) -> np.ndarray:
        """(queries, measures) The values of the queries of a block; those without judgments have no meaning.

        Raises:
            ValueError: A measure has no value for a query.
        """
        values = np.empty((len(ranked.number), len(self.measures)))
        values[:] = [measure.default for measure in self.measures]
        hit_place, hit_rank, hit_doc = ranked.place[ranked.rows], ranked.rank[ranked.rows], ranked.docs
        length = ranked.sizes if self.depth is None else np.minimum(ranked.sizes, self.depth)
        inside = hit_rank < length[hit_place]
        hit_place, hit_rank, hit_doc = hit_place[inside], hit_rank[inside], hit_doc[inside]
        if self.to_last_judged:
            length = np.ones_like(ranked.sizes)
            np.maximum.at(length, hit_place, hit_rank + 1)
        for r in range(len(self._names), int(length.max(initial=0))):
            self._names.append(f"u{r}")
            self._scores.append(_FIRST_SCORE - r)
        by_place = np.argsort(hit_place, kind="stable")
        ends = np.cumsum(np.bincount(hit_place, minlength=len(ranked.sizes))).tolist()
        ranks, docs = hit_rank[by_place].tolist(), hit_doc[by_place].tolist()
        run, qrels, start = {}, {}, 0
        for place, (query, n, end) in enumerate(zip(ranked.number.tolist(), length.tolist(), ends, strict=True)):
            if query >= 0:
                names = self._names[:n]
                for hit in range(start, end):
                    names[ranks[hit]] = f"d{docs[hit]}"
                run[str(place)] = dict(zip(names, self._scores, strict=False))
                qrels[str(place)] = ranked.judged.coded(query)
            start = end
        if run:
            column = {measure.ir: i for i, measure in enumerate(self.measures)}
            try:
                metrics = _provided(list(column), qrels, run)
            except ZeroDivisionError:
                raise _no_value(list(column), qrels, run, ranked.block.queries) from None
            for metric in metrics:
                values[int(metric.query_id), column[metric.measure]] = metric.value
        # 0 / 0 in the provider: of the ranking nothing is left, as where no document is judged for judged_only.
        return np.where(np.isnan(values), [measure.default for measure in self.measures], values)


def _provided(measures: list[Any], qrels: Mapping[str, Any], run: Mapping[str, Any]) -> list[Any]:
    """What the providers give."""
    import ir_measures

    return list(ir_measures.evaluator(measures, qrels).iter_calc(run))


def _no_value(
    measures: list[Any], qrels: Mapping[str, Any], run: Mapping[str, Any], names: Sequence[str]
) -> ValueError:
    """The error for a measure that is divided by zero, with the first query for which it is.

    ir-measures' Accuracy is one: the share of pairs of a relevant document and another that are in the right order.
    """
    for measure in measures:
        for place in run:
            try:
                _provided([measure], {place: qrels[place]}, {place: run[place]})
            except ZeroDivisionError:
                return ValueError(
                    f"{measure} has no value for query {names[int(place)]!r}, of whose documents there are no two to "
                    "compare (ir-measures divides by zero); leave the query out, or take another measure"
                )
    return ValueError(f"{', '.join(map(str, measures))}: ir-measures divides by zero; take another measure")
