"""Finding the row of an id among millions, in 12 bytes for each and no Python object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import pairwise

import numpy as np


def id_hash(name: str) -> int:
    """64 bits of a hash of an id; the same in every process and on every machine.

    Example:
        >>> id_hash("d1") == id_hash("d1"), id_hash("d1") == id_hash("d2")
        (True, False)
    """
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class IdIndex:
    """Rows by id: hashes in ascending order, and what is found is compared with the id itself.

    Two ids may share a hash. So a look-up asks ``id_at`` for the id of each row that has the hash.

    Args:
        hashes: (n,) ``uint64``, ascending; may be memory-mapped.
        rows: (n,) The row of each hash.
        id_at: The id of a row.

    Example:
        >>> ids = ["b", "a"]
        >>> index = IdIndex.of(np.array([id_hash(name) for name in ids], dtype=np.uint64), ids.__getitem__)
        >>> index.row("a"), index.row("b"), index.row("c"), index.row(5)
        (1, 0, None, None)
    """

    def __init__(self, hashes: np.ndarray, rows: np.ndarray, id_at: Callable[[int], str]) -> None:
        self.hashes, self.rows, self._id_at = hashes, rows, id_at

    @classmethod
    def of(cls, hashes: np.ndarray, id_at: Callable[[int], str]) -> IdIndex:
        """The index of hashes that are in the order of rows."""
        order = np.argsort(hashes, kind="stable")
        kind = np.uint32 if len(order) < 2**32 else np.uint64
        return cls(hashes[order], order.astype(kind), id_at)

    def row(self, name: object) -> int | None:
        """The row of an id, or None. What is not a string is no id."""
        if not isinstance(name, str):
            return None
        value = np.uint64(id_hash(name))
        place = int(np.searchsorted(self.hashes, value))
        return self._among(name, value, place)

    def find(self, names: Iterable[str]) -> Iterator[int | None]:
        """The row of each id, or None; one search for all of them."""
        wanted = list(names)
        values = np.array([id_hash(name) for name in wanted], dtype=np.uint64)
        for name, value, place in zip(wanted, values, np.searchsorted(self.hashes, values).tolist(), strict=True):
            yield self._among(name, value, place)

    def duplicate(self) -> tuple[int, int] | None:
        """Two rows with one id, or None. The later of them is the first in the order of rows that repeats an id."""
        found: tuple[int, int] | None = None
        same = np.flatnonzero(self.hashes[1:] == self.hashes[:-1])
        for start in same[np.diff(same, prepend=-2) > 1].tolist():
            stop = start + 1
            while stop < len(self.hashes) and self.hashes[stop] == self.hashes[start]:
                stop += 1
            by_id = sorted((self._id_at(row), row) for row in self.rows[start:stop].tolist())
            for (first, row), (second, later) in pairwise(by_id):
                if first == second and (found is None or later < found[1]):
                    found = row, later
        return found

    def _among(self, name: str, value: np.uint64, place: int) -> int | None:
        while place < len(self.hashes) and self.hashes[place] == value:
            row = int(self.rows[place])
            if self._id_at(row) == name:
                return row
            place += 1
        return None
