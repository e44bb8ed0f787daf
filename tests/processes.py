"""Programs in processes of their own, to which the libraries of models are there already.

Most of the time of a new process goes to imports: seconds for torch and what stands on it. These processes fork from
a server that has imported them, and nothing of this package. From there on a program does what it does when Python
runs it: its arguments, environment, output, signals, end and exit status are its own.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

#: Forks from a process that has no threads; of autograd, say, as the tests have.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "torch",
        "sentence_transformers",
        "sentence_transformers.cross_encoder.trainer",
        "sentence_transformers.cross_encoder.losses",
        "datasets",
        "accelerate",
        "hypothesis",
        "scipy.stats",
    ]
)


class Program:
    """A Python program in a new process, as ``subprocess`` runs one.

    Args:
        command: What stands behind ``python``: a script, "-m" and a module, or "-c" and a text; and its arguments.
        environment: Added to that of the caller.
        cwd: Where it runs, if not where the caller does.
        unread: Its stdout is a pipe that nobody reads.
    """

    def __init__(
        self,
        *command: object,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        unread: bool = False,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp())
        place = cwd or Path.cwd()
        arguments = (list(map(str, command)), {**os.environ, **(environment or {})}, place, self.folder, unread)
        self.process: BaseProcess = SERVER.Process(target=_run, args=arguments)
        self.process.start()

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self.process.exitcode

    def kill(self) -> None:
        """End it as no program can prevent, and wait for that."""
        os.kill(self.process.pid or 0, signal.SIGKILL)
        self.process.join()

    def finished(self, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Wait for its end; to be called once, for its output is removed."""
        self.process.join(timeout)
        if self.poll() is None:
            self.kill()
        output, errors = ((self.folder / name).read_text() for name in ("output", "errors"))
        shutil.rmtree(self.folder)
        assert self.process.exitcode is not None
        return subprocess.CompletedProcess([], self.process.exitcode, output, errors)


def python(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; see `Program`."""
    return Program(*command, **options).finished()


def distributed(count: int, *command: object, environment: Mapping[str, str] | None = None) -> list[Program]:
    """A program in several processes that know of each other, as ``torchrun`` starts it; or in one that is alone."""
    if count == 1:
        return [Program(*command, environment=environment)]
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    known |= {name: str(count) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    ranks = [{name: str(rank) for name in ("RANK", "LOCAL_RANK")} for rank in range(count)]
    return [Program(*command, environment={**(environment or {}), **known, **own}) for own in ranks]


def succeeded(programs: Sequence[Program], timeout: float = 400) -> list[subprocess.CompletedProcess[str]]:
    """Wait for programs that know of each other; where one fails, no other waits for it any more, and it is told."""
    end = time.monotonic() + timeout
    while (running := [each for each in programs if each.poll() is None]) and time.monotonic() < end:
        if any(each.poll() for each in programs):
            break
        wait([each.process.sentinel for each in running], end - time.monotonic())
    ended = [each.finished(0) for each in programs]
    # What was ended here has a negative status: it is not why.
    failed = max(ended, key=lambda each: (each.returncode > 0, each.returncode < 0))
    assert failed.returncode == 0, failed.stderr[-4000:]
    return ended


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _run(command: list[str], environment: dict[str, str], place: Path, folder: Path, unread: bool) -> None:
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # see conftest.py
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    reading, writing = os.pipe()
    os.close(reading)
    for stream, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), stream)
    if unread:
        os.dup2(writing, 1)
    os.close(writing)
    status: object = 0
    try:
        kind = command[0] if command[0] in ("-m", "-c") else ""
        what, *arguments = command[1:] if kind else command
        sys.argv = [what, *arguments]
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            exec(what, {"__name__": "__main__"})
        else:
            runpy.run_path(what, run_name="__main__")
    except SystemExit as error:
        status = error.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    ctypes.pythonapi.Py_Exit(status)  # as Python ends; multiprocessing would skip what that does
