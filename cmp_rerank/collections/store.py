"""Texts on disk: millions of them are opened in a moment and read one by one, without being held in memory."""

from __future__ import annotations

import contextlib
import glob
import json
import mmap
import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cmp_rerank.ir.id_index import IdIndex, id_hash
from cmp_rerank.ir.lines import PathLike, unfinished_folder
from cmp_rerank.ir.mappings import Texts

#: A source of texts: each call gives all (place, id, text), where the place is a line or a row, for errors.
Records = Callable[[], Iterable[tuple[int, str, str]]]
VERSION = 1
_ABOUT = "about.json"
_ABANDONED = 3600.0  # seconds without a write


class TextStore(Texts):
    """Texts by id in a folder of memory-mapped files.

    The folder holds texts and ids as they are, one after the other; where each ends; and a sorted hash of each id
    with its row (12 bytes), in which an id is found by binary search. What is read stays in the page cache of the
    operating system, which takes it back when memory is needed. A store is pickled by its path.

    Args:
        folder: A folder that :meth:`build` has made.

    Raises:
        ValueError: The folder is not there, or holds something else.

    Example:
        >>> import tempfile
        >>> texts = [(1, "d1", "Pandas eat bamboo."), (2, "d2", "Bees make honey.")]
        >>> store = TextStore.build(tempfile.mkdtemp() + "/store", lambda: texts, "an example")
        >>> store["d2"], "d3" in store, len(store), list(store), store.get_many(["d2", "d1"])
        ('Bees make honey.', False, 2, ['d1', 'd2'], ['Bees make honey.', 'Pandas eat bamboo.'])
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        try:
            about = json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))
            self._texts = _Pieces.open(self.folder, "texts")
            self._names = _Pieces.open(self.folder, "ids")
            hashes, rows = (_mapped(self.folder / f"{name}.npy") for name in ("hashes", "rows"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.folder}: not a store of texts ({error}); remove it, so that it is built again"
            ) from None
        if about.get("version") != VERSION or not len(self._texts) == len(self._names) == len(hashes) == len(rows):
            raise ValueError(f"{self.folder}: a store of texts of another form; remove it, so that it is built again")
        self._index = IdIndex(hashes, rows, self._names.__getitem__)

    @classmethod
    def build(cls, folder: PathLike, records: Records, source: str) -> TextStore:
        """Write a store; the folder appears whole or not at all.

        Args:
            folder: Where; what another process has put there meanwhile is used.
            records: Gives all texts, each time it is called.
            source: What an error calls the source.

        Returns:
            The store, open.

        Raises:
            ValueError: An id occurs twice, there is no text, or reading them fails.
        """
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with unfinished_folder(folder) as partial:
            hashes = array("Q")
            with _Writer(partial, "texts") as texts, _Writer(partial, "ids") as names:
                for _, name, text in records():
                    texts.add(text)
                    names.add(name)
                    hashes.append(id_hash(name))
            if not hashes:
                raise ValueError(f"{source}: there is no text in it; is it the right file?")
            written = _Pieces.open(partial, "ids")
            index = IdIndex.of(np.frombuffer(hashes, dtype=np.uint64), written.__getitem__)
            double = index.duplicate()
            if double:
                raise _double(source, records, *double)
            np.save(partial / "hashes.npy", index.hashes)
            np.save(partial / "rows.npy", index.rows)
            about = {"version": VERSION, "source": source, "count": len(hashes)}
            (partial / _ABOUT).write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
            with contextlib.suppress(OSError):  # another process was faster: its folder is as good
                partial.rename(folder)
            return cls(folder)

    @cached_property
    def ids(self) -> Sequence[str]:
        """The ids by row; each is read when it is asked for."""
        return self._names

    def __getitem__(self, name: str) -> str:
        row = self._index.row(name)
        if row is None:
            raise KeyError(name)
        return self._texts[row]

    def get_many(self, ids: Iterable[str]) -> list[str]:
        """The texts of some ids, in their order, with one search for all of them.

        Raises:
            KeyError: An id is not known.
        """
        names = list(ids)
        rows = list(self._index.find(names))
        if None in rows:
            raise KeyError(names[rows.index(None)])
        return [self._texts[row] for row in rows]  # type: ignore[index]

    def known(self, ids: Iterable[str]) -> list[bool]:
        """Whether there is a text, for each of some ids."""
        return [row is not None for row in self._index.find(ids)]

    def __contains__(self, name: object) -> bool:
        return self._index.row(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """All (id, text), in the order of the source."""
        return zip(self._names, self._texts, strict=True)

    def __eq__(self, other: object) -> bool:
        # Two stores of one folder are equal without reading them.
        return (isinstance(other, TextStore) and other.folder == self.folder) or super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TextStore({str(self.folder)!r}: {len(self):,} texts)"

    def __reduce__(self) -> tuple[type[TextStore], tuple[Path]]:
        return TextStore, (self.folder,)


def _remove_leftovers(folder: Path) -> None:
    """Remove what builders of this store have left that were killed; one that is at work has written lately."""
    for partial in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        with contextlib.suppress(OSError):  # its builder may finish just now
            written = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
            if time.time() - written > _ABANDONED:
                shutil.rmtree(partial, ignore_errors=True)


class _Pieces(Sequence[str]):
    """Strings that stand one after the other in a memory-mapped file."""

    def __init__(self, content: Any, ends: np.ndarray) -> None:
        self._content, self._ends = content, ends

    @classmethod
    def open(cls, folder: Path, name: str) -> _Pieces:
        ends = _mapped(folder / f"{name}_ends.npy")
        with open(folder / f"{name}.bin", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != (int(ends[-1]) if len(ends) else 0):
                raise ValueError(f"{name}.bin has {size} bytes")
            # An empty file cannot be mapped: all its strings are empty.
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"", ends)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        place = range(len(self))[row]
        start = int(self._ends[place - 1]) if place else 0
        return self._content[start : int(self._ends[place])].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), 100_000):
            for end in self._ends[first : first + 100_000].tolist():
                yield self._content[start:end].decode("utf-8", "surrogatepass")
                start = end


class _Writer:
    """Writes strings one after the other, and where each ends."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self._ends, self._end = folder, name, array("Q"), 0

    def __enter__(self) -> _Writer:
        self._file: BinaryIO = open(self._folder / f"{self._name}.bin", "wb", buffering=1 << 20)
        return self

    def add(self, text: str) -> None:
        # Half of a surrogate pair, which JSON may hold, comes back as it was.
        raw = text.encode("utf-8", "surrogatepass")
        self._file.write(raw)
        self._end += len(raw)
        self._ends.append(self._end)

    def __exit__(self, *error: object) -> None:
        self._file.close()
        np.save(self._folder / f"{self._name}_ends.npy", np.frombuffer(self._ends, dtype=np.uint64))


def _mapped(path: Path) -> np.ndarray:
    # A plain view: an element of a memmap takes several times as long.
    return np.asarray(np.load(path, mmap_mode="r"))


def _double(source: str, records: Records, first: int, second: int) -> ValueError:
    places = [(place, name) for row, (place, name, _) in enumerate(records()) if row in (first, second)]
    (before, name), (place, _) = places
    return ValueError(
        f"{source}, line {place}: the id {name!r} occurs twice; it was in line {before} before; take one out"
    )
