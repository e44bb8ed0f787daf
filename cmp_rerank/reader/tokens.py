"""The tokens of texts, each with its characters."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class TextTokens:
    """The tokens of a text: ids (T,), characters (T, 2), and with a crop the first and last segment of each."""

    ids: np.ndarray
    offsets: np.ndarray
    segments: int = 0
    first: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    last: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @classmethod
    def none(cls) -> TextTokens:
        """The tokens of an empty text."""
        return cls(np.empty(0, dtype=np.int32), np.empty((0, 2), dtype=np.int32))

    def between(self, start: int, end: int) -> tuple[int, int]:
        """The tokens of a span of characters: first, last (inclusive; before the first where there is none)."""
        first = int(np.searchsorted(self.offsets[:, 1], start, side="right"))
        return first, int(np.searchsorted(self.offsets[:, 0], end, side="left")) - 1


def tokens_of(tokenizer: Any, texts: list[str]) -> list[TextTokens]:
    """Tokenise texts as they would be tokenised in a pair, without special tokens."""
    if not texts:
        return []
    readable = [_readable(text) for text in texts]
    encoded = tokenizer(
        readable,
        add_special_tokens=False,
        truncation=False,
        padding=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    return [
        TextTokens(np.array(each.ids, dtype=np.int32), _trimmed(text, np.array(each.offsets).reshape(-1, 2)))
        for text, each in zip(texts, encoded.encodings, strict=True)
    ]


def _readable(text: str) -> str:
    """The text with a question mark for each lone surrogate, such as half an emoji: tokenizers refuse those."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _trimmed(text: str, offsets: np.ndarray) -> np.ndarray:
    """Offsets without the white space before a word, and with the combining marks behind its last letter.

    Some tokenizers count the space before a word to its first token. Tokenizers that strip accents have no token for
    a combining mark, which belongs to the token before it.
    """
    offsets = offsets.astype(np.int32)
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<U1")
    space = np.append(np.char.isspace(characters) if len(characters) else np.empty(0, dtype=bool), False)
    while (move := space[offsets[:, 0]] & (offsets[:, 0] + 1 < offsets[:, 1])).any():
        offsets[move, 0] += 1
    if text.isascii():
        return offsets
    marks = np.array([unicodedata.category(character).startswith("M") for character in text] + [False])
    if marks.any() and len(offsets):
        following = np.append(offsets[1:, 0], len(text))
        ends = offsets[:, 1]
        while (move := marks[ends] & (ends < following) & (offsets[:, 0] < ends)).any():
            ends[move] += 1
    return offsets
