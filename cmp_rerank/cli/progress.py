"""Progress of long work on stderr: a bar on a terminal, a line for each tenth of the work elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Work that is done sooner shows nothing.
PATIENCE = 2.0


@contextmanager
def progress(title: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Show how far some work has come, at what rate, and how long it will take; only if it takes over 2 seconds.

    Args:
        title: What is done.
        unit: What is counted, in the plural, such as "pairs".

    Yields:
        A function to call with the number of units that are done and the number of all.

    Example:
        >>> with progress("Scoring", "pairs") as show:
        ...     show(1, 2)
        ...     show(2, 2)
    """
    make = _bar if sys.stderr.isatty() else _lines
    with make(title, unit) as show:
        yield show


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,}", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    begin = time.perf_counter()
    bar = Progress(*columns, console=Console(stderr=True), transient=False)
    task = bar.add_task(title, total=1, rate="")
    shown = False

    def show(done: int, total: int) -> None:
        nonlocal shown
        seconds = time.perf_counter() - begin
        if not shown and seconds > PATIENCE and done < total:
            shown = True
            bar.start()
        bar.update(task, completed=done, total=max(total, 1), rate=f"{done / max(seconds, 1e-9):,.1f} {unit}/s")

    try:
        yield show
    finally:
        if shown:
            bar.stop()


@contextmanager
def _lines(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    begin = time.perf_counter()
    tenths, last = 0, 0.0

    def show(done: int, total: int) -> None:
        nonlocal tenths, last
        seconds = time.perf_counter() - begin
        now = done * 10 // max(total, 1)
        # What is quick after a slow start would print ten lines at once.
        if now > tenths and seconds > PATIENCE and (seconds - last > PATIENCE or done == total):
            tenths, last = now, seconds
            rate = done / seconds
            left = (total - done) / rate if rate else 0.0
            counted = f"{done:,} of {total:,} {unit}".rstrip()
            pace = f"{rate:,.1f}/s, {left:,.0f} s left"
            print(f"[{seconds:7.1f} s] {title}: {counted}, {pace}", file=sys.stderr, flush=True)

    yield show
