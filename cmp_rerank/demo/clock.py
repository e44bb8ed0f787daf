"""What each stage took, over all interruptions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmp_rerank.ir import Progress
from cmp_rerank.ir.reading import read_json
from cmp_rerank.pipeline.folder import write_json
from cmp_rerank.pipeline.stages import Report


class Clock:
    """A report of progress that adds up what each stage took, over all interruptions.

    Args:
        path: where the seconds are kept.
        report: shows the progress.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self._path, self._report = path, report
        #: Title -> seconds of the wall clock, and of all processors.
        self.seconds: dict[str, dict[str, float]] = read_json(path) if path.exists() else {}
        self._running = False

    @contextmanager
    def __call__(self, title: str) -> Iterator[Progress]:
        """Show a stage, and count its seconds; those of a stage within another one are counted there."""
        if self._running:
            with self._report(title) as progress:
                yield progress
            return
        self._running = True
        wall, cpu = time.perf_counter(), time.process_time()
        before = self.seconds.get(title, {"wall": 0.0, "cpu": 0.0})
        try:
            with self._report(title) as progress:
                yield progress
        finally:
            self._running = False
            now = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            self.seconds[title] = {name: round(before[name] + now[name], 2) for name in now}
            write_json(self._path, self.seconds)

    def within(self, arm: str) -> Report:
        """The same for the stages of an arm."""
        return lambda title: self(f"{arm}: {title}")
