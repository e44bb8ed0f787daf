"""Own measures: each is one class, with the values of a slow loop wherever it goes; shapes that are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from test_evaluate import MEASURES, QRELS, RUNS, lenient

from cmp_rerank.evaluation import RunEvaluator, compare, evaluate, parse_measures, register_measure
from cmp_rerank.evaluation import measures as measures_module
from cmp_rerank.evaluation.report import build_report
from cmp_rerank.ir import rank, write_run


class RankBiasedPrecision:
    """An own measure, complete: RBP (Moffat and Zobel 2008) with gains by grade."""

    def __init__(self, persistence: float = 0.8, cutoff: int | None = None) -> None:
        self.persistence, self.cutoff = persistence, cutoff
        self.name = f"GradedRBP-{persistence}" + (f"@{cutoff}" if cutoff else "")

    def per_query(self, grades: Mapping[str, int], ranking: Sequence[str]) -> float:
        gains = (grades.get(document, 0) * self.persistence**place for place, document in enumerate(ranking))
        return (1 - self.persistence) * sum(gains)


class NotFound:
    """A measure that is added up, and that is not 0 where nothing was retrieved."""

    name, is_sum, default = "NotFound", True, 100.0

    def per_query(self, grades: Mapping[str, int], ranking: Sequence[str]) -> int:
        return sum(grade > 0 and document not in ranking for document, grade in grades.items())


def by_loop(run: dict, qrels: dict, persistence: float, cutoff: int | None) -> dict[str, float]:
    values = {}
    for query, grades in qrels.items():
        value, weight = 0.0, 1 - persistence
        for document, _ in rank(run.get(query, {}))[:cutoff]:
            value += weight * grades.get(document, 0)
            weight *= persistence
        values[query] = value
    return values


@given(RUNS, QRELS)
@settings(deadline=None, max_examples=50)
def test_an_own_measure_is_its_loop_and_changes_no_other(run: dict, qrels: dict) -> None:
    own = [RankBiasedPrecision(0.8), RankBiasedPrecision(0.5, 2)]
    result = lenient(run, qrels, [own[0], *MEASURES, own[1]])
    assert result.measures == (own[0].name, *lenient(run, qrels, MEASURES).measures, own[1].name)
    for measure in own:
        expected = by_loop(run, qrels, measure.persistence, measure.cutoff)
        assert result.per_query[measure.name] == pytest.approx(expected, abs=1e-12)
    assert np.array_equal(result.values[:, 1:-1], lenient(run, qrels, MEASURES).values)


def random_system(seed: int, skill: float = 0.0) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    qrels = {f"q{i}": {"d0": 2, "d1": 1, "d5": 0} for i in range(12)}
    run = {q: {f"d{j}": float(rng.integers(5)) + skill * (j < 2) for j in range(8)} for q in list(qrels)[1:]}
    return run, qrels


def test_files_comparison_evaluator_and_report_take_it(tmp_path: Path) -> None:
    run, qrels = random_system(0)
    better, _ = random_system(1, skill=2.0)
    measure = RankBiasedPrecision(0.7, 5)
    expected = {name: by_loop(system, qrels, 0.7, 5) for name, system in (("first", run), ("tuned", better))}
    assert len(set(expected["first"].values())) > 3  # canary

    write_run(tmp_path / "first.trec", run)
    from_file = evaluate(tmp_path / "first.trec", qrels, measure)  # one measure needs no list
    assert from_file.per_query[measure.name] == pytest.approx(expected["first"])
    assert [ties.cutoff for ties in from_file.ties] == [5]

    runs = {"first": run, "tuned": better}
    compared = compare(runs, qrels, [measure, "nDCG@5"], resamples=100)
    difference = {q: expected["tuned"][q] - expected["first"][q] for q in qrels}
    assert compared.differences("tuned", measure.name) == pytest.approx(difference)
    assert compared.mean("tuned", measure.name).mean == pytest.approx(np.mean(list(expected["tuned"].values())))
    assert compared.contrast("tuned", measure.name).wins == sum(value > 0 for value in difference.values())

    html, shown = build_report(runs, qrels, ["RR", measure], resamples=100)
    assert measure.name in html
    assert shown.contrast("tuned", measure.name) == compare(runs, qrels, ["RR", measure], resamples=100).contrast(
        "tuned", measure.name
    )

    class Table:
        def predict(self, pairs: list[tuple[str, str]]) -> list[float]:
            return [better[query][document] for query, document in pairs]

    queries, corpus = {query: query for query in qrels}, {f"d{j}": f"d{j}" for j in range(8)}
    judge = RunEvaluator(queries, corpus, qrels, run, measures=[measure, "RR"], primary=measure.name, name="dev")
    metrics = judge(Table())
    assert metrics[f"dev_{measure.name}"] == pytest.approx(np.mean(list(expected["tuned"].values())))
    assert metrics[f"dev_base_{measure.name}"] == pytest.approx(np.mean(list(expected["first"].values())))
    assert judge.primary_metric == f"dev_{measure.name}"
    assert judge.last is not None
    assert judge.last.per_query[measure.name] == pytest.approx(expected["tuned"])


def test_sums_and_the_value_of_a_query_without_documents() -> None:
    qrels = {"q1": {"a": 1, "b": 2, "c": 0}, "q2": {"a": 1}}
    result = evaluate({"q1": {"c": 1.0, "b": 0.5}}, qrels, [NotFound()])
    assert result.per_query["NotFound"] == {"q1": 1.0, "q2": 100.0}
    assert result.means == {"NotFound": 101.0}


def test_an_own_measure_sees_the_given_order_and_all_grades() -> None:
    seen: list[tuple[dict, list]] = []

    class Seen:
        name = "Seen"

        def per_query(self, grades: dict, ranking: list) -> bool:
            seen.append((grades, ranking))
            return True

    run = {"q": {"x": 1.0, "b": 3.0, "a": 3.0}, "unjudged": {"x": 1.0}}
    assert evaluate(run, {"q": {"a": -1, "b": 0, "z": 2}}, Seen())["Seen"] == 1.0
    evaluate(run, {"q": {"a": 1}}, Seen(), rank_order="given")
    assert seen == [({"a": -1, "b": 0, "z": 2}, ["b", "a", "x"]), ({"a": 1}, ["x", "b", "a"])]


def test_a_registered_name_is_read_wherever_names_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures_module, "_REGISTRY", dict(measures_module._REGISTRY))

    def factory(cutoff: int | None) -> RankBiasedPrecision:
        return RankBiasedPrecision(0.5, cutoff)

    register_measure("RBP-half", factory)
    register_measure("RBP-half", factory)  # again: nothing changes
    run, qrels = random_system(2)
    result = evaluate(run, qrels, "nDCG@5 RBP-half@3 RBP-half")
    assert result.measures == ("nDCG@5", "GradedRBP-0.5@3", "GradedRBP-0.5")
    assert result.per_query["GradedRBP-0.5@3"] == pytest.approx(by_loop(run, qrels, 0.5, 3))
    for name, message in (
        ("RBP-half", "the name 'RBP-half' stands for another measure already; choose another one"),
        ("nDCG", "the name 'nDCG' stands for another measure already"),
        ("MSMARCO-MRR", "the name 'MSMARCO-MRR' stands for another measure already"),
        ("My@3", "must be letters, digits, '-' and '_'; got 'My@3'; leave out '@k'"),
        (3, "must be letters, digits, '-' and '_'; got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            register_measure(name, lambda cutoff: RankBiasedPrecision(0.1, cutoff))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="factory must be called with a cut-off and give a measure; got the string 'RBP'"
    ):
        register_measure("Other", "RBP")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError,
        match=r"'RPB-half'; did you mean RBP-half\?; .*MSMARCO-MRR@k, RBP-half@k and the names of",
    ):
        parse_measures("RPB-half")


def shape(**attributes: Any) -> Any:
    return type("Shape", (), {"per_query": lambda *_: 0.0, "name": "Mine", **attributes})()


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (RankBiasedPrecision, r"must be an object; got the class RankBiasedPrecision; create one: RankBiased"),
        (shape(name=None), "must have a name without white space; got None of a Shape; set its `name`"),
        (shape(name=""), "must have a name without white space; got ''"),
        (shape(name="my measure"), "must have a name without white space; got 'my measure'"),
        (shape(per_query=None), r"'Mine' must have a method per_query\(grades, ranking\); got a Shape; add it"),
        (shape(cutoff=0), "the cutoff of the measure 'Mine' must be a whole number of at least 1; got 0"),
        (shape(cutoff=2.5), "must be a whole number of at least 1; got 2.5"),
        (shape(default=math.nan), "the default of the measure 'Mine' must be a finite number; got nan"),
        (shape(default="0"), "the default of the measure 'Mine' must be a finite number; got '0'"),
        (7, "must have a name without white space; got None of 7"),
        (None, "must have a name without white space; got None of None"),
        ({"nDCG@10": 1}, "must have a name without white space; got None of a dict of 1"),
    ],
)
def test_shapes_that_are_refused(measure: Any, message: str) -> None:
    for measures in (measure, [measure], ["RR", measure]):
        with pytest.raises(ValueError, match=message):
            evaluate({"q": {"a": 1.0}}, {"q": {"a": 1}}, measures)


@pytest.mark.parametrize("value", [math.nan, -math.inf, None, "high", [0.5, 0.5]])
def test_values_that_are_no_numbers_are_refused(value: Any) -> None:
    measure = shape(per_query=lambda *_: value)
    with pytest.raises(ValueError, match=r"'Mine' must give a finite number; got .* for query 'q'; define its value"):
        evaluate({"p": {"a": 1.0}, "q": {"a": 1.0}}, {"q": {"a": 1}}, [measure])


def test_two_measures_of_one_name_are_refused_and_the_same_one_counts_once() -> None:
    with pytest.raises(ValueError, match="two measures have the name 'Mine'; rename one of them"):
        parse_measures([shape(), shape()])
    with pytest.raises(ValueError, match="two measures have the name 'RR'"):
        parse_measures(["RR", shape(name="RR")])
    mine = shape()
    assert [measure.name for measure in parse_measures([mine, "RR", mine, ir_measures.RR])] == ["Mine", "RR"]
    assert parse_measures(parse_measures([mine, "RR"])) == parse_measures(measure for measure in [mine, "RR"])
