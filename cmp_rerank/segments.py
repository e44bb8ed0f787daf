"""Splitting a text into segments, and finding those that match a query.

A segment is a span ``(start, end)`` of characters of the original text. The segments of a text are in order,
do not overlap, and only white space lies outside of them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Span = tuple[int, int]
Segmenter = Callable[[str], list[Span]]
SupportScorer = Callable[[str, Sequence[str]], Sequence[float]]

# A sentence ends at a blank line; after a terminator of a script that uses no spaces; or after another
# terminator (and the quotes or brackets that close with it) where white space follows.
_BOUNDARY = re.compile(
    r"""(?P<blank>\n\s*\n)
      | (?<=[。！？｡])['"’”」』）)\]]*
      | (?<=[.!?…؟۔।॥։።])['"’”»)\]]*\s+
    """,
    re.VERBOSE,
)
# After these a full stop rarely ends a sentence.
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|cf|vs|etc|al|Fig|Figs|Eq|Eqs|No|Dr|Mr|Mrs|Ms|Prof|St)|\b[A-Z])\.$")
_WORD = re.compile(r"\w+", re.UNICODE)
# Scripts that are written without spaces between words: there each character is a term.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Sentences:
    """Split a text into sentences by punctuation and blank lines.

    Rules only, for any script, offline: terminators of the Latin, CJK, Arabic, Devanagari, Armenian and Ethiopic
    scripts, blank lines, and no end after a common abbreviation or an initial. A text without any of them is
    one segment.

    Example:
        >>> text = "Pandas eat bamboo (e.g. shoots). They are bears! 熊猫吃竹子。它们是熊。"
        >>> [text[start:end] for start, end in Sentences()(text)]
        ['Pandas eat bamboo (e.g. shoots).', 'They are bears!', '熊猫吃竹子。', '它们是熊。']
    """

    def __call__(self, text: str) -> list[Span]:
        """Return the spans of the sentences of ``text``, in order."""
        spans: list[Span] = []
        start = 0
        for boundary in _BOUNDARY.finditer(text):
            head = text[start : boundary.end()].rstrip()
            if not boundary["blank"] and _ABBREVIATION.search(head[-8:]):
                continue
            _add_stripped(spans, text, start, boundary.end())
            start = boundary.end()
        _add_stripped(spans, text, start, len(text))
        return spans


def _add_stripped(spans: list[Span], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    left = start + len(piece) - len(piece.lstrip())
    right = start + len(piece.rstrip())
    if left < right:
        spans.append((left, right))


def terms(text: str) -> list[str]:
    """Lower-cased words; in scripts without spaces, single characters.

    >>> terms("Pandas eat 竹子")
    ['pandas', 'eat', '竹', '子']
    """
    found: list[str] = []
    for word in _WORD.findall(text.casefold()):
        if _UNSPACED.search(word):
            found.extend(word)
        else:
            found.append(word)
    return found


@dataclass(frozen=True)
class LexicalSupport:
    """Score the segments of one passage by the query's terms in them, weighted by rarity in the passage.

    The score of a segment is the sum of idf(t) = log(1 + N / n_t) over the distinct terms t of the query that
    it holds, where N is the number of segments and n_t how many of them hold t: a term of every segment tells
    little about which of them answers.

    Example:
        >>> segments = ["The panda is a bear.", "The panda eats bamboo.", "It rains."]
        >>> [round(score, 2) for score in LexicalSupport()("what does the panda eat: bamboo?", segments)]
        [1.83, 3.22, 0.0]
    """

    def __call__(self, query: str, segments: Sequence[str]) -> list[float]:
        """Return one score for each segment, 0 where it shares no term with the query."""
        held = [set(terms(segment)) for segment in segments]
        frequency = Counter(term for segment in held for term in segment)
        # In the query's own order: the sum of floats must not depend on the hashes of strings.
        wanted = list(dict.fromkeys(terms(query)))
        return [
            math.fsum(math.log1p(len(held) / frequency[term]) for term in wanted if term in segment)
            for segment in held
        ]
