"""Processes that run cells, one after the other."""

from __future__ import annotations

import logging
import multiprocessing
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .robust import run_robust
from .tasks import TASKS
from .together import run_cells
from .training import Cell, run_cell


def results_of(
    cells: Sequence[Cell], workers: int, cache: Path, device: str, threads: int, until: float
) -> Iterator[dict[str, Any]]:
    """Run cells and yield what each gave, in the order in which they end; none begins after the time `until`."""
    if not cells:
        return
    context = multiprocessing.get_context("spawn")
    waiting = iter(cells)
    running: set[Future[dict[str, Any]]] = set()
    with ProcessPoolExecutor(min(workers, len(cells)), context, _begin, (threads,)) as pool:
        while True:
            while len(running) < workers and time.time() < until and (cell := next(waiting, None)) is not None:
                running.add(pool.submit(_run, cell, cache, device))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for each in ended:
                yield each.result()


def _begin(threads: int) -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    torch.set_num_threads(threads)


def _run(cell: Cell, cache: Path, device: str) -> dict[str, Any]:
    try:
        if cell.part == "robust":
            return run_robust(cell, cache, device)
        return run_cells([cell], cache, device)[0] if TASKS[cell.task].half else run_cell(cell, cache, device)
    except (ImportError, MemoryError):  # no fault of the cell
        raise
    except Exception as error:
        where = traceback.format_exc()[-1500:]
        return asdict(cell) | {"failed": f"{type(error).__name__}: {error}", "where": where}
