"""``beir:folder``: corpus.jsonl, queries.jsonl, qrels/<split>.tsv; and runs, where there is a folder ``runs``."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from cmp_rerank.collections.base import Collection, Split
from cmp_rerank.collections.files import all_of, bare_name, first_of, in_usual_order, need_folder, open_texts, runs_in
from cmp_rerank.collections.options import LoadOptions
from cmp_rerank.collections.queries import QueryFile
from cmp_rerank.ir import read_qrels
from cmp_rerank.ir.reading import read_json


def open_beir(where: str, options: LoadOptions) -> Collection:
    """Open a BEIR folder. Its splits are the files of ``qrels/``; a split has the queries that are judged in it.

    Titles go before texts, and queries may have a number ``weight``. Files may end in ``.gz``.

    Args:
        where: The folder.
        options: As :func:`cmp_rerank.collections.load` has them.

    Returns:
        The collection.

    Raises:
        ValueError: The folder or one of its files is missing, or a metadata file cannot be read.
    """
    folder = need_folder(where, "beir")
    corpus = _need(folder, "corpus.jsonl")
    queries = _need(folder, "queries.jsonl")
    qrels = {bare_name(path): path for path in all_of(folder, ("qrels/*.tsv", "qrels/*.tsv.gz"))}
    if not qrels:
        raise ValueError(f"{folder / 'qrels'}: no .tsv file; a BEIR folder has one for each split, qrels/test.tsv")
    file = cache(partial(QueryFile.read, queries))

    def split(path: Path) -> Split:
        return file().split(read_qrels(path, empty="allow"))

    about = folder / "metadata.json"
    metadata = _read_metadata(about) if about.exists() else {}
    return Collection(
        str(metadata.pop("name", folder.resolve().name)),
        lambda: open_texts(corpus, titles=options.titles, cache_dir=options.cache_dir),
        {name: partial(split, qrels[name]) for name in in_usual_order(qrels)},
        runs=runs_in(folder),
        missing_texts=options.missing_texts,
        metadata=metadata,
    )


def _need(folder: Path, name: str) -> Path:
    found = first_of(folder, (name, f"{name}.gz"))
    if found is None:
        raise ValueError(f"{folder}: no {name} in it; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/*.tsv")
    return found


def _read_metadata(path: Path) -> dict[str, object]:
    about = read_json(path)
    if not isinstance(about, dict):
        raise ValueError(f"{path}: metadata is a JSON object; got {about!r:.80}; correct or remove the file")
    return about
