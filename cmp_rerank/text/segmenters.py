"""Splitting a text into segments.

A segment is a span ``(start, end)`` of characters of the original text, neither empty nor only white space. The
segments of a text are in order: both their starts and their ends ascend. Only windows with a stride below their
size overlap.

A segmenter is any callable that takes a text and returns such spans, or any object with a method ``of_tokens``, which
takes the character spans of a model's tokens instead (see `TokenSegmenter`). Those here are objects whose ``repr``
builds them again, or contains a hash of their contents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, TypeGuard, cast

import numpy as np

from cmp_rerank.text.checks import refuse_class, refuse_mask
from cmp_rerank.text.digest import content_digest
from cmp_rerank.text.terms import WORD

#: (start, end) of characters of a text, end exclusive.
CharSpan = tuple[int, int]
#: Splits a text into segments.
Segmenter = Callable[[str], Sequence[CharSpan]]


class TokenSegmenter(Protocol):
    """Splits a text by the model's tokens, such as `TokenWindows`."""

    def of_tokens(self, offsets: np.ndarray) -> Sequence[CharSpan]:
        """The segments, from the (start, end) of each token: int64 of shape (T, 2).

        Special tokens have empty spans.
        """
        ...


_SURROGATE = re.compile("[\ud800-\udfff]")
# White space outside of ASCII, such as a no-break space, before a full stop. Behind a capital letter ("vitamin C .")
# sentencex counts it as one byte, and panics: no `except Exception` would catch that.
_SPACE_BEFORE_STOP = re.compile(r"[^\S\x00-\x7f](?=\.)")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*")
# Of all codes with a subtag that sentencex knows, those whose rules are not the rules of the first part.
_WHOLE_CODES = frozenset({"cbk-zam", "nds-nl", "roa-tara"})
_BLANK_LINE = re.compile(r"(?:\r\n|\r|\n)[^\S\r\n]*(?:\r\n|\r|\n)\s*|\u2029\s*")


@dataclass(frozen=True)
class Sentences:
    """Split a text into sentences.

    The rules and abbreviations are those of the ``sentencex`` package (Wikimedia), which covers about 300
    languages and needs no network. A text without sentence ends is one segment: use `WordWindows` for such texts.

    Args:
        language: ISO code of the language whose abbreviations count, in any case; a script or region behind it
            ("de-AT") makes no difference. Where sentencex has no abbreviations for a language or one near to it,
            those of English count. The terminators of all scripts end a sentence whatever the language.

    Raises:
        ValueError: if ``language`` is not a code of 2 or 3 letters.

    Example:
        >>> text = "Pandas eat bamboo (e.g. shoots). Dr. Bao is a bear! 熊猫吃竹子。它们是熊。"
        >>> [text[start:end] for start, end in Sentences()(text)]
        ['Pandas eat bamboo (e.g. shoots).', 'Dr. Bao is a bear!', '熊猫吃竹子。', '它们是熊。']
    """

    language: str = "en"

    def __post_init__(self) -> None:
        if not isinstance(self.language, str) or not _LANGUAGE.fullmatch(self.language):
            raise ValueError(
                f"language must be an ISO code of 2 or 3 letters; got {self.language!r}. Pass 'en' or 'de', for "
                "example."
            )
        # sentencex takes a code that it does not know, such as "DE" or "de-LU", for English.
        code = self.language.lower()
        object.__setattr__(self, "language", code if code in _WHOLE_CODES else code.split("-")[0])

    def __call__(self, text: str) -> list[CharSpan]:
        """Return the spans of the sentences of ``text``, in order."""
        from sentencex import get_sentence_boundaries

        # A surrogate is no valid UTF-8. One character in its place, which ends no sentence, keeps the offsets right.
        clean = text
        if not text.isascii():
            clean = _SPACE_BEFORE_STOP.sub(" ", _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text))
        found = get_sentence_boundaries(self.language, clean)
        return stripped(text, ((piece["start_index"], piece["end_index"]) for piece in found))


@dataclass(frozen=True)
class Paragraphs:
    """Split a text at blank lines.

    Example:
        >>> text = "A title.\\n\\nFirst line,\\nsecond line."
        >>> [text[start:end] for start, end in Paragraphs()(text)]
        ['A title.', 'First line,\\nsecond line.']
    """

    def __call__(self, text: str) -> list[CharSpan]:
        """Return the spans of the paragraphs of ``text``, in order."""
        cuts = [0, *(cut for blank in _BLANK_LINE.finditer(text) for cut in blank.span()), len(text)]
        return stripped(text, zip(cuts[::2], cuts[1::2], strict=True))


@dataclass(frozen=True)
class WordWindows:
    """Split a text into windows of words; in scripts without spaces each character with its marks is a word.

    Args:
        size: how many words a window has; the last one has what is left.
        stride: how many words there are from the start of one window to the start of the next; None: ``size``. Below
            ``size`` the windows overlap, and what a crop keeps is what any surviving window covers.

    Raises:
        ValueError: if not ``1 <= stride <= size``.

    Example:
        >>> text = "one two three four five"
        >>> [text[start:end] for start, end in WordWindows(3, stride=2)(text)]
        ['one two three', 'three four five']
        >>> [text[start:end] for start, end in WordWindows(2)(text)]
        ['one two', 'three four', 'five']
    """

    size: int = 50
    stride: int | None = None

    def __post_init__(self) -> None:
        _check_window(self.size, self.stride)

    def __call__(self, text: str) -> list[CharSpan]:
        """Return the spans of the windows of ``text``, in order."""
        words = [word.span() for word in WORD.finditer(text)]
        return [(words[first][0], words[last - 1][1]) for first, last in windows(len(words), self.size, self.stride)]


@dataclass(frozen=True)
class TokenWindows:
    """Split a text into windows of the model's own tokens.

    It takes the tokens' spans instead of the text, see `of_tokens`. So it covers only the part of the text that is
    inside of the model's window.

    Args:
        size: how many tokens a window has; the last one has what is left.
        stride: as for `WordWindows`, in tokens.

    Raises:
        ValueError: if not ``1 <= stride <= size``.

    Example:
        >>> TokenWindows(2).of_tokens([(0, 3), (3, 5), (6, 9)])
        [(0, 5), (6, 9)]
    """

    size: int = 64
    stride: int | None = None

    def __post_init__(self) -> None:
        _check_window(self.size, self.stride)

    def __call__(self, text: str) -> list[CharSpan]:
        """Not possible without the tokens: always a ValueError."""
        raise ValueError(f"{self!r} needs the model's tokens; got a text. Use WordWindows(...) to split a text.")

    def of_tokens(self, offsets: Any) -> list[CharSpan]:
        """The spans of the windows, from the (start, end) of each token: (T, 2)."""
        at = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        at = at[at[:, 1] > at[:, 0]]
        spans: list[CharSpan] = []
        for first, last in windows(len(at), self.size, self.stride):
            span = (int(at[first, 0]), int(at[last - 1, 1]))
            # The tokens of one character (the bytes of an emoji) have the same offsets: windows within it are one.
            if not spans or (span[0] > spans[-1][0] and span[1] > spans[-1][1]):
                spans.append(span)
        return spans


class GivenSegments:
    """Segments that are known beforehand: spans, or the strings that a text consists of.

    Args:
        segments: text -> its segments, in order: spans of characters, or strings that occur in the text one after
            the other.
        fallback: splits a text that is not among them; None: such a text is an error.

    Raises:
        ValueError: for spans outside of their text, empty, or out of order, and for strings that are not in it.

    Example:
        >>> given = GivenSegments({"Pandas. They eat bamboo.": ["Pandas.", "They eat bamboo."]})
        >>> given("Pandas. They eat bamboo.")
        [(0, 7), (8, 24)]
        >>> texts, given = GivenSegments.joined([["Pandas.", "They eat bamboo."], ["Rain."]], separator=" | ")
        >>> texts
        ['Pandas. | They eat bamboo.', 'Rain.']
        >>> given(texts[0])
        [(0, 7), (10, 26)]
    """

    def __init__(
        self, segments: Mapping[str, Sequence[CharSpan] | Sequence[str]], fallback: Segmenter | None = None
    ) -> None:
        if not isinstance(segments, Mapping):
            raise ValueError(
                f"GivenSegments takes a mapping of texts to their segments; got {segments!r:.80}. For lists of "
                "passages use GivenSegments.joined(lists)."
            )
        if fallback is not None:
            check_segmenter(fallback, "fallback")
            if splits_tokens(fallback):
                raise ValueError(f"fallback must split a text; got {fallback!r}. Use WordWindows(...), for example.")
        self._segments = {text: _located(text, given) for text, given in segments.items()}
        self.fallback = fallback

    @classmethod
    def joined(
        cls, documents: Iterable[Sequence[str]], separator: str = "\n\n", fallback: Segmenter | None = None
    ) -> tuple[list[str], GivenSegments]:
        """Join the passages of each document into one text.

        Args:
            documents: the passages of each document, in order.
            separator: stands between two passages.
            fallback: see the class.

        Returns:
            The text of each document, and the segmenter that splits these texts into their passages. Passages of
            white space only are no segments.

        Raises:
            ValueError: for a document that is a string instead of a list of strings, and for two documents that join
                to one text with other segments.
        """
        texts: list[str] = []
        segments: dict[str, list[CharSpan]] = {}
        for number, passages in enumerate(documents):
            if isinstance(passages, str):
                raise ValueError(
                    f"A document must be a list of passages; got the string {passages[:60]!r}. Pass [[...], [...]]."
                )
            ends = np.cumsum([len(passage) + len(separator) for passage in passages]) - len(separator)
            text = separator.join(passages)
            spans = [(int(end) - len(passage), int(end)) for passage, end in zip(passages, ends, strict=True)]
            found = [span for span, passage in zip(spans, passages, strict=True) if passage.strip()]
            if segments.setdefault(text, found) != found:
                raise ValueError(
                    f"Document {number}: its passages join to the same text as those of an earlier document, "
                    f"{text[:60]!r}..., with other segments ({segments[text]}, then {found}): keep one of them, or "
                    "pass a separator that no passage holds."
                )
            texts.append(text)
        return texts, cls(segments, fallback)

    def __call__(self, text: str) -> list[CharSpan]:
        """Return the segments of ``text``."""
        if text in self._segments:
            return self._segments[text]
        if self.fallback is None:
            raise ValueError(
                f"No segments were given for the text that begins {text[:60]!r}: give them, or pass a segmenter for "
                "such texts as `fallback`."
            )
        return list(self.fallback(text))

    def __len__(self) -> int:
        return len(self._segments)

    def __repr__(self) -> str:
        # Prepared examples are cached under this repr, so it has to depend on the contents.
        fallback = "" if self.fallback is None else f", fallback {self.fallback!r}"
        return f"<GivenSegments of {len(self)} texts, {self._digest}{fallback}>"

    @cached_property
    def _digest(self) -> str:
        return content_digest(self._segments)


def splits_tokens(segmenter: object) -> TypeGuard[TokenSegmenter]:
    """Whether a segmenter splits by the model's tokens, that is, has a method ``of_tokens``."""
    return callable(getattr(segmenter, "of_tokens", None))


def check_segmenter(segmenter: Any, name: str = "segmenter") -> None:
    """Check that an object can be a segmenter.

    Args:
        segmenter: the object.
        name: of the argument, for the message.

    Raises:
        ValueError: for a class instead of an object, and for what is neither a callable nor has a method
            ``of_tokens``.

    Example:
        >>> check_segmenter(Paragraphs)
        Traceback (most recent call last):
        ...
        ValueError: segmenter must be an object; got the class Paragraphs. Pass Paragraphs(...) instead.
    """
    refuse_class(name, segmenter)
    if not callable(segmenter) and not splits_tokens(segmenter):
        raise ValueError(
            f"{name} must be a callable that takes a text and returns spans, or have a method of_tokens; got "
            f"{segmenter!r}. Pass Sentences() or WordWindows(50), for example."
        )


def split(segmenter: Segmenter | TokenSegmenter, text: str, offsets: np.ndarray) -> list[CharSpan]:
    """Split a text by any segmenter, and check what it returns.

    Args:
        segmenter: a segmenter of texts or of tokens.
        text: what to split.
        offsets: (start, end) of each of its tokens: (T, 2). Only a segmenter of tokens sees them.

    Returns:
        The segments, in order.

    Raises:
        ValueError: as `check_segments`; the message names the segmenter.

    Example:
        >>> offsets = np.array([(0, 3), (3, 5), (6, 9)])
        >>> split(WordWindows(1), "abcde fgh", offsets), split(TokenWindows(2), "abcde fgh", offsets)
        ([(0, 5), (6, 9)], [(0, 5), (6, 9)])
    """
    spans = segmenter.of_tokens(offsets) if splits_tokens(segmenter) else cast("Segmenter", segmenter)(text)
    return check_segments(text, spans, f"Segments by {getattr(segmenter, '__name__', type(segmenter).__name__)}")


def windows(count: int, size: int, stride: int | None = None) -> list[tuple[int, int]]:
    """(first, last + 1) of windows over ``count`` items; the last window ends at the last item.

    >>> windows(7, 4, 2)
    [(0, 4), (2, 6), (4, 7)]
    """
    stride = stride or size
    starts = range(0, max(count - size, 0) + stride, stride) if count else ()
    return [(start, min(start + size, count)) for start in starts]


def stripped(text: str, pieces: Iterable[CharSpan]) -> list[CharSpan]:
    """Pieces of a text without the white space at their ends; those of nothing else are left out.

    >>> stripped(" a  b ", [(0, 3), (3, 4), (4, 6)])
    [(1, 2), (4, 5)]
    """
    spans = []
    for start, end in pieces:
        piece = text[start:end]
        left, right = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        if left < right:
            spans.append((left, right))
    return spans


def check_spans(text: str, spans: Iterable[Sequence[int]], what: str) -> list[CharSpan]:
    """Spans as pairs of integers.

    Args:
        text: what they are spans of.
        spans: (start, end) each.
        what: named in the error.

    Raises:
        ValueError: for a span that is no pair of integers (True and False are none), empty, or outside of the text.
    """
    if isinstance(spans, str) or not isinstance(spans, (Iterable, np.ndarray)):
        raise ValueError(f"{what}: expected spans (start, end) of characters; got {spans!r}.")
    checked = []
    for span in spans:
        pair = tuple(span) if isinstance(span, (Sequence, np.ndarray)) and not isinstance(span, str) else ()
        refuse_mask(what, [span, *pair])
        if len(pair) != 2 or not all(isinstance(value, (int, np.integer)) for value in pair):
            raise ValueError(f"{what}: expected spans (start, end) of characters; got {span!r}.")
        start, end = int(pair[0]), int(pair[1])
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"{what}: the span ({start}, {end}) is empty or outside of its text of {len(text)} characters "
                f"({text[:60]!r}...). Spans count characters of the original text, end exclusive."
            )
        checked.append((start, end))
    return checked


def check_segments(text: str, spans: Iterable[Sequence[int]], what: str) -> list[CharSpan]:
    """`check_spans`, and that the spans are in order.

    Raises:
        ValueError: as `check_spans`, and where a start or an end does not ascend.
    """
    checked = check_spans(text, spans, what)
    for (start, end), (next_start, next_end) in pairwise(checked):
        if next_start <= start or next_end <= end:
            raise ValueError(
                f"{what}: the segments ({start}, {end}) and ({next_start}, {next_end}) are not in order. Both starts "
                "and ends must ascend."
            )
    return checked


def _located(text: str, segments: Sequence[CharSpan] | Sequence[str]) -> list[CharSpan]:
    spans: list[CharSpan] = []
    at = 0
    what = "Given segments"
    for segment in segments:
        if not isinstance(segment, str):
            return check_segments(text, segments, what)  # type: ignore[arg-type]
        if not segment.strip():
            continue
        start = text.find(segment, at)
        if start < 0:
            raise ValueError(
                f"{what}: {segment[:60]!r} is not in the text {text[:60]!r}... after its {at} first characters. "
                "Strings must occur in the text literally, one after the other."
            )
        at = start + len(segment)
        spans.append((start, at))
    return spans


def _check_window(size: int, stride: int | None) -> None:
    if not _whole(size) or size < 1:
        raise ValueError(f"size must be at least 1; got {size!r}. Give a whole number.")
    if stride is not None and (not _whole(stride) or not 1 <= stride <= size):
        raise ValueError(
            f"stride must be a whole number between 1 and the size {size}; got {stride!r}. A longer one would leave "
            "gaps."
        )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
