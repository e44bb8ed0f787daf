"""``hf:org/name`` and ``hf:folder``: datasets of the hub or of a folder, and ``datasets`` objects themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from cmp_rerank.collections.base import Collection, Split
from cmp_rerank.collections.files import in_usual_order
from cmp_rerank.collections.options import LoadOptions
from cmp_rerank.collections.rows import Row
from cmp_rerank.collections.table import from_rows
from cmp_rerank.ir.dataset_folders import open_dataset
from cmp_rerank.ir.dataset_texts import DatasetTexts
from cmp_rerank.ir.grades import as_grade, read_grade

_QUERY, _DOCUMENT = ("query-id", "query_id", "qid"), ("corpus-id", "corpus_id", "doc_id", "document_id", "pid")
_GRADE = ("score", "label", "relevance", "grade")
_QRELS = ("qrels", "default")


def open_hub(where: str, options: LoadOptions) -> Collection:
    """Open a dataset of the hub, or a folder with datasets, in one of two layouts.

    - Retrieval, as BEIR, MTEB and NanoBEIR have it: the configurations (or folders) "corpus", "queries", and "qrels"
      or "default"; or the qrels in a dataset of the same name with "-qrels". Their splits are the splits. Grades are
      whole numbers, as in files of qrels.
    - Pairs, as sentence-transformers trains on them: the columns of a table
      (:func:`cmp_rerank.collections.table.open_table`).

    A folder holds files as a dataset of the hub does, or what ``save_to_disk`` has written. Ids of qrels are often
    integers there: they are read as strings, as from any other file.

    Args:
        where: "org/name", "org/name#configuration", or a folder.
        options: As :func:`cmp_rerank.collections.load` has them.

    Returns:
        The collection.

    Raises:
        ValueError: There is nothing of this name, or its columns are of neither layout. When a split is read: a grade
            is no whole number, or a pair is judged twice with two grades.
    """
    import datasets

    place, _, configuration = where.partition("#")
    folder = Path(place)
    name = folder.resolve().name if folder.is_dir() else place
    if folder.is_dir() and (_is_saved(folder) or all(_is_saved(folder / part) for part in ("corpus", "queries"))):
        if _is_saved(folder):
            return from_datasets(open_dataset(folder), options, name=name)
        parts = {path.name: open_dataset(path) for path in folder.iterdir() if _is_saved(path)}
        return _retrieval(name, parts, options)
    try:
        known = datasets.get_dataset_config_names(place)
        if configuration or not {"corpus", "queries"} <= set(known):
            return from_datasets(datasets.load_dataset(place, configuration or None), options, name=name)
        parts = {part: datasets.load_dataset(place, part) for part in ("corpus", "queries", *_QRELS) if part in known}
        if not any(part in known for part in _QRELS):
            parts["qrels"] = datasets.load_dataset(f"{place}-qrels")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"hf:{where}: no dataset of this name in a folder, in the cache or on the hub, or a damaged one "
            f"({' '.join(str(error).split()):.150}); "
            "check the name and the network"
        ) from error
    return _retrieval(name, parts, options)


def _is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` has written the folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def from_datasets(data: Any, options: LoadOptions, *, name: str = "dataset") -> Collection:
    """A collection of a ``Dataset`` or ``DatasetDict``.

    Args:
        data: Rows of pairs, in splits or not; or a ``DatasetDict`` of "corpus", "queries" and "qrels".
        options: As :func:`cmp_rerank.collections.load` has them.
        name: Of the collection.

    Raises:
        ValueError: The columns are of neither layout.
    """
    if isinstance(data, Mapping) and {"corpus", "queries"} <= set(data):
        return _retrieval(name, data, options)
    parts = data if isinstance(data, Mapping) else {"train": data}
    return from_rows(name, {split: _rows(f"{name}, {split}", part) for split, part in parts.items()}, options)


def _rows(where: str, part: Any) -> Iterator[Row]:
    for number, cells in enumerate(part.with_format(None), 1):
        yield f"{where}, row {number}", cells


def _retrieval(name: str, parts: Mapping[str, Any], options: LoadOptions) -> Collection:
    judgments = next((parts[part] for part in (*_QRELS, "test") if part in parts), None)
    if judgments is None:
        raise ValueError(f"{name}: a collection needs qrels; got {', '.join(map(repr, parts))}; add them as 'qrels'")
    splits = judgments if isinstance(judgments, Mapping) else {"test": judgments}

    # All splits have the same queries: their ids are read once.
    queries = cache(lambda: DatasetTexts(_single(parts["queries"]), "queries"))

    def split(judged: Any) -> Split:
        qrels = _read_qrels(name, judged)
        texts = queries()
        return Split({query: texts[query] for query in qrels if query in texts}, qrels)

    return Collection(
        name,
        lambda: DatasetTexts(_single(parts["corpus"]), "documents", titles=options.titles),
        {part: partial(split, splits[part]) for part in in_usual_order(splits)},
        missing_texts=options.missing_texts,
    )


def _single(data: Any) -> Any:
    """One dataset: all its splits, one after the other."""
    if not isinstance(data, Mapping):
        return data
    from datasets import concatenate_datasets

    return concatenate_datasets(list(data.values()))


def _read_qrels(name: str, data: Any) -> dict[str, dict[str, int]]:
    columns = [
        next((column for column in known if column in data.column_names), None) for known in (_QUERY, _DOCUMENT)
    ]
    if None in columns:
        raise ValueError(
            f"{name}: qrels need the columns 'query-id' and 'corpus-id'; got {', '.join(data.column_names)}; "
            "rename them"
        )
    grade = next((column for column in _GRADE if column in data.column_names), None)
    qrels: dict[str, dict[str, int]] = {}
    for row, cells in enumerate(data.with_format(None), 1):
        query, document = (str(cells[column]) for column in columns)
        try:
            found = _grade(cells[grade]) if grade else 1
        except ValueError as error:
            raise ValueError(
                f"{name}: row {row} of the qrels, query {query!r}, document {document!r}: {error}; make the column "
                f"{grade!r} whole numbers, or take the row out"
            ) from None
        if qrels.setdefault(query, {}).setdefault(document, found) != found:
            raise ValueError(
                f"{name}: row {row} of the qrels: document {document!r} is judged twice for query {query!r} "
                f"({qrels[query][document]} and {found}); keep one of the rows"
            )
    return qrels


def _grade(value: Any) -> int:
    """A grade, which some datasets have as text."""
    return read_grade(value.encode()) if isinstance(value, str) else as_grade(value)
