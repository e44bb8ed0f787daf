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


#: What `locked` has open. A process that is forked meanwhile, such as one that loads data, may live longer than this
#: one, and must not keep the locks: it closes them.
_HANDLES: set[int] = set()


def _close_in_child() -> None:
    while _HANDLES:
        os.close(_HANDLES.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """A file or folder is locked inside; the lock ends with the process, however that ends.

    Yields:
        Whether no other process had locked it; where that cannot be known, none has.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(path, os.O_RDONLY)
    _HANDLES.add(handle)
    try:
        free = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks is no reason not to write
            pass
        yield free
    finally:
        if handle in _HANDLES:
            _HANDLES.remove(handle)
            os.close(handle)


@contextlib.contextmanager
def sole_writer(target: str | os.PathLike[str]) -> Iterator[None]:
    """Refuse, before any work is done, to write a folder that another process is writing.

    Args:
        target: The folder; it need not be there, but the one above must.

    Raises:
        ValueError: Another process is inside.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with sole_writer(f"{folder}/a"), sole_writer(f"{folder}/b"):
        ...         with sole_writer(f"{folder}/a"):
        ...             pass
        Traceback (most recent call last):
        ...
        ValueError: ...a: another process is writing this folder; wait until it ends, or choose another folder
    """
    place = Path(os.path.realpath(target))
    lock = place.with_name(f".{place.name}.lock{UNFINISHED}")
    try:
        lock.touch()
    except OSError:  # the folder above may be read-only
        yield
        return
    with locked(lock) as free:
        if not free:
            raise ValueError(
                f"{os.fspath(target)}: another process is writing this folder; wait until it ends, or choose another "
                "folder"
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


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
