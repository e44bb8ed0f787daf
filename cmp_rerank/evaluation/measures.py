"""Measures: what an own measure has to be, the names that stand for known ones, and how they are computed.

Three kinds go through the same evaluation: those of ir-measures (:mod:`cmp_rerank.evaluation.provided`), which
are computed in groups; those that take whole blocks of queries (:mod:`cmp_rerank.evaluation.msmarco`); and any
object that takes one query at a time, a :class:`Measure`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any, Protocol

import numpy as np

from cmp_rerank.evaluation.judgments import Judgments
from cmp_rerank.evaluation.msmarco import MsMarcoMRR
from cmp_rerank.evaluation.provided import ProvidedMeasure, grouped, parse_provided
from cmp_rerank.evaluation.ranked import RankedBlock
from cmp_rerank.ir.arguments import check_count, kind
from cmp_rerank.text.suggest import closest

_SPACE = re.compile(r"\s+(?![^(]*\))")  # between names, not between the parameters of one
# A name with a cut-off in other ways of writing: nDCG_10, ndcg@10, NDCG10.
_NUMBERED = re.compile(r"(.*?)[@_\-. ]*(\d+)?", re.DOTALL)
_NAME = re.compile(r"([A-Za-z][\w-]*)(?:@(\d+))?")


class Measure(Protocol):
    """A measure of one ranking; an own measure is any object with these two.

    It may have three more attributes: ``cutoff``, the number of documents it looks at (None for all, the default);
    ``default``, the value of a query that the run lacks (0); ``is_sum``, whether queries are added up rather than
    averaged (False).

    Attributes:
        name: The name it is reported under; no white space.

    Example:
        >>> class FirstGrade:
        ...     name, cutoff = "FirstGrade", 1
        ...     def per_query(self, grades, ranking):
        ...         return grades.get(ranking[0], 0)
        >>> from cmp_rerank.evaluation import evaluate
        >>> evaluate({"q": {"a": 0.9, "b": 0.1}}, {"q": {"a": 3, "b": 1}}, [FirstGrade(), "RR"]).means
        {'FirstGrade': 3.0, 'RR': 1.0}
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def per_query(self, grades: Mapping[str, int], ranking: Sequence[str]) -> float:
        """The value of one query.

        Args:
            grades: Document id -> grade, of every judged document.
            ranking: Ids of the documents that the run has for the query, best first; at least one, and at most
                ``cutoff``. They are ranked by the rule of :func:`cmp_rerank.ir.rank`.

        Returns:
            A finite number.
        """


class OwnMeasure:
    """Takes a :class:`Measure` into the evaluation: checks its form, and the numbers that it gives.

    Args:
        measure: Any object with ``name`` and ``per_query``.

    Raises:
        ValueError: It has another form.
    """

    def __init__(self, measure: Measure) -> None:
        if isinstance(measure, type):
            raise ValueError(f"a measure must be an object; got {kind(measure)}; create one: {measure.__name__}()")
        name, per_query = getattr(measure, "name", None), getattr(measure, "per_query", None)
        if not isinstance(name, str) or not name or re.search(r"\s", name):
            raise ValueError(
                f"a measure must have a name without white space; got {name!r} of {kind(measure)}; set its `name`"
            )
        if not callable(per_query):
            raise ValueError(
                f"the measure {name!r} must have a method per_query(grades, ranking); got {kind(measure)}; add it"
            )
        self.measure = measure
        self.name = name
        self.cutoff: int | None = getattr(measure, "cutoff", None)
        self.default: float = getattr(measure, "default", 0.0)
        self.is_sum = bool(getattr(measure, "is_sum", False))
        if self.cutoff is not None:
            check_count(f"the cutoff of the measure {name!r}", self.cutoff)
        if not isinstance(self.default, Real) or not np.isfinite(float(self.default)):
            raise ValueError(f"the default of the measure {name!r} must be a finite number; got {self.default!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnMeasure) and self.measure == other.measure

    def __hash__(self) -> int:
        return hash(self.name)

    def without_results(self, judged: Judgments) -> np.ndarray:
        """(queries,) The values of judged queries for which the run has no document."""
        return np.full(len(judged.queries), float(self.default))

    def on_block(self, ranked: RankedBlock) -> np.ndarray:
        """(queries,) The values of the queries of a block, one query at a time; 0 for those without judgments."""
        values = np.zeros(len(ranked.number))
        for place, query in enumerate(ranked.number.tolist()):
            if query >= 0:
                value: Any = self.measure.per_query(
                    ranked.judged.grades_of(query), ranked.ranking(place, self.cutoff)
                )
                try:
                    values[place] = float(value)
                except (TypeError, ValueError):
                    values[place] = np.nan
                if not np.isfinite(values[place]):
                    raise ValueError(
                        f"the measure {self.name!r} must give a finite number; got {value!r:.80} for query "
                        f"{ranked.block.queries[place]!r}; define its value for such a query"
                    )
        return values


#: What :func:`parse_measures` gives: all have ``name``, ``cutoff``, ``default`` and ``is_sum``.
Parsed = ProvidedMeasure | MsMarcoMRR | OwnMeasure
_REGISTRY: dict[str, Callable[[int | None], Any]] = {"MSMARCO-MRR": MsMarcoMRR}


def register_measure(name: str, factory: Callable[[int | None], Measure]) -> None:
    """Let a name stand for an own measure, wherever names of measures are read: ``"NAME"`` and ``"NAME@k"``.

    Args:
        name: The name without its cut-off: letters, digits, "-" and "_".
        factory: Called with the cut-off, or None where the name has none; gives the measure.

    Raises:
        ValueError: The name cannot be read, or stands for another measure.

    Example:
        >>> class Grades:
        ...     def __init__(self, cutoff):
        ...         self.name, self.cutoff = f"Grades@{cutoff}", cutoff
        ...     def per_query(self, grades, ranking):
        ...         return sum(grades.get(document, 0) for document in ranking)
        >>> register_measure("Grades", Grades)
        >>> parse_measures("Grades@3 RR")[0].name
        'Grades@3'
    """
    import ir_measures

    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None or match[2] is not None:
        raise ValueError(f"the name of a measure must be letters, digits, '-' and '_'; got {name!r}; leave out '@k'")
    if not callable(factory):
        raise ValueError(f"factory must be called with a cut-off and give a measure; got {kind(factory)}")
    if name in ir_measures.measures.registry or _REGISTRY.get(name, factory) is not factory:
        raise ValueError(f"the name {name!r} stands for another measure already; choose another one")
    _REGISTRY[name] = factory


def parse_measures(measures: str | Measure | Iterable[Any]) -> tuple[Parsed, ...]:
    """Read names of measures, and check own ones.

    Args:
        measures: Names in ir-measures' notation (``"nDCG@10"``, ``"AP(rel=2)@1000"``), ir-measures objects, own
            measures (see :class:`Measure`), or one string with names between spaces. ``"MSMARCO-MRR@10"`` is the
            measure of MS MARCO's script.

    Returns:
        The measures, each once, in their order.

    Raises:
        ValueError: A name cannot be read, is unknown, or needs data that runs and qrels do not hold; an own
            measure has another form, or the name of another measure beside it.

    Example:
        >>> [measure.name for measure in parse_measures("nDCG@10 RR AP(rel=2)@1000 MSMARCO-MRR@10")]
        ['nDCG@10', 'RR', 'AP(rel=2)@1000', 'MSMARCO-MRR@10']
    """
    items: list[Any]
    if isinstance(measures, str):
        items = _SPACE.split(measures.strip())
    elif isinstance(measures, Iterable) and not isinstance(measures, Mapping | type):
        items = list(measures)
    else:
        items = [measures]
    parsed: dict[str, Parsed] = {}
    for measure in (_parse(item) for item in items if not isinstance(item, str) or item != ""):
        if parsed.setdefault(measure.name, measure) != measure:
            raise ValueError(f"two measures have the name {measure.name!r}; rename one of them")
    if not parsed:
        raise ValueError("no measure was given; name at least one, for example nDCG@10")
    return tuple(parsed.values())


def relevance_level(measure: Parsed) -> int:
    """The least grade of a document that the measure takes for relevant; 1 where it does not say.

    Example:
        >>> [relevance_level(measure) for measure in parse_measures("nDCG@10 RR(rel=2)@10")]
        [1, 2]
    """
    return int(measure.ir.params.get("rel", 1)) if isinstance(measure, ProvidedMeasure) else 1


def _parse(item: Any) -> Parsed:
    import ir_measures

    if isinstance(item, ProvidedMeasure | MsMarcoMRR | OwnMeasure):
        return item
    if isinstance(item, str):
        match = _NAME.fullmatch(item.strip())
        if match and match[1] in _REGISTRY:
            return _parse(_REGISTRY[match[1]](None if match[2] is None else int(match[2])))
    elif not isinstance(item, ir_measures.measures.Measure):
        return OwnMeasure(item)
    known = ", ".join(sorted(ir_measures.measures.registry))
    try:
        if isinstance(item, str) and match and match[1] not in ir_measures.measures.registry:
            raise NameError(item)
        return parse_provided(item)
    except NameError:
        registered = ", ".join(f"{name}@k" for name in sorted(_REGISTRY))
        raise ValueError(
            f"unknown measure {item!r}{_meant(str(item))}; {registered} and the names of ir-measures: {known}; an "
            "own measure is passed as an object with `name` and `per_query`"
        ) from None


def _meant(item: str) -> str:
    """Which known measure a name may have meant; the names of trec_eval are known, too."""
    import ir_measures

    with suppress(ValueError):
        return f"; did you mean {ir_measures.parse_trec_measure(item)[0]}?"
    name, cutoff = _NUMBERED.fullmatch(item).groups()  # type: ignore[union-attr]
    # Several names stand for one measure, such as NDCG for nDCG: the one that is printed is proposed.
    meant = closest(name, [*map(str, ir_measures.measures.registry.values()), *_REGISTRY])
    if meant is None:
        return ""
    with suppress(ValueError):  # not every measure has a cut-off
        return (
            f"; did you mean {parse_measures(f'{meant}@{cutoff}')[0].name}?" if cutoff else f"; did you mean {meant}?"
        )
    return f"; did you mean {meant}?"


def computations(measures: Sequence[Parsed]) -> list[tuple[list[int], Callable[[RankedBlock], np.ndarray]]]:
    """How measures are computed: columns, and the function that gives their values for a block.

    Returns:
        Pairs of column numbers and a function from a block to an array (queries,) or (queries, columns).
    """
    column = {measure.name: i for i, measure in enumerate(measures)}
    groups = grouped([measure for measure in measures if isinstance(measure, ProvidedMeasure)])
    return [
        *(([column[measure.name] for measure in group.measures], group.on_block) for group in groups),
        *(([column[m.name]], m.on_block) for m in measures if not isinstance(m, ProvidedMeasure)),
    ]
