"""What a killed process has left half-written beside its target, told from what another process writes there."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows nothing is known of other processes: what they leave stays
    fcntl = None  # type: ignore[assignment]

#: The end of the names of files and folders that are being written.
UNFINISHED = ".unfinished"
#: Seconds in which whoever made a file has locked it.
_FRESH = 1.0


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """A file or folder is locked inside; the lock ends with the process, however that ends."""
    if fcntl is None:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        # A file system without locks is no reason not to write.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def remove_abandoned(target: Path) -> None:
    """Remove the unfinished files and folders of a target that nobody has locked.

    Args:
        target: What they were to become.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target, left = Path(folder, "a.run"), Path(folder, f".a.run.k2{UNFINISHED}")
        ...     left.touch()
        ...     os.utime(left, (0, 0))
        ...     with locked(left):
        ...         remove_abandoned(target)
        ...         print(left.exists())
        ...     remove_abandoned(target)
        ...     print(left.exists())
        True
        False
    """
    for path in target.parent.glob(f".{glob.escape(target.name)}.*{UNFINISHED}"):
        with contextlib.suppress(OSError):  # it is gone, or belongs to somebody else
            if time.time() - path.stat().st_mtime < _FRESH or _is_locked(path):
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_locked(path: Path) -> bool:
    """Whether a process that lives has locked it; where that cannot be known, it may have."""
    if fcntl is None:
        return True
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
