"""Tokenised rows of a dataset in a folder that any number of processes fill and read at the same time.

A folder belongs to one dataset and one way of tokenising it. It holds parts, see `token_part`: each is written under
a temporary name and renamed, never changed, and removed only if it is damaged. So nobody opens half of a file, and
nobody takes away what another one uses. A row may stand in several parts, where processes made it at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmp_rerank.ablations import Example
from cmp_rerank.training.token_part import TokenisedRow, TokenPart, write_part

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"


class Place(NamedTuple):
    """Where the tokens of a row are.

    Attributes:
        row: its number in the dataset.
        part: the part that has it; "": none.
        at: its place there.
    """

    row: int
    part: str = ""
    at: int = 0


class TokenStore:
    """The parts of a folder.

    Args:
        folder: it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, TokenPart] = {}

    def __getstate__(self) -> Path:
        return self.folder  # a worker opens the files itself

    def __setstate__(self, folder: Path) -> None:
        self.folder, self._open = folder, {}

    def names(self) -> list[str]:
        """The parts that are there now."""
        return sorted(path.name for path in self.folder.glob(f"part-*{_SUFFIX}"))

    def has(self, rows: np.ndarray) -> str:
        """The name of the part with exactly these rows, "" where there is none."""
        name = _name(rows)
        return name if (self.folder / name).exists() else ""

    def write(self, rows: Sequence[TokenisedRow], meta: dict[str, Any]) -> str:
        """Add a part.

        Args:
            rows: tokenised.
            meta: what else to keep, as JSON has it.

        Returns:
            Its name, which follows from the numbers of its rows.

        Raises:
            ValueError: an example cannot be kept, see `write_part`.
            OSError: the folder cannot be written to, or is full.
        """
        name = _name(np.array([row.row for row in rows], dtype=np.int64))
        write_part(self.folder / name, rows, meta)
        return name

    def part(self, name: str, check: bool = False) -> TokenPart | None:
        """A part by its name; None if it is not there, or damaged: then it is removed."""
        if name not in self._open:
            path = self.folder / name
            try:
                self._open[name] = TokenPart(path, check)
            except FileNotFoundError:
                return None
            except (ValueError, OSError) as error:
                logger.warning("%s. It is removed, and its rows are tokenised again.", error)
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)  # who has it open keeps it, damaged as it is
                return None
        return self._open[name]

    def examples(self, place: Place, content: int | None = None) -> list[Example] | None:
        """The pairs of a row, in the order of its columns; None if they are not here (any more).

        Args:
            place: where it is.
            content: stands for what the row holds: nothing else will do. None: whatever it held.
        """
        part = self.part(place.part) if place.part else None
        if part is None or content not in (None, part.content(place.at)):
            return None
        return part.examples(place.at)


class TokenIndex:
    """Which row is where: 12 bytes of memory for each row of the dataset.

    Args:
        store: of the dataset.
        rows: how many rows it has.
    """

    def __init__(self, store: TokenStore, rows: int) -> None:
        self.store = store
        self._names: list[str] = []
        self._seen: set[str] = set()
        self._part = np.full(rows, -1, dtype=np.int32)
        self._at = np.zeros(rows, dtype=np.int32)
        self._lengths = np.full(rows, -1, dtype=np.int32)  # not known

    def refresh(self) -> list[TokenPart]:
        """Take note of parts that have come in, from earlier runs or other processes.

        Returns:
            The parts that bring new rows.
        """
        added = [self.add(name) for name in self.store.names() if name not in self._seen]
        return [part for part in added if part is not None]

    def add(self, name: str) -> TokenPart | None:
        """Take note of a part; None if it brings nothing new."""
        self._seen.add(name)
        part = self.store.part(name, check=True)
        if part is None:
            return None
        rows = part.rows.astype(np.int64)
        if not len(rows) or rows.min() < 0 or rows.max() >= len(self._part):
            return None
        new = np.flatnonzero(self._part[rows] < 0)
        if not len(new):
            return None
        self._part[rows[new]] = len(self._names)
        self._at[rows[new]] = new
        self._lengths[rows[new]] = part.lengths[new]
        self._names.append(name)
        return part

    def set_lengths(self, rows: np.ndarray, lengths: np.ndarray) -> None:
        """Note the tokens of rows that are not kept anywhere."""
        self._lengths[rows] = lengths

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows of which the length is not known, in their order."""
        return rows[self._lengths[rows] < 0]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of rows, 0 of those without pairs; -1 where that is not known."""
        return self._lengths[rows].astype(np.int64)

    def place(self, row: int) -> Place:
        """Where a row is."""
        part = int(self._part[row])
        return Place(row) if part < 0 else Place(row, self._names[part], int(self._at[row]))


def _name(rows: np.ndarray) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(rows, dtype=np.int64).tobytes(), digest_size=16)
    return f"part-{digest.hexdigest()}{_SUFFIX}"
