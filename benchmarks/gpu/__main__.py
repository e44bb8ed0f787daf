"""All that is measured on a GPU, in pieces: one command, which goes on where the last one ended.

    python -m benchmarks.gpu                     # every piece that is missing; half an hour of a GPU
    python -m benchmarks.gpu --seconds 540       # starts no piece that would not end within this time
    python -m benchmarks.gpu --pieces tests peak # only these
    python -m benchmarks.gpu --small --folder /tmp/gpu  # tiny pieces on any device, to see that all run
    python -m benchmarks.gpu --table             # runs nothing; the results as Markdown

A piece is a program of its own that takes less than ten minutes. Its result goes to ``benchmarks/results/gpu/``, with
what it printed beside it. A piece whose result is there is not run again, and one that fails does not stop the
others. Nothing is downloaded: weights are random, by seed, and texts are made up. ``benchmarks/README.md`` says what
to carry to a machine without a network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

BENCHMARKS = Path(__file__).parents[1]
RESULTS = BENCHMARKS / "results" / "gpu"
#: A piece that takes longer is broken off.
LIMIT = 590


@dataclass(frozen=True)
class Piece:
    """One program.

    Args:
        seconds: what it is expected to take on a GPU.
        command: the program, as Python gets it; ``{out}`` is the file for its result.
        small: the same for a try on any device.
    """

    seconds: int
    command: Sequence[str]
    small: Sequence[str]


def engine(*arguments: str) -> list[str]:
    """The benchmark of the engine."""
    return ["benchmarks/engine.py", "--output", "{out}", *arguments]


TINY = ("--models", "tiny", "--lengths", "12", "48", "--batch", "4", "--rounds", "1")
BASE = ("--models", "bert-base", "--lengths", "64", "512", "--batches", "4", "--rounds", "3")
SHORT = ("--models", "bert-base", "--lengths", "20", "60", "--batch", "128", "--batches", "4", "--rounds", "3")
PIECES = {
    "tests": Piece(
        240,
        ["-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-n", "0", "--junit-xml", "{out}"],
        ["-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-n", "0", "--junit-xml", "{out}"],
    ),
    "peak": Piece(
        240,
        ["-m", "benchmarks.gpu.peak", "--output", "{out}"],
        ["-m", "benchmarks.gpu.peak", "--small", "--output", "{out}"],
    ),
    "engine": Piece(240, engine(*BASE), engine(*TINY, "--arms", "drop, stacked")),
    "limit": Piece(180, engine("--limit", *BASE), engine("--limit", *TINY, "--arms", "drop, hybrid")),
    "sparse": Piece(240, engine("--sparse", *SHORT), engine("--sparse", *TINY, "--arms", "two drops, Hinge")),
    "masks": Piece(
        200,
        ["benchmarks/masks.py", "--out", "{out}"],
        ["benchmarks/masks.py", "--quick", "--models", "--out", "{out}"],
    ),
    "long_input": Piece(
        300,
        ["benchmarks/long_input.py", "--size", "base", "--most", "60", "--rounds", "3", "--output", "{out}"],
        ["benchmarks/long_input.py", "--quick", "--output", "{out}"],
    ),
    "big_run": Piece(
        120,
        ["-m", "benchmarks.gpu.big_run", "--output", "{out}"],
        ["-m", "benchmarks.gpu.big_run", "--queries", "20", "--depth", "10", "--output", "{out}"],
    ),
}


def run(name: str, small: bool, folder: Path) -> bool:
    """Run a piece; whether its result is there. A result that is not whole goes by another name."""
    folder.mkdir(parents=True, exist_ok=True)
    done, part = result(name, folder), folder / f"{name}.part"
    part.unlink(missing_ok=True)
    piece = PIECES[name]
    words = [word.replace("{out}", str(part.resolve())) for word in (piece.small if small else piece.command)]
    # The package need not be installed there.
    paths = os.pathsep.join(filter(None, (str(BENCHMARKS.parent), str(BENCHMARKS), os.environ.get("PYTHONPATH"))))
    start = time.perf_counter()
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=BENCHMARKS.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ, "PYTHONPATH": paths},
        )
        try:
            status: Any = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = f"broken off after {LIMIT} s"
    if status == 0 and part.exists():
        part.replace(done)
    print(
        f"{name}: {'done' if done.exists() else f'failed ({status})'}, {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    if not done.exists():
        print("  " + "\n  ".join((folder / f"{name}.log").read_text(errors="replace").splitlines()[-5:]), flush=True)
    return done.exists()


def result(name: str, folder: Path) -> Path:
    """Where the result of a piece is."""
    return folder / f"{name}.{'xml' if name == 'tests' else 'json'}"


def rows(value: Any, place: str = "") -> list[tuple[str, str]]:
    """The figures of a result, each with the names that lead to it.

    >>> rows({"arms": {"plain": {"time": 1.0, "wall_s": [1, 2]}}})
    [('arms, plain, time', '1.0')]
    """
    if isinstance(value, dict):
        return [row for name, each in value.items() for row in rows(each, f"{place}, {name}".lstrip(", "))]
    return [(place, str(value))] if isinstance(value, int | float | str) else []


def table(folder: Path) -> str:
    """All results as Markdown."""
    lines: list[str] = []
    for name in PIECES:
        path = result(name, folder)
        if not path.exists():
            lines += ["", f"## {name}", "", "Not measured yet."]
            continue
        lines += ["", f"## {name}", ""]
        if path.suffix == ".xml":
            lines.append(path.read_text().split("<testsuite ")[1].split(">")[0])
            continue
        found = json.loads(path.read_text())
        lines += ["| | |", "|---|---|"]
        for number, each in enumerate(found.get("runs", [found])):
            lines += [f"| {place} | {value} |" for place, value in rows(each, f"run {number}" if number else "")]
    return "\n".join(lines).strip()


def main() -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=list(PIECES))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time for this call")
    parser.add_argument("--small", action="store_true", help="tiny pieces, on any device")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table(given.folder))
        return 0
    if not given.small and not torch.cuda.is_available():
        parser.error("no CUDA device is here; got none from torch. With --small the pieces are tried on any device.")
    end = time.perf_counter() + given.seconds
    missing = [name for name in given.pieces if not result(name, given.folder).exists()]
    left = []
    for name in missing:
        fits = given.small or time.perf_counter() + PIECES[name].seconds <= end
        if not fits or not run(name, given.small, given.folder):
            left.append(name)
    print(f"Left: {' '.join(left) or 'nothing'}")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
