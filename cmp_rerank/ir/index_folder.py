"""Folders that hold an index: written as a whole or not at all, and opened only by what wrote them."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmp_rerank.ir.file_marks import changed_file, marks_of
from cmp_rerank.ir.lines import PathLike, check_parent, replacing_folder, write_lines

# The last file to be written: a folder without it is not an index, or not a whole one.
_MANIFEST = "first_stage.json"
#: A note how far an index is, which is there until it is whole.
BUILDING = "building.json"
_FORMAT = 2


class DamagedIndex(ValueError):
    """An index that does not hold what was written to it."""


def is_index(folder: PathLike) -> bool:
    """Whether a whole index is in the folder."""
    return (Path(folder) / _MANIFEST).is_file()


@contextlib.contextmanager
def replacing_index(folder: PathLike) -> Iterator[Path]:
    """As :func:`replacing_folder`, and refuses to replace something else than an index.

    Raises:
        ValueError: The parent does not exist, or ``folder`` holds something else than an index.
    """
    check_replaceable(Path(folder))
    with replacing_folder(folder) as new:
        yield new


def check_replaceable(folder: Path) -> None:
    """Refuse a folder that an index cannot take the place of: worth to know before hours of building.

    Raises:
        ValueError: The parent does not exist, or ``folder`` holds something else than an index.
    """
    check_parent(folder)
    if folder.exists() and not is_index(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"an index needs a folder of its own; got {folder}, which holds something else; name a new one"
        )


def write_manifest(folder: Path, kind: str, settings: Mapping[str, Any]) -> None:
    """Say what is in the folder. Written last, since it makes the folder an index.

    Args:
        folder: Holds all other files of the index already.
        kind: Which first stage wrote it, such as "bm25".
        settings: What it needs to open it again; written as JSON.
    """
    content = {
        "kind": kind,
        "format": _FORMAT,
        "settings": dict(settings),
        "files": marks_of(folder, (BUILDING, _MANIFEST)),
    }
    content = json.loads(json.dumps(content))  # as it will be read: keys that are numbers become texts, for instance
    content["checksum"] = checksum_of(content)
    write_lines(folder / _MANIFEST, [json.dumps(content, ensure_ascii=False, indent=1) + "\n"])


def read_manifest(folder: PathLike, kind: str) -> dict[str, Any]:
    """The settings that were written by :func:`write_manifest`. All files of the index are compared with their marks.

    Raises:
        DamagedIndex: The manifest or a file is not what was written.
        ValueError: There is no index, only a part of one, one of another kind, or one of another format.
    """
    content = _manifest(Path(folder))
    if content["kind"] != kind:
        raise ValueError(
            f"{os.fspath(folder)} must hold an index of kind {kind!r}; got {content['kind']!r}; name another "
            "folder, or open it with the first stage that wrote it"
        )
    changed = changed_file(Path(folder), content["files"])
    if changed is not None:
        raise DamagedIndex(f"{Path(folder) / changed}: this file of an index is damaged; build the index again")
    settings: dict[str, Any] = content["settings"]
    return settings


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; build the index first")
    if not path.is_file():
        raise ValueError(f"{folder} must hold a whole index; got a folder without {_MANIFEST}; build the index again")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        checksum, version = content.pop("checksum", None), content["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedIndex(f"{path}: not the description of an index ({error}); build the index again") from error
    # One of another format has no checksum, or one that is right.
    if version != _FORMAT and checksum in (None, checksum_of(content)):
        raise ValueError(f"{path}: the format must be {_FORMAT}; got {version!r}; build the index again")
    if checksum != checksum_of(content):
        raise DamagedIndex(f"{path}: the description of an index is damaged; build the index again")
    return content


def checksum_of(content: Mapping[str, Any]) -> int:
    """The CRC-32 of what is written as JSON; the order of keys does not matter."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
