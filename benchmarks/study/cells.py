"""The cells of a task and size, and those that have been run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arms import ARMS
from .tasks import TASKS

#: So many of the seeds on test are for damaged models, too.
ROBUST_SEEDS = 5

#: Variants of comparing are screened at the learning rate of this arm.
SCREENED_AT = "compared, c=2"


@dataclass(frozen=True, order=True)
class Cell:
    """What identifies a run."""

    task: str
    size: int
    arm: str
    rate: float
    seed: int
    part: str

    @property
    def asked(self) -> str:
        """The part whose rows its model is measured on: test, unless it is to choose a rate."""
        return "validation" if self.part == "validation" else "test"


def cells_of(task: str, size: int, arms: Sequence[str], stage: str, rows: list[dict[str, Any]]) -> list[Cell]:
    """The cells of a stage: learning rates on validation, or the chosen rate on test, also of models that are
    damaged, or moved halfway back to the start.

    Variants are screened on validation, all at the rate of `SCREENED_AT`.
    """
    if stage == "screen":
        rate = chosen_rate(rows, task, size, SCREENED_AT)
        if rate is None:
            print(f"{task}, {size} rows are left out: the rate of {SCREENED_AT!r} is not tuned", flush=True)
            return []
        return [
            Cell(task, size, arm, rate, seed, "validation") for seed in TASKS[task].tuned_with(size) for arm in arms
        ]
    if stage == "tune":
        return [
            Cell(task, size, arm, rate, seed, "validation")
            for seed in TASKS[task].tuned_with(size)
            for rate in TASKS[task].rates
            for arm in arms
            if not ARMS[arm].rate_of
        ]
    chosen = {arm: chosen_rate(rows, task, size, arm) for arm in arms}
    untuned = [arm for arm, rate in chosen.items() if rate is None]
    if untuned:
        print(f"left out, since their rate is not tuned: {', '.join(untuned)}", flush=True)
    return [
        Cell(task, size, arm, rate, seed, stage)
        for seed in TASKS[task].tested_with(size)[: ROBUST_SEEDS if stage == "robust" else None]
        for arm, rate in chosen.items()
        if rate
    ]


def chosen_rate(rows: list[dict[str, Any]], task: str, size: int, arm: str, seeds: int | None = None) -> float | None:
    """The rate of the highest mean on validation, over so many seeds or the task's; None unless all are there."""
    seeds = len(TASKS[task].tuned_with(size)) if seeds is None else seeds
    rates = TASKS[task].rates  # rows at others are of a grid before
    arm = ARMS[arm].rate_of or arm
    means: dict[float, list[float]] = {}
    for row in rows:
        if (row["task"], row["size"], row["arm"], row["part"]) == (task, size, arm, "validation"):
            means.setdefault(row["rate"], []).append(row.get("mean", 0.0))  # a failed run counts 0
    whole = {rate: sum(means[rate]) / seeds for rate in rates if len(means.get(rate, ())) == seeds}
    return max(whole, key=lambda rate: whole[rate]) if len(whole) == len(rates) else None


def at_chosen_rates(
    rows: list[dict[str, Any]], task: str, size: int, seeds: int | None = None
) -> list[dict[str, Any]]:
    """The rows that tables are made of: without models at rates that validation does not choose.

    Args:
        rows: All rows of a task.
        task: Its name.
        size: Rows of the training set.
        seeds: The first so many of the task's seeds on validation choose, or all. Rows of others are left out. An
            arm that does not have all of them keeps its rows.
    """
    choosing = TASKS[task].tuned_with(size)[:seeds]
    rows = [row for row in rows if row["part"] != "validation" or row["seed"] in choosing]
    chosen = {
        arm: chosen_rate(rows, task, size, arm, len(choosing)) for arm in {row["arm"] for row in rows} & set(ARMS)
    }
    return [
        row
        for row in rows
        if row["part"] == "validation" or row["size"] != size or chosen.get(row["arm"]) in (None, row["rate"])
    ]


def key_of(row: dict[str, Any]) -> str:
    """What identifies a row of results."""
    return "|".join(str(row[name]) for name in ("task", "size", "arm", "rate", "seed", "part"))


def missing(cells: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> list[Cell]:
    """Those that no row is of."""
    there = {key_of(row) for row in rows}
    return [cell for cell in cells if key_of(vars(cell)) not in there]


def read(task: str, results: Path) -> list[dict[str, Any]]:
    """All cells of a task that have been run."""
    path = results / f"{task}.jsonl"
    if not path.exists():
        return []
    # A kill may have cut the last line.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
