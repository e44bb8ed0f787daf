"""Ids by row number, in a few bytes each: millions of them can be memory-mapped, and none is a Python object."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

_TEXT, _ENDS = "ids.text.npy", "ids.ends.npy"


class IdList(Sequence[str]):
    """A list of ids that is one text and the place where each of them ends.

    Args:
        text: (bytes,) ``uint8``, the ids in UTF-8, one after the other.
        ends: (n,) ``int64``, where each id ends in ``text``.

    Example:
        >>> ids = IdList.of(["d1", "d20", "文"])
        >>> ids[1], ids[-1], list(ids), len(ids)
        ('d20', '文', ['d1', 'd20', '文'], 3)
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self._text, self._ends = text, ends

    @classmethod
    def of(cls, ids: Iterable[str]) -> IdList:
        """The list of any ids, which are read once."""
        text, ends = bytearray(), array("q")
        for name in ids:
            text += name.encode("utf-8", "surrogatepass")
            ends.append(len(text))
        return cls(np.frombuffer(text, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence[IdList]) -> IdList:
        """Several lists as one.

        Example:
            >>> list(IdList.joined([IdList.of(["a", "bc"]), IdList.of(["d"])]))
            ['a', 'bc', 'd']
        """
        starts = np.cumsum([0, *(len(part._text) for part in parts[:-1])])
        ends = [part._ends + start for part, start in zip(parts, starts, strict=True)]
        return cls(np.concatenate([part._text for part in parts]), np.concatenate(ends))

    @classmethod
    def open(cls, folder: Path) -> IdList:
        """A saved list, memory-mapped."""
        return cls(np.load(folder / _TEXT, mmap_mode="r"), np.load(folder / _ENDS, mmap_mode="r"))

    def save(self, folder: Path) -> None:
        """Write the list into a folder."""
        np.save(folder / _TEXT, self._text)
        np.save(folder / _ENDS, self._ends)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdList):
            return NotImplemented
        return np.array_equal(self._ends, other._ends) and np.array_equal(self._text, other._text)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        row = range(len(self))[place]
        start = self._ends[row - 1] if row else 0
        return self._text[start : self._ends[row]].tobytes().decode("utf-8", "surrogatepass")
