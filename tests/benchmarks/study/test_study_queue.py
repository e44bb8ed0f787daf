"""The study runs what is left of its plan, once."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from study_cells import cell
from typer.testing import CliRunner

from benchmarks.study import __main__ as command
from benchmarks.study import cells, starts, workers
from benchmarks.study.arms import ARMS, CROPS
from benchmarks.study.plan import ENDED, PLAN, SCREENED
from benchmarks.study.tasks import TASKS
from benchmarks.study.together import start_row


def test_an_arm_with_the_rate_of_another_is_not_tuned() -> None:
    name = "weighted mean, c=2"
    assert [cell.arm for cell in cells.cells_of("sst2", 100, [name], "tune", [])] == []
    tuned = [
        {"task": "sst2", "size": 100, "arm": "compared, c=2", "part": "validation", "rate": rate, "mean": mean}
        for rate, mean in zip(TASKS["sst2"].rates, (0.6, 0.8, 0.7), strict=True)
        for _ in TASKS["sst2"].tuning_seeds
    ]
    assert cells.chosen_rate(tuned, "sst2", 100, name) == TASKS["sst2"].rates[1]
    found = cells.cells_of("sst2", 100, [name], "test", tuned)
    assert [cell.seed for cell in found] == list(TASKS["sst2"].test_seeds)


def test_a_size_can_be_tuned_with_seeds_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "smoke", replace(TASKS["smoke"], tuning_seeds_of={16: range(2)}))
    low, high = TASKS["smoke"].rates
    for size, seeds in ((16, [0, 0, 1, 1]), (32, [0, 0])):
        assert [cell.seed for cell in cells.cells_of("smoke", size, ["plain"], "tune", [])] == seeds
    rows = [cell("plain", rate, 0, "validation", "1") for rate in (low, high)]
    assert cells.chosen_rate(rows, "smoke", 16, "plain") is None
    assert cells.chosen_rate([row | {"size": 32} for row in rows], "smoke", 32, "plain") == low
    rows += [cell("plain", rate, 1, "validation", value) for rate, value in ((low, "2"), (high, "1"))]
    assert cells.chosen_rate(rows, "smoke", 16, "plain") == high


def test_a_size_can_be_tested_with_seeds_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "smoke", replace(TASKS["smoke"], test_seeds_of={16: range(100, 103)}))
    for size, seeds in ((16, [100, 101, 102]), (32, [100, 101])):
        tuned = [cell("plain", rate, 0, "validation", "1") | {"size": size} for rate in TASKS["smoke"].rates]
        assert [each.seed for each in cells.cells_of("smoke", size, ["plain"], "test", tuned)] == seeds


def test_the_rate_is_chosen_on_validation_when_all_of_its_cells_are_there() -> None:
    low, high = TASKS["smoke"].rates
    rows = [cell("plain", low, 0, "validation", "12"), cell("plain", high, 100, "test", "11")]
    assert cells.chosen_rate(rows, "smoke", 16, "plain") is None
    of_another_grid = cell("plain", 0.5, 0, "validation", "11")
    assert cells.chosen_rate([*rows, of_another_grid], "smoke", 16, "plain") is None
    rows.append(cell("plain", high, 0, "validation", "22"))
    assert cells.chosen_rate(rows, "smoke", 16, "plain") == low
    assert cells.chosen_rate([*rows, of_another_grid], "smoke", 16, "plain") == low
    rows[0] = {key: value for key, value in rows[0].items() if key not in ("mean", "values")} | {"failed": "NaN"}
    assert cells.chosen_rate(rows, "smoke", 16, "plain") == high


def test_a_cut_line_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "smoke.jsonl").write_text(json.dumps(cell("plain", 1e-5, 0, "test", "1")) + '\n{"task": "smo')
    assert [row["seed"] for row in cells.read("smoke", tmp_path)] == [0]


def test_a_start_of_several_tasks_is_prepared_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(command, "prepare", lambda name, data, cache: seen.append(name))
    monkeypatch.setattr(command, "load", lambda name, cache: {})
    monkeypatch.setattr(starts, "make_start", lambda task, *_: tmp_path)
    tasks = ("scifact", "cranfield", "scifact-distilled")
    result = CliRunner().invoke(command.app, ["prepare", *(f"--task={task}" for task in tasks)])
    assert result.exit_code == 0, result.output
    assert seen == ["reranker", "scifact", "cranfield", "distilled", "scifact-distilled"]


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


def test_the_queue_takes_cells_together(cache: Path, tmp_path: Path) -> None:
    def rows(*more: str) -> dict[str, dict]:
        arguments = ["run", "smoke", "--size", "16", "--arm", "plain", "--arm", "compared, c=2"]
        folders = ["--cache", str(cache), "--results", str(tmp_path / more[0][2:])]
        result = CliRunner().invoke(command.app, [*arguments, *folders, *more[1:]])
        assert result.exit_code == 0, result.output
        return {cells.key_of(row): row for row in cells.read("smoke", tmp_path / more[0][2:])}

    several = rows("--several", "--together", "3")
    alone = rows("--alone", "--workers", "1")
    assert several.keys() == alone.keys()
    assert [several[key]["values"] for key in several] == [alone[key]["values"] for key in several]
    assert {row.get("together") for row in several.values() if row["arm"] != "start"} == {2}


def test_processes_share_the_arms(cache: Path, tmp_path: Path) -> None:
    """Each takes the next arm, and chooses its rate; what is there is the same as from one process."""
    found = {}
    for count in (1, 2):
        arguments = ["run", "smoke", "--size", "16", "--arm", "plain", "--arm", "compared, c=2", "--together", "2"]
        folder = tmp_path / str(count)
        arguments += ["--workers", str(count), "--cache", str(cache), "--results", str(folder)]
        result = CliRunner().invoke(command.app, arguments)
        assert result.exit_code == 0, result.output
        found[count] = {cells.key_of(row): row["values"] for row in cells.read("smoke", folder)}
    assert found[1] == found[2]
    assert len(found[1]) == 9  # the start, and of each arm two rates and two seeds


@pytest.mark.parametrize("together", ["0", "2"])
def test_cells_of_another_start_are_not_added(together: str, cache: Path, tmp_path: Path) -> None:
    def said_by() -> str:
        arguments = ["run", "smoke", "--size", "16", "--arm", "plain", "--together", together, "--workers", "1"]
        result = CliRunner().invoke(command.app, [*arguments, "--cache", str(cache), "--results", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    path = tmp_path / "smoke.jsonl"
    start = start_row("smoke", cache, "cpu")
    values = start["guard"]
    path.write_text(json.dumps(start | {"guard": ("9" if values[0] != "9" else "8") + values[1:]}) + "\n")
    assert "left out" not in said_by()  # one of sixteen may be of rounding
    assert len(cells.read("smoke", tmp_path)) == 5
    path.write_text(json.dumps(start | {"guard": "99" + values[2:]}) + "\n")
    assert "is not the one of the results: 2 of 16 values of the part guard differ" in said_by()
    assert len(cells.read("smoke", tmp_path)) == 1
    path.write_text(json.dumps(start | {"guard": values[:-1]}) + "\n")
    assert "its rows are others" in said_by()


def _end(*_: object) -> None:
    sys.exit(3)


def test_a_process_that_ends_is_reported(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    runs = [workers.ArmRun.of("smoke", 16, arm, [], ["tune"]) for arm in ("plain", "compared, c=2")]
    assert all(run.left() for run in runs)
    monkeypatch.setattr(workers, "_work", _end)
    assert list(workers.results_of_arms(runs, 2, 2, cache, "cpu", time.time() + 60, compiles=False)) == []
    assert "2 of 2 processes failed: exit status [3, 3]" in capsys.readouterr().out


def test_an_arm_is_left_until_its_last_seed_is_there() -> None:
    stages = ["tune", "test"]
    tuned = [cell("plain", rate, 0, "validation", value) for rate, value in zip((1e-5, 1e-4), "21", strict=True)]
    tested = [cell("plain", 1e-4, seed, "test", "1") for seed in TASKS["smoke"].test_seeds]
    for rows, left in ((tuned[:1], True), (tuned, True), (tuned + tested[:1], True), (tuned + tested, False)):
        assert workers.ArmRun.of("smoke", 16, "plain", rows, stages).left() == left
    run = workers.ArmRun.of("smoke", 16, "plain", tuned + tested[:1], stages)
    assert [each.seed for each in run.cells("test", run.rows)] == [TASKS["smoke"].test_seeds[1]]


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
    assert "smoke, 16 rows, compared, c=2, test: 2 cells to run" in said
    assert "rte" not in said  # its rows are not there
    assert [row["arm"] for row in cells.read("smoke", tmp_path) if row["part"] == "test"] == [
        "start", *["plain"] * 2, *["compared, c=2"] * 2,
    ]  # fmt: skip
    monkeypatch.setattr(command, "PLAN", {("smoke", 16): arms})
    assert said_by("--dry-run") == "smoke, 16 rows: 0 cells, 0.0 PFLOP\n"
    assert "0 cells to run" in said_by()


def test_what_is_run_is_the_plan_or_what_the_caller_says() -> None:
    assert [(task, size) for task, size, _ in command._chosen("", None, None)] == list(PLAN)
    assert command._chosen("scifact-distilled", None, None) == [
        ("scifact-distilled", size, PLAN["scifact-distilled", size]) for size in (50, 200, 500)
    ]
    assert command._chosen("rte", None, None) == [("rte", 500, PLAN["rte", 500])]
    assert command._chosen("rte", 500, ["plain"]) == [("rte", 500, ["plain"])]
    assert [task for task, _, _ in command._chosen("", 2500, None)] == ["reading", "sst2"]
    assert command._chosen("smoke", 16, ["plain"]) == [("smoke", 16, ["plain"])]
    for arguments, said in (
        (("rta", None, None), "'rta' is none of sentence-selection, sst2,"),
        (("rte", 501, None), "the sizes of rte are 500; got 501"),
        (("", 501, None), "the sizes of tasks are those of the plan; got 501"),
        (("smoke", 16, None), "the plan has no arms for smoke; give some"),
        (("rte", 500, ["plane"]), "'plane' is none of plain, plain, dropout 0.05,"),
    ):
        with pytest.raises(typer.BadParameter, match=re.escape(said)):
            command._chosen(*arguments)
    result = CliRunner().invoke(command.app, ["run", "rte", "--stage", "tset"])
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())  # without the frame
    assert "tune, test, both, robust, halfway or screen; got 'tset'" in said


def test_variants_are_screened_on_validation_at_one_rate() -> None:
    tuned = [
        cell("compared, c=2", rate, seed, "validation", values)
        for seed in TASKS["smoke"].tuning_seeds
        for rate, values in ((1e-5, "22"), (1e-4, "11"))
    ]
    found = cells.cells_of("smoke", 16, ["compared, c=1", "mean, c=1"], "screen", tuned)
    assert {(each.arm, each.rate, each.part) for each in found} == {
        ("compared, c=1", 1e-4, "validation"), ("mean, c=1", 1e-4, "validation")
    }  # fmt: skip
    assert {each.seed for each in found} == set(TASKS["smoke"].tuning_seeds)
    assert cells.cells_of("smoke", 16, ["compared, c=1"], "screen", tuned[1:]) == []
    assert set(SCREENED) <= set(ARMS)


def test_the_plan_has_every_task_and_size() -> None:
    every = {(task.name, size) for task in TASKS.values() for size in task.sizes if task.name != "smoke"}
    assert {*PLAN, *ENDED} == every
    assert not {*PLAN} & {*ENDED}
    for (task, _), arms in PLAN.items():
        assert set(arms) <= set(ARMS)
        assert task in ("passages", "reading", "scifact-distilled", "cranfield-distilled") or not set(arms) & set(
            CROPS
        )
        assert "plain" in arms
        for passes in ("c=2", "crop"):
            assert (f"compared, {passes}" in arms) == (f"mean, {passes}" in arms)
        assert "compared, c=2" not in arms or "plain, 3x epochs" in arms
        assert {"compared, c=2", "compared, crop"} & set(arms)


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
