"""Processes that run cells: each one after the other on a CPU, several together on a GPU."""

from __future__ import annotations

import logging
import multiprocessing
import queue
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .bert import COMPILES
from .cells import Cell, cells_of, missing
from .robust import run_robust
from .tasks import TASKS
from .together import another_start, results_together, run_cells, share_gpu, start_row
from .training import run_cell


def results_of(
    cells: Sequence[Cell], workers: int, cache: Path, device: str, threads: int, until: float, compiles: bool
) -> Iterator[dict[str, Any]]:
    """Run cells and yield what each gave, in the order in which they end; none begins after the time `until`."""
    if not cells:
        return
    context = multiprocessing.get_context("spawn")
    waiting = iter(cells)
    running: set[Future[dict[str, Any]]] = set()
    with ProcessPoolExecutor(min(workers, len(cells)), context, _begin, (threads, compiles)) as pool:
        while True:
            while len(running) < workers and time.time() < until and (cell := next(waiting, None)) is not None:
                running.add(pool.submit(_run, cell, cache, device))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for each in ended:
                yield each.result()


def _begin(threads: int, compiles: bool) -> None:
    import torch

    _quiet()
    COMPILES["now"] = compiles
    torch.set_num_threads(threads)


def _quiet() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def _run(cell: Cell, cache: Path, device: str) -> dict[str, Any]:
    try:
        if cell.part == "robust":
            return run_robust(cell, cache, device)
        if TASKS[cell.task].half(cell.size):
            return run_cells([cell], cache, device)[0]
        return run_cell(cell, cache, device)
    except (ImportError, MemoryError):  # no fault of the cell
        raise
    except Exception as error:
        where = traceback.format_exc()[-1500:]
        return asdict(cell) | {"failed": f"{type(error).__name__}: {error}", "where": where}


# Arms, whose cells are trained together -------------------------------------------------------------------


@dataclass(frozen=True)
class ArmRun:
    """An arm of a task and size: its rates on validation, then its seeds on test. Or "start", the common start.

    Attributes:
        rows: Those of this size that are there, without their values.
        stages: "tune", "test", or both.
        start: The row of the start, if it is there.
    """

    task: str
    size: int
    arm: str
    rows: list[dict[str, Any]]
    stages: Sequence[str]
    start: dict[str, Any] | None = None

    @classmethod
    def of(cls, task: str, size: int, arm: str, rows: Sequence[dict[str, Any]], stages: Sequence[str]) -> ArmRun:
        """With the rows that are needed to know what is left; the rate may be that of another arm."""
        names = ("task", "size", "arm", "rate", "seed", "part", "mean")
        own = [{name: row[name] for name in names if name in row} for row in rows if row["size"] == size]
        return cls(task, size, arm, own, stages, next((row for row in rows if row["arm"] == "start"), None))

    def cells(self, stage: str, rows: list[dict[str, Any]]) -> list[Cell]:
        """The cells of a stage that are left."""
        return missing(cells_of(self.task, self.size, [self.arm], stage, rows), rows)

    def left(self) -> bool:
        """Whether anything is left; of a stage that waits for the one before it, this is not known."""
        if self.arm == "start" or (set(self.stages) == {"tune", "test"} and self.cells("tune", self.rows)):
            return True
        return any(self.cells(stage, self.rows) for stage in self.stages)

    def results(self, together: int, cache: Path, device: str, until: float) -> Iterator[dict[str, Any]]:
        """Run what is left; no group of cells begins after the time ``until``."""
        if self.arm == "start":
            yield start_row(self.task, cache, device)
            return
        if said := another_start(self.start, cache, device):
            print(f"left out: {said}", flush=True)
            return
        rows = list(self.rows)
        for stage in self.stages:
            cells = self.cells(stage, rows)
            print(f"{self.task}, {self.size} rows, {self.arm}, {stage}: {len(cells)} cells to run", flush=True)
            for row in results_together(cells, together, cache, device, until):
                rows.append(row)
                yield row


def results_of_arms(
    runs: Sequence[ArmRun], workers: int, together: int, cache: Path, device: str, until: float, compiles: bool
) -> Iterator[dict[str, Any]]:
    """Run arms in their order, by processes that share the device; yield rows as they come.

    One process makes its next batch while the other ones compute. Where a process ends, by a device that fails, what
    it was at has no row, and the others go on.
    """
    if workers == 1:
        COMPILES["now"] = compiles
        for run in runs:
            if time.time() < until:
                yield from run.results(together, cache, device, until)
        return
    context = multiprocessing.get_context("spawn")
    waiting, found = context.Queue(), context.Queue()
    for run in runs:
        waiting.put(run)
    processes = [
        context.Process(
            target=_work, args=(waiting, found, workers, together, cache, device, until, compiles), daemon=True
        )
        for _ in range(min(workers, len(runs)))
    ]
    for process in processes:
        process.start()
    while True:
        alive = any(process.is_alive() for process in processes)
        try:
            yield found.get(timeout=1)
        except queue.Empty:
            if not alive:
                break
    waiting.cancel_join_thread()
    if codes := [process.exitcode for process in processes if process.exitcode]:
        print(f"{len(codes)} of {len(processes)} processes failed: exit status {codes}", flush=True)


def _work(
    waiting: Any, found: Any, workers: int, together: int, cache: Path, device: str, until: float, compiles: bool
) -> None:
    _quiet()
    share_gpu(workers)
    COMPILES["now"] = compiles
    while time.time() < until:
        try:
            run = waiting.get(timeout=1)
        except queue.Empty:
            return
        for row in run.results(together, cache, device, until):
            found.put(row)
