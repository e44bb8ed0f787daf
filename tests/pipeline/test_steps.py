"""Lines by training step: what a resumed training finds of the one before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmp_rerank.pipeline.steps import StepFile


@pytest.mark.parametrize(("after", "kept"), [(-1, []), (0, [0]), (3, [0, 3]), (4, [0, 3]), (9, [0, 3, 5])])
def test_what_came_after_the_checkpoint_is_forgotten(after: int, kept: list[int], tmp_path: Path) -> None:
    file = StepFile(tmp_path / "metrics.jsonl")
    for step in (0, 3, 5):
        file.append(step, {"loss": step / 2})
    with file.path.open("a") as opened:
        opened.write('{"step": 5, "los')  # a kill
    file.cut(after)
    found = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert found == [{"step": step, "loss": step / 2} for step in kept]


def test_without_a_file_there_is_nothing_to_forget(tmp_path: Path) -> None:
    file = StepFile(tmp_path / "metrics.jsonl")
    file.cut(0)
    assert not file.path.exists()


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    file = StepFile(tmp_path / "metrics.jsonl")
    file.append(1, {"loss": float("nan"), "grad_norm": float("inf"), "epoch": 0.5})
    assert file.path.read_text() == '{"step": 1, "loss": null, "grad_norm": null, "epoch": 0.5}\n'
