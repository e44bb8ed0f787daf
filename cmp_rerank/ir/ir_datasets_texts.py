"""The documents and queries of a dataset of ir_datasets as mappings of ids to texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from cmp_rerank.ir.mappings import Texts


def query_texts(dataset: Any) -> dict[str, str]:
    """The queries of a dataset of ir_datasets, text by id."""
    return {query.query_id: query.default_text() for query in dataset.queries_iter()}


class DocumentTexts(Texts):
    """The documents of a dataset of ir_datasets, text by id, found in its own store on disk.

    The text is that of ``default_text()``, which puts titles before texts.

    Args:
        dataset: Of ir_datasets, with documents.
        titles: Whether titles are part of the texts; without them, documents need a field ``text``.
    """

    def __init__(self, dataset: Any, *, titles: bool = True) -> None:
        self._dataset, self._titles = dataset, titles

    def _text(self, document: Any) -> str:
        return document.text if not self._titles and hasattr(document, "text") else document.default_text()

    @cached_property
    def _store(self) -> Any:
        return self._dataset.docs_store()

    @cached_property
    def ids(self) -> Sequence[str]:
        """The ids by place: a list, made on first use, since not all collections of ir_datasets find one by place."""
        return [document.doc_id for document in self._dataset.docs_iter()]

    def __getitem__(self, name: str) -> str:
        return self._text(self._store.get(name))

    def get_many(self, ids: Any) -> list[str]:
        """The texts of some ids, in their order; the store reads them in the order of the disk."""
        names = list(ids)
        found = self._store.get_many(names)
        return [self._text(found[name]) for name in names]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._store.get_many([name]))

    def __iter__(self) -> Iterator[str]:
        return (document.doc_id for document in self._dataset.docs_iter())

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        # Only some handlers know it without reading.
        count = self._dataset.docs_count()
        return sum(1 for _ in self) if count is None else count

    def pairs(self) -> Iterator[tuple[str, str]]:
        """All (id, text), in the order of the source."""
        return ((document.doc_id, self._text(document)) for document in self._dataset.docs_iter())
