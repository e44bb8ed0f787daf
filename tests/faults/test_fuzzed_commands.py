"""Every command with a damaged file: it does its work, or ends with status 2 and one line that names the file."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import test_fuzzed_parsers as readers
from click.testing import Result
from conftest import PATIENCE
from damage import copied, damage_in_place
from typer.testing import CliRunner
from usages import USAGES, Usage

from cmp_rerank.cli.main import app

#: The demo reads no files but those of its model, which the other commands read, too.
FILES = [
    (usage, name)
    for command, usages in USAGES.items()
    if command != "demo"
    for usage in usages
    for name in usage.names()
]
#: Damaged files of each argument: as many in the usual tests, for commands that are quick, and in the long ones.
FEW, MANY = 1, 15
LONG = ("train", "train-reader", "guard", "mine", "curves")
QUICK = [(usage, name) for usage, name in FILES if usage.command not in LONG]
#: What does not fit together is told by its ids: the fault may be in either file. So are scores that are NaN.
MISMATCHES = [
    "got nan",
    "have no text",
    "needs a text",
    "in common",
    "match the ids",
    "no judgment",
    "are not in",
    "is not among",
    "has none of",
    "split must be",
]


def identifier(usage: Usage, name: str) -> str:
    return f"{usage.command}-{USAGES[usage.command].index(usage)}-{name}"


def said(result: Result) -> list[str]:
    """The lines on stderr, without notes and the bars of the libraries."""
    return [
        line
        for line in result.stderr.splitlines()
        if line.strip() and "it/s]" not in line and not line.startswith("cmp-rerank: note: ")
    ]


def fault(usage: Usage, files: Mapping[str, Path], name: str, file: Path, out: Path) -> str | None:
    """What is wrong with the end of a command; None where nothing is."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    signal.alarm(PATIENCE)
    try:
        result = CliRunner().invoke(app, usage.call(files, out / usage.out))
    finally:
        signal.alarm(0)
    if result.exit_code in (0, 3):  # 3: the guard keeps what there was
        return None
    lines = said(result)
    if result.exit_code != 2 or not lines:
        return f"status {result.exit_code}: {lines} {result.exception!r}"
    if "Traceback" in result.output or "fault of cmp-rerank" in result.output:
        return f"a traceback: {lines}"
    if len(lines) != 1 and " error" not in lines[0]:  # a configuration tells all its errors
        return f"{len(lines)} lines: {lines}"
    if not any(part in lines[0] for part in (file.name, files[name].name, *MISMATCHES)):
        return f"the file is not named: {lines[0]}"
    lost = [path.name for path, content in before.items() if not path.exists() or path.read_bytes() != content]
    return f"lost: {lost}" if lost else None


def faults(usage: Usage, name: str, world: Mapping[str, Path], folder: Path, seeds: range) -> dict[int, str]:
    """What goes wrong with files that these seeds damage, by seed."""
    found = {}
    for seed in seeds:
        place = folder / str(seed)
        (place / "out").mkdir(parents=True)
        if Path(usage.out).suffix:  # a file, which the command may replace by a whole one only
            (place / "out" / usage.out).write_text("of before")
        path = copied(world[name], place)
        file = damage_in_place(path, f"{identifier(usage, name)} {seed}")
        wrong = fault(usage, {**world, name: path}, name, file, place / "out")
        if wrong is not None:
            found[seed] = wrong
        shutil.rmtree(place)
    return found


@pytest.fixture(autouse=True)
def _quiet() -> object:
    """What libraries log would be lines of the command."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize(("usage", "name"), QUICK, ids=[identifier(*each) for each in QUICK])
def test_a_damaged_file(usage: Usage, name: str, world: Mapping[str, Path], tmp_path: Path) -> None:
    assert faults(usage, name, world, tmp_path, range(FEW)) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize(("usage", "name"), FILES, ids=[identifier(*each) for each in FILES])
def test_many_damaged_files(usage: Usage, name: str, world: Mapping[str, Path], tmp_path: Path) -> None:
    assert faults(usage, name, world, tmp_path, range(MANY)) == {}


def test_the_page_on_security_has_these_numbers() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8").split())
    read = f"{len(readers.PARSERS)} readers with {readers.FEW + readers.MANY} files each"
    assert f"{read}, and {len(FILES)} files of commands with {MANY} each" in page
