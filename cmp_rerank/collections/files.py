"""Files of texts: a dictionary of a small one, a memory-mapped store of a large one; and what lies in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cmp_rerank.collections.cache import cache_folder, in_cache
from cmp_rerank.collections.store import VERSION, Records, TextStore
from cmp_rerank.ir.lines import PathLike, malformed
from cmp_rerank.ir.texts import numbered_texts

#: Files of more bytes than this become a store.
LARGE = 64 << 20
_END = 1 << 16


def open_texts(
    path: PathLike, *, titles: bool = True, cache_dir: PathLike | None = None, large: int = LARGE
) -> Mapping[str, str]:
    """The texts of a file, by id: BEIR or Anserini JSONL, TSV (id, text); plain or gzip.

    A file of more than ``large`` bytes is read once, into a store in the cache, and opened from there afterwards. The
    store is known by the size and time of the file and a hash of its first and last 64 KB. One that is damaged is
    built again, with a warning.

    Args:
        path: The file; .tsv is TSV, everything else JSONL.
        titles: Whether titles are put before texts.
        cache_dir: Folder of the cache; None: ``cmp_rerank`` in the user's cache folder.
        large: Number of bytes.

    Returns:
        Text by id.

    Raises:
        ValueError: With file and line, for a line that cannot be read and an id that occurs twice.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "corpus.tsv")
        ...     _ = path.write_text("d1\\tPandas eat.\\nd2\\tBees fly.\\n")
        ...     open_texts(path)["d2"]
        'Bees fly.'
    """
    path = Path(path)
    about = f"{path.name} {titles}"
    return open_records([path], lambda: numbered_texts(path, title=titles), about, cache_dir=cache_dir, large=large)


def open_records(
    paths: Sequence[Path], records: Records, about: str, *, cache_dir: PathLike | None = None, large: int = LARGE
) -> Mapping[str, str]:
    """The texts of some files, by id, read by any function; see :func:`open_texts`.

    Args:
        paths: The files.
        records: Gives all (line, id, text) of them, each time it is called.
        about: What else decides the texts: names and options, as part of the name of the store.
        cache_dir: As for :func:`open_texts`.
        large: As for :func:`open_texts`.

    Returns:
        Text by id.

    Raises:
        ValueError: As ``records`` does; an id occurs twice; there is no text.
    """
    source = os.fspath(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)"
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    if len(sizes) < len(paths) or sum(sizes) <= large:
        return _dictionary(records, source)
    folder = cache_folder(cache_dir) / f"texts-{_key(paths, about)}"
    return in_cache(folder, lambda place: TextStore.of(place, records, source))


def _dictionary(records: Records, source: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, name, text in records():
        if name in texts:
            raise malformed(source, number, f"the id {name!r} occurs twice; take one out")
        texts[name] = text
    if not texts:
        raise ValueError(f"{source}: there is no text in it; is it the right file?")
    return texts


def _key(paths: Sequence[Path], about: str) -> str:
    digest = hashlib.sha256(f"{VERSION} {about}".encode())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_END))
            file.seek(max(0, stat.st_size - _END))
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


def runs_in(folder: Path) -> dict[str, Path | Callable[[], dict[str, dict[str, float]]]]:
    """The runs in a folder by name: ``*.run`` and ``*.trec`` in it, and all files in its folder ``runs``."""
    patterns = ("runs/*", "*.run", "*.run.gz", "run.*", "*.trec", "*.trec.gz")
    return {bare_name(path): path for path in all_of(folder, patterns) if not path.name.startswith(".")}
