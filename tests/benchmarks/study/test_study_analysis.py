"""The tables of the study say what its rows hold."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from study_cells import cell
from typer.testing import CliRunner

from benchmarks.study import __main__ as command
from benchmarks.study import analysis, guarding, tables
from benchmarks.study.analysis import contrast, holm, screening, summary, tuning
from benchmarks.study.cells import Cell, at_chosen_rates
from benchmarks.study.measuring import decode
from benchmarks.study.tasks import TASKS
from cmp_rerank.guard.choice import choose


def test_a_difference_is_tested_over_seeds_or_rows_whichever_is_less_certain() -> None:
    draw = np.random.default_rng(0)
    one = {seed: draw.normal(size=50) for seed in range(5)}
    other = {seed: draw.normal(size=50) for seed in range(1, 7)}
    found = contrast(one, other)
    differences = np.stack([one[seed] - other[seed] for seed in range(1, 5)])
    by_seed, by_row = differences.mean(axis=1), differences.mean(axis=0)
    error = max(by_seed.std(ddof=1) / 2, by_row.std(ddof=1) / math.sqrt(50))
    assert found["seeds"] == 4
    assert found["difference"] == pytest.approx(by_seed.mean())
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(by_seed.mean() / error), 3))
    # Alike between seeds, but not between rows: the rows decide.
    rows = draw.normal(size=50)
    assert contrast(dict.fromkeys(range(5), rows), dict.fromkeys(range(5), np.zeros(50)))["error_seeds"] < 1e-12
    assert contrast(dict.fromkeys(range(5), rows), dict.fromkeys(range(5), np.zeros(50)))["p"] > 1e-6


def test_the_error_of_seeds_and_rows_together() -> None:
    """The variance of a mean over seeds and rows that both vary, as simulation has it."""
    draw = np.random.default_rng(1)
    seeds, rows = 8, 30
    means, errors = [], []
    for _ in range(400):
        table = draw.normal(0, 0.5, (seeds, 1)) + draw.normal(0, 1.0, (1, rows)) + draw.normal(0, 3.0, (seeds, rows))
        found = contrast(dict(enumerate(table)), dict(enumerate(np.zeros_like(table))))
        assert found["error_both"] >= max(found["error_seeds"], found["error_queries"])
        assert found["low_both"] <= found["low"] <= found["difference"] <= found["high"] <= found["high_both"]
        means.append(found["difference"])
        errors.append(found["error_both"])
    truth = math.sqrt(0.25 / seeds + 1 / rows + 9 / (seeds * rows))
    assert np.std(means) == pytest.approx(truth, rel=0.1)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(truth, rel=0.05)


def test_the_other_error_hardly_widens_the_intervals_of_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "study.md").read_text(encoding="utf-8")
    widths: dict[tuple[str, str], list[float]] = {}
    for task, size in dict.fromkeys(re.findall(r"<!-- study: \w+ (\S+) (\d+)", page)):
        rows = at_chosen_rates(command.read(task, command.RESULTS), task, int(size))
        found = analysis.tested(rows, task, int(size))
        pairs = [*analysis.verdict_pairs(rows, task, int(size)), *analysis.WEIGHTING, *((a, "plain") for a in found)]
        contrasts = [contrast(found[a], found[b]) for a, b in pairs if a != b and {a, b} <= set(found)]
        found_widths = [(c["high_both"] - c["low_both"]) / (c["high"] - c["low"]) for c in contrasts if "p" in c]
        widths[task, size] = found_widths
    few = {"reading 400": 1.2, "reading 2500": 1.2, "sst2-noise 500": 1.3, "rte 500": 1.3, "cranfield 50": 1.3}
    for each, bound in few.items():  # they have few seeds or rows
        task, size = each.split()
        assert max(widths.pop((task, size))) < bound
    others = [width for own in widths.values() for width in own]
    assert len(others) >= 25
    assert max(others) < 1.1
    said = "by less than a tenth, those of reading by up to two tenths, and those of SST-2 with 500 labels, RTE and"
    assert f"widens each interval of this page {said} Cranfield by up to three" in " ".join(page.split())


def test_a_failed_run_counts_nothing_where_rates_are_chosen() -> None:
    rows = [cell("plain", rate, seed, "validation", "12") for rate in TASKS["smoke"].rates for seed in (0, 1)]
    for name in ("mean", "values"):
        del rows[-1][name]
    rows[-1]["failed"] = "NaN"
    assert tuning(rows, "smoke", 16)[2].startswith("| plain | 1 | 1e-05 | 2 | 0.7500 |")
    assert analysis.best_plain([*rows, cell("plain", 1e-5, 100, "test", "1")], "smoke", 16) == "plain"


CELL_OF_START = {"task": "smoke", "size": 0, "part": "test"}


def test_losses_are_means_of_the_first_and_the_last_tenth() -> None:
    rows = [
        cell(arm, 1e-5, seed, part, "11") | {"log": {"loss": [0.7 + seed / 100, 9.0, last]}}
        for arm, last in (("compared, c=2", 0.3), ("plain", 0.1))
        for seed in (0, 2)
        for part in ("validation", "test")
    ]
    assert analysis.losses(rows, "smoke", 16)[2:] == [
        "| plain | 2 | 0.710 | 0.100 | 0/2 |", "| compared, c=2 | 2 | 0.710 | 0.300 | 0/2 |",
    ]  # fmt: skip
    for values, alike in (("0100", 2), ("1011", 2), ("1111", 0)):
        for row in rows:
            row["values"] = values
        found = analysis.losses([*rows, {"arm": "start", "values": "1011"} | CELL_OF_START], "smoke", 16)
        assert found[2].endswith(f"| {alike}/2 |")
    assert analysis.losses(rows, "smoke", 17) == ["no test runs with 17 rows"]


def test_what_a_point_of_gain_costs() -> None:
    def rows(values: dict[str, list[str]]) -> list[dict]:
        return [cell(a, 1e-5, seed, "test", v) for a, own in values.items() for seed, v in enumerate(own)]

    # RR: 1 where the first document is the relevant one, else a half. Up by 0.125 and 0.25, in points 18.75.
    values = {"plain": ["2222", "2222"], "mean, c=2": ["1222", "1122"], "plain, dropout 0.1": ["2222", "2222"]}
    dropout, mean = analysis.costs(rows(values), "smoke", 16)[2:]
    assert dropout == "| plain, dropout 0.1 | 1 | 2 | +0.0 | +0.0..+0.0 | no gain is shown | no gain |"
    assert mean.startswith("| mean, c=2 | 3 | 2 | +18.8 | -")
    assert " | no gain is shown | 0.0" in mean  # two seeds show nothing
    up = ["1" * 40] * 5 + ["1" * 39 + "2"]
    many = {"plain": ["2" * 40] * 6, "plain, 3x epochs": up, "mean, c=2": up}
    found = contrast(*(analysis.tested(rows(many), "smoke", 16)[arm] for arm in ("mean, c=2", "plain")))
    epochs, line = analysis.costs(rows(many), "smoke", 16)[2:]
    assert epochs.replace("plain, 3x epochs", "mean, c=2") == line
    said = f"{2 / (100 * found['difference']):.2f} | {2 / (100 * found['high']):.2f} |"
    assert line.endswith(said)
    assert analysis.costs(rows({"plain": ["12"]}), "smoke", 16) == [
        "no test run of 'plain' and another arm with 16 rows"
    ]


def test_holm_and_tables() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    rows = [cell(arm, 1e-5, seed, "test", "1121"[:4]) for arm in ("plain", "mean, c=2") for seed in (100, 101)]
    lines = summary(rows, "smoke", 16, "plain")
    assert len(lines) == 4
    assert "| mean, c=2 | 1e-05 | 3 | 2 | 0.8750 |" in lines[3]
    assert summary(rows, "smoke", 16, "compared, c=2") == ["no test run of 'compared, c=2' with 16 rows"]
    tuned = tuning([cell("plain", rate, 0, "validation", v) for rate, v in ((1e-5, "22"), (1e-4, "11"))], "smoke", 16)
    assert tuned[2] == "| plain | 1 | 0.0001 | 1 | 1.0000 |  |"


def test_tables_have_the_models_at_the_rate_that_so_many_seeds_choose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    low, high = TASKS["smoke"].rates
    seen = {(low, 0): "1", (high, 0): "2", (low, 1): "4", (high, 1): "1", (low, 2): "4", (high, 2): "1"}
    rows = [cell("plain", rate, seed, "validation", value) for (rate, seed), value in seen.items()]
    rows += [
        cell("plain", rate, seed, "test", "2" if rate == low else "1") for seed in (100, 101) for rate in (low, high)
    ]
    rows += [cell("mean, c=2", high, 0, "validation", "1"), cell("mean, c=2", high, 100, "test", "4")]
    (tmp_path / "smoke.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setitem(TASKS, "smoke", replace(TASKS["smoke"], tuning_seeds=range(3)))
    for seeds, rate, value in ((None, high, "1.0000"), (3, high, "1.0000"), (1, low, "0.5000")):
        lines = tables.lines_of("summary", "smoke", 16, seeds, results=tmp_path)
        assert f"| plain | {rate:g} | 1 | 2 | {value} |" in lines[2]
        assert "| mean, c=2 | 0.0001 | 3 | 1 | 0.2500 |" in lines[3]  # nothing is known of another rate
        name = f"<!-- study: summary smoke 16{f' {seeds}' if seeds else ''} -->"
        assert tables.with_tables(f"{name}\nold\n<!-- study: end -->", tmp_path).splitlines()[1:-1] == lines
    page = "<!-- study: summary smoke 16 1 101-105 -->\n<!-- study: end -->"
    (line,) = (line for line in tables.with_tables(page, tmp_path).splitlines() if line.startswith("| plain"))
    assert line.startswith(f"| plain | {low:g} | 1 | 1 | 0.5000 |")
    kept = at_chosen_rates(rows, "smoke", 16, 1)
    assert {row["seed"] for row in kept if row["part"] == "validation"} == {0}
    other = [vars(Cell("smoke", 32, "plain", high, 100, "test")) | {"values": "1"}]
    assert at_chosen_rates(rows + other, "smoke", 16, 1)[-1:] == other  # of another size
    assert at_chosen_rates([], "smoke", 16) == []


def test_the_page_has_the_tables_of_the_results(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "study.md").read_text(encoding="utf-8")
    assert tables.with_tables(page, command.RESULTS) == page
    assert "<!-- study: " in page
    begin = page[: page.index("<!-- study: end -->") + 100]  # one table of it
    old = begin.replace("| plain |", "| plane |")
    assert old != begin == tables.with_tables(old, command.RESULTS)
    with pytest.raises(ValueError, match="a table must be one of summary"):
        tables.with_tables("<!-- study: sum smoke 16 -->\n<!-- study: end -->", tmp_path)


def test_the_guard_keeps_the_start_where_validation_says_nothing() -> None:
    def row(arm: str, seed: int, values: str, guard: str) -> dict:
        size = 0 if arm == "start" else 16
        return vars(Cell("sst2", size, arm, 1e-5, seed, "test")) | {"values": values, "guard": guard, "mean": 0.0}

    start = row("start", 0, "1" * 50 + "0" * 50, "1" * 50 + "0" * 50)
    # Seed 0 is better on both parts, seed 1 worse on both, seed 2 better on the guard's rows and worse on test.
    good, bad = "1" * 90 + "0" * 10, "1" * 10 + "0" * 90
    rows = [start, row("plain", 0, good, good), row("plain", 1, bad, bad), row("plain", 2, bad, good)]
    line = guarding.guarded(rows, "sst2", 16)[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["plain", "3", "-0.1333", "2/3", "2/3", "+0.0000", "1/3", "1/3", "1/3"]
    assert guarding.guarded(rows[1:], "sst2", 16) == ["the start has not been measured"]


@pytest.mark.parametrize("rows", [2, 7, 100])
def test_many_models_are_guarded_as_each_alone(rows: int) -> None:
    draw = np.random.default_rng(rows)
    classes = draw.integers(0, 2, (20, rows)).astype(float)
    ranks = 1 / draw.integers(1, 5 - np.linspace(0, 2, 20, dtype=int)[:, None], (20, rows))
    for start, *tuned in ([*classes, classes[0], np.ones(rows)], ranks):
        chosen = [bool(choose(np.stack([start, each])).chosen) for each in tuned]
        assert guarding.handed_over(start, np.stack(tuned)).tolist() == chosen
        assert rows < 100 or {*chosen} == {False, True}


def test_the_guard_by_wrong_labels() -> None:
    def row(arm: str, values: str, guard: str) -> dict:
        size = 0 if arm == "start" else 16
        return vars(Cell("sst2-noise", size, arm, 1e-5, 100, "test")) | {"values": values, "guard": guard}

    rows = [row("start", "10" * 50, "10" * 50)]
    assert guarding.guarded_by_wrong_labels(rows, "sst2-noise", 16) == "no runs with wrong labels"
    rows += [row("plain", "1" * 100, "1" * 100), row("compared, c=2", "0" * 100, "0" * 100)]
    # A fifth of the labels takes 20 of 50 gains away on average, and leaves the better one clearly better.
    assert guarding.guarded_by_wrong_labels(rows, "sst2-noise", 16, draws=7) == (
        "2 runs, 7 draws of 20% wrong labels: the start is kept in 50.0%, and what is handed over is +0.25000 from "
        "it on average, below it in 0.0%"
    )
    alike = [rows[0], row("plain", "01" * 50, "01" * 50)]  # no better and no worse: now and then it looks better
    said = guarding.guarded_by_wrong_labels(alike, "sst2-noise", 16, draws=100)
    assert 0.8 < float(re.search(r"kept in (\S+)%", said)[1]) / 100 < 0.99
    assert guarding.guarded_by_wrong_labels(rows, "sst2", 16) == "no runs with wrong labels"


def test_verdicts_are_against_averaging_and_the_best_plain_arm() -> None:
    rows = [cell(arm, rate, 0, "validation", "21" if arm == "plain, 3x epochs" else "22")
            for arm in ("plain", "plain, 3x epochs") for rate in TASKS["smoke"].rates]  # fmt: skip
    arms = {"plain": "2222", "plain, 3x epochs": "2212", "mean, c=2": "2211", "compared, c=2": "2111"}
    rows += [cell(arm, 1e-5, seed, "test", values) for arm, values in arms.items() for seed in (100, 101)]
    assert analysis.best_plain(rows, "smoke", 16) == "plain, 3x epochs"
    lines = [line.split(" | ")[:4] for line in analysis.verdicts(rows, "smoke", 16)[2:]]
    assert lines == [
        ["| compared, c=2", "mean, c=2", "2", "+0.1250"],
        ["| compared, c=2", "plain, 3x epochs", "2", "+0.2500"],
        ["| mean, c=2", "plain, 3x epochs", "2", "+0.1250"],
    ]
    shown = [line.strip("| ").split(" | ") for line in analysis.verdicts(rows, "smoke", 16)[2:]]
    lowest = min(shown, key=lambda cells: float(cells[5]))
    assert float(lowest[6]) == pytest.approx(
        min(1, 3 * float(lowest[5])), abs=2e-3
    )  # over all lines, not per control
    assert analysis.best_plain([], "smoke", 16) is None


def test_crops_are_against_averaging_a_guess_and_the_best_plain_arm_of_their_compute() -> None:
    rows = [cell(arm, rate, 0, "validation", "21" if arm == "plain, 3x epochs" else "22")
            for arm in ("plain", "plain, 3x epochs") for rate in TASKS["smoke"].rates]  # fmt: skip
    arms = {
        "plain": "2222", "plain, 3x epochs": "2221", "mean, c=2": "2222", "mean, crop": "2211",
        "compared, crop": "2111", "compared, crop, support guessed": "2212",
    }  # fmt: skip
    rows += [cell(arm, 1e-5, seed, "test", values) for arm, values in arms.items() for seed in (100, 101)]
    lines = [line.split(" | ")[:4] for line in analysis.verdicts(rows, "smoke", 16)[2:]]
    assert lines == [
        ["| compared, crop", "mean, crop", "2", "+0.1250"],
        ["| compared, crop", "compared, crop, support guessed", "2", "+0.2500"],
        ["| compared, crop", "plain", "2", "+0.3750"],
        ["| mean, c=2", "plain, 3x epochs", "2", "-0.1250"],
        ["| mean, crop", "plain", "2", "+0.2500"],
    ]


def test_what_of_comparing_is_weight_of_the_full_model() -> None:
    arms = {"mean, c=2": "2222", "weighted mean, c=2": "2221", "compared, c=2": "2111"}
    rows = [cell(arm, 1e-5, seed, "test", values) for arm, values in arms.items() for seed in (100, 101)]
    assert [line.split(" | ")[:4] for line in analysis.weighting(rows, "smoke", 16)[2:]] == [
        ["| compared, c=2", "weighted mean, c=2", "2", "+0.2500"],
        ["| weighted mean, c=2", "mean, c=2", "2", "+0.1250"],
    ]


def test_the_overview_has_the_verdicts_of_each_kind_of_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"plain": "22", "plain, 3x epochs": "24", "mean, c=2": "21", "compared, c=2": "11"}
    values = {arm: (first, first[:1] * 2) for arm, first in arms.items()}  # of two seeds
    rows = [
        cell(arm, 1e-5, 100 + seed, "test", each) for arm, both in values.items() for seed, each in enumerate(both)
    ]
    rows += [cell(arm, rate, 0, "validation", "1" if "3x" in arm else "2") for arm in arms for rate in (1e-5, 1e-4)]
    monkeypatch.setattr(tables, "PLAN", {("smoke", 16): (), ("sst2", 100): ()})
    (tmp_path / "smoke.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (kind,) = tables.kinds_of(tmp_path)
    assert (kind.task, kind.size, kind.passes, kind.plain) == ("smoke", 16, "c=2", "plain, 3x epochs")
    verdicts = analysis.corrected_contrasts(
        analysis.tested(rows, "smoke", 16), analysis.verdict_pairs(rows, "smoke", 16)
    )
    expected = {
        ("comparing", "averaging"): verdicts["compared, c=2", "mean, c=2"],
        ("comparing", "tuned plain"): verdicts["compared, c=2", "plain, 3x epochs"],
        ("averaging", "tuned plain"): verdicts["mean, c=2", "plain, 3x epochs"],
    }
    assert kind.differences == expected
    lines = tables.lines_of_all("overview", tmp_path)
    assert lines[2].startswith("| smoke, 16 | c=2 | 2 | ")
    assert lines[2].endswith(" | plain, 3x epochs |")
    for c in expected.values():
        assert f"{c['difference']:+.3f} ({c['low']:+.3f}..{c['high']:+.3f})" in lines[2]
    bold = [
        replace(
            kind, differences={("comparing", "averaging"): kind.differences["comparing", "averaging"] | {"p_holm": p}}
        )
        for p in (0.04, 0.05)
    ]
    assert ["**" in line for line in analysis.overview(bold)[2:]] == [True, False]
    both = tables.lines_of_all("combined", tmp_path)
    page = "".join(f"<!-- study: {name} -->\nold\n<!-- study: end -->\n" for name in ("overview", "combined"))
    found = tables.with_tables(page, tmp_path).splitlines()
    assert found[1 : 1 + len(lines)] == lines
    assert found[-1 - len(both) : -1] == both
    output = CliRunner().invoke(command.app, ["overview", "--results", str(tmp_path)]).output
    assert output.splitlines() == [*lines, "", *both]


def test_tasks_are_combined_by_the_tails_of_their_tests() -> None:
    """As scipy combines one-sided p-values, by Stouffer's method."""
    draw, names = np.random.default_rng(0), ("comparing", "averaging")
    values = [draw.normal(0.1, 1, (seeds, 30)) for seeds in (5, 5, 10)]
    none = np.zeros(30)
    found = [contrast(dict(enumerate(each)), dict.fromkeys(range(len(each)), none)) for each in values]
    kinds = [analysis.Kind("a", size, "crop", "plain", {names: c}) for size, c in enumerate(found)]
    other = analysis.Kind("a", 9, "c=2", "plain", {names: found[0] | {"t": -found[0]["t"]}})
    lines = analysis.combined([*kinds, other])
    upper = [float(stats.t.sf(c["t"], c["seeds"] - 1)) for c in found]
    z, p = stats.combine_pvalues(upper, method="stouffer")
    cells = lines[2].split(" | ")
    assert cells[:4] == ["| crop", "comparing minus averaging", "3", f"{sum(c['difference'] > 0 for c in found)}/3"]
    assert cells[4] == f"{sum(int((each.mean(axis=1) > 0).sum()) for each in values)}/20"
    assert cells[5:7] == [f"{z:+.2f}", f"{2 * min(p, 1 - p):.4f}"]
    assert float(lines[3].split(" | ")[5]) == pytest.approx(-stats.norm.isf(upper[0]), abs=0.005)


def test_violations_by_tenths() -> None:
    def run(seed: int, values: str, rates: list[float]) -> dict:
        log = {"loss": [1.0, 0.5], "violation_rate": rates, "beaten_rate": [0.0, 0.0]}
        return cell("compared, c=2", 1e-5, seed, "test", values) | {"log": log}

    rows = [run(seed, "21"[: 1 + seed % 2] * 2, [0.1 * seed, 0.2]) for seed in range(2)]
    assert analysis.violations(rows, "smoke", 16)[2:] == [
        "| 1 | 1.000 | 0.050 | 0.000 |",
        "| 2 | 0.500 | 0.200 | 0.000 |",
    ]
    crops = [row | {"arm": "compared, crop"} for row in rows[:1]]
    assert analysis.violations_of_crops([*rows, *crops], "smoke", 16)[2:] == [
        "| 1 | 1.000 | 0.000 | 0.000 |",
        "| 2 | 0.500 | 0.200 | 0.000 |",
    ]
    assert analysis.gain_by_violations(rows, "smoke", 16) == "0 seeds are too few"
    many = [run(seed, "4321"[seed % 4] * 2, [0.1 * (seed % 4)] * 2) for seed in range(8)]
    many += [cell("mean, c=2", 1e-5, seed, "test", "44") for seed in range(8)]
    assert analysis.gain_by_violations(many, "smoke", 16) == "Spearman's correlation +1.00 over 8 seeds (p 0.00)"


def test_variants_are_screened_at_the_rate_of_one_arm() -> None:
    values = {  # on validation, of seeds 0 to 2
        "compared, c=2": ("1122", "1112", "1122"),
        "compared, c=1": ("1111", "1111", "1112"),
        "mean, c=1": ("1222", "1122", "1222"),
        "compared, c=3": ("1122", "1112", "1122"),
    }
    rows = [cell(arm, 1e-4, seed, "validation", own) for arm, of in values.items() for seed, own in enumerate(of)]
    rows += [cell("compared, c=2", 1e-5, seed, "validation", "2222") for seed in range(3)]
    rows += [cell("compared, c=1", 1e-5, seed, "validation", "2222") for seed in range(3)]
    rows += [cell("plain", 1e-4, seed, "test", "2222") for seed in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "smoke", replace(TASKS["smoke"], tuning_seeds=range(3)))
        lines = [[each.strip() for each in line.strip("|").split("|")] for line in screening(rows, "smoke", 16)]
    assert [line[0] for line in lines[2:]] == ["compared, c=2", "compared, c=1", "compared, c=3"]
    found = {line[0]: line for line in lines}

    def said(arm: str, other: str) -> list[str]:
        one, two = (
            {seed: decode(own, TASKS["smoke"]) for seed, own in enumerate(values[name])} for name in (arm, other)
        )
        c = contrast(one, two)
        return [f"{c['difference']:+.4f}", f"{c['low']:+.4f}..{c['high']:+.4f}"]

    assert found["compared, c=1"][3:] == [
        "0.9583", *said("compared, c=1", "compared, c=2"), *said("compared, c=1", "mean, c=1"), "", ""
    ]  # fmt: skip
    assert found["compared, c=2"][4:] == [""] * 6
    assert found["compared, c=3"][4] == "+0.0000"
    assert screening(rows[:-3], "smoke", 500)[0] == "'compared, c=2' is not tuned with 500 rows"
    # An arm at one rate is not tuned.
    assert not any("c=3" in line for line in tuning(rows, "smoke", 16))
