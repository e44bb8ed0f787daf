"""The data loader alone over a whole epoch: pairs per second, memory and disk, by tenths of the epoch.

`first_step.py --epoch` runs it. Memory is that of the training process and of all that it starts, where what several
of them share counts once: what they have for themselves, and apart from it the files that they have mapped (the
dataset and the tokens), which the system takes back where it needs memory.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

TENTHS = 10


class Use(NamedTuple):
    """MB of memory that processes have for themselves, and of files that they have mapped."""

    own: float = 0.0
    mapped: float = 0.0


def descendants(process: str = "self") -> list[str]:
    """A process and all that it has started, by their numbers."""
    found = [process]
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += descendants(child)
    return found


def memory(processes: list[str]) -> Use:
    """What processes use together; 0 where that cannot be known."""
    found = Use()
    for process in processes:
        with suppress(OSError):  # it has ended
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
            kb = {line.split(":")[0]: float(line.split()[1]) for line in lines}
            mapped = kb["Pss_File"] + kb["Pss_Shmem"]
            found = Use(found.own + kb["Pss_Anon"] / 1024, found.mapped + mapped / 1024)
    return found


def size(folder: Path) -> float:
    """MB of disk that the files of a folder take."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # a temporary file that has got its name
            total += path.stat().st_blocks * 512
    return total / 2**20


def cpu() -> float:
    """Seconds of processor time of this process, and of those that it started and that have ended."""
    return sum(os.times()[:4])


class Watch(threading.Thread):
    """Looks at memory twice a second, and knows the greatest since it was asked last."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._greatest, self._lock = Use(), threading.Lock()
        self.start()

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            self.look()
            time.sleep(0.5)

    def look(self) -> None:
        """Look once."""
        now = memory(descendants())
        with self._lock:
            self._greatest = Use(*map(max, self._greatest, now))

    def greatest(self) -> Use:
        """The greatest since the last call."""
        self.look()
        with self._lock:
            found, self._greatest = self._greatest, Use()
        return found


def measure(loader: Iterable[Any], pairs: int, cache: Path) -> dict[str, Any]:
    """Run over an epoch of a loader.

    Args:
        loader: yields batches with labels.
        pairs: of the epoch, one in each row.
        cache: the folder that has the tokens.

    Returns:
        Pairs and seconds of the whole; and by tenths pairs per second by the clock and by processor time, the
        greatest memory, mapped files and disk, all in MB.
    """
    names = ("pairs_per_s", "pairs_per_cpu_s", "memory_mb", "mapped_mb", "cache_mb")
    tenths: list[list[float]] = []
    watch, seen = Watch(), 0
    start = then = (seen, time.perf_counter(), cpu())
    for batch in loader:
        seen += len(batch["label"])
        if seen * TENTHS < pairs * (1 + len(tenths)):
            continue
        now = (seen, time.perf_counter(), cpu())
        done, wall, busy = (b - a for a, b in zip(then, now, strict=True))
        use, then = watch.greatest(), now
        tenths.append([done / wall, done / max(busy, 1e-9), use.own, use.mapped, size(cache)])
        print(f"{len(tenths)} of {TENTHS}: {tenths[-1]}", file=sys.stderr, flush=True)
    columns = zip(names, zip(*tenths, strict=True), strict=True)
    return {
        "pairs": seen,
        "seconds": round(then[1] - start[1], 1),
        "load": [round(x, 2) for x in os.getloadavg()],
    } | {name: [round(value, 1) for value in values] for name, values in columns}
