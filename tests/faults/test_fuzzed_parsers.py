"""Every reader of files with damaged files: what it reads, or one line that names the file."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from conftest import PATIENCE
from damage import copied, damage_in_place, damaged
from parsers import PARSERS, Parser

#: Ids of two files that do not fit: the fault may be in either, and the ids are named.
MISMATCHES = ["document needs a text"]
#: Damaged files of each reader: as many in the usual tests, and as many in the long ones.
FEW, MANY = 12, 100


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the good input of each reader."""
    folder = tmp_path_factory.mktemp("good")
    for parser in PARSERS:
        parser.make(folder / parser.name)
    return folder


def fault(parser: Parser, path: Path, file: Path) -> str | None:
    """What is wrong with the end of reading a damaged file; None where nothing is."""
    signal.alarm(PATIENCE)
    try:
        parser.read(path)
    except ValueError as error:
        # A configuration tells all its errors at once, one line each, below one that names the file.
        lines = str(error).splitlines() if not hasattr(error, "problems") else str(error).splitlines()[:1]
        if len(lines) != 1:
            return f"{len(lines)} lines: {error}"
        if not any(name in lines[0] for name in (file.name, path.name, *MISMATCHES)):
            return f"the file is not named: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return None


def faults(parser: Parser, good: Path, folder: Path, seeds: range) -> dict[int, str]:
    """What goes wrong with files that these seeds damage, by seed."""
    found = {}
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        path = copied(good / parser.name, place)
        wrong = fault(parser, path, damage_in_place(path, f"{parser.name} {seed}"))
        if wrong is not None:
            found[seed] = wrong
        shutil.rmtree(place)
    return found


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_good_files_are_read(parser: Parser, good: Path) -> None:
    """Else a refusal would tell nothing."""
    parser.read(good / parser.name)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_damaged_files(parser: Parser, good: Path, tmp_path: Path) -> None:
    assert faults(parser, good, tmp_path, range(FEW)) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_many_damaged_files(parser: Parser, good: Path, tmp_path: Path) -> None:
    assert faults(parser, good, tmp_path, range(FEW, FEW + MANY)) == {}


def test_damage_is_the_same_for_the_same_seed() -> None:
    """And another for another: else all of the above would be one file."""
    raw = b"".join(b"query %d Q0 document\n" % i for i in range(20))
    assert [damaged(raw, seed) for seed in range(50)] == [damaged(raw, seed) for seed in range(50)]
    assert len({damaged(raw, seed) for seed in range(50)} - {raw}) > 40


def test_a_reader_that_names_no_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(10))

    def unnamed(_: Path) -> None:
        raise ValueError("something is wrong")

    def crashes(_: Path) -> None:
        raise KeyError("file")

    for read, what in ((unnamed, "the file is not named"), (crashes, "KeyError")):
        assert (fault(Parser("file", lambda _: None, read), tmp_path / "file", tmp_path / "file") or "").startswith(
            what
        )
