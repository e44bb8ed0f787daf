"""Break the package in small ways, one at a time, and see whether the tests notice.

Each mutant of `mutant_list` is applied to a copy of the package in a temporary folder, never to the checkout. The
tests named with it must then fail; where they pass, the mutant has survived, and the exit status is 1. Before that,
the same tests run on an unchanged copy: a test that fails there can kill nothing.

    make mutants
    python tests/mutants/run_mutants.py --only hinge --jobs 4
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import queue
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from mutant_list import MUTANTS, Mutant
from processes import SERVER

ROOT = Path(__file__).parents[2]
COPIED = ("cmp_rerank", "tests", "pyproject.toml")
PYTEST = ("-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", "--hypothesis-seed=0")
#: Seconds after which tests are stopped: a mutant that makes them run on and on is noticed, too.
LIMIT = 300

KILLED, SURVIVED, TIMED_OUT, NOT_FOUND, BROKEN = "killed", "survived", "timed out", "text not found", "broken"
FAILED_BEFORE = "failed before"  # its tests fail without it, too
#: By exit status of pytest: the tests pass, and some test fails. All others mean that no test has run.
OUTCOMES = {0: SURVIVED, 1: KILLED}
GOOD = (KILLED, TIMED_OUT)


@dataclass(frozen=True)
class Result:
    """What became of a mutant: the outcome, by which test or with which message, and in how many seconds."""

    name: str
    outcome: str
    by: str
    seconds: float


@contextmanager
def copies(root: Path, number: int) -> Iterator[queue.Queue[Path]]:
    """Copies of what the tests need, in a queue: who has one of them works on it alone."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        free: queue.Queue[Path] = queue.Queue()
        for i in range(number):
            place = Path(folder) / str(i)
            place.mkdir()
            for name in COPIED:
                if (root / name).is_dir():
                    shutil.copytree(root / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
                elif (root / name).exists():
                    shutil.copy2(root / name, place / name)
            free.put(place)
        yield free


def run_tests(
    place: Path, tests: Sequence[str], *options: str, limit: float | None = LIMIT
) -> tuple[int | None, str]:
    """The exit status of pytest in a copy, None if it was stopped; and what it printed.

    Each run is a process of its own, forked from one that has imported what takes long to import.
    """
    output = place / "output.txt"
    process = SERVER.Process(target=_pytest, args=(place, [*PYTEST, *options, *tests], output))
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None, f"stopped after {limit} seconds"
    return process.exitcode, output.read_text(encoding="utf-8", errors="replace")


def _pytest(place: Path, arguments: list[str], output: Path) -> None:
    """Run pytest in a copy, in a process of its own; what is printed goes to a file."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(place)
    os.environ["COLUMNS"] = "200"
    sys.dont_write_bytecode = True  # a copy changes more often than once a second
    sys.path.insert(0, str(place))  # before the installed package
    import pytest

    package = importlib.import_module("cmp_rerank")
    if not str(package.__file__).startswith(str(place)):
        raise RuntimeError(f"the tests would not import the copy, but {package.__file__}")
    sys.exit(int(pytest.main(arguments)))


def try_mutant(mutant: Mutant, free: queue.Queue[Path]) -> Result:
    """Apply a mutant to a copy, run its tests, and put the file back."""
    place = free.get()
    file = place / mutant.file
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    started = time.perf_counter()
    try:
        if before.count(mutant.old) != 1:
            return Result(mutant.name, NOT_FOUND, f"{before.count(mutant.old)} times in {mutant.file}", 0.0)
        file.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
        status, output = run_tests(place, mutant.tests, "-x", "--tb=no", "-p", "without_shrinking")
    finally:
        if before:
            file.write_text(before, encoding="utf-8")
        free.put(place)
    outcome = TIMED_OUT if status is None else OUTCOMES.get(status, BROKEN)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    by = failed[0] if failed else output.strip().splitlines()[-1] if output.strip() else ""
    return Result(mutant.name, outcome, by, round(time.perf_counter() - started, 1))


def failures(tests: Sequence[str], free: queue.Queue[Path]) -> set[str]:
    """The files, among those of some tests, in which a test fails on an unchanged copy.

    Raises:
        RuntimeError: if the tests do not run at all.
    """
    place = free.get()
    try:
        status, output = run_tests(place, tests, "--continue-on-collection-errors", limit=None)
    finally:
        free.put(place)
    found = set(re.findall(r"^(?:FAILED|ERROR) ([^\s:]+)", output, re.MULTILINE))
    if status != 0:
        print(output)
        if not found:
            raise RuntimeError("the tests do not run on an unchanged copy")
    return found


def run_all(mutants: Sequence[Mutant], jobs: int, root: Path = ROOT) -> list[Result]:
    """Run the tests without mutants, then every mutant; the results are in the order given."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    with copies(root, jobs) as free, ThreadPoolExecutor(jobs) as workers:
        shares = [share for i in range(jobs) if (share := tests[i::jobs])]
        failing = set().union(*workers.map(lambda share: failures(share, free), shares))

        def result_of(mutant: Mutant) -> Result:
            before = [test for test in mutant.tests if test.partition("::")[0] in failing]
            return report(Result(mutant.name, FAILED_BEFORE, before[0], 0.0) if before else try_mutant(mutant, free))

        return list(workers.map(result_of, mutants))


def report(result: Result) -> Result:
    """Tell about a result as soon as it is there."""
    print(f"{result.outcome:>14}  {result.seconds:6.1f} s  {result.name}", flush=True)
    return result


def show(mutants: Sequence[Mutant], results: Sequence[Result]) -> None:
    """Print a table of all results."""
    from rich.console import Console
    from rich.table import Table

    table = Table("mutant", "file", "outcome", "by", "s")
    for mutant, result in zip(mutants, results, strict=True):
        style = "" if result.outcome in GOOD else "bold red"
        by = result.by.rpartition("/")[2]
        file = mutant.file.partition("/")[2]
        table.add_row(mutant.name, file, result.outcome, by, f"{result.seconds:.0f}", style=style)
    Console(width=180).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants; 0 if all are killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="TEXT", help="mutants with this in their name or file")
    parser.add_argument("--jobs", type=int, default=max(1, min(4, os.cpu_count() or 1)), help="how many at a time")
    parser.add_argument("--out", type=Path, help="write the results to this file, as JSON")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not options.only or options.only in m.name or options.only in m.file]
    if not chosen:
        parser.error(f"no mutant has {options.only!r} in its name or file")
    started = time.perf_counter()
    results = run_all(chosen, options.jobs)
    seconds = round(time.perf_counter() - started, 1)
    show(chosen, results)
    bad = [result.name for result in results if result.outcome not in GOOD]
    print(f"{len(results) - len(bad)} of {len(results)} mutants killed in {seconds:.0f} s, {options.jobs} at a time.")
    if bad:
        print(f"Not killed: {', '.join(bad)}")
    if options.out is not None:
        names = ("torch", "transformers", "sentence-transformers", "numpy", "pytest", "hypothesis")
        found = {
            "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
            "jobs": options.jobs,
            "seconds": seconds,
            "killed": len(results) - len(bad),
            "mutants": [
                {"file": mutant.file, "why": mutant.why} | asdict(result)
                for mutant, result in zip(chosen, results, strict=True)
            ],
        }
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
