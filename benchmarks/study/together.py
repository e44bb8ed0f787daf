"""Many cells in one training: the models of several seeds and learning rates as one model with one more dimension.

A GPU is far from busy with one small model. Here E models, each with weights of its own, go through every step side
by side: each weight is a tensor (E, ...), and a step takes one batch of each. `steps` has the steps.

Rows are those of `training.run_cell` up to rounding, but for two things. An arm with the model's own dropout draws
other random numbers, which also depend on the cells beside it. A plain reader has a loss without padding, as compared
ones have it; that of transformers has padding in its softmax. On a GPU products of training are in TF32, and of tasks
that say so everywhere in bfloat16; models are measured in 32 bits.
"""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmp_rerank import GivenSupport
from cmp_rerank.ablations import Plan
from cmp_rerank.engine.memory import free
from cmp_rerank.training.sampler import LengthBatches

from . import bert, readers
from .arms import ARMS, Arm
from .bert import Models, tokenised
from .cells import Cell, key_of
from .examples import Examples, of_pairs, of_windows
from .measuring import Values, decode, measure, values_of
from .steps import train
from .tasks import TASKS, Row, load, training_rows
from .training import BACK, open_start, support_of

#: Tokens times layers in one step of all models, without padding: what memory holds the states of. About 27 KiB each.
BUDGET = {"cpu": 100_000, "cuda": 1_400_000}


def share_gpu(workers: int) -> None:
    """Use the GPU as one of so many processes, see `BUDGET` and `bert.PASS`."""
    passes = max(50_000, bert.PASS["cuda"] // workers)
    BUDGET["cuda"] //= workers
    bert.PASS["cuda"] = bert.TRAINING_PASS["cuda"] = passes


def results_together(
    cells: Sequence[Cell], most: int, cache: Path, device: str, until: float
) -> Iterator[dict[str, Any]]:
    """Train the cells of an arm together, at most so many at once; none begins after the time ``until``.

    Where a group fails, its halves are tried. A cell that fails alone, by an error of its values, is a failed row.
    For any other error, such as memory that is too small, there is no row. The rest goes on.
    """
    ordered = sorted(cells, key=lambda cell: (cell.part, list(ARMS).index(cell.arm)))
    for _, same in groupby(ordered, key=lambda cell: (cell.part, cell.arm)):
        if time.time() > until:
            return
        waiting = groups(list(same), most, cache, device)
        while waiting and time.time() < until:
            group = waiting.pop(0)
            begin, error, where = time.time(), None, ""
            try:
                yield from run_cells(group, cache, device)
            except Exception as raised:
                if "CUDA error" in str(raised):  # nothing works in this process any more
                    raise
                error, where = repr(raised)[:500], traceback.format_exc()[-1500:]
                own_fault = isinstance(raised, ValueError)
            print(f"{len(group)} cells of {group[0].arm!r}: {time.time() - begin:.0f} s", flush=True)
            if error is None:
                continue
            free()  # the exception, which holds what did not fit, is gone
            if len(group) > 1:
                half = len(group) // 2
                waiting[:0] = [group[:half], group[half:]]
            elif own_fault:
                yield asdict(group[0]) | {"failed": error, "where": where}
            else:
                print(f"left out: {key_of(vars(group[0]))}: {error}\n{where}", flush=True)


def groups(cells: Sequence[Cell], most: int, cache: Path, device: str) -> list[list[Cell]]:
    """Cells of one arm in groups of nearly equal size: at most so many, and what the memory holds."""
    task, arm = TASKS[cells[0].task], ARMS[cells[0].arm]
    tokens = 1
    for cell in cells:
        lengths = examples_of(cell, cache).lengths()
        batches = LengthBatches(lengths, task.batch, seed=cell.seed)
        tokens = max(tokens, *(sum(lengths[row] for row in batch) for batch in batches))
    held = tokens * task.layers * _passes(arm)
    size = max(1, min(most, BUDGET[torch.device(device).type] // held))
    count = -(-len(cells) // size)
    return [list(map(cells.__getitem__, own)) for own in np.array_split(range(len(cells)), count)]


def run_cells(cells: Sequence[Cell], cache: Path, device: str) -> list[dict[str, Any]]:
    """Train and measure cells of one task, size, arm and part; a row for each, as `training.run_cell` gives it."""
    first = cells[0]
    task, arm = TASKS[first.task], ARMS[first.arm]
    epochs = task.sizes[first.size] * arm.epochs
    data = [examples_of(cell, cache) for cell in cells]
    model = _opened(first.task, cache, device)
    wall, cpu = time.perf_counter(), time.process_time()
    models, logs = train(
        model, task, arm, data, cells, epochs, asked(first.task, "validation", cache) if arm.keep_best else None
    )
    seconds, cpu_seconds = (time.perf_counter() - wall) / len(cells), (time.process_time() - cpu) / len(cells)
    if first.part == "halfway":
        models.move(Models(model, 1), BACK)
    values = measure(models, asked(first.task, first.asked, cache), task)
    guarded = first.asked == "test"
    seen = measure(models, asked(first.task, "guard", cache), task) if guarded else values
    found = []
    for cell, value, also, log in zip(cells, values, seen, logs, strict=True):
        drawn = [row["query"] for row in _rows_of(cell, cache)]
        row = {
            **asdict(cell),
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "together": len(cells),
            "passes": arm.passes * epochs,
            "rows": hashlib.sha256(repr(drawn).encode()).hexdigest()[:12],
            "log": log,
        }
        if value is None or also is None:
            row["failed"] = "the scores are not finite: the training has diverged"
        else:
            row |= {"mean": float(np.mean(decode(value, task))), "values": value}
            row |= {"guard": also} if guarded else {}
        found.append(row)
    return found


def start_row(task: str, cache: Path, device: str) -> dict[str, Any]:
    """The common start on test, as a row of results."""
    models = Models(_opened(task, cache, device), 1)
    (values,), (guard,) = (measure(models, asked(task, part, cache), TASKS[task]) for part in ("test", "guard"))
    if values is None:
        raise ValueError(f"{task}: the scores of the start are not finite; prepare it anew")
    mean = float(np.mean(decode(values, TASKS[task])))
    return {**asdict(Cell(task, 0, "start", 0.0, 0, "test")), "mean": mean, "values": values, "guard": guard}


def first_stage_row(task: str, cache: Path) -> dict[str, Any]:
    """The order in which BM25 gave the documents on test, as a row of results."""

    def values(part: str) -> Values:
        rows = _parts(task, cache)[part]
        places = np.concatenate([np.arange(len(row["docs"]), dtype=float) for row in rows])
        return values_of(-places, rows, TASKS[task])

    found = {"values": values("test"), "guard": values("guard")}
    mean = float(np.mean(decode(found["values"], TASKS[task])))
    return {**asdict(Cell(task, 0, "first stage", 0.0, 0, "test")), "mean": mean, **found}


def another_start(row: dict[str, Any] | None, cache: Path, device: str) -> str:
    """Say so if the start is not the one that a row of results is of; else nothing.

    One that is made again may be another, by a change of code or processor. Cells of one task must have the same.
    """
    if row is None or "guard" not in row:
        return ""
    task = row["task"]
    found = _start_on_guard(task, cache, device)
    if found is None or len(found) != len(row["guard"]):
        return f"{task}: the start in {cache} is broken, or its rows are others; prepare it anew"
    # Rounding, of another device, may move a few.
    changed = sum(one != other for one, other in zip(found, row["guard"], strict=True))
    if changed <= 0.1 * len(found):
        return ""
    return (
        f"{task}: the start in {cache} is not the one of the results: {changed} of {len(found)} values of the part "
        "guard differ; give the cache that the results were made with, or other --results"
    )


@lru_cache(maxsize=16)
def _start_on_guard(task: str, cache: Path, device: str) -> Values | None:
    (values,) = measure(Models(_opened(task, cache, device), 1), asked(task, "guard", cache), TASKS[task])
    return values


# Rows, tokenised once for all arms ------------------------------------------------------------------------


_parts = lru_cache(maxsize=2)(load)


def _rows_of(cell: Cell, cache: Path) -> list[Row]:
    return training_rows(TASKS[cell.task], _parts(cell.task, cache)["train"], cell.size, cell.seed)


@lru_cache(maxsize=2)
def _opened(task: str, cache: Path, device: str = "cpu") -> Any:
    return open_start(TASKS[task], cache, 0.0, device)


@lru_cache(maxsize=16)
def asked(task: str, part: str, cache: Path) -> Any:
    """The tokens of a part, to be measured: `Tokens`, or `readers.Asked`."""
    rows, model = _parts(task, cache)[part], _opened(task, cache)
    if TASKS[task].reads:
        return readers.Asked.of(model, TASKS[task], rows)
    return tokenised(model, rows, TASKS[task].max_length)


def examples_of(cell: Cell, cache: Path) -> Examples:
    """The training rows of a cell as examples."""
    return _examples(cell.task, cell.size, cell.seed, _prepared_as(cell.arm), cache)


@lru_cache(maxsize=64)
def _prepared_as(arm: str) -> str:
    """The first arm whose examples are the same: those of arms that do not crop are, and of those that crop alike."""
    support = GivenSupport({("a query", "a text"): [[0, 1]]})
    kinds = {name: repr(Plan(each.ablations(support)).preparing) for name, each in ARMS.items()}
    return next(name for name in ARMS if kinds[name] == kinds[arm])


@lru_cache(maxsize=64)
def _examples(task: str, size: int, seed: int, arm: str, cache: Path) -> Examples:
    rows = _rows_of(Cell(task, size, arm, 0.0, seed, "train"), cache)
    plan, model = Plan(ARMS[arm].ablations(support_of(rows))), _opened(task, cache)
    return of_windows(model, plan, rows, TASKS[task]) if TASKS[task].reads else of_pairs(model, plan, rows)


def _passes(arm: Arm) -> int:
    """Those that a step makes of an example; with a share of them compared they are made all the same."""
    return 1 if arm.instead else 1 + len(Plan(arm.ablations()))


def operations(cell: Cell, cache: Path, width: int = 384) -> float:
    """Floating-point operations of a cell, about: of the layers' products, from the words of what is read."""
    task, arm, parts = TASKS[cell.task], ARMS[cell.arm], _parts(cell.task, cache)

    def tokens(rows: Sequence[Row]) -> float:
        pairs = (f"{row['query']} {doc}" for row in rows for doc in row["docs"])
        return sum(min(1.4 * len(pair.split()) + 3, task.max_length) for pair in pairs)

    passes = arm.epochs * task.sizes[cell.size] * _passes(arm)
    asked = parts[cell.part] + (parts["guard"] if cell.part == "test" else [])
    read = 3 * passes * tokens(_rows_of(cell, cache)) + tokens(asked)
    return 2.0 * read * task.layers * 12 * width**2
