"""Damaged models: each damage does what it says, and the table says what the rows hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from study_cells import cell
from typer.testing import CliRunner

from benchmarks.study import __main__ as command
from benchmarks.study import analysis, measuring, robust, training
from benchmarks.study.tasks import TASKS, load

DAMAGES = ["whole", "drop 0.1", "drop 0.2", "drop 0.3", "drop 0.5", "1 layer", "int8"]


def test_each_damage_does_what_it_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, rows = TASKS["smoke"], load("smoke", cache)["test"]
    model = training.open_start(task, cache, 0.0, "cpu")
    pairs = [(row["query"], doc) for row in rows for doc in row["docs"]]
    wanted = model.predict(pairs)
    seen: list[np.ndarray] = []
    monkeypatch.setattr(robust, "values_of", lambda scores, *_: seen.append(scores))
    monkeypatch.setattr(robust, "BATCH", 7)
    assert list(robust.damaged(model, task, rows)) == DAMAGES
    found = dict(zip(DAMAGES, seen, strict=True))
    assert found["whole"] == pytest.approx(wanted, abs=1e-5)
    assert model.predict(pairs) == pytest.approx(wanted, abs=1e-6)  # it stays as it was
    # More units dropped, more is changed; eight bits change little; a layer less is a model without it.
    changes = [np.abs(found[name] - wanted).mean() for name in DAMAGES[1:5]]
    assert changes == sorted(changes)
    assert changes[0] > 0
    assert 0 < np.abs(found["int8"] - wanted).mean() < changes[-1]
    layers = model.model.base_model.encoder.layer
    del layers[1]
    assert found["1 layer"] == pytest.approx(model.predict(pairs), abs=1e-5)
    assert np.abs(found["1 layer"] - wanted).max() > 1e-3


def test_damaged_models_are_run_and_not_taken_for_tests(cache: Path, tmp_path: Path) -> None:
    arguments = ["run", "smoke", "--size", "16", "--arm", "plain", "--arm", "compared, c=2", "--workers", "1"]
    arguments += ["--cache", str(cache), "--results", str(tmp_path), "--stage"]
    for stage in ("tune", "robust", "robust"):
        result = CliRunner().invoke(command.app, [*arguments, stage])
        assert result.exit_code == 0, result.output
    assert "robust: 0 cells to run" in result.output
    rows = command.read("smoke", tmp_path)
    mine = [row for row in rows if row["part"] == "robust"]
    assert [(row["arm"], row["seed"]) for row in mine] == [
        (arm, seed) for seed in (100, 101) for arm in ("plain", "compared, c=2")
    ]
    for row in mine:
        assert list(row["robust"]) == DAMAGES
        assert row["mean"] == pytest.approx(measuring.decode(row["robust"]["whole"], TASKS["smoke"]).mean())
    assert mine[0]["log"] != mine[1]["log"]
    assert analysis.tested(rows, "smoke", 16) == {}
    assert len(analysis.robustness(rows, "smoke", 16)) == 2 + 2 * 6
    result = CliRunner().invoke(command.app, [*arguments, "robust", "--device", "cuda"])
    assert result.exit_code == 2
    assert "damaged models are measured on a CPU" in " ".join(result.output.split())


def test_the_table_of_damages() -> None:
    draw = np.random.default_rng(0)
    values = {
        (arm, seed): {name: "".join(map(str, draw.integers(1, 5, size=40))) for name in ("whole", "int8", "1 layer")}
        for arm in ("plain", "mean, c=2")
        for seed in range(4)
    }
    rows = [cell(arm, 1e-5, seed, "robust", own["whole"]) | {"robust": own} for (arm, seed), own in values.items()]
    every = [line[2:-2].split(" | ") for line in analysis.robustness(rows, "smoke", 16)[2:]]
    assert [line[:3] for line in every] == [
        [name, arm, "4"] for name in ("int8", "1 layer") for arm in ("plain", "mean, c=2")
    ]
    assert all(line[6:] == [""] * 3 for line in every[::2])
    lines = every[1::2]

    def losses(arm: str, name: str) -> np.ndarray:
        own = [values[arm, seed] for seed in range(4)]
        return np.array([[1 / int(a) - 1 / int(b) for a, b in zip(o[name], o["whole"], strict=True)] for o in own])

    p_values = []
    for line in lines:
        mine, plain = losses("mean, c=2", line[0]), losses("plain", line[0])
        differences = mine - plain
        error = max(differences.mean(1).std(ddof=1) / 2, differences.mean(0).std(ddof=1) / np.sqrt(40))
        whole = np.mean([1 / int(value) for seed in range(4) for value in values["mean, c=2", seed]["whole"]])
        assert [float(each) for each in line[3:7]] == pytest.approx(
            [whole, whole + mine.mean(), mine.mean(), differences.mean()], abs=1e-4
        )
        p_values.append(2 * stats.t.sf(abs(differences.mean()) / error, 3))
    lowest = int(np.argmin(p_values))
    assert float(lines[lowest][8]) == pytest.approx(min(1, 2 * p_values[lowest]), abs=1e-3)
    assert analysis.robustness(rows[4:], "smoke", 16) == ["no damaged models"]


def test_damages_against_averaging() -> None:
    arms = {
        "plain": "1",
        "mean, c=2": "2",
        "compared, c=2": "1",
        "compared, c=2, full": "4",
        "R-Drop, dropout 0.1": "1",
    }
    rows = [
        cell(arm, 1e-5, seed, "robust", "1122") | {"robust": {"whole": "1122", "int8": value * 3 + "24"[seed % 2]}}
        for arm, value in arms.items()
        for seed in range(3)
    ]
    lines = [line[2:-2].split(" | ") for line in analysis.robustness_to_averaging(rows, "smoke", 16)[2:]]
    # Of each arm three values of four differ from those of averaging.
    assert [[line[0], line[1], line[6]] for line in lines] == [
        ["int8", "mean, c=2", ""],
        ["int8", "compared, c=2", "+0.3750"],
        ["int8", "compared, c=2, full", "-0.1875"],
    ]
