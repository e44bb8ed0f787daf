"""Fixtures of the tests of faults."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
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
