"""Evaluate one run: our ranking rule decides the ranks, measures are computed from them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Union

from cmp_rerank.evaluation.judgments import NO_RELEVANT, Judgments
from cmp_rerank.evaluation.measures import Measure, parse_measures
from cmp_rerank.evaluation.result import Evaluation
from cmp_rerank.evaluation.scoring import RunScorer
from cmp_rerank.ir import Qrels, Run, UngroupedError, blocks_of, stream_run
from cmp_rerank.ir.arguments import check_run
from cmp_rerank.ir.ranking import PRECISIONS, RANK_ORDERS, check_choice
from cmp_rerank.ir.reading import EMPTY

MISSING = ("zero", "skip", "error")
UNJUDGED = ("ignore", "error")
RunLike = Run | str | os.PathLike[str]
QrelsLike = Union[Qrels, str, "os.PathLike[str]", Judgments]


def evaluate(
    run: RunLike,
    qrels: QrelsLike,
    measures: str | Measure | Iterable[Any],
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
        measures: Names, for example ``"nDCG@10 RR@10"``, or a list of names and own measures; see
            :func:`parse_measures` and :class:`cmp_rerank.evaluation.Measure`.
        rank_order: "score" applies the ranking rule; "given" takes the rank column of the file, or the order
            of each mapping, for every measure.
        precision: "double" compares scores as they are (trec_eval 10), "single" rounds them to 32 bits first
            (trec_eval 9, pytrec_eval).
        missing: A judged query that is not in the run: "zero" counts it as 0, "skip" leaves it out of the
            denominator (trec_eval without -c), "error".
        unjudged: A query of the run without judgments: "ignore" or "error".
        no_relevant: A judged query without any document of grade 1 or more: "keep" counts it as every other
            (trec_eval), "skip" leaves it out, "error".
        duplicates: A document twice in one query of a file, the run or the qrels: "error", or keep the "first",
            "last" or "max" score and grade. A pair that is judged twice alike is no error.
        nan: A score of the file that is NaN: "error", "lowest" or "drop". In memory it is always an error.
        empty: A run without any document: "error" or "allow" (all values are 0, if `missing` is "zero").
        format: Format of the run file; None looks at it.

    Returns:
        Values per query and their means.

    Raises:
        ValueError: For unknown options and measures, for what a policy refuses, for files that cannot be
            read (with file and line), for a run that has no query in common with the judgments, and for run
            and qrels that are swapped.

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
        ("empty", empty, EMPTY),
    ):
        check_choice(name, value, choices)
    _check_run_and_qrels(run, qrels)
    parsed = parse_measures(measures)
    judged = qrels if isinstance(qrels, Judgments) else Judgments(qrels, no_relevant, duplicates)
    scorer = RunScorer(judged, parsed, rank_order, precision)
    if isinstance(run, Mapping):
        scorer.add(blocks_of(run))
    else:
        policies: dict[str, Any] = {"duplicates": duplicates, "nan": nan, "empty": empty, "format": format}
        policies["ranks"] = rank_order == "given" or any(getattr(m, "by_given_rank", False) for m in parsed)
        try:
            scorer.add(stream_run(run, **policies))
        except UngroupedError:
            scorer = RunScorer(judged, parsed, rank_order, precision)
            scorer.add(stream_run(run, **policies, whole=True))
    return scorer.result(missing, unjudged, empty)


def _check_run_and_qrels(run: object, qrels: object) -> None:
    """Refuse what is no run, and a run and qrels that changed places.

    Scores and grades look alike where both are integers, and then nothing is refused. What cannot be right is a
    "run" that holds small integers only beside "qrels" with a float.
    """
    swapped = "run and qrels seem to be swapped; {}; call evaluate(run, qrels, measures)"
    if isinstance(run, Judgments):
        raise ValueError(swapped.format("got Judgments as the run"))
    if isinstance(run, Evaluation):
        raise ValueError(f"run must hold rankings; got {run!r}, which is evaluated already; use its values")
    if isinstance(run, str | os.PathLike):
        return
    check_run("run", run)
    assert isinstance(run, Mapping)
    floats = qrels.float_grade if isinstance(qrels, Judgments) else _float_grade(qrels)
    if floats is not None and _holds_grades_only(run):
        raise ValueError(
            swapped.format(f"got only small integers as scores, and the grade {floats!r}")
            + " (if these are the grades, convert them to int)"
        )


def _float_grade(qrels: object) -> Any:
    """The first number that is no integer, or None."""
    if not isinstance(qrels, Mapping):
        return None
    for grades in qrels.values():
        for grade in grades.values() if isinstance(grades, Mapping) else ():
            if type(grade) is not int and isinstance(grade, Real) and not isinstance(grade, Integral):
                return grade
    return None


def _holds_grades_only(run: Mapping[Any, Mapping[Any, Any]]) -> bool:
    """Whether all scores are integers as grades are; False for a run without any."""
    scores = (score for found in run.values() for score in found.values())
    first = next(scores, None)
    return _is_grade(first) and all(map(_is_grade, scores))


def _is_grade(score: Any) -> bool:
    return isinstance(score, Integral) and not isinstance(score, bool) and -2 <= int(score) <= 10
