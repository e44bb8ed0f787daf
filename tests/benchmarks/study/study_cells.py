"""Rows of results, made up."""

from __future__ import annotations

from benchmarks.study.cells import Cell
from benchmarks.study.measuring import decode
from benchmarks.study.tasks import TASKS


def cell(arm: str, rate: float, seed: int, part: str, values: str) -> dict:
    """The row of a cell with its values."""
    mean = float(decode(values, TASKS["smoke"]).mean())
    return vars(Cell("smoke", 16, arm, rate, seed, part)) | {"values": values, "mean": mean}
