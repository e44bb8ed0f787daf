"""The folder for what is built once and read often."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the cache: a given one, or ``cmp_rerank`` in the user's cache folder.

    Example:
        >>> cache_folder("/tmp/cache").as_posix()
        '/tmp/cache'
    """
    if given is not None:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmp_rerank"
