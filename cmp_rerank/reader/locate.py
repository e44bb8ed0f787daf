"""Find the places of gold answers that come without offsets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from cmp_rerank.reader.records import GoldAnswer

SupportSpan = tuple[int, int, int]


def find_answers(
    texts: Iterable[str], passages: Sequence[str], support: Sequence[SupportSpan] = ()
) -> tuple[GoldAnswer, ...]:
    """Find the places of gold answers in passages, as alternatives.

    The support is searched first, then the passages that hold support, then all passages. Each is searched for whole
    words, then for whole words in any case, then for parts of words. The first search that finds something is taken,
    with all its occurrences.

    Args:
        texts: Gold answers.
        passages: The context.
        support: Spans (passage, start, end), in characters, that support the answer; () where they are not known.

    Returns:
        The occurrences, in the order of the passages; () if there is none.

    Example:
        >>> find_answers(["bee"], ["Beeswax. A bee.", "A Bee, a bee!"])
        (GoldAnswer(text='bee', passage=0, start=11), GoldAnswer(text='bee', passage=1, start=9))
        >>> find_answers(["bee"], ["Beeswax. A bee.", "A Bee, a bee!"], support=[(1, 0, 5)])
        (GoldAnswer(text='Bee', passage=1, start=2),)
        >>> find_answers(["wasp"], ["Bees."])
        ()
    """
    wanted = [text.strip() for text in texts if text.strip()]
    if not wanted:
        return ()
    # Longer ones first: of alternatives that begin at one place the longest is taken.
    choice = "|".join(re.escape(text) for text in sorted(set(wanted), key=lambda text: (-len(text), text)))
    whole = rf"(?<!\w)(?:{choice})(?!\w)"
    everything = [(i, 0, len(passage)) for i, passage in enumerate(passages)]
    holding = {passage for passage, _, _ in support}
    areas = [sorted(set(support)), [area for area in everything if area[0] in holding], everything]
    patterns = (re.compile(whole), re.compile(whole, re.IGNORECASE), re.compile(choice))
    for area in areas:
        for pattern in patterns:
            found = {
                (number, match.start()): GoldAnswer(match.group(), number, match.start())
                for number, start, end in area
                for match in pattern.finditer(passages[number], start, end)
                if pattern is patterns[-1] or not _cuts_a_letter(passages[number], *match.span())
            }
            if found:
                return tuple(found[place] for place in sorted(found))
    return ()


def _cuts_a_letter(text: str, start: int, end: int) -> bool:
    """Whether a combining mark comes before or behind a part of a text; for `re` it is no part of a word."""
    beside = text[max(start - 1, 0) : start] + text[end : end + 1]
    return any(unicodedata.category(mark).startswith("M") for mark in beside)
