"""Opening, naming and writing files and folders: plain or gzip, errors with file and line, nothing half-written."""

from __future__ import annotations

import atexit
import contextlib
import gzip
import io
import math
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cmp_rerank.ir.abandoned import UNFINISHED, locked, remove_abandoned

PathLike = str | os.PathLike[str]


def malformed(path: PathLike, line: int, what: str) -> ValueError:
    """The error for a line that cannot be read: where, what, and what was expected."""
    return ValueError(f"{os.fspath(path)}, line {line}: {what}")


#: The content of pipes, which can be read only once, by device and number: files are opened several times, to tell
#: their format, and what one reader takes out of a pipe is lost to the next.
_PIPES: dict[tuple[int, int], str] = {}


def exists(path: PathLike) -> bool:
    """Whether there is something to read; "-" is standard input."""
    return os.fspath(path) == "-" or Path(path).exists()


def standard_input() -> BinaryIO:
    """Standard input, as bytes.

    Raises:
        ValueError: It is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("-: standard input is closed; give a file, or open it: < FILE")
    return sys.stdin.buffer


def _regular(path: PathLike) -> PathLike:
    """The path, or that of a temporary file with all that a pipe holds."""
    try:
        about = os.fstat(standard_input().fileno()) if os.fspath(path) == "-" else os.stat(path)
    except OSError:  # standard input may be no file
        return path
    if not stat.S_ISFIFO(about.st_mode) and os.fspath(path) != "-":
        return path
    key = (about.st_dev, about.st_ino)
    if key not in _PIPES:
        handle, name = tempfile.mkstemp(prefix="cmp-rerank-")
        atexit.register(lambda: Path(name).unlink(missing_ok=True))
        with os.fdopen(handle, "wb") as kept:
            if os.fspath(path) == "-":
                shutil.copyfileobj(standard_input(), kept)
            else:
                with open(path, "rb") as pipe:
                    shutil.copyfileobj(pipe, kept)
        _PIPES[key] = name
    return _PIPES[key]


def is_gzip(path: PathLike) -> bool:
    """Whether the file is gzip by its first two bytes, whatever its name."""
    with open(_regular(path), "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextlib.contextmanager
def open_bytes(path: PathLike) -> Iterator[BinaryIO]:
    """Open a plain or gzip file, a pipe, or standard input ("-") for reading bytes.

    A pipe may be opened several times: its content is kept in a temporary file until the process ends.

    Raises:
        ValueError: The path does not exist or is a directory.
    """
    if not exists(path):
        raise ValueError(f"{os.fspath(path)}: no such file")
    if Path(path).is_dir():
        raise ValueError(f"{os.fspath(path)}: this is a directory, a file is needed")
    readable = _regular(path)
    opened = gzip.open(readable, "rb") if is_gzip(readable) else open(readable, "rb")  # noqa: SIM115
    with opened as file:
        try:
            yield file  # type: ignore[misc]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{os.fspath(path)}: the gzip file is damaged ({error})") from error


#: What a comment of a TREC file begins with, as of trec_eval 10.
COMMENT = b"#"


def numbered_lines(path: PathLike, *, comments: bool = False) -> Iterator[tuple[int, bytes]]:
    """Number and content of every line that is not blank, without line end and byte order mark.

    Args:
        path: The file.
        comments: Whether lines that begin with "#" are comments, which are left out.
    """
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                line = line[3:]  # noqa: PLW2901
            if not line.isspace() and not (comments and line.startswith(COMMENT)):
                yield number, line.rstrip(b"\r\n")


def text(path: PathLike, number: int, raw: bytes) -> str:
    """Decode UTF-8, or say where it is broken."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed(path, number, f"not UTF-8 ({error.reason} in {raw[:80]!r})") from error


def is_stdout(path: PathLike) -> bool:
    """Whether standard output is meant: "-", or its name, which is that of a file where it goes to one.

    Such a file would be replaced, with all that was printed to it before.
    """
    return os.fspath(path) in ("-", "/dev/stdout", "/dev/fd/1")


def is_stream(path: PathLike) -> bool:
    """Whether it takes what is written as it comes: "-" (standard output), a device, or a pipe.

    Example:
        >>> is_stream("-"), is_stream(os.devnull), is_stream("run.trec")
        (True, True, False)
    """
    place = Path(path)
    return is_stdout(path) or (place.exists() and not place.is_file() and not place.is_dir())


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[io.TextIOBase]:
    """Write text to a temporary file beside `path`, rename it on success; gzip when the name ends in .gz.

    What a killed process has left beside it is removed. Of a symbolic link, the file that it names is replaced.

    "-" is standard output. What is written there, or to a device or a pipe, cannot be taken back.
    """
    if is_stdout(path):
        check_place(path)
        yield sys.stdout  # type: ignore[misc]
        return
    if is_stream(path):
        with open(path, "wb") as raw, _text_of(raw, Path(path)) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    check_parent(target)
    remove_abandoned(target)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=UNFINISHED)
    try:
        # mkstemp makes the file private; a result should have the permissions that any new file gets.
        os.chmod(name, 0o666 & ~_umask())
        with locked(Path(name)), os.fdopen(handle, "wb") as raw, _text_of(raw, Path(path)) as file:
            yield file
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _text_of(raw: BinaryIO, path: Path) -> io.TextIOWrapper:
    # No name and time in the gzip header: the same content gives the same bytes.
    packed = gzip.GzipFile("", "wb", 6, raw, mtime=0) if path.suffix == ".gz" else None
    return io.TextIOWrapper(packed or raw, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def unfinished_folder(path: PathLike) -> Iterator[Path]:
    """A new folder beside ``path``, to write to and then to rename; what is still there in the end is removed.

    Raises:
        ValueError: The parent of ``path`` does not exist.
    """
    target = Path(path).absolute()
    check_parent(target)
    remove_abandoned(target)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=UNFINISHED))
    try:
        folder.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replacing_folder(path: PathLike) -> Iterator[Path]:
    """A new folder beside ``path`` to write to, which takes its place on success; what was there stays until then.

    Of a symbolic link, the folder that it names is replaced.

    Raises:
        ValueError: The parent of ``path`` does not exist.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     for text in ("first", "second"):
        ...         with replacing_folder(Path(parent, "index")) as folder:
        ...             write_lines(folder / "content", [text])
        ...     Path(parent, "index", "content").read_text(), len(os.listdir(parent))
        ('second', 1)
    """
    target = Path(os.path.realpath(path))
    with unfinished_folder(target) as folder:
        yield folder
        if not target.exists():
            folder.rename(target)
            return
        # A folder cannot be renamed onto one that is not empty: the old one steps aside first.
        with unfinished_folder(target) as old:
            target.replace(old)
            try:
                folder.rename(target)
            except BaseException:
                old.replace(target)
                raise


def check_parent(path: Path) -> None:
    """Refuse a file or folder that cannot be made because its parent does not exist.

    Raises:
        ValueError: With the parent.
    """
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such directory; create it before writing {path.name}")


def check_place(path: PathLike, *, folder: bool = False, parents: bool = False) -> None:
    """Refuse, before any work is done, a place where nothing can be written.

    Args:
        path: Where a file or folder will be written; "-" is standard output.
        folder: Whether it will be a folder, which may be there already.
        parents: Whether the folders above it are made, too.

    Raises:
        ValueError: With what stands in the way.
    """
    if is_stdout(path):
        if sys.stdout is None:
            raise ValueError(f"{os.fspath(path)}: standard output is closed; give a file, or open it: > FILE")
        return
    place = Path(path).absolute()
    if is_stream(place) and not folder:
        if not os.access(place, os.W_OK):
            raise ValueError(f"{place}: no permission to write to it; choose another place")
        return
    if place.is_symlink() and not folder:
        place = Path(os.path.realpath(place))
    if place.exists() and place.is_dir() != folder:
        remove_abandoned(place)  # of a process that was killed when all but this was done
        found = "file" if folder else "folder"
        raise ValueError(f"{os.fspath(path)}: there is such a {found} already; remove it, or choose another name")
    above = place.parent
    while parents and not above.exists() and above != above.parent:
        above = above.parent
    if above.exists() and not above.is_dir():
        raise ValueError(f"{above}: this is a file; {place.name} cannot be written below it; choose another place")
    if not parents:
        check_parent(place if Path(path).is_symlink() else Path(path))
    if not os.access(above, os.W_OK):
        raise ValueError(f"{above}: no permission to write {place.name} here; choose another place")


def check_name(what: str, name: str) -> None:
    """Refuse a name that would leave the folder in which a file is called by it.

    Raises:
        ValueError: It is empty, is "." or "..", or holds a slash, a backslash or a null character.
    """
    if not name or name in (".", "..") or any(character in name for character in "/\\\0"):
        raise ValueError(f"{what} is the name of a file, and must have no slash and no backslash; got {name!r}")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_lines(path: PathLike, lines: Iterable[str]) -> None:
    """Write lines (each with its line end), replacing the file only when all of them are written."""
    with replacing(path) as file:
        file.writelines(lines)


def without_nan(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record for a line of JSON: a number that is not finite, which JSON has not, is null.

    Example:
        >>> without_nan({"loss": float("nan"), "step": 1})
        {'loss': None, 'step': 1}
    """
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def stem_suffix(path: PathLike) -> str:
    """The suffix of a file name without a final .gz, lower case: "run.JSON.gz" -> ".json"."""
    name = Path(path).name.lower()
    return Path(name.removesuffix(".gz")).suffix
