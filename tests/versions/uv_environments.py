"""Environments made by uv: seconds where pip takes minutes, and packages that several share are on the disk once.

uv itself is an ordinary package: where the machine has none, it is installed into the folder of the environments.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path


def run(command: Iterable[str | Path], cwd: Path | None = None) -> str:
    """What a command prints; a CalledProcessError after its error output where it fails."""
    done = subprocess.run([*map(str, command)], cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()
    return done.stdout + done.stderr


class Uv:
    """The command, and what it needs to know of this machine: where pip looks for packages besides the registry."""

    def __init__(self, folder: Path) -> None:
        self.command = shutil.which("uv") or self._installed(folder / "uv")
        #: pip reads them from its configuration, uv does not.
        self.links = [f"--find-links={place}" for place in os.environ.get("PIP_FIND_LINKS", "").split()]

    @staticmethod
    def _installed(folder: Path) -> str:
        if not (command := folder / "bin" / "uv").exists():
            venv.create(folder, with_pip=True, clear=True)
            run([folder / "bin" / "pip", "install", "-q", "uv"])
        return str(command)

    def venv(self, folder: Path, python: str, *options: str) -> Path:
        """A new, empty environment; its interpreter."""
        run([self.command, "venv", "--quiet", "--clear", "--python", python, *options, folder])
        return folder / "bin" / "python"

    def install(self, python: Path, *arguments: str | Path, cwd: Path | None = None, cuda: bool = False) -> None:
        """Install, unless that is too much.

        Raises:
            ValueError: this would download the libraries of CUDA, gigabytes that no test on a CPU needs.
        """
        install = [self.command, "pip", "install", "--python", python, *self.links, *arguments]
        planned = run([*install, "--dry-run"], cwd=cwd)
        if not cuda and " + nvidia-" in planned:
            torch = next(line.strip(" +") for line in planned.splitlines() if line.startswith(" + torch=="))
            raise ValueError(
                f"{torch}: what the registry has is a build for CUDA; got no build for the CPU. Name a version that "
                "has one here by --torch, take that of the interpreter by --torch present, or accept it by --cuda"
            )
        run(install, cwd=cwd)

    def uninstall(self, python: Path, *packages: str) -> None:
        """Take packages out again, whatever needs them."""
        run([self.command, "pip", "uninstall", "--quiet", "--python", python, *packages])
