"""Texts on disk: millions of them are opened in a moment and read one by one, without being held in memory.

A store is a cache. What is damaged in it is noticed before it is handed out, and the store is built again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from cmp_rerank.ir.id_index import IdIndex, id_hash
from cmp_rerank.ir.lines import PathLike, unfinished_folder
from cmp_rerank.ir.mappings import Texts

#: A source of texts: each call gives all (place, id, text), where the place is a line or a row, for errors.
Records = Callable[[], Iterable[tuple[int, str, str]]]
VERSION = 2
_ABOUT = "about.json"
_AT_ONCE = 256  # texts
T = TypeVar("T")
logger = logging.getLogger(__name__)


class DamagedStore(ValueError):
    """A store that does not hold what was written to it."""

    def __init__(self, folder: Path, what: object) -> None:
        super().__init__(f"{folder}: not a store of texts, or damaged ({what}); remove it, so that it is built again")


class TextStore(Texts):
    """Texts by id in a folder of memory-mapped files.

    The folder holds texts and ids as they are, one after the other; where each ends; and a sorted hash of each id
    with its row (12 bytes), in which an id is found by binary search. What is read stays in the page cache of the
    operating system, which takes it back when memory is needed. A store is pickled by its path.

    Each text is read with its checksum. That of the ids and hashes is computed once, before they are listed or one of
    them is said to be missing. So a store is opened without reading it, and no wrong text comes out of it.

    Args:
        folder: A folder that :meth:`build` has made.

    Raises:
        DamagedStore: The folder is not there, or holds something else; while reading: it is damaged. A store of
            :meth:`of` is built again instead.

    Example:
        >>> import tempfile
        >>> texts = [(1, "d1", "Pandas eat bamboo."), (2, "d2", "Bees make honey.")]
        >>> store = TextStore.build(tempfile.mkdtemp() + "/store", lambda: texts, "an example")
        >>> store["d2"], "d3" in store, len(store), list(store), store.get_many(["d2", "d1"])
        ('Bees make honey.', False, 2, ['d1', 'd2'], ['Bees make honey.', 'Pandas eat bamboo.'])
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        self._build_again: Callable[[], object] | None = None
        self._open()

    def _open(self) -> None:
        try:
            about = json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))
            self._texts = _Pieces.open(self.folder, "texts")
            self._names = _Pieces.open(self.folder, "ids")
            hashes = _mapped(self.folder / "hashes.npy", np.uint64)
            rows = _mapped(self.folder / "rows.npy", np.uint32, np.uint64)
            self._checksums = _mapped(self.folder / "checksums.npy", np.uint32)
            lengths = {len(part) for part in (self._texts, self._names, hashes, rows, self._checksums)}
            if about["version"] != VERSION or lengths != {about["count"]}:
                raise ValueError("of another form")
            self._index_checksum = int(about["index"])
        except Exception as error:  # of numpy, for what a damaged head of a file may say: any
            raise DamagedStore(self.folder, error) from None
        self._index = IdIndex(hashes, rows, self._names.__getitem__)
        self._index_is_whole = False

    @classmethod
    def of(cls, folder: PathLike, records: Records, source: str) -> TextStore:
        """The store of a folder, built where there is none, and built again where it is damaged, with a warning.

        Args:
            folder: Where.
            records: As for :meth:`build`.
            source: As for :meth:`build`.

        Raises:
            ValueError: As :meth:`build`.
        """
        folder = Path(folder)

        def again() -> TextStore:
            with contextlib.suppress(FileNotFoundError), unfinished_folder(folder) as old:
                folder.replace(old)  # it is removed with it
            return cls.build(folder, records, source)

        try:
            store = cls(folder) if folder.is_dir() else cls.build(folder, records, source)
        except DamagedStore as error:
            _warn(error)
            store = again()
        store._build_again = again
        return store

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
        with unfinished_folder(folder) as unfinished:
            hashes, checksums = array("Q"), array("I")
            with _Writer(unfinished, "texts") as texts, _Writer(unfinished, "ids") as names:
                for _, name, text in records():
                    checksums.append(_checksum(names.add(name), texts.add(text)))
                    hashes.append(id_hash(name))
            if not hashes:
                raise ValueError(f"{source}: there is no text in it; is it the right file?")
            written = _Pieces.open(unfinished, "ids")
            index = IdIndex.of(np.frombuffer(hashes, dtype=np.uint64), written.__getitem__)
            double = index.duplicate()
            if double:
                raise _double(source, records, *double)
            np.save(unfinished / "hashes.npy", index.hashes)
            np.save(unfinished / "rows.npy", index.rows)
            np.save(unfinished / "checksums.npy", np.frombuffer(checksums, dtype=np.uint32))
            about = {
                "version": VERSION,
                "source": source,
                "count": len(hashes),
                "index": _checksum(*written.buffers(), index.hashes, index.rows),
            }
            (unfinished / _ABOUT).write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
            with contextlib.suppress(OSError):  # another process was faster: its folder is as good
                unfinished.rename(folder)
            return cls(folder)

    def _whole(self, read: Callable[[], T]) -> T:
        """What is read; where the store turns out to be damaged, it is built again first."""
        try:
            return read()
        except DamagedStore as error:
            if self._build_again is None:
                raise
            _warn(error)
        self._build_again()
        self._open()
        return read()

    def _row(self, name: object) -> int | None:
        """The row of an id."""
        return self._rows([name])[0] if isinstance(name, str) else None

    def _rows(self, names: Sequence[str]) -> list[int | None]:
        """The row of each id, or None."""
        try:
            rows = list(self._index.find(names))
        except (UnicodeDecodeError, IndexError) as error:  # what the rows or ends say is nowhere
            raise DamagedStore(self.folder, error) from None
        if None in rows:
            self._check_index()
        return rows

    def _check_index(self) -> None:
        """Compute the checksum of ids and hashes, once."""
        if self._index_is_whole:
            return
        if _checksum(*self._names.buffers(), self._index.hashes, self._index.rows) != self._index_checksum:
            raise DamagedStore(self.folder, "the checksum of the ids differs")
        self._index_is_whole = True

    def _records(self, first: int, stop: int) -> list[tuple[str, str]]:
        """Id and text of some rows that follow each other."""
        found: list[tuple[str, str]] = []
        checksums = self._checksums[first:stop].tolist()
        for name, text, known in zip(
            self._names.raw(first, stop), self._texts.raw(first, stop), checksums, strict=True
        ):
            if zlib.crc32(text, zlib.crc32(name)) != known:
                raise DamagedStore(self.folder, f"the checksum of text {first + len(found):,} differs")
            found.append((name.decode("utf-8", "surrogatepass"), text.decode("utf-8", "surrogatepass")))
        return found

    def _text(self, name: object) -> str:
        row = self._row(name)
        if row is None:
            raise KeyError(name)
        return self._records(row, row + 1)[0][1]

    def _known_ids(self) -> Sequence[str]:
        self._check_index()
        return self._names

    @property
    def ids(self) -> Sequence[str]:
        """The ids by row; each is read when it is asked for."""
        return self._whole(self._known_ids)

    def __getitem__(self, name: str) -> str:
        return self._whole(lambda: self._text(name))

    def get_many(self, ids: Iterable[str]) -> list[str]:
        """The texts of some ids, in their order, with one search for all of them.

        Raises:
            KeyError: An id is not known.
        """
        names = list(ids)

        def read() -> list[str]:
            rows = self._rows(names)
            if None in rows:
                raise KeyError(names[rows.index(None)])
            return [self._records(row, row + 1)[0][1] for row in rows if row is not None]

        return self._whole(read)

    def known(self, ids: Iterable[str]) -> list[bool]:
        """Whether there is a text, for each of some ids."""
        names = list(ids)
        return self._whole(lambda: [row is not None for row in self._rows(names)])

    def __contains__(self, name: object) -> bool:
        return self._whole(lambda: self._row(name)) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self._names)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """All (id, text), in the order of the source."""
        for first in range(0, len(self), _AT_ONCE):
            yield from self._whole(partial(self._records, first, min(first + _AT_ONCE, len(self))))

    def __eq__(self, other: object) -> bool:
        # Two stores of one folder are equal without reading them.
        return (isinstance(other, TextStore) and other.folder == self.folder) or super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TextStore({str(self.folder)!r}: {len(self):,} texts)"

    def __reduce__(self) -> tuple[type[TextStore], tuple[Path]]:
        return TextStore, (self.folder,)


def _warn(error: DamagedStore) -> None:
    logger.warning("%s; this is done now", error)


def _checksum(*parts: Any) -> int:
    """The CRC-32 of bytes and arrays, one after the other."""
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


class _Pieces(Sequence[str]):
    """Strings that stand one after the other in a memory-mapped file."""

    def __init__(self, content: Any, ends: np.ndarray) -> None:
        self._content, self._ends = content, ends

    @classmethod
    def open(cls, folder: Path, name: str) -> _Pieces:
        ends = _mapped(folder / f"{name}_ends.npy", np.uint64)
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
        return self.raw(place, place + 1)[0].decode("utf-8", "surrogatepass")

    def raw(self, first: int, stop: int) -> list[bytes]:
        """The bytes of some strings that follow each other."""
        bounds = self._ends[first - 1 : stop].tolist() if first else [0, *self._ends[:stop].tolist()]
        return [self._content[start:end] for start, end in pairwise(bounds)]

    def buffers(self) -> tuple[Any, np.ndarray]:
        """All bytes, and where each string ends."""
        return self._content, self._ends

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

    def add(self, text: str) -> bytes:
        """Write a string, and return its bytes."""
        # Half of a surrogate pair, which JSON may hold, comes back as it was.
        raw = text.encode("utf-8", "surrogatepass")
        self._file.write(raw)
        self._end += len(raw)
        self._ends.append(self._end)
        return raw

    def __exit__(self, *error: object) -> None:
        self._file.close()
        np.save(self._folder / f"{self._name}_ends.npy", np.frombuffer(self._ends, dtype=np.uint64))


def _mapped(path: Path, *kinds: type[np.generic]) -> np.ndarray:
    # A plain view: an element of a memmap takes several times as long.
    array = np.asarray(np.load(path, mmap_mode="r"))
    if array.ndim != 1 or array.dtype not in kinds:
        raise ValueError(f"{path.name} has {array.ndim} dimensions of {array.dtype}")
    return array


def _double(source: str, records: Records, first: int, second: int) -> ValueError:
    places = [(place, name) for row, (place, name, _) in enumerate(records()) if row in (first, second)]
    (before, name), (place, _) = places
    return ValueError(
        f"{source}, line {place}: the id {name!r} occurs twice; it was in line {before} before; take one out"
    )
