"""Values as trec_eval has them, where its code needs help: negative and large grades, queries without results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.evaluation import compare, evaluate
from cmp_rerank.evaluation.measures import parse_measures
from cmp_rerank.evaluation.provided import grouped, parse_provided
from cmp_rerank.evaluation.report import build_report, shown_documents

ALL = "nDCG@10 nDCG AP RR P@5 R@5 Rprec Bpref infAP IPrec@0.1 Success@1 NumRel NumRet NumQ Judged@5"


def test_only_negative_grades_do_not_end_the_process() -> None:
    """pytrec_eval counts documents by grade in an array; a best grade below 0 made it write before that array."""
    code = f"""
from cmp_rerank.evaluation import evaluate
run = {{"q1": {{"a": 2.0}}, "q2": {{"a": 1.0, "b": 2.0}}}}
for low in (-2, -3, -20_000, -1_000_000):
    qrels = {{"q1": {{"a": 3, "b": 1}}, "q2": {{"a": low, "b": low}}}}
    means = evaluate(run, qrels, "{ALL}").means
    print(means["AP"], means["NumRel"], means["infAP"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0.25 2.0 0.25"] * 4


GRADES = st.dictionaries(st.sampled_from("abcdef"), st.integers(-5, 4), min_size=1)
RUN = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 5).map(float), min_size=1)


@given(st.dictionaries(st.sampled_from(["1", "2", "3"]), RUN), st.lists(GRADES, min_size=3, max_size=3))
@settings(deadline=None, max_examples=30)
def test_all_negative_grades_mean_the_same(run: dict[str, Any], judged: list[dict[str, int]]) -> None:
    qrels = {str(number): grades for number, grades in enumerate(judged, 1)}
    raised = {query: {doc: max(grade, -1) for doc, grade in grades.items()} for query, grades in qrels.items()}
    if not run:
        return
    assert evaluate(run, qrels, ALL).per_query == evaluate(run, raised, ALL).per_query


@given(st.dictionaries(st.sampled_from(["1", "2", "3"]), RUN, min_size=1), st.lists(GRADES, min_size=3, max_size=3))
@settings(deadline=None, max_examples=30)
def test_judgments_are_counted_where_the_run_has_nothing(run: dict[str, Any], judged: list[dict[str, int]]) -> None:
    """As trec_eval -c does; the slow loop counts them."""
    qrels = {str(number): grades for number, grades in enumerate(judged, 1)}
    found = evaluate(run, qrels, "NumRel NumQ NumRet")
    assert found.means["NumQ"] == 3
    assert found.per_query["NumRel"] == {q: sum(grade > 0 for grade in g.values()) for q, g in qrels.items()}
    assert found.per_query["NumRet"] == {q: len(run.get(q, {})) for q in qrels}
    present = evaluate(run, qrels, "NumRel NumQ", missing="skip")
    assert present.means["NumQ"] == len(run)
    upstream = ir_measures.pytrec_eval.calc_aggregate(
        [ir_measures.NumRel], {q: {**g, "": 0} for q, g in qrels.items()}, run
    )
    assert present.means["NumRel"] == upstream[ir_measures.NumRel]


@pytest.mark.parametrize(
    "others", [["nDCG@5"], ["nDCG"], ["nDCG(gains={1:4,2:5})@5"], ["P@5", "nDCG", "AP", "nDCG@5"]]
)
@pytest.mark.parametrize("first", [True, False])
def test_gains_of_one_measure_change_no_other(others: list[str], first: bool) -> None:
    """ir-measures gave nDCG by the gains of another nDCG in the same call, and 0 for that one."""
    run, qrels = {"q": {"b": 3.0, "c": 2.0, "a": 1.0}}, {"q": {"a": 2, "b": 1, "c": 3}}
    names = ["nDCG(gains={2:5})@5", *others]
    # Which values came out wrong depended on the seed of hashes: that they are apart does not.
    groups = grouped([parse_provided(name) for name in names])
    assert all(len({repr(m.ir.params.get("gains")) for m in group.measures}) == 1 for group in groups)
    alone = {name: value for each in names for name, value in evaluate(run, qrels, [each]).means.items()}
    assert evaluate(run, qrels, names if first else names[::-1]).means == alone
    assert len(set(alone.values())) == len(alone) - (len(others) == 4)  # canary; nDCG and nDCG@5 are the same here


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("P(rel=0)@5", "rel, the least grade of a relevant document, must be at least 1; got"),
        ("nDCG(gains={1:0.5})@5", "gains must be integers from 0 to"),
        ("nDCG(gains={1:100000000000})", "gains must be integers from 0 to"),
    ],
)
def test_parameters_that_the_provider_does_not_take(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_measures(name)


@pytest.mark.parametrize("recall", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("grades", [{"a": 1}, {"a": 0}, {"b": -1}, {"b": -2, "a": 0}])
def test_a_ranking_without_a_judged_document_counts_as_none(recall: float, grades: dict[str, int]) -> None:
    """trec_eval divides 0 by 0 there; the mean of all queries was NaN."""
    found = evaluate(
        {"q1": {"b": 1.0}, "q2": {"a": 1.0}}, {"q1": grades, "q2": {"a": 1}}, f"IPrec(judged_only=True)@{recall}"
    )
    assert found.values.ravel().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("measure", ["ERR@10", "nDCG(dcg='exp-log2')@10"])
def test_measures_of_gdeval_say_what_grades_they_take(measure: str) -> None:
    run = {"q1": {"a": 1.0}, "q2": {"b": 1.0}}
    assert evaluate(run, {"q1": {"a": 4}, "q2": {"b": 1}}, measure)[measure] > 0
    message = "takes grades of at most 4; got 5 for query 'q2', document 'c'; map the grades"
    with pytest.raises(ValueError, match=message):
        evaluate(run, {"q1": {"a": 4}, "q2": {"b": 1, "c": 5}}, measure)


@pytest.mark.parametrize("measure", ["ERR@10", "nDCG(dcg='exp-log2')@10"])
def test_measures_of_gdeval_take_only_negative_grades(measure: str) -> None:
    run = {"q1": {"a": 1.0, "b": 0.5}, "q2": {"b": 1.0}}
    found = evaluate(run, {"q1": {"a": -2, "b": -3}, "q2": {"b": 1}}, measure)
    assert found.per_query[measure] == evaluate(run, {"q1": {"a": 0}, "q2": {"b": 1}}, measure).per_query[measure]


@pytest.mark.parametrize("grade", [1_000_001, 2**31, 2**63, 10**400, -(2**63)])
def test_grades_beyond_what_providers_count(grade: int) -> None:
    with pytest.raises(ValueError, match="query 'q', document 'a': a grade must be at most 1,000,000"):
        evaluate({"q": {"a": 1.0}}, {"q": {"a": grade}}, "nDCG@10")


@pytest.mark.parametrize("name", ["nDCG@99999999999999999999", "P@2147483648", "Judged@99999999999999999999"])
def test_cutoffs_beyond_what_providers_hold(name: str) -> None:
    with pytest.raises(ValueError, match=f"the cut-off must be at least 1, and at most 1,000,000,000; got '{name}'"):
        parse_measures(name)


@pytest.mark.parametrize("name", ["IPrec@0.123", "IPrec@1.5"])
def test_recall_that_the_provider_would_round(name: str) -> None:
    with pytest.raises(ValueError, match="the recall must be from 0 to 1, with at most two digits"):
        parse_measures(name)
    assert [m.name for m in parse_measures("IPrec@0.0 IPrec@0.29 IPrec@1.0")] == [
        "IPrec@0.0",
        "IPrec@0.29",
        "IPrec@1.0",
    ]


def test_recall_becomes_documents_as_in_trec_eval_9() -> None:
    """Where trec_eval 10 rounds 1.2 documents to 1, and has a precision of 1."""
    run = {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}
    assert evaluate(run, {"q": {"a": 1, "d": 1}}, "IPrec@0.6 IPrec@0.5").means == {"IPrec@0.6": 0.5, "IPrec@0.5": 1.0}


@pytest.mark.parametrize("written", ["ndcg@10", "ndcg_cut_10", "nDCG_10", "nDCG10", "ndcg10", "nDGC@10", "NDCG-10"])
def test_the_measure_that_was_meant(written: str) -> None:
    with pytest.raises(ValueError, match=f"unknown measure '{written}'; did you mean nDCG@10\\?"):
        parse_measures(written)


def test_more_resamples_than_memory() -> None:
    run = {"q": {"a": 1.0}, "r": {"a": 1.0}}
    with pytest.raises(ValueError, match=r"resamples must be at most 1,000,000.*got 1,000,000,000,000"):
        compare({"a": run, "b": run}, {"q": {"a": 1}, "r": {"a": 1}}, "RR", resamples=10**12)


# Judgments that come twice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "value"), [("first", 0.0), ("last", 0.5), ("max", 0.5)])
def test_the_policy_for_duplicates_reaches_the_judgments(tmp_path: Path, policy: str, value: float) -> None:
    qrels = tmp_path / "qrels"
    qrels.write_text("q 0 a 0\nq 0 a 1\nq 0 b 0\nq 0 b 0\n")
    run = {"q": {"a": 1.0, "b": 2.0}}
    assert evaluate(run, qrels, "RR", duplicates=policy)["RR"] == value
    found = compare({"x": run, "y": run}, qrels, "RR", duplicates=policy)
    assert found.mean("x", "RR").mean == value
    assert shown_documents({"x": run}, qrels, duplicates=policy) == {"a", "b"}
    _, shown = build_report({"x": run, "y": run}, qrels, "RR", duplicates=policy)
    assert shown.mean("x", "RR").mean == value
    with pytest.raises(ValueError, match="qrels, line 2: document 'a' is judged twice"):
        evaluate(run, qrels, "RR")
