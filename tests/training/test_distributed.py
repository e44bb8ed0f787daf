"""Several processes train the weights that one process trains on the same batches, under DDP and FSDP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from optional_libraries import datasets
from processes import distributed, succeeded

SCRIPT = Path(__file__).with_name("distributed_run.py")
FAST = [
    "plain-token-budget",
    "plain-last-batch",
    "ragged",
    "hybrid",
    "recomputing",
    "out-of-memory-3",
    "out-of-memory-4",
    "fsdp-stacked",
]
SLOW = ["plain", "plain-small-chunks", "lists", "stacked", "trunk", "accumulating", "checkpointing", "fsdp-trunk"]
RAGGED = ["ragged", "ragged-token-budget", "ragged-accumulating", "mixed", "accumulating", "plain-token-budget"]


def launch(checkpoint: Path, output: Path, scenarios: list[str], world: int, **env: str) -> None:
    datasets.Dataset  # noqa: B018 - the test is skipped where they are not
    succeeded(
        distributed(world, SCRIPT, checkpoint, output, *scenarios, environment={"PROCESSES": "2"} | env), timeout=1200
    )


def facts(output: Path, scenario: str, world: int = 2) -> list[dict[str, Any]]:
    return [json.loads((output / f"{scenario}-{rank}-of-{world}.json").read_text()) for rank in range(world)]


def compare(output: Path, scenario: str, world: int = 2) -> None:
    one = torch.load(output / f"{scenario}-of-1.pt")
    several = torch.load(output / f"{scenario}-of-{world}.pt")
    assert (one - several).abs().max() < 1e-5
    start = torch.load(output / "start.pt")
    assert (one - start).abs().max() > 1e-3  # there was something to get wrong


def start(checkpoint: Path, output: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(checkpoint / "model.safetensors")
    torch.save(torch.cat([state[name].flatten().double() for name in sorted(state)]), output / "start.pt")


@pytest.mark.parametrize("scenarios", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["", "every way"])
def test_two_processes_train_what_one_does(scenarios: list[str], tiny_checkpoint: Path, tmp_path: Path) -> None:
    start(tiny_checkpoint, tmp_path)
    launch(tiny_checkpoint, tmp_path, scenarios, 1)
    launch(tiny_checkpoint, tmp_path, scenarios, 2)
    for scenario in scenarios:
        compare(tmp_path, scenario)
        ours, theirs = facts(tmp_path, scenario)
        if scenario.startswith("fsdp"):
            assert ours["wrapper"].startswith("FSDP")
            assert ours["passes"] == theirs["passes"]  # each pass waits for the other process
        else:
            assert ours["wrapper"] == "DistributedDataParallel"
            assert theirs["evaluations"] == 0 < ours["evaluations"]  # on the main process only
        if scenario == "hybrid":
            assert ours["passes"] != theirs["passes"]  # no process waits for the other's chunks


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_uneven_rows_in_several_processes(world: int, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Queries with none to three documents, and two datasets; the log has the means over all processes."""
    start(tiny_checkpoint, tmp_path)
    for processes in (1, world):
        launch(tiny_checkpoint, tmp_path, RAGGED, processes, PROCESSES=str(world))
    for scenario in RAGGED:
        compare(tmp_path, scenario, world)
        (one,) = facts(tmp_path, scenario, 1)
        first, *others = facts(tmp_path, scenario, world)
        assert first["wrapper"] == "DistributedDataParallel"
        assert len(others) == world - 1
        names = ("loss", "lists_task_loss_full", "task_loss_full", "task_loss_step_1", "task_loss_step_2")
        for alone, together in zip(one["log"], first["log"], strict=True):
            assert alone.keys() == together.keys()
            for name in names:
                assert together.get(name) == pytest.approx(alone.get(name), abs=2e-4)
        if scenario == "mixed":
            kinds = {"lists_task_loss_full" in entry for entry in first["log"]}
            assert kinds == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1", "2"])
def test_the_trainer_with_sharded_parameters(version: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """As `accelerate launch` does it, in both of its ways."""
    scenarios = ["plain", "plain-token-budget", "stacked", "trunk"]
    start(tiny_checkpoint, tmp_path)
    for world in (1, 2):
        launch(tiny_checkpoint, tmp_path, scenarios, world, FSDP_VERSION=version)
    for scenario in scenarios:
        compare(tmp_path, scenario)
        ours, theirs = facts(tmp_path, scenario)
        assert ours["wrapper"] == {"1": "FullyShardedDataParallel", "2": "FSDPCrossEncoder"}[version]
        assert ours["passes"] == theirs["passes"]
