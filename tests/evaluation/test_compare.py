"""Comparison of systems: every number from a second way to compute it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from scipy_seeds import drawn_by

from cmp_rerank.evaluation import Evaluation, Judgments, compare, compare_evaluations, evaluate
from cmp_rerank.evaluation.compare import system_names
from cmp_rerank.evaluation.statistics import holm
from cmp_rerank.ir import write_run

QUERIES = [f"q{i:02d}" for i in range(40)]
QRELS = {query: {"d0": 1, "d1": 2} for query in QUERIES}


def system(skill: float, seed: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    return {q: {f"d{j}": float(skill * (j < 2) + rng.normal()) for j in range(8)} for q in QUERIES}


RUNS = {"base": system(0.5, 1), "strong": system(2.5, 2), "twin": system(0.5, 3)}


@pytest.fixture(scope="module")
def comparison():
    return compare(RUNS, QRELS, "nDCG@5 RR", baseline="base", resamples=4000)


def test_means_differences_and_counts(comparison) -> None:
    for measure in ("nDCG@5", "RR"):
        values = {name: evaluate(run, QRELS, measure).column(measure) for name, run in RUNS.items()}
        for name in RUNS:
            assert comparison.mean(name, measure).mean == pytest.approx(values[name].mean(), abs=1e-12)
            assert comparison.mean(name, measure).seed_deviation is None
        for name in ("strong", "twin"):
            difference = values[name] - values["base"]
            found = comparison.contrast(name, measure)
            assert found.difference == pytest.approx(difference.mean())
            assert (found.wins, found.ties, found.losses) == (
                sum(difference > 0),
                sum(difference == 0),
                sum(difference < 0),
            )
            assert found.effect_size == pytest.approx(difference.mean() / difference.std(ddof=1))
            assert found.t_p == pytest.approx(stats.ttest_rel(values[name], values["base"]).pvalue)
            assert comparison.differences(name, measure) == pytest.approx(dict(zip(QUERIES, difference, strict=True)))
            low, high = stats.bootstrap(
                (difference,), np.mean, method="percentile", n_resamples=4000, **drawn_by(0)
            ).confidence_interval
            assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_what_differs_is_found_and_what_does_not_is_not(comparison) -> None:
    assert [c.verdict for c in comparison.contrasts] == ["better", "not significant", "better", "not significant"]
    turned = compare(RUNS, QRELS, "nDCG@5 RR", baseline="strong", resamples=1000)
    assert {c.verdict for c in turned.contrasts} == {"worse"}
    assert turned.contrast("base", "RR").difference == -comparison.contrast("strong", "RR").difference
    assert turned.contrast("base", "RR").wins == comparison.contrast("strong", "RR").losses


def test_the_family_of_holm_is_everything_that_is_tested(comparison) -> None:
    assert len(comparison.contrasts) == 4
    assert [c.t_p_holm for c in comparison.contrasts] == holm([c.t_p for c in comparison.contrasts])
    assert [c.randomisation_p_holm for c in comparison.contrasts] == holm(
        [c.randomisation_p for c in comparison.contrasts]
    )
    alone = compare({k: RUNS[k] for k in ("base", "twin")}, QRELS, "RR", resamples=4000).contrast("twin", "RR")
    assert alone.t_p == comparison.contrast("twin", "RR").t_p
    assert alone.t_p_holm == alone.t_p


def test_the_chosen_test_decides() -> None:
    qrels = {f"q{i}": {"a": 1} for i in range(5)}
    first = {q: {"a": 0.0, "b": 1.0} for q in qrels}
    better = {q: {"a": 1.0, "b": 0.0} for q in qrels}
    # Five wins of the same size: the t-test is sure, but a randomisation test of 5 queries cannot go below 2/32.
    by_t = compare({"x": first, "y": better}, qrels, "RR").contrast("y", "RR")
    by_random = compare({"x": first, "y": better}, qrels, "RR", test="randomisation").contrast("y", "RR")
    assert (by_t.t_p, by_t.randomisation_p) == (0.0, 0.0625)
    assert (by_t.verdict, by_random.verdict) == ("better", "not significant")
    # Significant is below alpha, not at it.
    for alpha, verdict in ((0.0625, "not significant"), (0.0626, "better")):
        at_alpha = compare({"x": first, "y": better}, qrels, "RR", test="randomisation", alpha=alpha)
        assert at_alpha.contrast("y", "RR").verdict == verdict


def test_identical_systems_differ_by_exactly_nothing() -> None:
    runs = {"a": RUNS["base"], "b": RUNS["base"], "c": [RUNS["base"]] * 3}
    result = compare(runs, QRELS, "nDCG@5 AP MSMARCO-MRR@10", resamples=500)
    for c in result.contrasts:
        assert (c.difference, c.wins, c.ties, c.losses) == (0.0, 0, len(QUERIES), 0)
        assert (c.t_p, c.randomisation_p, c.t_p_holm, c.effect_size, c.minimum_detectable_effect) == (
            1.0,
            1.0,
            1.0,
            None,
            None,
        )
        if c.system == "b":
            assert (c.low, c.high) == (0.0, 0.0)
        assert c.verdict == "not significant"


def test_seeds_are_averaged_by_query_and_their_variance_counts() -> None:
    seeds = [system(1.2, seed) for seed in (10, 11, 12)]
    result = compare({"base": RUNS["base"], "tuned": seeds}, QRELS, "nDCG@5", resamples=4000)
    columns = np.stack([evaluate(run, QRELS, "nDCG@5").column("nDCG@5") for run in seeds])
    base = evaluate(RUNS["base"], QRELS, "nDCG@5").column("nDCG@5")
    mean, contrast = result.mean("tuned", "nDCG@5"), result.contrast("tuned", "nDCG@5")
    assert (mean.seeds, result.mean("base", "nDCG@5").seeds) == (3, 1)
    assert mean.mean == pytest.approx(columns.mean())
    assert mean.seed_deviation == pytest.approx(columns.mean(axis=1).std(ddof=1))
    difference = columns.mean(axis=0) - base
    assert contrast.difference == pytest.approx(difference.mean())
    variance = difference.var(ddof=1) / 40 + columns.mean(axis=1).var(ddof=1) / 3
    degrees = variance**2 / (
        (difference.var(ddof=1) / 40) ** 2 / 39 + (columns.mean(axis=1).var(ddof=1) / 3) ** 2 / 2
    )
    assert contrast.t_p == pytest.approx(2 * stats.t.sf(abs(difference.mean()) / variance**0.5, degrees))
    assert contrast.effect_size == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert "over queries and seeds" in result.method()
    assert "averaged over the seeds" in result.method()


def test_files_evaluations_and_mappings_are_the_same(tmp_path: Path) -> None:
    for name, run in RUNS.items():
        write_run(tmp_path / f"{name}.trec", run)
    from_files = compare({n: tmp_path / f"{n}.trec" for n in RUNS}, QRELS, "RR", resamples=500)
    evaluated = compare({n: evaluate(r, QRELS, "RR AP") for n, r in RUNS.items()}, QRELS, "RR", resamples=500)
    plain = compare(RUNS, QRELS, "RR", resamples=500)
    assert from_files.contrasts == evaluated.contrasts == plain.contrasts
    assert from_files.means == evaluated.means == plain.means


def test_missing_queries_count_zero_for_both_sides() -> None:
    half = {query: RUNS["strong"][query] for query in QUERIES[:20]}
    result = compare({"base": RUNS["base"], "half": half}, QRELS, "RR", resamples=200)
    assert result.mean("half", "RR").mean == pytest.approx(evaluate(half, QRELS, "RR", missing="skip")["RR"] / 2)
    assert result.notes() == ["half: 20 of 40 judged queries are not in the run"]
    with pytest.raises(ValueError, match="missing='skip' gives systems different denominators"):
        compare(RUNS, QRELS, "RR", missing="skip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": {"a": RUNS["base"]}}, "at least two systems; got 1: a"),
        (
            {"runs": [RUNS["base"], RUNS["twin"]]},
            r"the systems must be named, \{name: run\}; got a list of 2; give each",
        ),
        ({"runs": QRELS, "qrels": RUNS["base"]}, "'q00' must be a run, .*; were runs and qrels swapped"),
        (
            {"runs": {"a": RUNS["base"], "b": (RUNS[name] for name in RUNS)}},
            "the system 'b' must be a run, or a list of them; got a generator; make it a list",
        ),
        ({"runs": {"a": RUNS["base"], "b": [RUNS["twin"], None]}}, "run must map query ids to .*; got None"),
        ({"baseline": "nobody"}, "the baseline 'nobody' is none of the systems: base, strong, twin"),
        ({"alpha": 5}, "alpha must be between 0 and 1; got 5"),
        ({"level": 95}, "level must be between 0 and 1; got 95"),
        ({"power": 0.1}, r"power must be between 0\.5 and 1"),
        ({"test": "wilcoxon"}, "test must be one of 't', 'randomisation'; got 'wilcoxon'"),
        ({"resamples": 0}, "resamples must be a whole number of at least 1; got 0"),
        ({"runs": {"a": RUNS["base"], "b": []}}, "at least one run; got an empty list"),
        (
            {"runs": {"a": RUNS["base"], "b": evaluate(RUNS["base"], {"q00": {"d0": 1}}, "RR")}},
            "the evaluation of 'b' has other queries",
        ),
    ],
)
def test_what_is_refused(change: dict, message: str) -> None:
    arguments = {"runs": RUNS, "qrels": QRELS, "measures": "RR", **change}
    with pytest.raises(ValueError, match=message):
        compare(**arguments)  # type: ignore[arg-type]


def test_evaluations_that_cannot_be_compared_are_refused() -> None:
    one = Evaluation(("EM",), ("q1", "q2"), np.ones((2, 1)))
    for systems, measures, message in (
        (
            {"a": one, "b": RUNS["base"]},
            None,
            "'b' must be an Evaluation or a list of them; got a dict of 40; use compare",
        ),
        ({"a": one, "b": [one, 0.5]}, None, "'b' must be an Evaluation or a list of them; got 0.5"),
        ({"a": one, "b": []}, None, "at least one evaluation; got an empty list for 'b'"),
        ({"a": one, "b": one}, ["F1"], "the evaluation of 'a' lacks 'F1'; got EM; evaluate it with this measure"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_evaluations(systems, measures)  # type: ignore[arg-type]


def test_one_query_concludes_nothing() -> None:
    runs = {"a": {"q": {"x": 1.0, "y": 0.0}}, "b": {"q": {"x": 0.0, "y": 1.0}}}
    contrast = compare(runs, {"q": {"y": 1}}, "RR", resamples=100).contrast("b", "RR")
    assert (contrast.difference, contrast.t_p, contrast.minimum_detectable_effect, contrast.verdict) == (
        0.5,
        1.0,
        None,
        "not significant",
    )


def test_as_data_and_as_a_table(comparison) -> None:
    data = json.loads(comparison.to_json())
    assert data["means"][0]["mean"] == comparison.means[0].mean
    assert data["contrasts"][0]["verdict"] == "better"
    assert data["per_query"]["strong"]["RR"]["q00"] == comparison.values["strong"][0, 0, 1]
    assert data["config"]["seed"] == 0
    assert set(data["config"]["versions"]) >= {"numpy", "scipy", "ir-measures"}
    assert "per_query" not in json.loads(comparison.to_json(per_query=False))
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison)
    text = console.export_text()
    strong = comparison.contrast("strong", "RR")
    row = next(line for line in text.split("RR", 1)[1].splitlines() if "strong" in line)
    assert f"{strong.difference:+.4f}*" in row
    assert f"{strong.wins}/{strong.ties}/{strong.losses}" in row
    assert "Holm's correction over 4 comparisons" in text


def test_names_of_systems() -> None:
    assert system_names(["a/x.trec", "b/y.trec.gz", "c.d/z"]) == ["x", "y", "z"]
    assert system_names(["a/x.trec", "b/x.run"]) == ["a/x", "b/x"]
    assert system_names(["a/x.trec", "a/x.trec"]) == ["a/x", "a/x"]  # the caller sees that they are the same


@pytest.mark.slow
def test_of_2000_pairs_that_do_not_differ_no_more_than_5_percent_are_called_different() -> None:
    """The whole way through `compare`, for both tests, and for a family of three systems."""
    rng = np.random.default_rng(21)
    qrels = {f"q{i}": {"d": 1} for i in range(30)}
    judged = Judgments(qrels)
    queries = tuple(qrels)
    found = {"t": 0, "randomisation": 0}
    family = 0
    for _ in range(2000):
        hard = rng.normal(size=30)
        systems = {
            name: Evaluation(
                ("RR",), queries, np.clip(np.round(0.5 + (hard + rng.normal(size=30)) / 4, 1), 0, 1)[:, None]
            )
            for name in "abcd"
        }
        two = {name: systems[name] for name in "ab"}
        for test in found:
            found[test] += compare(two, judged, "RR", test=test, resamples=199).contrasts[0].significant
        family += any(c.significant for c in compare(systems, judged, "RR", resamples=1).contrasts)
    margin = 3 * (0.05 * 0.95 / 2000) ** 0.5
    for test, count in found.items():
        assert 0.05 - margin < count / 2000 < 0.05 + margin, test
    assert 0.01 < family / 2000 < 0.05 + margin  # Holm: any false alarm at all among the three
