"""Measures: published values, hand-worked cases, slow loops, invariances, empty and partial input."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ir_measures.bin import msmarco_eval

from cmp_rerank.evaluation import Judgments, evaluate, parse_measures
from cmp_rerank.ir import blocks_of, rank, reading, write_qrels, write_run

tmp_ok = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

DOCS = st.sampled_from([f"d{i}" for i in range(9)])
RUNS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(DOCS, st.integers(-3, 3).map(float), max_size=9),
    max_size=3,
)
QRELS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q4"]),
    st.dictionaries(DOCS, st.integers(0, 3), min_size=1, max_size=7),
    min_size=1,
    max_size=3,
)
MEASURES = [
    *("nDCG@3", "nDCG@20", "nDCG", "P@1", "P@3", "P(rel=2)@5", "R@2", "R(rel=2)@4", "RR", "RR@2", "RR(rel=2)@4"),
    *("AP", "AP@3", "AP(rel=2)@4", "Success@1", "Success@3", "Rprec", "Bpref", "IPrec@0.1", "IPrec@0.6", "infAP"),
    *("Judged@2", "Judged@5", "SetP", "SetR", "SetF", "NumRet", "NumRet(rel=1)", "NumRel", "NumQ"),
    *("P(judged_only=True)@2", "nDCG(judged_only=True)@2", "AP(judged_only=True)", "MSMARCO-MRR@2"),
]


def lenient(run: dict, qrels: dict, measures: object, **options: object):
    """Evaluate whatever hypothesis made."""
    if not any(query in qrels for query, scores in run.items() if scores):
        run = {query: {} for query in run}
    return evaluate(run, qrels, measures, empty="allow", **options)


# --- published values ---------------------------------------------------------------------------------------

TREC_NAMES = {"ndcg_cut_10": "nDCG@10", "map_cut_100": "AP@100", "recall_20": "R@20", "recall_100": "R@100"}


@pytest.mark.parametrize("precision", ["double", "single"])
def test_the_ten_published_runs(shared_data: Path, precision: str) -> None:
    folder = shared_data / "metrics-golden"
    entries = json.loads((folder / "published.json").read_text())
    assert len(entries) == 10
    for entry in entries:
        names = [TREC_NAMES[name] for name in entry["published"]]
        means = evaluate(folder / entry["run"], folder / entry["qrels"], names, precision=precision).means
        assert {name: round(mean, 4) for name, mean in means.items()} == {
            TREC_NAMES[name]: value for name, value in entry["published"].items()
        }, entry["run"]


@pytest.mark.parametrize(("name", "value"), [("bm25", 0.5058), ("splade", 0.7308), ("tasb", 0.7210)])
def test_first_stages_of_trec_dl(shared_data: Path, name: str, value: float) -> None:
    folder = shared_data / "trec-dl-2019"
    result = evaluate(folder / f"runs/{name}.trec", folder / "qrels/test.tsv", "nDCG@10")
    assert round(result["nDCG@10"], 4) == value
    assert len(result.queries) == 43


# --- hand-worked --------------------------------------------------------------------------------------------


def test_worked_by_hand() -> None:
    qrels = {"q": {"a": 3, "b": 2, "c": 0, "d": 1}}
    run = {"q": {"x": 5.0, "b": 4.0, "c": 3.0, "a": 2.0, "y": 1.0}}  # ranks: x b c a y; d is not found
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    expected = {
        "nDCG@10": (2 / math.log2(3) + 3 / math.log2(5)) / ideal,
        "nDCG@3": 2 / math.log2(3) / ideal,
        "RR": 1 / 2,
        "RR(rel=3)": 1 / 4,
        "AP": (1 / 2 + 2 / 4) / 3,
        "AP(rel=2)": (1 / 2 + 2 / 4) / 2,
        "AP@3": (1 / 2) / 3,
        "P@5": 2 / 5,
        "P@10": 2 / 10,
        "R@4": 2 / 3,
        "R@100": 2 / 3,
        "Success@1": 0.0,
        "Success@2": 1.0,
        "Judged@3": 2 / 3,
        "MSMARCO-MRR@10": 1 / 2,
        "MSMARCO-MRR@1": 0.0,
    }
    assert evaluate(run, qrels, list(expected)).means == pytest.approx(expected, abs=1e-15)


def test_ties_are_broken_by_id_descending() -> None:
    run = {"q": {"d1": 1.0, "d2": 1.0, "d10": 1.0}}  # d2, d10, d1
    for doc, value in (("d2", 1.0), ("d10", 0.5), ("d1", 1 / 3)):
        assert evaluate(run, {"q": {doc: 1}}, "RR MSMARCO-MRR@10").values.tolist() == [[value, value]]


def test_all_judged_queries_are_in_the_denominator() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 0}, "q4": {}}
    run = {"q1": {"a": 1.0}, "q9": {"a": 1.0}}
    result = evaluate(run, qrels, "RR MSMARCO-MRR@10 NumRet")
    assert result.means == {"RR": 1 / 3, "MSMARCO-MRR@10": 1 / 3, "NumRet": 1.0}
    assert result.queries == ("q1", "q2", "q3")
    assert (result.missing, result.unjudged) == (("q2", "q3"), 1)
    skipped = evaluate({**run, "q3": {"a": 1.0}}, qrels, "RR", no_relevant="skip")
    assert skipped["RR"] == evaluate(run, qrels, "RR", no_relevant="skip")["RR"] == 1 / 2
    assert skipped.unjudged == 1  # q9; q3 is judged, and left out by the policy
    without = evaluate(run, qrels, "RR", missing="skip")
    assert without["RR"] == 1.0
    for found in (result, without):
        assert "2 of 3 judged queries are not in the run" in found.notes()


# --- slow loops as oracle -----------------------------------------------------------------------------------


def by_loop(name: str, ranking: list[str], grades: dict[str, int], k: int, rel: int = 1) -> float:
    relevant = [doc for doc, grade in grades.items() if grade >= rel]
    hits = [doc in relevant for doc in ranking]
    if name == "P":
        return sum(hits[:k]) / k
    if name == "R":
        return sum(hits[:k]) / len(relevant) if relevant else 0.0
    if name == "RR":
        return next((1 / (i + 1) for i, hit in enumerate(hits[:k]) if hit), 0.0)
    if name == "AP":
        gains = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits[:k]) if hit]
        return sum(gains) / len(relevant) if relevant else 0.0
    if name == "Success":
        return float(any(hits[:k]))
    ideal = sorted(grades.values(), reverse=True)[:k]
    best = sum(grade / math.log2(i + 2) for i, grade in enumerate(ideal))
    found = sum(grades.get(doc, 0) / math.log2(i + 2) for i, doc in enumerate(ranking[:k]))
    return found / best if best else 0.0


@given(RUNS, QRELS, st.sampled_from(["P", "R", "RR", "AP", "Success", "nDCG"]), st.integers(1, 10))
@settings(deadline=None)
def test_measures_against_loops(run: dict, qrels: dict, name: str, k: int) -> None:
    result = lenient(run, qrels, f"{name}@{k}")
    assert result.queries == tuple(qrels)
    for query, grades in qrels.items():
        ranking = [doc for doc, _ in rank(run.get(query, {}))]
        expected = by_loop(name, ranking, grades, k)
        assert result.per_query[f"{name}@{k}"][query] == pytest.approx(expected, abs=1e-12)


@given(RUNS, QRELS)
@settings(deadline=None, max_examples=60)
def test_the_provider_needs_no_more_than_it_gets(run: dict, qrels: dict) -> None:
    """Every measure has the value that ir-measures gives for the whole ranking."""
    result = lenient(run, qrels, MEASURES)
    ranks = {q: {d: -float(i) for i, (d, _) in enumerate(rank(s))} for q, s in run.items() if s and q in qrels}
    names = [name for name in MEASURES if not name.startswith("MSMARCO")]
    whole: dict[tuple[str, str], float] = {}
    if ranks:
        for measure in map(ir_measures.parse_measure, names):  # one by one: together, some change others
            for metric in ir_measures.iter_calc([measure], qrels, ranks):
                whole[metric.query_id, str(metric.measure)] = metric.value
    for query, name in itertools.product(qrels, result.measures):
        if query in ranks and not name.startswith("MSMARCO"):
            assert result.per_query[name][query] == pytest.approx(whole[query, name], abs=1e-12), name


def overlap(ranking: list[str], ideal: list[str], p: float, depth: int) -> float:
    """Rank-biased overlap of two rankings, without its constant factor."""
    return sum(p**i * len(set(ranking[: i + 1]) & set(ideal[: i + 1])) / (i + 1) for i in range(depth))


@given(RUNS, QRELS, st.sampled_from([0.5, 0.8]))
@example({"q1": {"d1": 1.0}}, {"q1": {"d0": 1, "d1": 1}}, 0.5)
@settings(deadline=None, max_examples=50)
def test_compatibility_is_the_overlap_with_the_nearest_ideal_ranking(run: dict, qrels: dict, p: float) -> None:
    """Of documents of one grade, those that the run has come first in it."""
    qrels = {query: dict(list(grades.items())[:5]) for query, grades in qrels.items()}
    found = lenient(run, qrels, f"Compat(p={p})").per_query[f"Compat(p={p})"]
    for query, grades in qrels.items():
        ranking = [doc for doc, _ in rank(run.get(query, {}))]
        best = 0.0
        for order in itertools.permutations(doc for doc, grade in grades.items() if grade > 0):
            ideal = sorted(order, key=grades.__getitem__, reverse=True)
            depth = max(len(ranking), len(ideal))
            best = max(best, overlap(ranking, ideal, p, depth) / (overlap(ideal, ideal, p, depth) or 1.0))
        assert found[query] == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_no_measure_changes_another(seed: int) -> None:
    """ir-measures takes NumRet from what it counted for judged documents only, if a set has that order."""
    code = (
        "from cmp_rerank.evaluation import evaluate\n"
        "print(evaluate({'q': {'a': 1.0, 'b': 2.0}}, {'q': {'a': 0}}, 'NumRet AP(judged_only=True)')['NumRet'])"
    )
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2.0"


@given(RUNS, QRELS, st.sampled_from([1, 2, 10]))
@tmp_ok
def test_msmarco_is_the_script(tmp_path: Path, run: dict, qrels: dict, k: int) -> None:
    def number(name: str) -> int:
        return int(name[1:])

    run = {query: scores for query, scores in run.items() if scores}
    lines = [(q, d, i) for q, scores in run.items() for i, (d, _) in enumerate(rank(scores), 1)]
    reference = msmarco_eval.load_reference_from_stream(
        io.StringIO(
            "".join(f"{number(q)}\t0\t{number(d) + 1}\t1\n" for q, g in qrels.items() for d, r in g.items() if r)
        )
    )
    candidates = msmarco_eval.load_candidate_from_stream(
        io.StringIO("".join(f"{number(q)}\t{number(d) + 1}\t{i}\n" for q, d, i in lines))
    )
    script = msmarco_eval.compute_metrics(reference, candidates, k)[f"MRR @{k} by query"]
    kept = {query: grades for query, grades in qrels.items() if any(grades.values())}
    if not kept:
        return
    result = lenient(run, kept, [f"MSMARCO-MRR@{k}"])
    assert result.means[f"MSMARCO-MRR@{k}"] == pytest.approx(sum(script.values()) / len(reference), abs=1e-12)
    if any(query in kept for query in run):
        write_run(tmp_path / "run.tsv", run)
        from_file = evaluate(tmp_path / "run.tsv", kept, [f"MSMARCO-MRR@{k}"])
        assert from_file.means == result.means


def test_msmarco_takes_the_rank_that_the_file_gives(tmp_path: Path) -> None:
    qrels = {"q1": {"a": 1}}
    trec = tmp_path / "run.trec"
    trec.write_text("q1 Q0 b 2 9.0 t\nq1 Q0 a 1 1.0 t\n")  # the scores say otherwise
    assert evaluate(trec, qrels, "MSMARCO-MRR@10 RR").means == {"MSMARCO-MRR@10": 1.0, "RR": 0.5}
    assert evaluate(trec, qrels, "MSMARCO-MRR@10 RR", rank_order="given").means == {"MSMARCO-MRR@10": 1.0, "RR": 1.0}
    trec.write_text("q1 Q0 b 0 9.0 t\nq1 Q0 a 1 1.0 t\n")  # counts from 0
    assert evaluate(trec, qrels, "MSMARCO-MRR@10")["MSMARCO-MRR@10"] == 0.5
    trec.write_text("q1 Q0 a 7 9.0 t\n")  # the ranks above are missing, and stay so
    assert evaluate(trec, qrels, "MSMARCO-MRR@10 RR").means == {"MSMARCO-MRR@10": 1 / 7, "RR": 1.0}
    trec.write_text("q1 Q0 a 1 9.0 t\nq1 Q0 b 1 9.0 t\n")  # in the script the later line overwrites the first
    assert evaluate(trec, qrels, "MSMARCO-MRR@10")["MSMARCO-MRR@10"] == 0.0
    trec.write_text("q1 Q0 a -1 9.0 t\n")
    with pytest.raises(ValueError, match="'q1' has rank -1"):
        evaluate(trec, qrels, "MSMARCO-MRR@10")


def test_given_order_of_a_mapping() -> None:
    run = {"q": {"b": 1.0, "a": 5.0}}
    assert evaluate(run, {"q": {"a": 1}}, "RR MSMARCO-MRR@10").means == {"RR": 1.0, "MSMARCO-MRR@10": 1.0}
    given = evaluate(run, {"q": {"a": 1}}, "RR MSMARCO-MRR@10", rank_order="given")
    assert given.means == {"RR": 0.5, "MSMARCO-MRR@10": 0.5}
    assert given.ties == ()


# --- invariances --------------------------------------------------------------------------------------------


@given(RUNS, QRELS, st.randoms())
@settings(deadline=None, max_examples=50)
def test_order_of_input_changes_nothing(run: dict, qrels: dict, random: object) -> None:
    def shuffled(mapping: dict) -> dict:
        items = [(key, shuffled(value) if isinstance(value, dict) else value) for key, value in mapping.items()]
        random.shuffle(items)  # type: ignore[attr-defined]
        return dict(items)

    mixed = lenient(shuffled(run), shuffled(qrels), MEASURES)
    for name, values in lenient(run, qrels, MEASURES).per_query.items():
        assert mixed.per_query[name] == values


@given(RUNS, QRELS, st.integers(-100, 100), st.sampled_from([0.25, 1.0, 3.0, 1e6]))
@settings(deadline=None, max_examples=50)
def test_shifting_and_scaling_changes_nothing(run: dict, qrels: dict, shift: int, scale: float) -> None:
    moved = {q: {d: (s + shift) * scale for d, s in scores.items()} for q, scores in run.items()}
    for precision in ("double", "single"):
        plain = lenient(run, qrels, MEASURES, precision=precision)
        assert np.array_equal(lenient(moved, qrels, MEASURES, precision=precision).values, plain.values)


@given(RUNS, QRELS)
@tmp_ok
def test_an_identity_reranker_changes_nothing(tmp_path: Path, run: dict, qrels: dict) -> None:
    """Taking the ranks as new scores, or writing and reading the file, is exactly the same run."""
    run = {query: scores for query, scores in run.items() if scores}
    before = lenient(run, qrels, MEASURES).values
    again = {q: {d: -float(i) for i, (d, _) in enumerate(rank(scores))} for q, scores in run.items()}
    assert np.array_equal(lenient(again, qrels, MEASURES).values, before)
    if any(query in qrels for query in run):
        write_run(tmp_path / "run.trec", run)
        write_qrels(tmp_path / "qrels", qrels)
        from_file = evaluate(tmp_path / "run.trec", tmp_path / "qrels", MEASURES)
        assert np.array_equal(from_file.values, before)
        assert from_file.ties == evaluate(run, qrels, MEASURES).ties


@given(RUNS, QRELS)
@settings(deadline=None, max_examples=30)
def test_blocks_change_nothing(run: dict, qrels: dict) -> None:
    from cmp_rerank.evaluation.scoring import RunScorer

    def with_blocks(rows: int):
        scorer = RunScorer(Judgments(qrels), parse_measures(MEASURES), "score", "double")
        scorer.add(blocks_of(run, rows))
        return scorer

    small, large = with_blocks(1), with_blocks(1000)
    assert np.array_equal(small.values, large.values)
    assert np.array_equal(small.ties, large.ties)


def test_a_file_that_is_not_grouped_by_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LINES_PER_BLOCK", 2)
    monkeypatch.setattr(reading, "_plain_delimiter", lambda *_: None)
    rng = np.random.default_rng(0)
    run = {f"q{i}": {f"d{j}": float(rng.integers(5)) for j in range(6)} for i in range(5)}
    qrels = {f"q{i}": {f"d{j}": int(rng.integers(3)) for j in range(6)} for i in range(5)}
    lines = [f"{q} Q0 {d} 1 {s} t\n" for q, scores in run.items() for d, s in scores.items()]
    rng.shuffle(lines)
    (tmp_path / "run").write_text("".join(lines))
    names = [name for name in MEASURES if not name.startswith("MSMARCO")]
    assert np.array_equal(evaluate(tmp_path / "run", qrels, names).values, evaluate(run, qrels, names).values)


# --- empty and partial input --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["double", "single"])
def test_the_emptiness_grid(precision: str) -> None:
    """Every pair of an empty or partial run and qrels is either a defined value or a named error."""
    runs = {
        "none": {},
        "empty query": {"q1": {}},
        "one": {"q1": {"a": -1.0}},
        "other": {"q9": {"a": 1.0}},
        "all tied": {"q1": {"a": 0.0, "b": 0.0, "c": 0.0}},
        "negative": {"q1": {"a": -5.0, "b": -9.0}, "q2": {"b": -1.0}},
        "infinite": {"q1": {"a": math.inf, "b": -math.inf}},
    }
    judged = {
        "none": {},
        "empty query": {"q1": {}},
        "not relevant": {"q1": {"a": 0}},
        "one": {"q1": {"a": 1}},
        "not found": {"q1": {"z": 2}},
        "two": {"q1": {"a": 1}, "q2": {"z": 1}},
    }
    rr = {"one": 1.0, "all tied": 1 / 3, "negative": 1.0, "infinite": 1.0}
    for (run_name, run), (qrels_name, qrels) in itertools.product(runs.items(), judged.items()):
        if qrels_name in ("none", "empty query"):
            with pytest.raises(ValueError, match="there is no judged query"):
                evaluate(run, qrels, MEASURES)
            continue
        if run_name in ("none", "empty query"):
            with pytest.raises(ValueError, match="the run is empty; pass empty='allow'"):
                evaluate(run, qrels, MEASURES)
            result = evaluate(run, qrels, MEASURES, empty="allow", precision=precision)
            # NumRel and NumQ count judgments, not results.
            assert not any(mean for name, mean in result.means.items() if name not in ("NumRel", "NumQ"))
            assert result.missing == tuple(qrels)
            with pytest.raises(ValueError, match="no judged query is left"):
                evaluate(run, qrels, MEASURES, empty="allow", missing="skip")
            continue
        if run_name == "other":
            with pytest.raises(ValueError, match=r"got 1 in the run \('q9'\) and . in the qrels \('q1'"):
                evaluate(run, qrels, MEASURES)
            continue
        result = evaluate(run, qrels, MEASURES, precision=precision)
        assert np.isfinite(result.values).all()
        expected = rr[run_name] if qrels_name in ("one", "two") else 0.0
        assert result.per_query["RR"]["q1"] == expected, (run_name, qrels_name)


@pytest.mark.parametrize(
    ("run", "qrels", "options", "message"),
    [
        ({"q": {"a": math.nan}}, {"q": {"a": 1}}, {}, "document 'a': the score must be a number; got nan"),
        ({"q": {"a": "0.5"}}, {"q": {"a": 1}}, {}, "document 'a': the score must be a number; got '0.5'"),
        ({"q": {"a": None}}, {"q": {"a": 1}}, {}, "document 'a': the score must be a number; got None"),
        ({"q": {1: 0.5}}, {"q": {"a": 1}}, {}, "ids are strings; got the document id 1 in run; convert"),
        ({"q": {"a": 0.5}}, {"q": {1: 1}}, {}, "ids are strings; got the document id 1 in qrels; convert"),
        (
            {"q": {"a": 0.5}},
            {"q": {"a": 0.5}},
            {},
            "query 'q', document 'a': a grade must be an integer; got 0.5; were run and qrels swapped",
        ),
        ({"q": {"a": 0.5}, "p": {"a": 1.0}}, {"q": {"a": 1}}, {"unjudged": "error"}, "1 queries have no judgment"),
        ({"q": {"a": 0.5}}, {"q": {"a": 1}, "p": {"a": 1}}, {"missing": "error"}, "1 judged queries are not in"),
        ({"q": {"a": 0.5}}, {"q": {"a": 0}}, {"no_relevant": "error"}, "1 judged queries have no relevant"),
        ({"q": {"a": 0.5}}, {"q": {"a": 1}}, {"missing": "drop"}, "missing must be one of 'zero', 'skip', 'error'"),
        ({"q": {"a": 0.5}}, {"q": {"a": 1}}, {"rank_order": "x"}, "rank_order must be one of"),
    ],
)
def test_what_is_refused(run: dict, qrels: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(run, qrels, "RR", **options)


SCORES = {"q": {"a": 0.5, "b": 2.0}}
GRADES = {"q": {"a": 1, "b": 0}}


@pytest.mark.parametrize(
    ("run", "qrels", "message"),
    [
        (GRADES, SCORES, "run and qrels seem to be swapped; got only small integers as scores, and the grade 0.5"),
        (GRADES, {"q": {"a": 3.0, "b": 2.0}}, "got only small integers as scores, and the grade 3.0"),
        (GRADES, {"q": {"a": 3, "b": np.float32(2)}}, "got only small integers as scores, and the grade "),
        (GRADES, Judgments({"q": {"a": 3.0}}), "got only small integers as scores, and the grade 3.0"),
        (Judgments(GRADES), SCORES, "got Judgments as the run"),
        ({"q": {"a": 0.1}}, SCORES, "a grade must be an integer; got 0.5; were run and qrels swapped"),
    ],
)
def test_run_and_qrels_that_changed_places(run: Any, qrels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(run, qrels, "RR")


@pytest.mark.parametrize(
    ("run", "qrels", "value"),
    [
        (SCORES, GRADES, 0.5),
        ({"q": {"a": 2, "b": 1}}, GRADES, 1.0),  # both integers: nothing says that it is wrong
        ({"q": {"a": 20, "b": 1}}, {"q": {"a": 1.0, "b": 0.0}}, 1.0),  # no grade is 20
        ({"q": {"a": -3, "b": -5}}, {"q": {"a": 1.0}}, 1.0),
        ({"q": {"a": 1.0, "b": 0}}, {"q": {"a": 1.0}}, 1.0),  # a score is a float
        ({"q": {"a": np.int64(3), "b": np.int64(4)}}, {"q": {"a": np.int64(1)}}, 0.5),
    ],
)
def test_valid_numbers_are_not_taken_for_a_swap(run: Any, qrels: Any, value: float) -> None:
    assert evaluate(run, qrels, "RR")["RR"] == value
    assert evaluate(run, Judgments(qrels), "RR")["RR"] == value


def test_files_that_changed_places(tmp_path: Path) -> None:
    run, qrels, tabs = tmp_path / "run", tmp_path / "qrels", tmp_path / "qrels.tsv"
    write_run(run, {"q": {"a": 0.5}})
    write_qrels(qrels, {"q": {"a": 1}})
    write_qrels(tabs, {"q": {"a": 1}}, format="msmarco")
    for judged in (qrels, tabs):
        assert evaluate(run, judged, "RR")["RR"] == 1.0
        with pytest.raises(ValueError, match=r"run, line 1: this is a line of a run, not of qrels: .*; swapped\?"):
            evaluate(judged, run, "RR")
        with pytest.raises(ValueError, match=r"line 1: this is a line of qrels, not of a run: .*; swapped\?"):
            evaluate(judged, {"q": {"a": 1}}, "RR")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            (part for part in [SCORES]),
            r"run must map query ids to \{document id: number\}; got a generator; make it a",
        ),
        ([SCORES], "got a list of 1"),
        (None, "got None"),
        ({"a": 1.0}, "got 1.0 for query 'a'; give each query a dictionary"),
        ({"q": ["a", "b"]}, "got a list of 2 for query 'q'"),
        (
            evaluate(SCORES, GRADES, "RR"),
            "run must hold rankings; got <Evaluation of 1 queries: RR=0.5000>, which is",
        ),
    ],
)
def test_runs_of_another_shape_are_refused(run: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(run, GRADES, "RR")


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ([GRADES], "qrels must map query ids to .*; got a list of 1"),
        ((part for part in [GRADES]), "qrels must map query ids to .*; got a generator"),
        ({"q": "a"}, "qrels must map query ids to .*; got the string 'a' for query 'q'"),
        ({"q": {"a": math.nan}}, "a grade must be an integer; got nan"),
        ({"q": {"a": math.inf}}, "a grade must be an integer; got inf"),
        ({"q": {"a": None}}, "a grade must be an integer; got None"),
        ({"q": {"a": "1"}}, "a grade must be an integer; got '1'"),
        ({"q": {"a": True}}, "a grade must be an integer; got True"),
    ],
)
def test_qrels_of_another_shape_are_refused(qrels: Any, message: str) -> None:
    for use in (Judgments, lambda judged: evaluate(SCORES, judged, "RR")):
        with pytest.raises(ValueError, match=message):
            use(qrels)
    with pytest.raises(ValueError, match="no_relevant must be one of"):
        Judgments(GRADES, "drop")


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ("nDCX@10", r"'nDCX@10'; did you mean nDCG@10\?; .*MSMARCO-MRR@k and the names of ir-measures: AP, "),
        ("nDCG@", "cannot read the measure 'nDCG@'"),
        ("nDCG@0", "the cut-off must be at least 1"),
        ("MSMARCO-MRR@0", "the cut-off of MSMARCO-MRR must be a whole number of at least 1; got 0"),
        ("", "no measure was given"),
        ([], "no measure was given"),
        ("alpha_nDCG@10", "no provider that is installed computes"),
        ("P", "cannot read the measure 'P'|no provider"),
    ],
)
def test_measures_that_cannot_be(measures: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_measures(measures)  # type: ignore[arg-type]


def test_measure_names() -> None:
    names = [m.name for m in parse_measures(["nDCG@10", ir_measures.P @ 5, "nDCG@10", "MSMARCO-MRR", "MRR@10"])]
    assert names == ["nDCG@10", "P@5", "MSMARCO-MRR@10", "RR@10"]
    assert [m.name for m in parse_measures(" P(rel=2,  judged_only=True)@5   RR ")] == [
        "P(rel=2,judged_only=True)@5",
        "RR",
    ]


# --- ties ---------------------------------------------------------------------------------------------------


@given(RUNS, QRELS, st.integers(1, 9), st.sampled_from(["double", "single"]))
@settings(deadline=None)
def test_ties_around_the_cutoff(run: dict, qrels: dict, k: int, precision: str) -> None:
    run = {q: {d: 1.0 + s * 1e-9 for d, s in scores.items()} for q, scores in run.items()}
    result = lenient(run, qrels, [f"P@{k}", "RR"], precision=precision)
    dtype = {"double": np.float64, "single": np.float32}[precision]
    across = above = anywhere = 0
    if not any(query in qrels for query, scores in run.items() if scores):
        run = {}
    for query in qrels:
        scores = [dtype(score) for _, score in rank(run.get(query, {}))]
        across += len(scores) > k and scores[k - 1] == scores[k]
        above += any(scores[i] == scores[j] for i in range(min(k, len(scores))) for j in range(len(scores)) if i != j)
        anywhere += len(set(scores)) < len(scores)
    assert [(t.cutoff, t.across, t.above) for t in result.ties] == [(k, across, above), (None, 0, anywhere)]
    if across:
        assert f"ties cross rank {k} in {across} of {len(qrels)} queries" in " ".join(result.notes())


def test_results_as_data() -> None:
    result = evaluate({"q": {"a": 1.0, "b": 1.0}}, {"q": {"a": 1}, "p": {"a": 1}}, "RR P@1")
    data = json.loads(result.to_json())
    assert data["means"] == {"RR": 0.25, "P@1": 0.0}
    assert data["per_query"]["RR"] == {"q": 0.5, "p": 0.0}
    assert data["missing"] == ["p"]
    assert data["ties"][0] == {"cutoff": 1, "across": 1, "above": 1}
    assert "per_query" not in json.loads(result.to_json(per_query=False))
    assert repr(result) == "<Evaluation of 2 queries: RR=0.2500, P@1=0.0000>"
    assert result.column("RR").tolist() == [0.5, 0.0]
    with pytest.raises(KeyError, match=r"'AP' was not evaluated; there are RR, P@1"):
        result["AP"]


def test_a_measure_that_ir_measures_divides_by_zero_for_is_refused() -> None:
    """Accuracy, of a query of whose documents all are relevant: there is no pair that could be in the wrong order."""
    qrels = {"p": {"a": 1, "b": 0}, "q": {"a": 1, "b": 1}}
    run = {"p": {"a": 1.0, "b": 2.0}, "q": {"a": 1.0, "b": 2.0}}
    assert evaluate(run, {"p": qrels["p"]}, "Accuracy")["Accuracy"] == 0.0
    with pytest.raises(ValueError, match=r"Accuracy@2 has no value for query 'q', .* divides by zero\); leave"):
        evaluate(run, qrels, ["nDCG@10", "Accuracy@2"])
