"""A BEIR folder of plain data: it appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmp_rerank.ir import Qrels, write_corpus, write_qrels, write_queries
from cmp_rerank.ir.lines import check_name, unfinished_folder, write_lines


def write_beir(
    folder: str | os.PathLike[str],
    corpus: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Mapping[str, Qrels],
    *,
    weights: Mapping[str, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a BEIR folder: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``, and ``metadata.json``.

    Args:
        folder: A folder that is not there yet.
        corpus: Document text by id; a title is part of it.
        queries: Query text by id.
        qrels: Judgments by name of split.
        weights: How much a query counts, by query id; a query that is not in it has no field ``weight``.
        metadata: Anything that can be written as JSON.

    Returns:
        The folder.

    Raises:
        ValueError: ``folder`` exists already, or an id holds white space.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists already: name a new folder or remove it first.")
    target = Path(os.path.realpath(folder))  # of a symbolic link, the folder that it names
    target.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(target) as unfinished:
        write_corpus(unfinished / "corpus.jsonl", corpus)
        _write_queries(unfinished / "queries.jsonl", queries, weights or {})
        (unfinished / "qrels").mkdir()
        for split, judged in qrels.items():
            check_name("the split of a collection", split)
            write_qrels(unfinished / "qrels" / f"{split}.tsv", judged)
        about = json.dumps(dict(metadata or {}), indent=2, ensure_ascii=False)
        (unfinished / "metadata.json").write_text(about + "\n", encoding="utf-8")
        unfinished.rename(target)
    return folder


def _write_queries(path: Path, queries: Mapping[str, str], weights: Mapping[str, float]) -> None:
    if not weights:
        write_queries(path, queries)
        return
    records = (
        {"_id": query, "text": text, **({"weight": weights[query]} if query in weights else {})}
        for query, text in queries.items()
    )
    write_lines(path, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))
