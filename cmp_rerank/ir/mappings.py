"""Mappings of ids to texts that are larger than memory, and what else is taken for texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from typing import Any


class Texts(Mapping[str, str]):
    """Texts by id, both strings by construction, read when they are asked for.

    Whoever checks its input need not read such a mapping: that would mean to read millions of texts. Iteration is
    lazy, in the order of the source, and so are ``items()`` and ``values()``.
    """

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """The ids by place, in the order of the source; where possible no list, so that it costs no memory."""

    @abstractmethod
    def pairs(self) -> Iterator[tuple[str, str]]:
        """All (id, text) in the order of the source: faster than a look-up for each id."""

    def get_many(self, ids: Iterable[str]) -> list[str]:
        """The texts of some ids, in their order.

        Raises:
            KeyError: An id is not known.
        """
        return [self[name] for name in ids]

    def known(self, ids: Iterable[str]) -> list[bool]:
        """Whether there is a text, for each of some ids."""
        return [name in self for name in ids]

    def items(self) -> ItemsView[str, str]:
        """Pairs of id and text, lazily."""
        return _Items(self)

    def values(self) -> ValuesView[str]:
        """The texts, lazily."""
        return _Values(self)


class _Items(ItemsView[str, str]):
    _mapping: Texts

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self._mapping.pairs()


class _Values(ValuesView[str]):
    _mapping: Texts

    def __iter__(self) -> Iterator[str]:
        return (text for _, text in self._mapping.pairs())


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
        from cmp_rerank.ir.ir_datasets_texts import document_texts, query_texts

        return query_texts(value) if name == "queries" else document_texts(value)
    return value


def with_title(title: str | None, text: str) -> str:
    """A title put before its text, with a space between, as BEIR does; the text alone where there is no title.

    Example:
        >>> with_title("Pandas", "They eat bamboo."), with_title(" ", "They eat."), with_title(None, "They eat.")
        ('Pandas They eat bamboo.', 'They eat.', 'They eat.')
    """
    return f"{title} {text}" if title and not title.isspace() else text
