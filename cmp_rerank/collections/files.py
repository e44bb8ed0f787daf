"""Files of texts: a dictionary of a small one, a memory-mapped store of a large one; and what lies in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cmp_rerank.collections.cache import cache_folder
from cmp_rerank.collections.store import VERSION, TextStore
from cmp_rerank.ir.texts import numbered_texts

PathLike = str | os.PathLike[str]
#: Files of more bytes than this become a store.
LARGE = 64 << 20
_END = 1 << 16


def open_texts(
    path: PathLike, *, titles: bool = True, cache_dir: PathLike | None = None, large: int = LARGE
) -> Mapping[str, str]:
    """The texts of a file, by id: BEIR or Anserini JSONL, TSV (id, text); plain or gzip.

    A file of more than ``large`` bytes is read once, into a store in the cache, and opened from there afterwards. The
    store is known by the size and time of the file and a hash of its first and last 64 KB.

    Args:
        path: The file; .tsv is TSV, everything else JSONL.
        titles: Whether titles are put before texts.
        cache_dir: Folder of the cache; None: ``cmp_rerank`` in the user's cache folder.
        large: Number of bytes.

    Returns:
        Text by id.

    Raises:
        ValueError: With file and line, for a line that cannot be read and an id that occurs twice.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size <= large:
        from cmp_rerank.ir import read_corpus

        return read_corpus(path, title=titles)
    folder = cache_folder(cache_dir) / f"texts-{_key(path, titles)}"
    if folder.is_dir():
        return TextStore(folder)
    return TextStore.build(folder, lambda: numbered_texts(path, title=titles), os.fspath(path))


def _key(path: Path, titles: bool) -> str:
    about = path.stat()
    digest = hashlib.sha256(f"{VERSION} {titles} {path.name} {about.st_size} {about.st_mtime_ns}".encode())
    with open(path, "rb") as file:
        digest.update(file.read(_END))
        file.seek(max(0, about.st_size - _END))
        digest.update(file.read(_END))
    return digest.hexdigest()[:24]


def need_folder(where: PathLike, kind: str) -> Path:
    """The folder of a collection.

    Raises:
        ValueError: There is none.
    """
    folder = Path(where)
    if not os.fspath(where):
        raise ValueError(f"{kind!r} needs a folder; got no name; write '{kind}:folder'")
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing of this name"
        raise ValueError(f"{folder}: a collection of the kind {kind!r} is a folder; got {what}; check the name")
    return folder


def first_of(folder: Path, patterns: Iterable[str]) -> Path | None:
    """The first file in a folder that fits the first pattern for which there is one."""
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found:
            return found[0]
    return None


def all_of(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """All files in a folder that fit any of the patterns, sorted."""
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def bare_name(
    path: Path, suffixes: Sequence[str] = (".gz", ".tsv", ".txt", ".trec", ".run", ".json", ".jsonl")
) -> str:
    """The name of a file without the suffixes of its format.

    Example:
        >>> bare_name(Path("runs/bm25.top100.trec.gz"))
        'bm25.top100'
    """
    name = path.name
    while any(name.endswith(suffix) and name != suffix for suffix in suffixes):
        name = name[: name.rindex(".")]
    return name


_USUAL = ("train", "dev", "validation", "test")


def in_usual_order(names: Iterable[str]) -> list[str]:
    """Names of splits: train, dev, test, then the others by name; ``dev.small`` is beside ``dev``.

    Example:
        >>> in_usual_order(["test", "dev.small", "eval", "train", "dev"])
        ['train', 'dev', 'dev.small', 'test', 'eval']
    """

    def place(name: str) -> tuple[int, str]:
        first = name.replace("/", ".").split(".")[0]
        return (_USUAL.index(first) if first in _USUAL else len(_USUAL)), name

    return sorted(names, key=place)


def runs_in(folder: Path, more: Iterable[str] = ()) -> dict[str, Path | Callable[[], dict[str, dict[str, float]]]]:
    """The runs in a folder by name: ``*.run`` and ``*.trec`` in it, and all files in its folder ``runs``."""
    patterns = ("runs/*", "*.run", "*.run.gz", "run.*", "*.trec", "*.trec.gz", *more)
    return {bare_name(path): path for path in all_of(folder, patterns) if not path.name.startswith(".")}
