"""``ir_datasets:msmarco-passage/dev/small``, and the datasets of ir_datasets themselves."""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

from cmp_rerank.collections.base import Collection, Split
from cmp_rerank.collections.files import in_usual_order
from cmp_rerank.collections.options import LoadOptions
from cmp_rerank.ir import Run
from cmp_rerank.ir.ir_datasets_texts import DocumentTexts, query_texts

_SPLITS = ("train", "dev", "validation", "test")


def open_ir_datasets(where: str, options: LoadOptions) -> Collection:
    """Open a dataset of ir_datasets by its id. It downloads on first use, where there is a network.

    A dataset with qrels is one split, named by the word of its id that names one, else "test". A dataset without has
    those below it as splits: "beir/scifact" has "train" and "test". Its scored documents are the run "scoreddocs",
    and the negatives of its pairs of documents the run "docpairs".

    Args:
        where: The id, such as "msmarco-passage/dev/small".
        options: As :func:`cmp_rerank.collections.load` has them.

    Returns:
        The collection.

    Raises:
        ImportError: ir_datasets is not installed.
        ValueError: There is no dataset of this id, or it has no documents or no qrels.
    """
    try:
        import ir_datasets
    except ImportError as error:
        raise ImportError(
            "collections of ir_datasets need the extra 'retrieval': pip install 'cmp-rerank[retrieval]'"
        ) from error
    known = list(ir_datasets.registry)
    _check_known(where, known)
    dataset = ir_datasets.load(where)
    if dataset.has_qrels():
        return from_dataset(dataset, options)
    below = [name for name in known if name.startswith(f"{where}/") and ir_datasets.load(name).has_qrels()]
    if not below or not dataset.has_docs():
        raise ValueError(f"ir_datasets {where!r}: a collection needs documents and qrels; got {dataset!r}")
    parts = {name.removeprefix(f"{where}/"): ir_datasets.load(name) for name in below}
    return _collection(where, dataset, parts, options)


def _check_known(value: str, choices: list[str]) -> None:
    """Refuse a name that is none of hundreds, naming the nearest only.

    Raises:
        ValueError: With a guess what was meant.
    """
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=3, cutoff=0.4)
        raise ValueError(
            f"the id of a dataset of ir_datasets must be one of {len(choices)}; got {value!r}; "
            f"the nearest are {', '.join(map(repr, near)) or '(none)'}"
        )


def from_dataset(dataset: Any, options: LoadOptions) -> Collection:
    """A collection of a dataset of ir_datasets, with one split.

    A pair that is judged more than once, as where a topic has several aspects, has the highest of its grades.

    Args:
        dataset: With documents, queries and qrels.
        options: As :func:`cmp_rerank.collections.load` has them.

    Raises:
        ValueError: One of them is missing.
    """
    missing = [what for what in ("docs", "queries", "qrels") if not hasattr(dataset, f"{what}_iter")]
    if missing:
        raise ValueError(
            f"a collection needs docs, queries and qrels; got {dataset!r} without {', '.join(missing)}; take "
            "one that has them, such as 'msmarco-passage/dev/small'"
        )
    name = dataset.dataset_id() if hasattr(dataset, "dataset_id") else "ir_datasets"
    split = next((part for part in name.split("/") if part in _SPLITS), "test")
    return _collection(name, dataset, {split: dataset}, options)


def _collection(name: str, documents: Any, parts: dict[str, Any], options: LoadOptions) -> Collection:
    runs = {}
    for split, part in parts.items():
        suffix = "" if len(parts) == 1 else f".{split}"
        for kind, read in (("scoreddocs", _scored), ("docpairs", _negatives)):
            if hasattr(part, f"{kind}_iter"):
                runs[f"{kind}{suffix}"] = partial(read, part)
    return Collection(
        name,
        partial(DocumentTexts, documents, titles=options.titles),
        {split: partial(_split, parts[split]) for split in in_usual_order(parts)},
        runs=runs,
        missing_texts=options.missing_texts,
    )


def _split(dataset: Any) -> Split:
    qrels: dict[str, dict[str, int]] = {}
    for judged in dataset.qrels_iter():
        grades = qrels.setdefault(judged.query_id, {})
        grades[judged.doc_id] = max(judged.relevance, grades.get(judged.doc_id, judged.relevance))
    return Split(query_texts(dataset), qrels)


def _scored(dataset: Any) -> Run:
    run: dict[str, dict[str, float]] = {}
    for found in dataset.scoreddocs_iter():
        run.setdefault(found.query_id, {})[found.doc_id] = found.score
    return run


def _negatives(dataset: Any) -> Run:
    run: dict[str, dict[str, float]] = {}
    for pair in dataset.docpairs_iter():
        scores = run.setdefault(pair.query_id, {})
        scores.setdefault(pair.doc_id_b, -float(len(scores) + 1))
    return run
