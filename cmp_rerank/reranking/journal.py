"""Finished groups in a file beside the output, so that a reranking that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from cmp_rerank.ir.lines import PathLike, check_parent
from cmp_rerank.ir.settings import in_words
from cmp_rerank.reranking.result import Counts, Scored

logger = logging.getLogger(__name__)


class Journal:
    """The finished groups of one shard: a line for the settings, then one for each group, in the order of the run.

    A line counts when it is whole and its checksum is right. What comes after the last that counts is cut off when
    the file is opened again: what a kill or a full disk has left, or damage. While a journal is open, no other
    process opens it.

    Args:
        path: The file.
        settings: What the scores depend on, as JSON has it.
        resume: Whether to go on with what is there; else it is thrown away.

    Raises:
        ValueError: The file was written with other settings, or another process is writing it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with Journal(Path(folder) / "run.part", {"depth": 2}) as journal:
        ...         journal.append(0, "digest", Scored({"q": {"d": 1.5}}, Counts(queries=1, pairs=1)))
        ...     with Journal(Path(folder) / "run.part", {"depth": 2}) as journal:
        ...         journal.finished
        {0: 'digest'}
    """

    def __init__(self, path: PathLike, settings: Mapping[str, Any], *, resume: bool = True) -> None:
        self.path = Path(path)
        check_parent(self.path)
        #: Number -> digest of the groups that are finished.
        self.finished: dict[int, str] = {}
        #: What the finished groups have counted.
        self.counts = Counts()
        self._checksum: int = 0
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{self.path}: another process is writing this file; wait for it, or give each process a shard"
            ) from None
        try:
            self._file = self._opened(json.loads(json.dumps(settings)), resume)
        except BaseException:
            self._lock.release()
            raise

    def append(self, number: int, digest: str, scored: Scored) -> None:
        """Write a group; it is on the disk when this returns."""
        self._write({"group": number, "digest": digest, "counts": asdict(scored.counts), **scored.as_json()})
        self.finished[number] = digest
        self.counts.add(scored.counts)

    def end(self, groups: int, run: str) -> None:
        """Say that the shard is complete, how many groups the whole run has, and a digest of it."""
        self._write({"end": groups, "run": run})

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()  # on a full disk this fails, too
        finally:
            self._lock.release()

    def _write(self, record: Mapping[str, Any]) -> None:
        # Each checksum begins with that of the line before: lines that have changed places are damage, too.
        self._checksum = zlib.crc32(_dumped(record), self._checksum)
        self._file.write(_dumped({**record, "crc": self._checksum}) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _opened(self, settings: dict[str, Any], resume: bool) -> BinaryIO:
        end = 0
        if resume and self.path.exists():
            for number, (record, position, checksum) in enumerate(_records(self.path)):
                if number == 0:
                    self._compare(record.get("settings", {}), settings)
                elif "end" in record:
                    break  # written again by whoever ends it again
                else:
                    self.finished[record["group"]] = record["digest"]
                    self.counts.add(Counts(**record["counts"]))
                end, self._checksum = position, checksum
        file = self.path.open("r+b" if end else "wb")
        file.truncate(end)
        file.seek(end)
        self._file = file
        if not end:
            try:
                self._write({"settings": settings})
            except OSError:
                with contextlib.suppress(OSError):
                    file.close()  # else what it holds would be written whenever the object is deleted
                raise
        return file

    def _compare(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        if changed := in_words(before, now):
            raise ValueError(
                f"{self.path}: this reranking was begun with other settings ({'; '.join(changed)}); go on with the "
                "same ones, start over without resume, or choose another output"
            )


def conclusion(path: Path) -> dict[str, Any] | None:
    """What all shards of a reranking have alike: the settings, the number of groups and the digest of the run.

    None where the journal does not have its last line.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        first = file.readline()
        # The line is short; that of a group ends in another way.
        file.seek(max(0, path.stat().st_size - 256))
        last = file.read()
    line = last[:-1].rpartition(b"\n")[2]
    if not last.endswith(b"}\n") or not line.startswith(b'{"end":'):
        return None
    begun = _record(first, 0)
    settings = {} if begun is None else begun[0].get("settings", {})
    try:
        end = json.loads(line)
    except ValueError:
        return None
    return {**settings, "groups": end["end"], "run": end.get("run")}


def groups_of(path: Path) -> Iterator[Scored]:
    """The groups of a journal that is complete, in their order, one at a time.

    Raises:
        ValueError: A line in it is damaged.
    """
    record: dict[str, Any] = {}
    for record, _, _ in _records(path):
        if "group" in record:
            yield Scored.from_json(record)
    if "end" not in record:
        raise ValueError(
            f"{path}: a line of this file is damaged; give the command for its shard again, which goes on from there"
        )


def _dumped(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _record(line: bytes, before: int) -> tuple[dict[str, Any], int] | None:
    """What a line holds, and its checksum; None where it is not what was written after the line before."""
    try:
        record = json.loads(line)
        checksum = record.pop("crc")
        right = line.endswith(b"\n") and checksum == zlib.crc32(_dumped(record), before)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (record, checksum) if right else None


def _records(path: Path) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Whole lines, each with the place where it ends and its checksum; the first one that is none ends the file."""
    position, checksum, size = 0, 0, path.stat().st_size
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            found = _record(line, checksum)
            if found is None:
                if position < size:
                    logger.warning("%s: a line of this file is damaged; what comes from there on is done again", path)
                return
            record, checksum = found
            yield record, position, checksum
