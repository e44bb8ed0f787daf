"""What is taken for texts: mappings, and datasets of two libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_texts(name: str, value: Any) -> Mapping[str, str]:
    """What maps ids to texts, from any of the kinds that are taken for it.

    Public functions call this at their door, and :func:`cmp_rerank.ir.arguments.check_texts` behind it.

    Args:
        name: What an error calls the argument: "queries" reads the queries of a dataset that has both kinds;
            everything else its documents.
        value: A mapping, which is returned as it is; a ``datasets.Dataset`` with columns of ids and texts; a dataset
            of ir_datasets. Anything else is returned as it is, for the check to refuse.

    Returns:
        The mapping.

    Raises:
        ValueError: A dataset has no such columns, or holds no such texts.

    Example:
        >>> from datasets import Dataset
        >>> data = Dataset.from_dict({"_id": ["a", "b"], "title": ["T", ""], "text": ["x", "y"]})
        >>> dict(as_texts("documents", data))
        {'a': 'T x', 'b': 'y'}
    """
    # Known by their methods, so that neither library is imported for a dictionary. A DatasetDict is a mapping, too.
    if hasattr(value, "column_names") and hasattr(value, "select_columns"):
        from cmp_rerank.ir.dataset_texts import DatasetTexts

        return DatasetTexts(value, name)
    if hasattr(value, "queries_iter" if name == "queries" else "docs_iter"):
        from cmp_rerank.ir.ir_datasets_texts import DocumentTexts, query_texts

        return query_texts(value) if name == "queries" else DocumentTexts(value)
    return value
