"""The study: every arm trains, cells can be repeated, and its tables say what the cells hold."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file
from scipy import stats
from typer.testing import CliRunner

from cmp_rerank.collections import Collection
from cmp_rerank.collections.base import Split
from cmp_rerank.evaluation import evaluate

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.study import __main__ as command
from benchmarks.study import analysis, bert, loop, readers, real, starts, steps, together, training
from benchmarks.study.analysis import contrast, holm, summary, tuning
from benchmarks.study.arms import ARMS, CROPS
from benchmarks.study.plan import CORE, PLAN
from benchmarks.study.starts import make_start
from benchmarks.study.tasks import PARTS, TASKS, load, prepare, training_rows
from benchmarks.study.training import Cell, decode, run_cell
from benchmarks.study.watch import log_of


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Rows and tokens are kept by the names of tasks, which tests change."""
    yield
    training._LOADED.clear()
    for kept in (_PARTS, together._opened, together.asked, together._examples):
        kept.cache_clear()


_PARTS = together._parts


@pytest.fixture(scope="module")
def cache(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("study")
    prepare("smoke", folder, folder)
    make_start(TASKS["smoke"], folder, str(tiny_checkpoint), layers=2)
    return folder


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm not in CROPS])
def test_every_arm_trains(arm: str, cache: Path) -> None:
    row = run_cell(Cell("smoke", 16, arm, 1e-3, 0, "validation"), cache, "cpu")
    assert len(row["values"]) == 16
    assert row["mean"] == pytest.approx(decode(row["values"], TASKS["smoke"]).mean())
    assert all(math.isfinite(loss) for loss in row["log"]["loss"])
    assert row["passes"] == ARMS[arm].passes * ARMS[arm].epochs
    assert ("violation_rate" in row["log"]) == (ARMS[arm].passes > 1)


def test_a_share_differs_from_its_control_in_the_share_alone() -> None:
    shared = [name for name in ARMS if "share" in name]
    assert len(shared) == 4
    assert not {*shared} & {*CORE, *CROPS}
    for name in shared:
        control, share = name.split(", share ")
        arm, whole = ARMS[name], ARMS[control]
        assert arm.share == float(share)
        assert arm.passes == 1 + (whole.passes - 1) * float(share)
        assert repr(arm.ablations()) == repr(whole.ablations())
        assert repr(arm.objective()) == repr(whole.objective())
        assert replace(arm, ablations=whole.ablations, objective=whole.objective, share=1.0, passes=3) == whole


def test_a_weighted_mean_has_the_weights_of_comparing_and_says_not_who_is_beaten(cache: Path) -> None:
    arm, compared = ARMS["weighted mean, c=2"], ARMS["compared, c=2"]
    assert replace(arm, ablations=compared.ablations, objective=compared.objective, rate_of="") == compared
    assert repr(arm.ablations()) == repr(compared.ablations())
    losses = torch.tensor([[0.5, 0.3, 0.9], [0.1, 0.2, 0.4], [0.9, 0.2, 0.1], [0.7, 0.7, 0.6]], requires_grad=True)
    found, wanted = arm.objective()(losses), compared.objective().weights(losses)
    (gradient,) = torch.autograd.grad(found.sum(), losses)
    for example in range(4):
        assert gradient[example] == pytest.approx(wanted.mean(0))
        assert found[example].item() == pytest.approx(float(wanted.mean(0) @ losses[example].detach()))
    assert not torch.equal(gradient, wanted)
    # All in order: the mean of the steps, but for its scale.
    ordered = torch.tensor([[0.1, 0.2, 0.4], [0.2, 0.3, 0.3]])
    assert arm.objective()(ordered) == pytest.approx(ordered.sum(1) / 6)
    assert arm.objective()(ordered) == pytest.approx(compared.objective()(ordered))


def test_an_arm_with_the_rate_of_another_is_not_tuned() -> None:
    name = "weighted mean, c=2"
    assert [cell.arm for cell in command.cells_of("sst2", 100, [name], "tune", [])] == []
    tuned = [
        {"task": "sst2", "size": 100, "arm": "compared, c=2", "part": "validation", "rate": rate, "mean": mean}
        for rate, mean in zip(TASKS["sst2"].rates, (0.6, 0.8, 0.7), strict=True)
        for _ in TASKS["sst2"].tuning_seeds
    ]
    assert command.chosen_rate(tuned, "sst2", 100, name) == TASKS["sst2"].rates[1]
    cells = command.cells_of("sst2", 100, [name], "test", tuned)
    assert [cell.seed for cell in cells] == list(TASKS["sst2"].test_seeds)


def test_what_a_share_compares_is_in_the_log(cache: Path) -> None:
    logs = {
        arm: run_cell(Cell("smoke", 16, arm, 1e-3, 0, "validation"), cache, "cpu")["log"]
        for arm in ("plain", "compared, c=2", "compared, c=2, share 0.5", "compared, c=2, share 0.25")
    }
    assert len({tuple(log["loss"]) for log in logs.values()}) == 4
    history = [{"loss": 1.0}, {"loss": 0.5, "violation_rate": 0.25}, {"train_runtime": 3.0}]
    assert log_of(history) == {"loss": [1.0, 0.5], "violation_rate": [None, 0.25]}


def test_all_kinds_of_models_have_the_same_arguments_of_training(
    cache: Path, squad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any difference beside the folder and the length batches of readers would be one between tasks."""
    seen = []
    monkeypatch.setattr("benchmarks.study.loop.log_of", lambda history: {})

    def spied(build, *rest, **options):
        def noted(arguments, callbacks):
            trainer = build(arguments, callbacks)
            assert all(getattr(trainer.args, name) == value for name, value in arguments.items() if name in KEPT)
            seen.append(arguments)
            return trainer

        return loop.train(noted, *rest, **options)

    monkeypatch.setattr(training, "train", spied)
    monkeypatch.setattr(readers, "train", spied)
    for task in ("smoke", "reading"):
        monkeypatch.setitem(TASKS, task, replace(TASKS[task], sizes={8: 2}, batch=4))
        run_cell(Cell(task, 8, "plain, decay 0.1", 1e-3, 5, "validation"), cache if task == "smoke" else squad, "cpu")
    one, other = ({name: value for name, value in each.items() if name != "output_dir"} for each in seen)
    assert one == other
    assert (one["learning_rate"], one["weight_decay"], one["seed"], one["num_train_epochs"]) == (1e-3, 0.1, 5, 2)
    assert one["save_strategy"] == "no"  # a cell writes no checkpoint


KEPT = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "warmup_steps", "weight_decay", "seed")


def test_scores_are_those_of_sentence_transformers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by length, in passes of few tokens, and with the first token alone in the last layer."""
    draw = np.random.default_rng(0)
    words = ["bear", "honey", "river", "bridge", "torch"]
    rows = [
        {"query": " ".join(draw.choice(words, 2)), "docs": [" ".join(draw.choice(words, n)) for n in sizes],
         "labels": [1.0, *[0.0] * (len(sizes) - 1)]}
        for sizes in (draw.integers(1, 60, size=int(count)) for count in draw.integers(2, 6, size=12))
    ]  # fmt: skip
    task = TASKS["smoke"]
    model = training.open_start(task, cache, 0.0, "cpu")
    pairs = [(row["query"], doc) for row in rows for doc in row["docs"]]
    wanted = model.predict(pairs, batch_size=1)
    assert wanted.std() > 1e-3
    tokens = bert.tokenised(model, rows, task.max_length)
    assert max(map(len, tokens.ids)) == task.max_length  # some are truncated
    found = {}
    for budget in (1, 64, 2048):
        monkeypatch.setitem(bert.PASS, "cpu", budget)
        found[budget] = bert.Models(model, 1).all_scores(tokens)[0]
        assert found[budget] == pytest.approx(wanted, abs=1e-5 * float(wanted.std()))
        assert bert.Models(model, 3).all_scores(tokens)[2] == pytest.approx(wanted, abs=1e-5 * float(wanted.std()))
    values = training.measure(model, task, rows, "made up", "cpu")
    assert values == training.values_of(wanted, rows, task)


def test_a_cell_gives_the_same_twice_and_another_seed_another(cache: Path) -> None:
    def losses(seed: int) -> list[float]:
        row = run_cell(Cell("smoke", 16, "compared, c=2", 1e-3, seed, "test"), cache, "cpu")
        return [*row["log"]["loss"], row["values"], row["rows"]]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_arms_of_one_seed_share_their_rows(cache: Path) -> None:
    task, rows = TASKS["smoke"], load("smoke", cache)["train"]
    assert training_rows(task, rows, 8, 3) == training_rows(task, rows, 8, 3) != training_rows(task, rows, 8, 4)
    assert set(load("smoke", cache)) == {*PARTS, "guard"}
    with pytest.raises(ValueError, match="size must be at most 16; got 17"):
        training_rows(task, rows, 17, 0)
    assert set(CORE) <= set(ARMS)


def cell(arm: str, rate: float, seed: int, part: str, values: str) -> dict:
    mean = float(decode(values, TASKS["smoke"]).mean())
    return vars(Cell("smoke", 16, arm, rate, seed, part)) | {"values": values, "mean": mean}


def test_the_rate_is_chosen_on_validation_when_all_of_its_cells_are_there() -> None:
    low, high = TASKS["smoke"].rates
    rows = [cell("plain", low, 0, "validation", "12"), cell("plain", high, 100, "test", "11")]
    assert command.chosen_rate(rows, "smoke", 16, "plain") is None
    rows.append(cell("plain", high, 0, "validation", "22"))
    assert command.chosen_rate(rows, "smoke", 16, "plain") == low
    rows[0] = {key: value for key, value in rows[0].items() if key not in ("mean", "values")} | {"failed": "NaN"}
    assert command.chosen_rate(rows, "smoke", 16, "plain") == high


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
    page = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    widths = []
    for task, size in dict.fromkeys(re.findall(r"<!-- study: \w+ (\S+) (\d+) -->", page)):
        rows = command.read(task, command.RESULTS)
        found = analysis.tested(rows, task, int(size))
        pairs = [*analysis.verdict_pairs(rows, task, int(size)), *analysis.WEIGHTING, *((a, "plain") for a in found)]
        contrasts = [contrast(found[a], found[b]) for a, b in pairs if a != b and {a, b} <= set(found)]
        widths += [(c["high_both"] - c["low_both"]) / (c["high"] - c["low"]) for c in contrasts if "p" in c]
    assert len(widths) >= 25
    assert max(widths) < 1.1
    assert "widens each interval of this page by less than a tenth" in " ".join(page.split())


def test_a_failed_run_counts_nothing_where_rates_are_chosen() -> None:
    rows = [cell("plain", rate, seed, "validation", "12") for rate in TASKS["smoke"].rates for seed in (0, 1)]
    for name in ("mean", "values"):
        del rows[-1][name]
    rows[-1]["failed"] = "NaN"
    assert tuning(rows, "smoke", 16)[2].startswith("| plain | 1 | 1e-05 | 2 | 0.7500 |")
    assert analysis.best_plain([*rows, cell("plain", 1e-5, 100, "test", "1")], "smoke", 16) == "plain"


def test_holm_and_tables() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    rows = [cell(arm, 1e-5, seed, "test", "1121"[:4]) for arm in ("plain", "mean, c=2") for seed in (100, 101)]
    lines = summary(rows, "smoke", 16, "plain")
    assert len(lines) == 4
    assert "| mean, c=2 | 1e-05 | 3 | 2 | 0.8750 |" in lines[3]
    assert summary(rows, "smoke", 16, "compared, c=2") == ["no test run of 'compared, c=2' with 16 rows"]
    tuned = tuning([cell("plain", rate, 0, "validation", v) for rate, v in ((1e-5, "22"), (1e-4, "11"))], "smoke", 16)
    assert tuned[2] == "| plain | 1 | 0.0001 | 1 | 1.0000 |  |"


def test_a_cut_line_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "smoke.jsonl").write_text(json.dumps(cell("plain", 1e-5, 0, "test", "1")) + '\n{"task": "smo')
    assert [row["seed"] for row in command.read("smoke", tmp_path)] == [0]


def test_the_page_has_the_tables_of_the_results(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    assert command.with_tables(page, command.RESULTS) == page
    assert "<!-- study: " in page
    begin = page[: page.index("<!-- study: end -->") + 100]  # one table of it
    old = begin.replace("| plain |", "| plane |")
    assert old != begin == command.with_tables(old, command.RESULTS)
    with pytest.raises(ValueError, match="a table must be one of summary"):
        command.with_tables("<!-- study: sum smoke 16 -->\n<!-- study: end -->", tmp_path)


def test_labels_are_wrong_where_a_task_says_so() -> None:
    rows = [{"query": str(i), "docs": ["d"], "labels": [float(i % 2)]} for i in range(60)]
    task, noise = TASKS["smoke"], replace(TASKS["smoke"], noise=0.25)
    clean, noisy = training_rows(task, rows, 40, 3), training_rows(noise, rows, 40, 3)
    assert [row["query"] for row in clean] == [row["query"] for row in noisy]
    assert sum(a["labels"] != b["labels"] for a, b in zip(clean, noisy, strict=True)) == 10
    assert training_rows(noise, rows, 40, 3) == noisy
    assert rows == [{"query": str(i), "docs": ["d"], "labels": [float(i % 2)]} for i in range(60)]
    lists = [{"query": "q", "docs": ["a", "b", "c"], "labels": [0.0, 1.0, 0.0]}] * 8
    wrong = training_rows(replace(task, noise=1.0), lists, 8, 0)
    assert all(row["labels"] in ([1.0, 0, 0], [0, 0, 1.0]) for row in wrong)


def test_training_rows_have_the_documents_that_a_task_says() -> None:
    rows = [{"query": str(i), "docs": list("abcd"), "labels": [1.0, 0, 0, 0], "support": [[0, 1]]} for i in range(9)]
    task = replace(TASKS["smoke"], docs=3)
    for row in training_rows(task, rows, 9, 0):
        assert (row["docs"], row["labels"], row["support"]) == (["a", "b", "c"], [1.0, 0, 0], [[0, 1]])
    assert all(len(row["docs"]) == 4 for row in rows)
    noisy = [row["labels"] for row in training_rows(replace(task, noise=1.0), rows, 9, 0)]
    assert {tuple(labels) for labels in noisy} == {(0, 1.0, 0), (0, 0, 1.0)}  # of those that are left


def test_parts_that_are_sampled_are_the_same_each_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load("smoke", cache)
    assert whole["guard"] == whole["validation"]
    monkeypatch.setitem(TASKS, "smoke", replace(TASKS["smoke"], test_rows=5))
    some = load("smoke", cache)["test"]
    assert some == load("smoke", cache)["test"]
    assert len(some) == 5
    places = [whole["test"].index(row) for row in some]
    assert places == sorted(places)


def test_the_guard_keeps_the_start_where_validation_says_nothing() -> None:
    def row(arm: str, seed: int, values: str, guard: str) -> dict:
        size = 0 if arm == "start" else 16
        return vars(Cell("sst2", size, arm, 1e-5, seed, "test")) | {"values": values, "guard": guard, "mean": 0.0}

    start = row("start", 0, "1" * 50 + "0" * 50, "1" * 50 + "0" * 50)
    # Seed 0 is better on both parts, seed 1 worse on both, seed 2 better on the guard's rows and worse on test.
    good, bad = "1" * 90 + "0" * 10, "1" * 10 + "0" * 90
    rows = [start, row("plain", 0, good, good), row("plain", 1, bad, bad), row("plain", 2, bad, good)]
    line = analysis.guarded(rows, "sst2", 16)[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["plain", "3", "-0.1333", "2/3", "2/3", "+0.0000", "1/3", "1/3", "1/3"]
    assert analysis.guarded(rows[1:], "sst2", 16) == ["the start has not been measured"]


def test_the_guard_by_wrong_labels() -> None:
    def row(arm: str, values: str, guard: str) -> dict:
        size = 0 if arm == "start" else 16
        return vars(Cell("sst2-noise", size, arm, 1e-5, 100, "test")) | {"values": values, "guard": guard}

    rows = [row("start", "10" * 50, "10" * 50)]
    assert analysis.guarded_by_wrong_labels(rows, "sst2-noise", 16) == "no runs with wrong labels"
    rows += [row("plain", "1" * 100, "1" * 100), row("compared, c=2", "0" * 100, "0" * 100)]
    # A fifth of the labels takes 20 of 50 gains away on average, and leaves the better one clearly better.
    assert analysis.guarded_by_wrong_labels(rows, "sst2-noise", 16, draws=7) == (
        "2 runs, 7 draws of 20% wrong labels: the start is kept in 50.0%, and what is handed over is +0.25000 from "
        "it on average, below it in 0.0%"
    )
    alike = [rows[0], row("plain", "01" * 50, "01" * 50)]  # no better and no worse: now and then it looks better
    said = analysis.guarded_by_wrong_labels(alike, "sst2-noise", 16, draws=100)
    assert 0.8 < float(re.search(r"kept in (\S+)%", said)[1]) / 100 < 0.99
    assert analysis.guarded_by_wrong_labels(rows, "sst2", 16) == "no runs with wrong labels"


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


def test_violations_by_tenths() -> None:
    def run(seed: int, values: str, rates: list[float]) -> dict:
        log = {"loss": [1.0, 0.5], "violation_rate": rates, "beaten_rate": [0.0, 0.0]}
        return cell("compared, c=2", 1e-5, seed, "test", values) | {"log": log}

    rows = [run(seed, "21"[: 1 + seed % 2] * 2, [0.1 * seed, 0.2]) for seed in range(2)]
    assert analysis.violations(rows, "smoke", 16)[2:] == [
        "| 1 | 1.000 | 0.050 | 0.000 |",
        "| 2 | 0.500 | 0.200 | 0.000 |",
    ]
    assert analysis.gain_by_violations(rows, "smoke", 16) == "0 seeds are too few"
    many = [run(seed, "4321"[seed % 4] * 2, [0.1 * (seed % 4)] * 2) for seed in range(8)]
    many += [cell("mean, c=2", 1e-5, seed, "test", "44") for seed in range(8)]
    assert analysis.gain_by_violations(many, "smoke", 16) == "Spearman's correlation +1.00 over 8 seeds (p 0.00)"


def test_the_values_of_rows() -> None:
    draw = np.random.default_rng(0)
    rows, qrels, run = [], {}, {}
    for query in map(str, range(20)):
        grades = draw.integers(0, 4, size=12)
        ideal = sorted([float(g) for g in [*grades, 3] if g], reverse=True)[:10]  # one that was not found
        rows.append({"query": query, "docs": ["d"] * 12, "labels": grades.astype(float).tolist(), "ideal": ideal})
        qrels[query] = {str(doc): int(grade) for doc, grade in enumerate(grades)} | {"missed": 3}
        run[query] = {str(doc): float(draw.normal()) for doc in range(12)}
    scores = np.concatenate([list(scores.values()) for scores in run.values()])
    wanted = evaluate(run, qrels, ["nDCG@10"])
    found = training.values_of(scores, rows, TASKS["scifact"])
    assert found == pytest.approx([wanted.values[wanted.queries.index(query), 0] for query in run], abs=1e-4)
    assert decode(found, TASKS["scifact"]) == pytest.approx(found)
    tied = training.values_of(np.zeros(12), rows[:1], TASKS["scifact"])[0]
    discounts = 1 / np.log2(np.arange(2, 12))
    worst, ideal = np.sort(rows[0]["labels"])[:10], np.array(rows[0]["ideal"])
    assert tied == pytest.approx(worst @ discounts / (ideal @ discounts[: len(ideal)]), abs=1e-4)
    one = [{"query": "q", "docs": ["a", "b", "c"], "labels": [0.0, 1.0, 0.0]}]
    assert training.values_of(np.array([3.0, 2.0, 2.0]), one, TASKS["smoke"]) == "3"  # a tie counts against it


def test_the_parts_of_a_real_collection(tmp_path: Path) -> None:
    words = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx"]
    corpus = {str(i): f"the {word} and its {words[i - 1]} friends" for i, word in enumerate(words)}
    queries = {f"q{i}": f"where does the {word} number {i} live" for i, word in enumerate(words)}
    queries["again"] = queries["q0"]
    qrels = {query: {"0" if query == "again" else query[1:]: 1} for query in queries}
    Collection("c", corpus, {"test": Split(queries, qrels)}).write_beir(tmp_path / "beir")
    parts = real.beir(tmp_path / "beir", validation=0.3, test=0.3)
    texts = {part: [row["query"] for row in rows] for part, rows in parts.items()}
    assert sum(map(len, texts.values())) <= 13
    assert not set(texts["train"]) & {*texts["validation"], *texts["test"]}
    assert all(texts.values())
    for row in parts["train"]:
        (word,) = (word for word in words if f" {word} " in f" {row['query']} ")
        assert word in row["docs"][0]
        assert row["labels"] == [1.0, *[0.0] * (len(row["docs"]) - 1)]
        assert len(row["docs"]) <= real.DOCS
    for row in parts["test"]:
        assert row["ideal"] == [1.0]
        assert sum(row["labels"]) == 1


@pytest.fixture(scope="module")
def squad(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks of SQuAD, from twelve paragraphs, and their starts."""
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("squad")
    for file in ("train", "dev"):
        paragraphs = []
        for i, word in enumerate(["bear", "honey", "river", "bridge", "torch", "panda", "rain", "flower"] * 5):
            text = f"The {word} of {file} number {i} is old. It was made by the {word} people. They sleep now."
            begin = text.index(f"the {word} people")
            answer = {"text": f"the {word} people", "answer_start": begin}
            question = {"id": f"{file}{i}", "question": f"who made the {word} {i}", "answers": [answer]}
            paragraphs.append({"context": text, "qas": [question]})
        (folder / "squad").mkdir(exist_ok=True)
        (folder / "squad" / f"{file}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("passages", "reading"):
            patch.setitem(TASKS, name, replace(TASKS[name], start=(2, 1)))
            prepare(name, folder, folder)
            make_start(TASKS[name], folder, str(tiny_checkpoint), layers=2)
    return folder


def test_the_tasks_of_squad(squad: Path) -> None:
    passages, reading = load("passages", squad), load("reading", squad)
    for parts in (passages, reading):
        texts = {part: {row["docs"][0] for row in parts[part]} for part in PARTS}
        assert sum(map(len, texts.values())) == 80
        assert len(set.union(*texts.values())) == 80
        assert all(texts.values())
    for part in PARTS:
        own = {row["docs"][0] for row in passages[part]}
        for row in passages[part]:
            (begin, end), word = row["support"][0], row["query"].split()[-2]
            assert row["docs"][0][begin:end] == f"the {word} people"
            assert row["labels"] == [1.0] + [0.0] * (len(row["docs"]) - 1)
            assert set(row["docs"]) <= own
            assert len(set(row["docs"])) == len(row["docs"]) <= real.DOCS
    assert [row["answers"] for row in reading["test"][:1]] == [["the bear people"]]


@pytest.mark.parametrize("task", ["passages", "reading"])
@pytest.mark.parametrize("arm", ["plain, best epoch", "plain, averaged weights", "R-Drop, dropout 0.1", *CROPS])
def test_arms_that_crop_train_where_support_is_known(
    task: str, arm: str, squad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, task, replace(TASKS[task], sizes={8: 1}, batch=4))
    row = run_cell(Cell(task, 8, arm, 1e-3, 0, "test"), squad, "cpu")
    assert len(row["values"]) == 40
    assert row["mean"] == pytest.approx(decode(row["values"], TASKS[task]).mean())
    assert all(math.isfinite(loss) for loss in row["log"]["loss"])
    assert ("violation_rate" in row["log"]) == (ARMS[arm].passes > 1)
    assert row["guard"]


def test_given_support_is_not_guessed_support(squad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of the question are in the first sentence, the answer in the second."""
    monkeypatch.setitem(TASKS, "passages", replace(TASKS["passages"], sizes={8: 1}, batch=4))
    given, guessed = (
        run_cell(Cell("passages", 8, arm, 1e-3, 0, "validation"), squad, "cpu")["log"]["loss"]
        for arm in ("compared, crop", "compared, crop, support guessed")
    )
    assert given[0] != guessed[0]


def test_a_start_of_several_tasks_is_prepared_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(command, "prepare", lambda name, data, cache: seen.append(name))
    monkeypatch.setattr(command, "load", lambda name, cache: {})
    monkeypatch.setattr(starts, "make_start", lambda task, *_: tmp_path)
    result = CliRunner().invoke(command.app, ["prepare", "--task", "scifact", "--task", "cranfield"])
    assert result.exit_code == 0, result.output
    assert seen == ["reranker", "scifact", "cranfield"]


# Many cells in one training ---------------------------------------------------------------------------------------

#: Tokens of a window in which some of the passages fit.
WINDOW = 32
SEEDS, RATES = (0, 1, 0), (1e-3, 1e-3, 3e-4)
QUICK = (
    "plain",
    "weighted mean, c=2",
    "plain, averaged weights",
    "plain, best epoch",
    "compared, c=2, top:1",
    "full + hinges, c=2, share 0.5",
    "Intra-Distillation, p=0.1",
)
POINTWISE = ("plain", "compared, c=2", "compared, c=2, share 0.25", "Intra-Distillation, p=0.1")


@pytest.mark.parametrize(
    ("arm", "listwise"),
    [
        *(
            pytest.param(arm, True, marks=() if arm in QUICK else pytest.mark.slow)
            for arm in ARMS
            if not ARMS[arm].dropout and arm not in CROPS
        ),
        *((arm, False) for arm in POINTWISE),
    ],
)
def test_cells_that_are_trained_together_are_those_of_the_trainer(
    arm: str, listwise: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights, for every arm whose random choices are the package's own."""
    # In batches of 5, 5, 5 and 1.
    task = replace(TASKS["smoke"], batch=5, sizes={16: 2}, measure="RR" if listwise else "accuracy")
    monkeypatch.setitem(TASKS, "smoke", task)
    if not listwise:
        parts = {
            part: [row | {"docs": row["docs"][:1], "labels": row["labels"][:1]} for row in rows]
            for part, rows in load("smoke", cache).items()
        }
        monkeypatch.setattr(together, "_parts", lambda *_: parts)
        training._LOADED["smoke"] = parts
    # No score, or no loss, depends on these: their gradients are rounding alone, which AdamW scales up.
    compare_with_trainer("smoke", 16, arm, cache, ("key.bias", "classifier.bias") if listwise else ("key.bias",))


def compare_with_trainer(
    name: str, size: int, arm: str, cache: Path, free: tuple[str, ...], exact: bool = True
) -> None:
    """``free`` are the weights on which no loss depends; the values are equal where no documents are nearly tied."""
    task = TASKS[name]
    cells = [Cell(name, size, arm, rate, seed, "test") for seed, rate in zip(SEEDS, RATES, strict=True)]
    parts = together._parts(name, cache)
    model = training.open_start(task, cache, 0.0, "cpu")
    start = {of: weight.detach().clone() for of, weight in model.model.named_parameters()}
    epochs = task.sizes[size] * ARMS[arm].epochs
    seen = together.asked(name, "validation", cache) if ARMS[arm].keep_best else None
    data = [together.examples_of(cell, cache) for cell in cells]
    models, logs = steps.train(model, task, ARMS[arm], data, cells, epochs, seen)
    values = steps.measure(models, together.asked(name, "test", cache), task)
    for number, cell in enumerate(cells):
        alone = training.open_start(task, cache, 0.0, "cpu")
        own = training_rows(task, parts["train"], size, cell.seed)
        log = training.fit(
            alone, task, ARMS[arm], own, rate=cell.rate, epochs=epochs, seed=cell.seed,
            validation=parts["validation"] if ARMS[arm].keep_best else [],
        )  # fmt: skip
        for of, weight in alone.model.named_parameters():
            if not of.endswith(free):
                moved = float((weight.detach() - start[of]).abs().max())
                error = float((models.weights[of][number] - weight).detach().abs().max())
                assert error <= 0.01 * moved, (of, error, moved)
                assert moved > 0
        assert logs[number].keys() == log.keys()
        for rate in log:
            assert logs[number][rate] == pytest.approx(log[rate], abs=2e-4)
        if exact:
            assert values[number] == training.measure(alone, task, parts["test"], "test", "cpu")


@pytest.mark.parametrize("arm", ["plain", *CROPS])
@pytest.mark.parametrize("name", ["passages", "reading"])
def test_crops_and_readers_that_are_trained_together_are_those_of_the_trainer(
    name: str, arm: str, squad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loss of transformers, which trains plain readers, has padding in its softmax: one window has none.
    batch = 1 if (name, arm) == ("reading", "plain") else 3
    # With few documents, which differ in a word, what they share has a gradient of rounding alone.
    monkeypatch.setitem(TASKS, name, replace(TASKS[name], sizes={8: 2}, batch=batch, docs=0, half=False))
    free = ("key.bias", "classifier.bias")
    if name == "reading":  # what is added to the logits of all tokens changes nothing
        free = ("key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias")
    compare_with_trainer(name, 8, arm, squad, free, exact=name == "reading")


@pytest.mark.parametrize("name", ["passages", "reading"])
def test_a_start_that_is_trained_on_a_gpu_is_that_of_the_trainer(
    name: str, squad: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the dropout of rerankers, whose random numbers are others."""
    monkeypatch.setattr(starts, "START_DROPOUT", 0.0)
    monkeypatch.setattr(steps, "START_DROPOUT", 0.0)
    task = replace(TASKS[name], start=(4, 2), batch=1, start_rate=1e-3, half=False)
    found = []
    for trainer in (True, False):
        cache = tmp_path / str(trainer)
        cache.mkdir()
        (cache / f"{name}.json.gz").symlink_to(squad / f"{name}.json.gz")
        start = make_start(task, cache, str(tiny_checkpoint), layers=2, trainer=trainer)
        found.append({of: weight.float() for of, weight in load_file(start / "model.safetensors").items()})
    assert found[0].keys() == found[1].keys()
    for of, weight in found[0].items():
        if not of.endswith(("key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias", "classifier.bias")):
            scale = float(weight.abs().max())
            assert (found[1][of] - weight).abs().max() <= 1e-3 * max(scale, 0.1), of  # half precision


def test_readers_give_the_logits_of_transformers(squad: Path) -> None:
    task = TASKS["reading"]
    made = training.open_start(task, squad, 0.0, "cpu")
    rows = load("reading", squad)["test"][:12]
    asked = readers.Asked.of(made, task, rows)
    windows = [window.example.features for window in asked.windows]
    logits = bert.Models(made, 2).all_logits(
        bert.Tokens([], [each["input_ids"] for each in windows], [each["token_type_ids"] for each in windows])
    )
    made.model.eval()
    for each, found in zip(windows, logits, strict=True):
        with torch.no_grad():
            wanted = made.model(**{key: torch.tensor(value, dtype=torch.int64)[None] for key, value in each.items()})
        for own in found:
            assert own[:, 0] == pytest.approx(wanted["start_logits"][0].numpy(), abs=1e-5)
            assert own[:, 1] == pytest.approx(wanted["end_logits"][0].numpy(), abs=1e-5)
    values = asked.values([each[0][:, 0] for each in logits], [each[0][:, 1] for each in logits])
    assert values == readers.measure(made, task, rows)


@pytest.mark.parametrize(
    "arm",
    [
        "compared, c=2",
        "plain, best epoch",
        pytest.param("full + hinges, c=2, share 0.5", marks=pytest.mark.slow),
        pytest.param("Intra-Distillation, p=0.1", marks=pytest.mark.slow),
        pytest.param("plain, averaged weights", marks=pytest.mark.slow),
        pytest.param("compared, crop + drop", marks=pytest.mark.slow),
    ],
)
def test_readers_with_more_windows_than_others_take_more_steps(
    arm: str, squad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "STRIDE", 4)
    batch = 3 if ARMS[arm].passes > 1 else 1  # see above
    task = replace(TASKS["reading"], sizes={8: 2}, batch=batch, max_length=WINDOW, half=False)
    monkeypatch.setitem(TASKS, "reading", task)
    cells = [Cell("reading", 8, arm, 1e-3, seed, "test") for seed in SEEDS]
    assert len({len(together.examples_of(cell, squad).lengths()) for cell in cells}) > 1
    free = ("key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias")
    compare_with_trainer("reading", 8, arm, squad, free)


def test_cells_are_in_groups_that_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The reader has 6 layers, and the arm 3 passes; 16 rows of 10 tokens in a batch.
    monkeypatch.setattr(together, "examples_of", lambda *_: SimpleNamespace(lengths=lambda: [10] * 32))

    def groups(most: int, memory: int = 10**9) -> list[int]:
        monkeypatch.setitem(together.BUDGET, "cpu", memory)
        cells = [Cell("reading", 400, "compared, c=2", 1e-3, seed, "test") for seed in range(5)]
        found = together.groups(cells, most, tmp_path, "cpu")
        assert [cell for group in found for cell in group] == cells
        return list(map(len, found))

    assert groups(10) == [5]
    assert groups(4) == [3, 2]
    assert groups(4, 2 * 160 * 18) == [2, 2, 1]
    assert groups(4, 2 * 160 * 18 - 1) == [1] * 5
    assert groups(4, 1) == [1] * 5


def test_a_group_that_fails_is_tried_in_halves(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [Cell("smoke", 16, "plain", 1e-3, seed, "validation") for seed in range(5)]
    tried: list[list[int]] = []

    def run(group, *_):
        tried.append([cell.seed for cell in group])
        if len(group) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if 1 in tried[-1]:
            raise ValueError("the second seed has no labels")
        if 4 in tried[-1]:
            raise RuntimeError("the device is gone")
        return [{"seed": cell.seed} for cell in group]

    monkeypatch.setattr(together, "run_cells", run)
    found = list(together.results_together(cells, 10, cache, "cpu", time.time() + 60))
    assert tried == [[0, 1, 2, 3, 4], [0, 1], [0], [1], [2, 3, 4], [2], [3, 4], [3], [4]]
    assert [row["seed"] for row in found] == [0, 1, 2, 3]  # no row of one that may yet be run
    assert "no labels" in found[1]["failed"]
    assert (
        "left out: smoke|16|plain|0.001|4|validation: RuntimeError('the device is gone')" in capsys.readouterr().out
    )
    assert list(together.results_together(cells, 10, cache, "cpu", time.time() - 1)) == []


@pytest.mark.parametrize("arm", ["compared, c=2", "R-Drop, dropout 0.1"])
def test_a_compared_model_that_diverges_fails_alone(arm: str, cache: Path) -> None:
    good, bad = together.run_cells(
        [Cell("smoke", 16, arm, rate, 0, "validation") for rate in (1e-3, 1e30)], cache, "cpu"
    )
    assert "failed" not in good
    assert "not finite" in bad["failed"]


def test_a_gpu_trains_cells_together(cache: Path, tmp_path: Path) -> None:
    """By their trainers they would fail without datasets, one after the other."""
    folders = ["--cache", str(cache), "--results", str(tmp_path)]
    result = CliRunner().invoke(
        command.app, ["run", "smoke", "--size", "16", "--device", "cuda", "--together", "0", *folders]
    )
    assert result.exit_code == 2
    assert "--together" in result.output
    assert not list(tmp_path.iterdir())


def test_a_line_that_a_kill_has_cut_is_run_again(cache: Path, tmp_path: Path) -> None:
    arguments = ["run", "smoke", "--size", "16", "--arm", "plain", "--stage", "tune", "--together", "4"]
    arguments += ["--cache", str(cache), "--results", str(tmp_path)]
    assert CliRunner().invoke(command.app, arguments).exit_code == 0
    path = tmp_path / "smoke.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert CliRunner().invoke(command.app, arguments).exit_code == 0
    first, again = whole.splitlines(), path.read_text().splitlines()
    assert first[:-1] == again[:-1]
    assert json.loads(first[-1])["values"] == json.loads(again[-1])["values"]


def test_cells_with_the_models_own_dropout_train_together(cache: Path) -> None:
    for arm in (arm for arm in ARMS if ARMS[arm].dropout):
        cells = [Cell("smoke", 16, arm, 1e-3, seed, "validation") for seed in (0, 1)]
        first, second = together.run_cells(cells, cache, "cpu")
        assert first["log"] != second["log"]
        assert together.run_cells(cells, cache, "cpu")[1]["log"] == second["log"]
        plain = together.run_cells([replace(cell, arm="plain") for cell in cells], cache, "cpu")
        assert plain[0]["log"]["loss"] != first["log"]["loss"]
        assert (first["seed"], second["seed"]) == (0, 1)


def test_a_model_that_diverges_fails_alone(cache: Path) -> None:
    cells = [Cell("smoke", 16, "plain", rate, 0, "validation") for rate in (1e-3, 1e30)]
    good, bad = together.run_cells(cells, cache, "cpu")
    assert "failed" not in good
    assert "not finite" in bad["failed"]
    assert "mean" not in bad
    assert good["values"] == together.run_cells(cells[:1], cache, "cpu")[0]["values"]


def test_the_queue_takes_cells_together(cache: Path, tmp_path: Path) -> None:
    def rows(*more: str) -> dict[str, dict]:
        arguments = ["run", "smoke", "--size", "16", "--arm", "plain", "--arm", "compared, c=2"]
        folders = ["--cache", str(cache), "--results", str(tmp_path / more[0][2:])]
        result = CliRunner().invoke(command.app, [*arguments, *folders, *more[1:]])
        assert result.exit_code == 0, result.output
        return {command._key(row): row for row in command.read("smoke", tmp_path / more[0][2:])}

    several = rows("--several", "--together", "3")
    alone = rows("--alone", "--workers", "1")
    assert several.keys() == alone.keys()
    assert [several[key]["values"] for key in several] == [alone[key]["values"] for key in several]
    assert {row.get("together") for row in several.values() if row["arm"] != "start"} == {2}


def test_what_is_left_runs_in_the_order_of_the_plan(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = ("plain", "compared, c=2")
    monkeypatch.setattr(command, "PLAN", {("smoke", 16): arms, ("rte", 500): arms})
    folders = ["--cache", str(cache), "--results", str(tmp_path)]

    def said_by(*options: str) -> str:
        result = CliRunner().invoke(command.app, ["run", *folders, *options])
        assert result.exit_code == 0, result.output
        return result.output

    before = said_by("--dry-run").splitlines()
    assert before[0].startswith("smoke, 16 rows: 8 cells, ")  # two rates and two seeds of two arms
    assert before[1:] == ["rte, 500 rows: not prepared; it has no start"]
    assert len(said_by("--dry-run", "--cached").splitlines()) == 1
    said = said_by("--cached", "--together", "4")
    assert "smoke, 16 rows, test: 4 cells to run" in said
    assert "rte" not in said  # its rows are not there
    assert [row["arm"] for row in command.read("smoke", tmp_path) if row["part"] == "test"] == [
        "start", *["plain"] * 2, *["compared, c=2"] * 2,
    ]  # fmt: skip
    monkeypatch.setattr(command, "PLAN", {("smoke", 16): arms})
    assert said_by("--dry-run") == "smoke, 16 rows: 0 cells, 0.0 PFLOP\n"
    assert "0 cells to run" in said_by()


def test_what_is_run_is_the_plan_or_what_the_caller_says() -> None:
    assert [(task, size) for task, size, _ in command._chosen("", None, None)] == list(PLAN)
    assert command._chosen("rte", None, None) == [("rte", size, PLAN["rte", size]) for size in (500, 1000)]
    assert command._chosen("rte", 500, ["plain"]) == [("rte", 500, ["plain"])]
    assert [task for task, _, _ in command._chosen("", 1000, None)] == ["passages", "rte"]
    assert command._chosen("smoke", 16, ["plain"]) == [("smoke", 16, ["plain"])]
    for arguments, said in (
        (("rta", None, None), "'rta' is none of sentence-selection, sst2,"),
        (("rte", 501, None), "the sizes of rte are 500, 1000; got 501"),
        (("", 501, None), "the sizes of tasks are those of the plan; got 501"),
        (("smoke", 16, None), "the plan has no arms for smoke; give some"),
        (("rte", 500, ["plane"]), "'plane' is none of plain, plain, dropout 0.05,"),
    ):
        with pytest.raises(typer.BadParameter, match=re.escape(said)):
            command._chosen(*arguments)
    result = CliRunner().invoke(command.app, ["run", "rte", "--stage", "tset"])
    assert result.exit_code == 2
    assert "tune, test or both; got 'tset'" in " ".join(result.output.split())


def test_the_plan_has_every_task_and_size() -> None:
    every = {(task.name, size) for task in TASKS.values() for size in task.sizes if task.name != "smoke"}
    assert set(PLAN) == every
    for (task, _), arms in PLAN.items():
        assert set(arms) <= set(ARMS)
        assert task in ("passages", "reading") or not set(arms) & set(CROPS)
        assert {"plain", "plain, 3x epochs", "mean, c=2", "compared, c=2"} <= set(arms)


def test_operations_are_those_of_the_layers(cache: Path) -> None:
    one, three, longer, compared = (
        together.operations(Cell("smoke", 16, arm, 0.0, 0, "test"), cache, width=32)
        for arm in ("plain", "plain, 3x epochs", "plain, decay 0.1", "compared, c=2")
    )
    assert three == compared
    assert longer == one
    tokens = sum(together.examples_of(Cell("smoke", 16, "plain", 0.0, 0, "test"), cache).lengths())
    assert (three - one) / 2 == pytest.approx(6 * tokens * 3 * 12 * 32**2, rel=0.3)
    assert 0 < one - (three - one) / 2 < one / 2  # what is measured has no backward pass


def test_rows_of_another_machine_are_added_once(tmp_path: Path) -> None:
    rows = [json.dumps(cell("plain", 1e-5, seed, "test", "12")) + "\n" for seed in range(3)]
    for folder, own in (("here", rows[:2]), ("there", rows[1:])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "smoke.jsonl").write_text("".join(own))
    (tmp_path / "there" / "rte.jsonl").write_text(json.dumps(cell("plain", 1e-5, 0, "test", "11")) + "\n")
    arguments = ["merge", str(tmp_path / "there"), "--results", str(tmp_path / "here")]
    assert CliRunner().invoke(command.app, arguments).output == "rte: 1 rows are new\nsmoke: 1 rows are new\n"
    assert CliRunner().invoke(command.app, arguments).output == "rte: 0 rows are new\nsmoke: 0 rows are new\n"
    assert (tmp_path / "here" / "smoke.jsonl").read_text() == "".join(rows)
