"""Tokenised pairs in files: made once, found by what they were made of, read by any process through shared memory."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cmp_rerank.ablations import Example

Item = tuple[int, Example]


class TokenStore:
    """Examples in a folder, by key.

    Written with `write`, which renames the finished folder into place, so that there is never half of one. The files
    hold pickled objects: open only what you wrote yourself.

    Args:
        folder: what `write` made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._open()

    def _open(self) -> None:
        self.meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())
        self._keys = np.load(self.folder / "keys.npy", mmap_mode="r")
        self._places = np.load(self.folder / "places.npy", mmap_mode="r")
        size = (self.folder / "examples.bin").stat().st_size
        self._data = (
            np.memmap(self.folder / "examples.bin", dtype=np.uint8, mode="r") if size else np.empty(0, np.uint8)
        )

    def __getstate__(self) -> Path:
        return self.folder  # a worker opens the files itself

    def __setstate__(self, folder: Path) -> None:
        self.folder = folder
        self._open()

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: int) -> Example | None:
        """The example of a key, without a seed; None if it is not here."""
        at = int(np.searchsorted(self._keys, np.uint64(key)))
        if at == len(self._keys) or int(self._keys[at]) != key:
            return None
        start, end = self._places[at]
        found: Example = pickle.loads(self._data[start:end].tobytes())
        return found

    def lengths(self, name: str) -> np.ndarray:
        """Tokens of each row of a dataset, by its name."""
        return np.asarray(np.load(self.folder / f"lengths-{self.meta['datasets'].index(name)}.npy"))

    @classmethod
    def write(
        cls,
        folder: str | os.PathLike[str],
        datasets: dict[str, Iterable[tuple[list[Item], int]]],
        notes: Callable[[], dict[str, Any]] = dict,
    ) -> TokenStore:
        """Write a store.

        Args:
            folder: where; what is there already is replaced.
            datasets: by name, for each row its items and its number of tokens.
            notes: asked at the end for what else to keep; `meta` has it.
        """
        folder = Path(folder)
        # Not by the number of the process: those of several machines may write to one place.
        part = folder.with_name(f"{folder.name}.part-{uuid.uuid4().hex}")
        part.mkdir(parents=True)
        keys: list[int] = []
        places: list[tuple[int, int]] = []
        known: set[int] = set()
        try:
            with open(part / "examples.bin", "wb") as file:
                for number, rows in enumerate(datasets.values()):
                    lengths = []
                    for items, length in rows:
                        lengths.append(length)
                        for key, example in items:
                            if key in known:
                                continue
                            known.add(key)
                            start = file.tell()
                            file.write(pickle.dumps(_compact(example), pickle.HIGHEST_PROTOCOL))
                            keys.append(key)
                            places.append((start, file.tell()))
                    np.save(part / f"lengths-{number}.npy", np.array(lengths, dtype=np.int64))
            order = np.argsort(np.array(keys, dtype=np.uint64))
            np.save(part / "keys.npy", np.array(keys, dtype=np.uint64)[order])
            np.save(part / "places.npy", np.array(places, dtype=np.int64).reshape(-1, 2)[order])
            (part / "meta.json").write_text(json.dumps({"datasets": list(datasets)} | notes()))
            shutil.rmtree(folder, ignore_errors=True)
            try:
                part.rename(folder)
            except OSError:
                if not (folder / "meta.json").exists():
                    raise
                # Another process was faster.
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return cls(folder)


def _compact(example: Example) -> Example:
    """The same example, its whole numbers in as few bytes as they need."""

    def narrow(array: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or not len(array):
            return array
        low, high = int(array.min()), int(array.max())
        kinds = (np.int8, np.int16, np.int32)
        fitting = [k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max]
        return array.astype(fitting[0]) if fitting else array

    changed = {name: narrow(value) for name, value in vars(example).items() if isinstance(value, np.ndarray)}
    features = {name: narrow(value) for name, value in example.features.items()}
    return replace(example, seed=0, features=features, **changed)
