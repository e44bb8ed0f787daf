"""Fixtures of the tests of faults."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from usages import make_world

#: Seconds that a reader or a command may take with one damaged file of a few kilobytes.
PATIENCE = 60


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Good files of every kind, by the names of the usages of commands."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def in_time() -> Iterator[None]:
    """Work that hangs is ended by an error."""

    def late(*_: object) -> None:
        raise AssertionError(f"this has taken more than {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class SmallDisk:
    """A disk of 16 MB that can be filled.

    Attributes:
        folder: What is on it.
        ballast: The file that fills it.
    """

    folder: Path
    ballast: Path

    def leave(self, room: int) -> None:
        """Leave so many bytes free."""
        self.ballast.unlink(missing_ok=True)
        free = shutil.disk_usage(self.folder).free
        with self.ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - room))

    def empty(self) -> None:
        """Remove the ballast."""
        self.ballast.unlink(missing_ok=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A tmpfs. Where none can be mounted, only the tests with a limit for the size of files remain (tests/cli)."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(
            f"a tmpfs of 16 MB cannot be mounted here ({mounted.stderr.decode().strip()}); full disks are only tried "
            "with RLIMIT_FSIZE, in tests/cli/test_bad_input_of_commands.py"
        )
    try:
        folder = place / "new"
        folder.mkdir()
        yield SmallDisk(folder, place / "ballast")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
