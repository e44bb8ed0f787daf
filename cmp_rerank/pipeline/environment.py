"""What a run was made with: versions, machine, processes."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cmp_rerank.version import package_version

_PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "datasets",
    "accelerate",
    "tokenizers",
    "numpy",
    "bm25s",
    "faiss-cpu",
    "ir-measures",
)


def processes() -> tuple[int, int]:
    """The number of this process, and of all: ``torchrun`` and ``accelerate launch`` say so in the environment."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def versions() -> dict[str, str]:
    """The versions of this package, of Python, and of the packages below it, as far as they are installed."""
    found = {"cmp-rerank": package_version(), "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """All of it, with the time and the command line."""
    import torch

    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "versions": versions(),
        "platform": platform.platform(),
        "processes": processes()[1],
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
