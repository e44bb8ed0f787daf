"""Tokenised rows in one file that is written once: arrays and JSON, mapped into memory, nothing that could run code.

The file is in the format of safetensors. Tokens of all pairs lie end to end, one array for each feature, in as few
bytes as their numbers need. What an example has beside its tokens is JSON; equal entries are kept once. A digest of
all arrays tells a damaged file from a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from cmp_rerank.ablations import Example

_FORMAT = "cmp_rerank tokens 2"
_TYPES = {
    "BOOL": np.bool_, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "U8": np.uint8,
    "U16": np.uint16, "U32": np.uint32, "U64": np.uint64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip
_FEATURE = "feature."


@dataclass(frozen=True)
class TokenisedRow:
    """The pairs of one row of a dataset.

    Attributes:
        row: its number in the dataset.
        examples: its pairs, in the order of its columns.
        content: stands for what the row held when it was tokenised; below 2**63.
    """

    row: int
    examples: Sequence[Example]
    content: int = 0


def write_part(path: Path, rows: Sequence[TokenisedRow], meta: dict[str, Any]) -> None:
    """Write rows to a file, under its name only when it is complete.

    Args:
        path: where; a file of this name is replaced. Whoever has it open keeps what it had.
        rows: at least one.
        meta: what else to keep, as JSON has it.

    Raises:
        ValueError: an example has something that is neither a number per token nor JSON.
        OSError: the file cannot be written.
    """
    arrays = _arrays(rows)
    about = {"format": _FORMAT, "digest": _digest(arrays), "meta": json.dumps(meta)}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save(arrays, about))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class TokenPart:
    """What `write_part` wrote, mapped into memory.

    Args:
        path: the file.
        check: whether to compare the content with its digest, which reads all of it.

    Raises:
        ValueError: the file is damaged, or of another format.
        OSError: it cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> pair = Example({"input_ids": np.array([101, 7, 102])}, np.array([-1, 0, -1]))
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "part")
        ...     write_part(path, [TokenisedRow(41, [pair])], {})
        ...     part = TokenPart(path)
        ...     part.rows.tolist(), part.lengths.tolist(), part.examples(0)[0].features["input_ids"].tolist()
        ([41], [3], [101, 7, 102])
    """

    def __init__(self, path: Path, check: bool = True) -> None:
        try:
            self._arrays, about = _read(path)
            if about["format"] != _FORMAT or (check and about["digest"] != _digest(self._arrays)):
                raise ValueError("its content is not what was written")
            #: What was kept beside the rows.
            self.meta: dict[str, Any] = json.loads(about["meta"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: this is no file of tokenised rows, or a damaged one ({error})") from error

    @property
    def rows(self) -> np.ndarray:
        """(rows,) their numbers in the dataset."""
        return self._arrays["rows"]

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) their tokens, 0 of those without pairs."""
        return self._arrays["lengths"]

    def content(self, at: int) -> int:
        """Stands for what the row at a place of `rows` held when it was tokenised."""
        return int(self._arrays["contents"][at])

    def examples(self, at: int) -> list[Example]:
        """The pairs of the row at a place of `rows`, without seeds."""
        start, end = self._arrays["pairs"][at : at + 2].tolist()
        return [self._example(i) for i in range(start, end)]

    def _example(self, i: int) -> Example:
        arrays = self._arrays
        tokens = slice(*arrays["tokens"][i : i + 2].tolist())
        rest = slice(*arrays["rests"][(n := int(arrays["rest_of"][i])) : n + 2].tolist())
        features, support, shared, croppable, until, notes = json.loads(arrays["rest"][rest].tobytes())
        return Example(
            {name: _wide(arrays[_FEATURE + name][tokens]) for name in features},
            _wide(arrays["segment"][tokens]),
            frozenset(support),
            0,
            shared,
            _wide(arrays["until"][tokens]) if until else None,
            croppable,
            notes,
        )


def _arrays(rows: Sequence[TokenisedRow]) -> dict[str, np.ndarray]:
    examples = [example for row in rows for example in row.examples]
    ends = [0, *np.cumsum([len(row.examples) for row in rows]).tolist()]
    rests: dict[str, int] = {}
    arrays = {
        "rows": np.array([row.row for row in rows], dtype=np.int64),
        "contents": np.array([row.content for row in rows], dtype=np.int64),
        "lengths": np.array([sum(map(len, row.examples)) for row in rows], dtype=np.int64),
        "pairs": np.array(ends, dtype=np.int64),
        "tokens": np.cumsum([0, *(len(example) for example in examples)], dtype=np.int64),
        "rest_of": np.array([rests.setdefault(_rest(example), len(rests)) for example in examples], dtype=np.int64),
        "segment": _end_to_end([example.segment for example in examples], examples),
        "until": _end_to_end([example.until for example in examples], examples),
    }
    texts = [text.encode() for text in rests]
    arrays["rest"] = np.frombuffer(b"".join(texts), dtype=np.uint8)
    arrays["rests"] = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    for name in dict.fromkeys(name for example in examples for name in example.features):
        arrays[_FEATURE + name] = _end_to_end([example.features.get(name) for example in examples], examples)
    return {name: _narrow(array) for name, array in arrays.items()}


def _rest(example: Example) -> str:
    """What an example has beside its tokens, as JSON."""
    rest = [
        list(example.features), sorted(example.support), example.shared, bool(example.croppable),
        example.until is not None, example.notes,
    ]  # fmt: skip
    try:
        text = json.dumps(rest, allow_nan=False)
        same = json.loads(text) == rest
    except TypeError:
        same = False
    if not same:
        raise ValueError(
            f"shared features and notes must be what JSON has; got {example.shared!r:.80} and {example.notes!r:.80}"
        )
    return text


def _end_to_end(parts: Sequence[np.ndarray | None], examples: Sequence[Example]) -> np.ndarray:
    """One array of all; examples that have none take no part in it where none has, and zeros where others have."""
    if all(part is None for part in parts):
        return np.zeros(0, dtype=np.int8)
    filled = [np.zeros(len(e), dtype=np.int8) if p is None else p for p, e in zip(parts, examples, strict=True)]
    joined = np.concatenate(filled)
    if joined.dtype.type not in _TYPES.values():
        raise ValueError(f"features must be numbers, one for each token; got {joined.dtype}")
    return joined


def _narrow(array: np.ndarray) -> np.ndarray:
    """The same whole numbers in as few bytes as they need."""
    if array.dtype.kind not in "iu" or not len(array):
        return np.ascontiguousarray(array)
    low, high = int(array.min()), int(array.max())
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    return array


def _wide(array: np.ndarray) -> np.ndarray:
    """Whole numbers as a tokenizer gives them: in the few bytes of the file 127 + 1 would be -128."""
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\0".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, mapped, and what is said about them."""
    length = path.stat().st_size
    if length < 8:
        raise ValueError("it ends too early")
    # Not by numpy's memmap, which keeps a file open as long as it is mapped: a process may open a thousand.
    data = torch.from_file(str(path), shared=False, size=length, dtype=torch.uint8).numpy()
    size = int.from_bytes(data[:8].tobytes(), "little")
    if size > len(data) - 8:
        raise ValueError("it ends too early")
    header = json.loads(data[8 : 8 + size].tobytes())
    about = header.pop("__metadata__")
    body = data[8 + size :]
    arrays: dict[str, np.ndarray] = {}
    for name, place in header.items():
        start, end = place["data_offsets"]
        if not 0 <= start <= end <= len(body):
            raise ValueError("it ends too early")
        arrays[name] = np.frombuffer(body[start:end], dtype=_TYPES[place["dtype"]])
    return arrays, about
