"""``trec:folder``: topics, qrels, runs and texts, in the names and formats that TREC collections come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path

from cmp_rerank.collections.base import Collection
from cmp_rerank.collections.files import (
    all_of,
    bare_name,
    first_of,
    in_usual_order,
    need_folder,
    open_records,
    runs_in,
)
from cmp_rerank.collections.options import LoadOptions
from cmp_rerank.collections.queries import QueryFile
from cmp_rerank.collections.sgml import sgml_documents, sgml_topics
from cmp_rerank.ir import read_qrels
from cmp_rerank.ir.lines import numbered_lines
from cmp_rerank.ir.texts import numbered_texts

_TEXTS = ("corpus.jsonl*", "collection.tsv*", "docs.*", "documents.*", "collection.*", "corpus.*")
_FOLDERS = ("docs/*", "documents/*", "corpus/*", "collection/*")
_TOPICS = ("queries*", "*topics*", "*queries*")
_QRELS = ("qrels/*", "*qrels*")


def open_trec(where: str, options: LoadOptions) -> Collection:
    """Open a folder of a TREC collection; any file may end in ``.gz``.

    | file | formats |
    |---|---|
    | ``corpus.*``, ``collection.*``, ``docs.*``, or a folder ``docs`` | JSON lines, TSV, or SGML with ``<DOC>`` |
    | ``topics*`` or ``queries*`` | JSON lines, TSV, or SGML with ``<top>`` or ``<topic number=...>`` |
    | ``qrels*``, or a folder ``qrels`` | TREC or BEIR; one split each: ``qrels.test.txt`` is "test" |
    | ``runs/*``, ``*.run``, ``run.*``, ``*.trec`` | runs, by the name of the file |

    Args:
        where: The folder.
        options: As :func:`cmp_rerank.collections.load` has them.

    Returns:
        The collection.

    Raises:
        ValueError: The folder, texts, topics or qrels are missing.
    """
    folder = need_folder(where, "trec")
    single = first_of(folder, _TEXTS)
    texts = [single] if single else all_of(folder, _FOLDERS)
    topics = all_of(folder, _TOPICS)
    qrels = {_split_name(path): path for path in all_of(folder, _QRELS)}
    for what, found, names in (
        ("texts of documents", texts, "corpus.jsonl, collection.tsv or docs/*"),
        ("topics", topics, "topics.txt or queries.tsv"),
        ("qrels", qrels, "qrels.txt or qrels/test.tsv"),
    ):
        if not found:
            raise ValueError(f"{folder}: no {what} in it; add a file such as {names}, or use 'table:' or 'beir:'")

    @cache
    def queries() -> QueryFile:
        files = [_query_file(path) for path in topics]
        return QueryFile(
            {query: text for file in files for query, text in file.texts.items()},
            {query: weight for file in files for query, weight in file.weights.items()},
        )

    def corpus() -> Mapping[str, str]:
        def records() -> Iterator[tuple[int, str, str]]:
            for path in texts:
                yield from _documents(path, options.titles)

        # The number is one more whenever SGML is read in another way, so that no store holds texts of before.
        return open_records(texts, records, f"trec 2 {options.titles}", cache_dir=options.cache_dir)

    return Collection(
        folder.resolve().name,
        corpus,
        {
            name: partial(lambda path: queries().split(read_qrels(path)), qrels[name])
            for name in in_usual_order(qrels)
        },
        runs=runs_in(folder),
        missing_texts=options.missing_texts,
    )


def _split_name(path: Path) -> str:
    """What a name says beside "qrels": ``qrels.test.txt`` and ``qrels/test.tsv`` are test."""
    return bare_name(path, (".gz", ".tsv", ".txt", ".qrels")).replace("qrels", "").strip(".-_") or "test"


def _is_sgml(path: Path) -> bool:
    return next((line.lstrip().startswith(b"<") for _, line in numbered_lines(path)), False)


def _documents(path: Path, titles: bool) -> Iterator[tuple[int, str, str]]:
    return sgml_documents(path, title=titles) if _is_sgml(path) else numbered_texts(path, title=titles)


def _query_file(path: Path) -> QueryFile:
    if _is_sgml(path):
        return QueryFile({name: text for _, name, text in sgml_topics(path)}, {})
    return QueryFile.read(path)
