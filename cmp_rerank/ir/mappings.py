"""Mappings of ids to texts that are larger than memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView


class Texts(Mapping[str, str]):
    """Texts by id, both strings by construction, read when they are asked for.

    Whoever checks its input need not read such a mapping: that would mean to read millions of texts. Iteration is
    lazy, in the order of the source, and so are ``items()`` and ``values()``.

    Example:
        >>> class Squares(Texts):
        ...     ids = ("1", "2", "3")
        ...
        ...     def __getitem__(self, name):
        ...         return f"{int(name) ** 2}"
        ...
        ...     def __iter__(self):
        ...         return iter(self.ids)
        ...
        ...     def __len__(self):
        ...         return len(self.ids)
        ...
        ...     def pairs(self):
        ...         return ((name, self[name]) for name in self.ids)
        >>> Squares().get_many(["3", "1"]), dict(Squares())
        (['9', '1'], {'1': '1', '2': '4', '3': '9'})
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


def with_title(title: str | None, text: str) -> str:
    """A title put before its text, with a space between, as BEIR does; the text alone where there is no title.

    Example:
        >>> with_title("Pandas", "They eat bamboo."), with_title(" ", "They eat."), with_title(None, "They eat.")
        ('Pandas They eat bamboo.', 'They eat.', 'They eat.')
    """
    return f"{title} {text}" if title and not title.isspace() else text
