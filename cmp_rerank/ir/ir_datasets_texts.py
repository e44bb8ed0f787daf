"""The documents and queries of a dataset of ir_datasets as mappings of ids to texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from cmp_rerank.ir.mappings import Texts


def query_texts(dataset: Any) -> dict[str, str]:
    """The queries of a dataset of ir_datasets, text by id."""
    return {query.query_id: query.default_text() for query in dataset.queries_iter()}


def document_texts(dataset: Any) -> DocumentTexts:
    """The documents of a dataset of ir_datasets, text by id, which stay on disk."""
    return DocumentTexts(dataset)


class DocumentTexts(Texts):
    """The documents of ir_datasets, found in its own store on disk.

    The text is that of ``default_text()``: where there is a title, it goes before the text.

    Args:
        dataset: Of ir_datasets, with documents.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    @cached_property
    def _store(self) -> Any:
        return self._dataset.docs_store()

    @cached_property
    def ids(self) -> Sequence[str]:
        """The ids by place."""
        return [document.doc_id for document in self._dataset.docs_iter()]

    def __getitem__(self, name: str) -> str:
        return self._store.get(name).default_text()

    def get_many(self, ids: Any) -> list[str]:
        """The texts of some ids, in their order; the store reads them in the order of the disk."""
        names = list(ids)
        found = self._store.get_many(names)
        return [found[name].default_text() for name in names]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._store.get_many([name]))

    def __iter__(self) -> Iterator[str]:
        return (document.doc_id for document in self._dataset.docs_iter())

    def __len__(self) -> int:
        return self._dataset.docs_count()

    def pairs(self) -> Iterator[tuple[str, str]]:
        """All (id, text), in the order of the source."""
        return ((document.doc_id, document.default_text()) for document in self._dataset.docs_iter())
