"""What one process writes, another one leaves alone; what a killed one has begun is free."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cmp_rerank.ir.abandoned import sole_writer


def test_the_folder_of_a_killed_writer_is_free_though_a_process_that_it_has_forked_lives(tmp_path: Path) -> None:
    folder, (reading, writing) = tmp_path / "run", os.pipe()
    writer = os.fork()
    if writer == 0:
        with sole_writer(folder):
            child = os.fork()  # as one that loads data
            if child:
                os.write(writing, str(child).encode())
            time.sleep(60)
        os._exit(0)
    child = int(os.read(reading, 20))
    try:
        refused = pytest.raises(ValueError, match=f"{folder}: another process is writing this folder; wait until")
        with refused, sole_writer(folder):
            pass
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        with sole_writer(folder):
            os.kill(child, 0)  # the canary: it lives
            with refused, sole_writer(folder):
                pass
    finally:
        os.kill(child, signal.SIGKILL)
    assert not list(tmp_path.iterdir())


def test_a_folder_above_that_cannot_be_written_is_no_reason_not_to_write(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "missing" / "run"):
        pass
