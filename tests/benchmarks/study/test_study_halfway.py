"""Models moved halfway back to the start: their weights, their rows, and what the tables say of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from study_cells import cell
from typer.testing import CliRunner

from benchmarks.study import __main__ as command
from benchmarks.study import analysis, guarding, tables, together, training
from benchmarks.study.bert import Models
from benchmarks.study.cells import Cell
from benchmarks.study.tasks import TASKS, load


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.model.named_parameters()}


@pytest.mark.parametrize("exact", [True, False])
def test_a_model_is_measured_halfway_between_the_start_and_the_tuned_one(
    exact: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the trainer, and trained together."""
    seen: dict[str, dict[str, torch.Tensor]] = {}

    def measured(model: Any, *_: Any) -> dict[str, Any]:
        seen[part] = weights_of(model)
        return {}

    def measure(models: Models, *_: Any) -> list[str]:
        seen[part] = {name: weight[0].detach().clone() for name, weight in models.weights.items()}
        return ["1" * 16]

    monkeypatch.setattr(training, "measured", measured)
    monkeypatch.setattr(together, "measure", measure)
    start = weights_of(training.open_start(TASKS["smoke"], cache, 0.0, "cpu"))
    for part in ("test", "halfway"):
        mine = Cell("smoke", 16, "plain", 1e-3, 100, part)
        if exact:
            training.run_cell(mine, cache, "cpu")
        else:
            together.run_cells([mine], cache, "cpu")
    assert any((seen["test"][name] - weight).abs().max() > 1e-4 for name, weight in start.items())
    for name, weight in start.items():
        assert torch.allclose(seen["halfway"][name], (seen["test"][name] + weight) / 2, rtol=0, atol=1e-7), name
    again = weights_of(training.open_start(TASKS["smoke"], cache, 0.0, "cpu"))
    assert all(torch.equal(again[name], weight) for name, weight in start.items())


def test_models_halfway_are_run_and_not_taken_for_tests(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At a rate at which the three models differ.
    monkeypatch.setitem(TASKS, "smoke", replace(TASKS["smoke"], rates=(1e-3, 2e-3), sizes={16: 4}))
    arguments = ["run", "smoke", "--size", "16", "--arm", "plain", "--workers", "1"]
    arguments += ["--cache", str(cache), "--results", str(tmp_path), "--stage"]
    for stage in ("both", "halfway", "halfway"):
        result = CliRunner().invoke(command.app, [*arguments, stage])
        assert result.exit_code == 0, result.output
    assert "halfway: 0 cells to run" in result.output
    rows = command.read("smoke", tmp_path)
    mine = [row for row in rows if row["part"] == "halfway"]
    assert [row["seed"] for row in mine] == [100, 101]
    for row in mine:
        tested = next(each for each in rows if (each["part"], each["seed"]) == ("test", row["seed"]))
        assert {name: row[name] for name in ("rate", "rows", "log")} == {
            name: tested[name] for name in ("rate", "rows", "log")
        }
        assert len(row["values"]) == len(row["guard"]) == 16
    assert sorted(analysis.tested(rows, "smoke", 16)["plain"]) == [100, 101]
    assert "plain, halfway | plain" in tables.lines_of("halfway", "smoke", 16, results=tmp_path)[2]
    assert len(tables.lines_of("halfway_guarded", "smoke", 16, results=tmp_path)) == 3


def test_the_order_of_the_first_stage_is_measured_without_a_model(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = load("smoke", cache)
    for row in (row for rows in parts.values() for row in rows):
        row["ideal"] = [1.0]
    monkeypatch.setattr(together, "_parts", lambda *_: parts)
    monkeypatch.setitem(TASKS, "smoke", replace(TASKS["smoke"], measure="nDCG@10"))
    row = together.first_stage_row("smoke", cache)
    wanted = [1 / np.log2(2 + each["labels"].index(1.0)) for each in parts["test"]]
    assert (row["arm"], row["size"], row["part"]) == ("first stage", 0, "test")
    assert row["values"] == pytest.approx(wanted, abs=1e-4)
    assert row["mean"] == pytest.approx(np.mean(wanted), abs=1e-4)
    assert len(row["guard"]) == len(parts["guard"])
    # The command adds it once, before all else.
    arguments = ["run", "smoke", "--size", "16", "--arm", "plain", "--stage", "test", "--minutes", "0"]
    arguments += ["--cache", str(cache), "--results", str(tmp_path)]
    for _ in range(2):
        result = CliRunner().invoke(command.app, arguments)
        assert result.exit_code == 0, result.output
    assert [each["arm"] for each in command.read("smoke", tmp_path)] == ["first stage"]


def test_models_against_the_first_stage() -> None:
    """The start is below it, the tuned model above the start: the guard keeps it, unless halfway is above it."""
    draw = np.random.default_rng(0)

    def row(arm: str, seed: int, part: str, mean: float) -> dict[str, Any]:
        size = 0 if arm in ("first stage", "start") else 16
        values, guard = (np.round(np.clip(draw.normal(mean, 0.05, 50), 0, 1), 4).tolist() for _ in range(2))
        facts = {"task": "scifact", "size": size, "arm": arm, "rate": 1e-5, "seed": seed, "part": part}
        return facts | {"values": values, "mean": float(np.mean(values)), "guard": guard}

    rows = [row("first stage", 0, "test", 0.7), row("start", 0, "test", 0.5)]
    assert len(guarding.first_stage(rows, "scifact", 16)) == 4
    assert guarding.first_stage(rows[1:], "scifact", 16) == ["the first stage, or the start, has not been measured"]
    rows += [row("plain", seed, "test", 0.6) for seed in (100, 101)]
    rows += [row("plain", 100, "halfway", 0.8), row("mean, c=2", 100, "halfway", 0.8)]  # the latter has no test row
    rows += [{**row("plain", 101, "halfway", 0.8), "failed": "diverged"}]  # as the next, it has no values
    for name in ("values", "guard", "mean"):
        del rows[-1][name]
    best, *lines = [line[2:-2].split(" | ") for line in guarding.first_stage(rows, "scifact", 16)[2:]]
    first = rows[0]["mean"]
    assert best[:3] == ["the first stage", "1", f"{first:.4f}"]
    assert [line[:2] for line in lines] == [["the start", "1"], ["plain", "2"], ["plain, halfway", "1"]]
    means = [rows[1]["mean"], (rows[2]["mean"] + rows[3]["mean"]) / 2, rows[4]["mean"]]
    for line, mean in zip(lines, means, strict=True):
        assert float(line[2]) == pytest.approx(mean, abs=1e-4)
        assert float(line[3]) == pytest.approx(mean - first, abs=2e-4)
    assert [line[4:6] for line in lines] == [["1/1", "1/1"], ["2/2", "2/2"], ["0/1", "0/1"]]
    assert [line[6] for line in lines[:2]] == ["+0.0000"] * 2
    assert float(lines[2][6]) == pytest.approx(means[2] - first, abs=2e-4)
    assert [line[9] for line in lines] == ["1/1", "2/2", "0/1"]
    for line, name, part in zip(
        guarding.start_and_first_stage(rows, "scifact", 16)[2:],
        ("guard", "values"),
        ("validation", "test"),
        strict=True,
    ):
        start, first_values = (np.array(rows[at][name]) for at in (1, 0))
        gain = start - first_values
        error = gain.std(ddof=1) / len(gain) ** 0.5
        high = gain.mean() + stats.t.ppf(0.975, len(gain) - 1) * error
        cells = line[2:-2].split(" | ")
        assert cells[:2] == [part, str(len(gain))]
        assert [float(each) for each in cells[2:5]] == pytest.approx(
            [start.mean(), first_values.mean(), gain.mean()], abs=1e-4
        )
        assert float(cells[5].split("..")[1]) == pytest.approx(high, abs=1e-4)
    assert guarding.start_and_first_stage(rows[1:], "scifact", 16) == [
        "the first stage, or the start, has not been measured"
    ]
    # Where the start is above the first stage, by far less than its error, and no model is, the user had the start.
    rows[0]["guard"], rows[1]["guard"] = [0.7] * 50, [1.0, 0.41] * 25
    lines = [line[2:-2].split(" | ") for line in guarding.first_stage(rows[:4], "scifact", 16)[3:]]
    assert [line[9] for line in lines] == ["0/1", "0/2"]
    assert lines[1][6] == lines[0][3] != "+0.0000"


def test_a_table_of_some_seeds_has_what_all_are_compared_with(tmp_path: Path) -> None:
    rows = [cell(arm, 0.0, 0, "test", "12") | {"size": 0, "guard": "12"} for arm in ("first stage", "start")]
    rows += [cell("plain", 1e-5, seed, "test", "11") | {"guard": "11"} for seed in (100, 101, 102)]
    (tmp_path / "smoke.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = tables.lines_of("first_stage", "smoke", 16, tested=range(101, 103), results=tmp_path)
    assert [line[2:-2].split(" | ")[:2] for line in lines[2:]] == [
        ["the first stage", "1"], ["the start", "1"], ["plain", "2"]
    ]  # fmt: skip


def test_the_tables_of_models_halfway() -> None:
    """Halfway is better than the start, and the tuned one worse: on test, and where the guard looks."""
    draw = np.random.default_rng(0)

    def values(right: float) -> str:
        return "".join("1" if each < right else "2" for each in draw.random(200))

    start: dict[str, Any] = cell("plain", 0.0, 0, "test", values(0.5)) | {"arm": "start", "size": 0}
    start["guard"] = values(0.5)
    rows = [start]
    for seed in (100, 101, 102):
        for part, right in (("test", 0.2), ("halfway", 0.8)):
            rows.append(cell("plain", 1e-5, seed, part, values(right)) | {"guard": values(right)})
    rows.append(cell("mean, c=2", 1e-5, 100, "halfway", values(0.5)) | {"guard": values(0.5)})  # has no test row
    lines = [line[2:-2].split(" | ") for line in analysis.halfway(rows, "smoke", 16)[2:]]
    assert [line[:3] for line in lines] == [
        ["plain, halfway", "plain", "3"], ["plain, halfway", "the start", "3"], ["plain", "the start", "3"]
    ]  # fmt: skip
    means = {part: np.mean([row["mean"] for row in rows if row["part"] == part and row["arm"] == "plain"])
             for part in ("test", "halfway")}  # fmt: skip
    assert float(lines[0][3]) == pytest.approx(means["halfway"] - means["test"], abs=1e-4)
    assert float(lines[1][3]) == pytest.approx(means["halfway"] - start["mean"], abs=1e-4)
    assert float(lines[2][3]) == pytest.approx(means["test"] - start["mean"], abs=1e-4)
    (line,) = [each[2:-2].split(" | ") for each in guarding.halfway_guarded(rows, "smoke", 16)[2:]]
    gain = f"{means['halfway'] - start['mean']:+.4f}"
    loss = f"{means['test'] - start['mean']:+.4f}"
    assert line == ["plain", "3", loss, "3/3", "3/3", gain, "0/3", "0/3", gain, "0/3", "0/3", "0/3", "3/3"]
    for row in rows:
        if row["part"] == "halfway":
            row["guard"] = start["guard"]
    (line,) = [each[2:-2].split(" | ") for each in guarding.halfway_guarded(rows, "smoke", 16)[2:]]
    assert line[8:] == ["+0.0000", "0/3", "0/3", "3/3", "0/3"]
    assert analysis.halfway(rows, "smoke", 32) == ["no models halfway between the start and the tuned ones"]
    assert guarding.halfway_guarded([], "smoke", 16) == ["no models halfway between the start and the tuned ones"]
