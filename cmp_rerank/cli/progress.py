"""Progress of long work on stderr: a bar on a terminal, a line for each tenth of the work elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: Work that is done sooner shows nothing.
PATIENCE = 2.0

#: The bars on the terminal. Work within other work, such as an evaluation within a training, is a line more of it.
_shown: list[Any] = []


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
    if sys.stderr is None:  # closed
        yield lambda done, total: None
        return
    make = _bar if sys.stderr.isatty() else _lines
    with make(title, unit) as show:
        yield show


class _Pace:
    """Units a second since the first report: what came before it was other work, or was done by an earlier call.

    Example:
        >>> pace = _Pace()
        >>> pace(1, 40.0), pace(3, 42.0)  # training steps, after the start has been evaluated for 39 seconds
        (0.025, 1.0)
    """

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, seconds: float) -> float:
        self._first = self._first or (done, seconds)
        more, time = done - self._first[0], seconds - self._first[1]
        return more / time if more > 0 and time > 0 else done / max(seconds, 1e-9)


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
    begin, pace = time.perf_counter(), _Pace()
    within = bool(_shown)
    bar = _shown[-1] if within else Progress(*columns, console=Console(stderr=True), transient=False)
    task = bar.add_task(title, total=1, rate="", visible=not within)
    shown = False

    def show(done: int, total: int) -> None:
        nonlocal shown
        seconds = time.perf_counter() - begin
        if not shown and seconds > PATIENCE and done < total:
            shown = True
            if within:
                bar.update(task, visible=True)
            else:
                _shown.append(bar)
                bar.start()
        bar.update(task, completed=done, total=max(total, 1), rate=f"{pace(done, seconds):,.1f} {unit}/s")

    try:
        yield show
    finally:
        if within:
            bar.remove_task(task)
        elif shown:
            bar.stop()
            _shown.remove(bar)


@contextmanager
def _lines(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    begin, pace = time.perf_counter(), _Pace()
    tenths, last = 0, 0.0

    def show(done: int, total: int) -> None:
        nonlocal tenths, last
        seconds = time.perf_counter() - begin
        now, rate = done * 10 // max(total, 1), pace(done, seconds)
        # What is quick after a slow start would print ten lines at once.
        if now > tenths and seconds > PATIENCE and (seconds - last > PATIENCE or done == total):
            tenths, last = now, seconds
            left = (total - done) / rate if rate else 0.0
            counted = f"{done:,} of {total:,} {unit}".rstrip()
            print(
                f"[{seconds:7.1f} s] {title}: {counted}, {rate:,.1f}/s, {left:,.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    yield show
