"""``load("kind:where")``: one function for collections of every kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cmp_rerank.collections.base import Collection
from cmp_rerank.collections.matching import check_choice_of
from cmp_rerank.collections.options import LoadOptions
from cmp_rerank.collections.splits import divided
from cmp_rerank.ir.arguments import kind as kind_of

PathLike = str | os.PathLike[str]


#: Reads what stands after the colon of a name.
Opener = Callable[[str, LoadOptions], Collection]

# Where the opener of each kind lives; imported on first use.
_OPENERS: dict[str, str | Opener] = {
    "beir": "cmp_rerank.collections.beir:open_beir",
    "docstrings": "cmp_rerank.collections.docstrings.opener:open_docstrings",
    "hf": "cmp_rerank.collections.hub:open_hub",
    "ir_datasets": "cmp_rerank.collections.ir_datasets:open_ir_datasets",
    "msmarco": "cmp_rerank.collections.msmarco:open_msmarco",
    "table": "cmp_rerank.collections.table:open_table",
    "trec": "cmp_rerank.collections.trec:open_trec",
}


def register_collection(kind: str, opener: Opener) -> None:
    """Make ``load("kind:where")`` call ``opener(where, options)``.

    Args:
        kind: The name before the colon.
        opener: Takes what stands after the colon, and :class:`LoadOptions`; returns a :class:`Collection`.

    Raises:
        ValueError: The kind is no name, or is taken by another opener.

    Example:
        >>> from cmp_rerank.collections import Collection, Split
        >>> def one_text(where, options):
        ...     return Collection(where, {"d": where}, {"test": Split({"q": where}, {"q": {"d": 1}})})
        >>> register_collection("one_text", one_text)
        >>> load("one_text:hello").corpus["d"]
        'hello'
    """
    if not isinstance(kind, str) or not kind.isidentifier():
        raise ValueError(f"a kind of collection is a name of letters, digits and _; got {kind!r}; choose another one")
    if _OPENERS.setdefault(kind, opener) is not opener:
        raise ValueError(f"each kind of collection has one opener; got {kind!r} a second time; choose another name")


def kinds() -> tuple[str, ...]:
    """The kinds of collections that :func:`load` knows.

    Example:
        >>> kinds()[:3]
        ('beir', 'docstrings', 'hf')
    """
    return tuple(sorted(_OPENERS))


def load(
    source: Any,
    *,
    missing_texts: str = "error",
    titles: bool = True,
    split: float | Mapping[str, float] | None = None,
    seed: int = 0,
    cache_dir: PathLike | None = None,
) -> Collection:
    """Open a collection by its name. Its parts are read when they are asked for.

    Args:
        source: ``"kind:where"``: "beir:folder", "msmarco:folder", "trec:folder", "table:pairs.csv",
            "ir_datasets:msmarco-passage/dev/small", "hf:org/name", "docstrings". Or an object: a dataset of
            ir_datasets, a ``Dataset`` or ``DatasetDict`` of datasets, a :class:`Collection` (which is returned as it
            is, unless ``split`` is given).
        missing_texts: As in :class:`LoadOptions`, and so are the other options.
        titles: See there.
        split: See there.
        seed: See there.
        cache_dir: See there.

    Returns:
        The collection.

    Raises:
        ValueError: The kind is not known (with the nearest one), files are missing or cannot be read.
        ImportError: The kind needs a library that is not installed.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "pairs.csv")
        >>> _ = path.write_text("query,positive\\nwhat do pandas eat,Pandas eat bamboo.\\n")
        >>> collection = load(f"table:{path}")
        >>> collection.queries("train"), collection.qrels("train"), dict(collection.corpus)
        ({'q1': 'what do pandas eat'}, {'q1': {'d1': 1}}, {'d1': 'Pandas eat bamboo.'})
    """
    options = LoadOptions(missing_texts, titles, split, seed, cache_dir)
    collection = _open(source, options)
    return collection if split is None else divided(collection, split, seed=seed)


def _open(source: Any, options: LoadOptions) -> Collection:
    if isinstance(source, Collection):
        return source
    if hasattr(source, "docs_iter") or hasattr(source, "queries_iter"):
        from cmp_rerank.collections.ir_datasets import from_dataset

        return from_dataset(source, options)
    if hasattr(source, "column_names"):
        from cmp_rerank.collections.hub import from_datasets

        return from_datasets(source, options)
    if not isinstance(source, str):
        hint = "write 'beir:folder' or the like" if isinstance(source, os.PathLike) else "give its name: 'kind:where'"
        raise ValueError(f"a collection is given by a name such as 'beir:folder'; got {kind_of(source)}; {hint}")
    kind, colon, where = source.partition(":")
    if not colon and kind not in _OPENERS:
        raise ValueError(
            f"a collection is given by its kind and place, 'kind:where'; got {source!r}; {_guess(source)}"
        )
    check_choice_of("the kind of a collection", kind, kinds())
    opener = _OPENERS[kind]
    if isinstance(opener, str):
        module, _, function = opener.partition(":")
        opener = getattr(import_module(module), function)
    return opener(where, options)  # type: ignore[operator]


def _guess(source: str) -> str:
    """What a bare path probably is."""
    path = Path(source)
    signs = {"beir": "corpus.jsonl*", "msmarco": "*collection.tsv*", "trec": "*qrels*"}
    for kind, pattern in signs.items():
        if path.is_dir() and any(path.glob(pattern)):
            return f"this looks like '{kind}:{source}'"
    if path.is_file():
        return f"this looks like 'table:{source}'"
    return f"the kinds are {', '.join(kinds())}"
