"""The ids of a table's texts: the given ones, and automatic ones, which give way to those that come later."""

from __future__ import annotations

from typing import Any


class TextIds:
    """Texts of one kind by key. While rows are read a key may be a stand-in; `ids` says what it stands for.

    The same text without an id has one id: that which another row gives it, or an automatic one.

    Args:
        letter: Automatic ids are this letter and a number.

    Attributes:
        texts: Text by key.

    Example:
        >>> known = TextIds("d")
        >>> keys = [known.key("", text, given) for text, given in (("a", None), ("b", "d1"), ("c", None), ("c", "x"))]
        >>> ids = known.ids()
        >>> [ids.get(key, key) for key in keys]
        ['d5', 'd1', 'x', 'x']
    """

    def __init__(self, letter: str) -> None:
        self.texts: dict[str, str] = {}
        self._letter = letter
        self._keys: dict[str, str] = {}  # by text
        self._automatic: set[str] = set()
        self._stand_ins: dict[str, str] = {}  # for given ids that an automatic one had before
        self._other: dict[str, str] = {}  # automatic -> key of the id that the same text has in another row

    def key(self, where: str, text: str, given: Any) -> str:
        """The key of a text.

        Args:
            where: Its row, for errors.
            text: The text.
            given: Its id; None: it has none.

        Raises:
            ValueError: The id is that of another text.
        """
        known = self._keys.get(text)
        if given is None:
            key = self._new() if known is None else known
        else:
            name = str(given)
            key = self._stand_ins.get(name, name)
            if key in self._automatic:
                key = self._stand_ins[name] = f"\0{name}"
            if known in self._automatic:
                self._other[known] = self._keys[text] = key
        if self.texts.setdefault(key, text) != text:
            raise ValueError(
                f"{where}: an id stands for one text; got {text!r:.60} for {str(given)!r}, which had "
                f"{self.texts[key]!r:.60} before; give them two ids"
            )
        self._keys.setdefault(text, key)
        return key

    def _new(self) -> str:
        number = len(self.texts) + 1
        while f"{self._letter}{number}" in self.texts:
            number += 1
        key = f"{self._letter}{number}"
        self._automatic.add(key)
        return key

    def ids(self) -> dict[str, str]:
        """The ids of the keys that are none themselves; asked for when all rows are read."""
        found = {key: name for name, key in self._stand_ins.items()}
        number = len(self.texts)
        for name in self._stand_ins:
            number += 1
            while f"{self._letter}{number}" in self.texts:
                number += 1
            found[name] = f"{self._letter}{number}"
        return found | {key: found.get(other, other) for key, other in self._other.items()}
