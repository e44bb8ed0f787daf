"""The known-item collection: find an object's documentation by the first sentence of its docstring."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cmp_rerank.collections.base import Collection, Split
from cmp_rerank.collections.cache import cache_folder, warn_unwritable
from cmp_rerank.collections.docstrings import cleaning, sources
from cmp_rerank.collections.docstrings.cleaning import known_item, template
from cmp_rerank.collections.docstrings.sources import (
    STDLIB,
    Docstring,
    package_docstrings,
    package_root,
    package_version,
)
from cmp_rerank.ir.lines import replacing
from cmp_rerank.text import near_duplicates as duplicates
from cmp_rerank.text import terms as splitting
from cmp_rerank.text.near_duplicates import near_duplicates, same_keys
from cmp_rerank.text.terms import terms

logger = logging.getLogger(__name__)
DEFAULT_PACKAGES = ("numpy", "scipy", "sklearn", "torch", "transformers", STDLIB)

QUERY_WORDS = (5, 40)
DOCUMENT_WORDS = 50
_HEAD_WORDS = 80  # the part that a reranker with a short window sees must set documents apart by itself
# Name, top-level object, query, document.
Row = tuple[str, str, str, str]
_LETTERS = re.compile(r"[^\W\d_]")


def docstring_collection(
    packages: Sequence[str] = DEFAULT_PACKAGES,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    validation: float = 0.1,
    test: float = 0.2,
) -> Collection:
    """Build, or load from the cache, a known-item retrieval collection from the docstrings of installed packages.

    The query is the first sentence of a docstring, the one relevant document is the rest of it. The sources are
    parsed, nothing is imported. Of docstrings from one template, and of near-duplicates, only one is kept. The split
    depends on the name of the top-level object. So a class and its methods are in one split, and so are objects with
    one name in several packages.

    The same packages in the same versions give the same collection everywhere. Other versions give another one:
    compare figures within one set of versions only (``collection.metadata["versions"]``).

    Args:
        packages: names of installed packages, or ``"stdlib"`` for the standard library.
        seed: of the split.
        cache_dir: folder for the built collection; by default ``cmp_rerank`` in the user's cache folder.
        validation: share of the objects in the split ``"dev"``.
        test: share of the objects in the split ``"test"``; the others are in ``"train"``.

    Returns:
        The collection, with the splits "train", "dev" and "test". Document ids are dotted names of objects; query ids
        have the prefix ``q:``.

    Raises:
        ValueError: a package is not installed, ``packages`` is empty, or the shares do not leave any for training.

    Example:
        >>> import tempfile
        >>> collection = docstring_collection(["json"], cache_dir=tempfile.mkdtemp())
        >>> collection.queries()["q:json.encoder.JSONEncoder"]
        'Extensible JSON <https://json.org> encoder for Python data structures.'
    """
    packages = tuple(dict.fromkeys(packages))
    if not packages:
        raise ValueError("packages is empty: name at least one installed package.")
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(f"validation and test must be shares with a sum below 1; got {validation!r} and {test!r}.")
    for package in packages:
        package_root(package)
    metadata: dict[str, Any] = {
        "kind": "known-item search over docstrings",
        "packages": list(packages),
        "versions": {package: package_version(package) for package in packages},
        "builder": _builder_version(),
        "seed": seed,
        "validation": validation,
        "test": test,
    }
    key = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder(cache_dir) / f"docstrings-{key}.json.gz"
    pairs = _read_cache(path)
    if pairs is None:
        pairs = _known_items(docstring for package in packages for docstring in package_docstrings(package))
        if not pairs:
            raise ValueError(f"No docstring of {', '.join(packages)} is long enough: name more packages.")
        _write_cache(path, pairs)
    members: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    for row in pairs:
        members[_split(row[1], seed, validation, test)].append(row)
    return Collection(
        "docstrings",
        {name: document for name, _, _, document in pairs},
        {
            split: Split(
                {f"q:{name}": query for name, _, query, _ in rows}, {f"q:{name}": {name: 1} for name, _, _, _ in rows}
            )
            for split, rows in members.items()
        },
        metadata=metadata,
    )


def _known_items(docstrings: Iterable[Docstring]) -> list[Row]:
    """(name, top-level object, query, document) of the usable docstrings, without near-duplicates."""
    items: dict[str, Row] = {}
    for docstring in docstrings:
        pair = known_item(docstring.text)
        if pair and _usable(*pair):
            # A name that comes twice (an overload, an `if` with two branches) keeps its first docstring.
            items.setdefault(docstring.name, (docstring.name, docstring.owner, *pair))
    rows = list(items.values())
    rows = _one_of_each(rows, same_keys(template(query) for _, _, query, _ in rows))
    rows = _one_of_each(rows, near_duplicates([query for _, _, query, _ in rows], threshold=0.6, size=2))
    rows = _one_of_each(rows, near_duplicates([" ".join(terms(text)[:_HEAD_WORDS]) for _, _, _, text in rows]))
    return _one_of_each(rows, near_duplicates([text for _, _, _, text in rows]))


def _one_of_each(rows: list[Row], groups: list[list[int]]) -> list[Row]:
    """The rows without all but the first of each group."""
    dropped = {index for group in groups for index in group[1:]}
    return [row for index, row in enumerate(rows) if index not in dropped]


def _usable(query: str, document: str) -> bool:
    low, high = QUERY_WORDS
    return (
        low <= len(query.split()) <= high
        and len(document.split()) >= DOCUMENT_WORDS
        and len(_LETTERS.findall(query)) >= 0.6 * len(query.replace(" ", ""))
        and "=" not in query  # a formula or a grammar rule, not a sentence
        # An author may say the sentence again further down; then there is nothing left to search for.
        and " ".join(terms(query)) not in " ".join(terms(document))
    )


def _split(owner: str, seed: int, validation: float, test: float) -> str:
    digest = hashlib.sha256(f"{seed}:{owner.casefold()}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test:
        return "test"
    return "dev" if position < test + validation else "train"


def _builder_version() -> str:
    """A hash of the code that builds the collection: after a change of it a cached collection is not used."""
    digest = hashlib.sha256()
    for module in (sources.__file__, cleaning.__file__, duplicates.__file__, splitting.__file__, __file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()[:12]


def _read_cache(path: Path) -> list[Row] | None:
    try:
        if not path.exists():
            return None
        rows = json.loads(gzip.decompress(path.read_bytes()))
        if not rows or not isinstance(rows, list):
            raise ValueError("no list of docstrings")
        return [(name, owner, query, document) for name, owner, query, document in rows]
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:  # gzip has a checksum of its content
        logger.warning("%s: this cache is damaged (%s); it is built again now", path, error)
        return None


def _write_cache(path: Path, rows: list[Row]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            json.dump(rows, file, ensure_ascii=False)
    except OSError as error:
        warn_unwritable(path, error)
