"""``msmarco:folder``: collection.tsv, queries.*.tsv, qrels.*.tsv, top1000.*, and triples of ids or texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path

from cmp_rerank.collections.base import Collection, Split
from cmp_rerank.collections.files import all_of, bare_name, first_of, in_usual_order, need_folder, open_texts, runs_in
from cmp_rerank.collections.options import LoadOptions
from cmp_rerank.collections.rows import Row
from cmp_rerank.collections.table import from_rows
from cmp_rerank.ir import Run, read_qrels, read_queries, read_top1000
from cmp_rerank.ir.lines import malformed, numbered_lines, text

_LAYOUT = "a folder in the layout of MS MARCO has collection.tsv, queries.<split>.tsv and qrels.<split>.tsv"


def open_msmarco(where: str, options: LoadOptions) -> Collection:
    """Open a folder in the layout of MS MARCO; any file may end in ``.gz``.

    | file | what becomes of it |
    |---|---|
    | ``collection.tsv`` | the corpus |
    | ``queries.dev.small.tsv``, ``qrels.dev.small.tsv`` | the split "dev.small": the queries that are judged |
    | ``queries.eval.tsv`` without qrels | a split with queries only |
    | ``top1000.dev.tsv`` | the run "top1000.dev"; without collection.tsv also the corpus and the queries |
    | ``qidpidtriples.train.tsv`` (ids) | the run "qidpidtriples.train": the negatives of each query, in order |
    | ``triples.train.tsv`` (texts), alone in a folder | a table of query, positive and negative |
    | ``runs/*``, ``*.run``, ``*.trec`` | runs, by the name of the file |

    Names may stand around these words, as in ``msmarco-test2019-queries.tsv``. Qrels without a file of queries of the
    same name take their texts from all of them.

    Args:
        where: The folder.
        options: As :func:`cmp_rerank.collections.load` has them.

    Returns:
        The collection.

    Raises:
        ValueError: The folder or one of these files is missing.
    """
    folder = need_folder(where, "msmarco")
    passages = first_of(folder, ("collection.tsv*", "*collection*.tsv*", "collection.jsonl*"))
    queries = {_split_name(path, "queries"): path for path in all_of(folder, ("*queries*.tsv", "*queries*.tsv.gz"))}
    qrels = {_split_name(path, "qrels"): path for path in all_of(folder, ("*qrels*",))}
    tops = {bare_name(path): path for path in all_of(folder, ("*top1000*",))}
    triples = {bare_name(path): path for path in all_of(folder, ("*triples*",))}
    name = folder.resolve().name
    if passages is None and not tops:
        if triples and not qrels:
            return from_rows(
                name, {_split_name(path, "triples"): _triples(path) for path in triples.values()}, options
            )
        raise ValueError(f"{folder}: no collection.tsv and no top1000 file in it; {_LAYOUT}")
    if not queries and not tops:
        raise ValueError(f"{folder}: no file of queries in it; {_LAYOUT}")
    together = cache(partial(_candidates, tuple(tops.values())))
    read = cache(read_queries)

    def texts_of(split: str) -> Mapping[str, str]:
        if split in queries:
            return read(queries[split])
        every = {query: text for path in queries.values() for query, text in read(path).items()}
        return every or together()[0]

    def split(name: str) -> Split:
        texts = texts_of(name)
        if name not in qrels:
            return Split(texts)
        judged = read_qrels(qrels[name])
        return Split({query: texts[query] for query in judged if query in texts}, judged)

    def corpus() -> Mapping[str, str]:
        if passages is None:
            return together()[1]
        return open_texts(passages, titles=options.titles, cache_dir=options.cache_dir)

    runs: dict[str, Run | str | os.PathLike[str] | Callable[[], Run]] = {**runs_in(folder), **tops}
    runs.update({name: partial(_negatives, path) for name, path in triples.items() if _has_ids(path)})
    return Collection(
        name,
        corpus,
        {name: partial(split, name) for name in in_usual_order({*queries, *qrels} or {"dev"})},
        runs=runs,
        missing_texts=options.missing_texts,
    )


def _split_name(path: Path, word: str) -> str:
    """What a name says beside the word: ``queries.dev.small.tsv`` is dev.small."""
    rest = bare_name(path).replace(word, "").replace("qidpid", "").replace("..", ".").strip(".-_")
    return rest or "test"


def _candidates(paths: tuple[Path, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Queries and passages of files of candidates."""
    queries: dict[str, str] = {}
    passages: dict[str, str] = {}
    for path in paths:
        more_queries, more_passages, _ = read_top1000(path)
        queries.update(more_queries)
        passages.update(more_passages)
    return queries, passages


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in numbered_lines(path):
        fields = text(path, number, line).split("\t")
        if len(fields) != 3:
            raise malformed(
                path, number, f"{len(fields)} fields in {line[:80]!r}; a triple has 3: query, positive, negative"
            )
        yield number, fields


def _triples(path: Path) -> Iterator[Row]:
    for number, (query, positive, negative) in _fields(path):
        yield f"{path}, line {number}", {"query": query, "positive": positive, "negative": negative}


def _has_ids(path: Path) -> bool:
    """Whether the first triple is of ids, which hold no space."""
    return next((not any(" " in field for field in fields) for _, fields in _fields(path)), False)


def _negatives(path: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for _, (query, _, negative) in _fields(path):
        scores = found.setdefault(query, {})
        scores.setdefault(negative, -float(len(scores) + 1))
    return found
