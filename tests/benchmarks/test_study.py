"""The study: every arm trains, cells can be repeated, and its tables say what the cells hold."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.study import __main__ as command
from benchmarks.study.analysis import contrast, holm, summary, tuning
from benchmarks.study.arms import ARMS, CORE
from benchmarks.study.tasks import PARTS, TASKS, load, prepare, training_rows
from benchmarks.study.training import Cell, decode, make_start, run_cell


@pytest.fixture(scope="module")
def cache(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("study")
    prepare("smoke", folder, folder)
    make_start(TASKS["smoke"], folder, str(tiny_checkpoint), layers=2)
    return folder


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains(arm: str, cache: Path) -> None:
    row = run_cell(Cell("smoke", 16, arm, 1e-3, 0, "validation"), cache, "cpu")
    assert len(row["values"]) == 16
    assert row["mean"] == pytest.approx(decode(row["values"], TASKS["smoke"]).mean())
    assert all(math.isfinite(loss) for loss in row["log"]["loss"])
    assert row["passes"] == ARMS[arm].passes * ARMS[arm].epochs
    assert ("violation_rate" in row["log"]) == (ARMS[arm].passes > 1)


def test_a_cell_gives_the_same_twice_and_another_seed_another(cache: Path) -> None:
    def losses(seed: int) -> list[float]:
        row = run_cell(Cell("smoke", 16, "compared, c=2", 1e-3, seed, "test"), cache, "cpu")
        return [*row["log"]["loss"], row["values"], row["rows"]]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_arms_of_one_seed_share_their_rows(cache: Path) -> None:
    rows = load("smoke", cache)["train"]
    assert training_rows(rows, 8, 3) == training_rows(rows, 8, 3) != training_rows(rows, 8, 4)
    assert set(load("smoke", cache)) == set(PARTS)
    with pytest.raises(ValueError, match="size must be at most 16; got 17"):
        training_rows(rows, 17, 0)
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


def test_the_page_has_the_table_of_the_results() -> None:
    page = Path(__file__).parents[2] / "docs" / "study.md"
    lines = tuning(command.read("sentence-selection", command.RESULTS), "sentence-selection", 500)
    assert "\n".join(lines) in page.read_text(encoding="utf-8")
