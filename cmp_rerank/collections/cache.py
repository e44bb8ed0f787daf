"""The folder for what is built once and read often."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Built = TypeVar("Built")


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the cache: a given one, or ``cmp_rerank`` in the user's cache folder.

    Example:
        >>> cache_folder("/tmp/cache").as_posix()
        '/tmp/cache'
    """
    if given is not None:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmp_rerank"


def in_cache(place: Path, build: Callable[[Path], Built]) -> Built:
    """Build something in the cache; where nothing can be written there, with a warning in a temporary folder.

    Args:
        place: Where it belongs.
        build: Builds it at a place.

    Returns:
        What ``build`` returns. What is in a temporary folder is removed when the process ends.
    """
    try:
        return build(place)
    except OSError as error:
        warn_unwritable(place, error)
        folder = tempfile.mkdtemp(prefix="cmp-rerank-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return build(Path(folder) / place.name)


def warn_unwritable(place: Path, error: OSError) -> None:
    """Warn that something cannot be kept in the cache; it is needed by this process only."""
    warnings.warn(
        f"{place.parent}: the cache cannot be written ({error.strerror or error}), and what belongs there is built "
        "again each time; make it writable, or set XDG_CACHE_HOME",
        stacklevel=3,
    )
