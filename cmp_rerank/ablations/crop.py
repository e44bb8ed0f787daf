"""CmpCrop: ablate the context of a passage, segment by segment (arXiv 2301.03765, CmpCrop)."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import numpy as np

from cmp_rerank.ablations.base import PASSAGE, Ablation, Example, Prepared, TextPair, View, check_steps
from cmp_rerank.ablations.schedules import RandomCounts, Schedule, check_schedule, checked_counts, shuffled
from cmp_rerank.objectives.descriptions import described
from cmp_rerank.text.segmenters import CharSpan, Segmenter, Sentences, TokenSegmenter, check_segmenter, split
from cmp_rerank.text.support import (
    LexicalSupport,
    SupportRule,
    best_segments,
    check_support,
    is_known_support,
    known_support,
    support_scorer,
)
from cmp_rerank.text.token_segments import segments_of_tokens, touched

LOST_SUPPORT = ("skip", "move", "ignore")


@dataclass(frozen=True, repr=False)
class CmpCrop(Ablation):
    """Crop the passage to fewer segments at each step; the query is never cropped.

    The segments that support the label stay. Of the others, the distractors, each step keeps fewer: they are
    permuted at random once, and every step keeps a prefix of that permutation, as long as the schedule says. So
    the survivors of a step are a subset of those of the step before. Document order is kept.

    A passage that is not relevant has no support; there at least one segment stays.

    Args:
        steps: how many steps of the plan this object stands for.
        segmenter: splits a passage into spans of characters: `Sentences` (the default), `Paragraphs`, `WordWindows`,
            `TokenWindows`, `GivenSegments` passages, or any callable.
        support: what of a relevant passage supports its label: `GivenSupport` of the data, or a callable
            ``(query, segments) -> scores``, whose best segments are the support. Where no segment scores
            above 0, it is the first one: documents lead with their topic. None: no support, any segment may go.
        best: how many of the best segments by score are the support.
        schedule: how many distractors each step keeps: `RandomCounts` (the default), `FixedCounts`, `Fractions`,
            `FeedbackCounts`, or an object with their method ``counts``.
        lost_support: what to do where the model's window has cut given support off. "skip" (the default) does not
            crop the example: its crop steps take nothing away, since what they keep could not be known. "move"
            moves the window: the passage begins at a later segment, so that its support is seen, by the full
            model too. "ignore" crops with what is left of the support. All are counted.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from cmp_rerank.ablations import FixedCounts
        >>> CmpCrop(segmenter=Sentences("de"), schedule=FixedCounts((4,)))
        CmpCrop(segmenter=Sentences(language='de'), schedule=FixedCounts(kept=(4,)))
    """

    steps: int = 1
    segmenter: Segmenter | TokenSegmenter = Sentences()
    support: SupportRule | None = LexicalSupport()
    best: int = 1
    schedule: Schedule = RandomCounts()
    lost_support: str = "skip"
    needs_text = True

    def __post_init__(self) -> None:
        check_steps(self, self.steps)
        check_segmenter(self.segmenter)
        check_support(self.support)
        if isinstance(self.best, bool) or not isinstance(self.best, int) or self.best < 1:
            raise ValueError(
                f"best must be a whole number, at least 1; got {self.best!r}. support=None does without support."
            )
        check_schedule(self.schedule)
        if self.lost_support not in LOST_SUPPORT:
            raise ValueError(f"lost_support must be one of {LOST_SUPPORT}; got {self.lost_support!r}.")

    def __repr__(self) -> str:
        given = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        changed = [f"{name}={described(value)}" for name, value, default in given if value != default]
        return f"CmpCrop({', '.join(changed)})"

    def check(self, steps: int) -> None:
        """The schedule must fit a plan with this number of crops."""
        check_schedule(self.schedule, steps)

    def prepare(self, pair: TextPair) -> Prepared:
        """Divide the passage into segments, and find those that support its label."""
        # Given support may lie beyond the window: a segmenter of tokens must divide what is there, too.
        offsets = pair.all_offsets() if is_known_support(self.support) else pair.offsets
        spans = split(self.segmenter, pair.passage, offsets)
        first, last = segments_of_tokens(pair.offsets, spans)
        support = Support()
        if pair.relevant:
            support = self.supporting(pair.query, pair.passage, spans, touched(first, last), pair.window)
        inside = pair.part == PASSAGE
        segment = np.full(len(inside), -1, dtype=np.int64)
        until = segment.copy()
        segment[inside], until[inside] = first, last
        start = None
        if support.lost and self.lost_support == "move" and not pair.window[0]:
            start = _window_start(pair, spans, support.kept | support.lost)
        return Prepared(
            segment,
            until,
            support.kept,
            croppable=not support.lost or self.lost_support == "ignore",
            support_cut=bool(support.lost),
            start=start,
        )

    def views(self, example: Example, steps: int) -> Sequence[View]:
        """The survivors of each step."""
        if not example.croppable:
            return [View(example.keeping(example.segments()))] * steps
        survivors = self.survivors(example.segments(), example.support, steps, example.seed)
        return [View(example.keeping(kept)) for kept in survivors]

    def supporting(
        self, query: str, passage: str, spans: Sequence[CharSpan], seen: Sequence[int], window: CharSpan
    ) -> Support:
        """The segments of a relevant passage that support its label.

        Args:
            query: the query.
            passage: the passage, whole.
            spans: its segments.
            seen: the segments of which the model sees anything.
            window: the characters of the passage that the model sees.
        """
        given = known_support(self.support, query, passage, spans)
        if given is not None:
            whole = {i for i in seen if window[0] <= spans[i][0] and spans[i][1] <= window[1]}
            return Support(given & frozenset(seen), given - whole)
        scorer = support_scorer(self.support)
        if scorer is None or not seen:
            return Support()
        # Asked of what the model sees only: this support is a guess, and can be made among those.
        texts = [passage[max(spans[i][0], window[0]) : min(spans[i][1], window[1])] for i in seen]
        return Support(frozenset(seen[i] for i in best_segments(scorer, query, texts, self.best)))

    def survivors(self, segments: Sequence[int], support: Collection[int], steps: int, seed: int) -> list[list[int]]:
        """The segments that each of ``steps`` crops keeps, nested, each in document order.

        Example:
            >>> CmpCrop().survivors([0, 1, 2, 3, 4], support={1}, steps=2, seed=1)
            [[0, 1], [1]]
        """
        rng = random.Random(seed)
        distractors = shuffled([i for i in segments if i not in support], rng)
        supporting = [i for i in segments if i in support]
        counts = checked_counts(self.schedule, len(distractors), steps, 0 if supporting else 1, rng)
        return [sorted([*supporting, *distractors[:count]]) for count in counts]


@dataclass(frozen=True)
class Support:
    """The supporting segments that the model sees, and those that its window has cut off, wholly or in part."""

    kept: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()


def _window_start(pair: TextPair, spans: Sequence[CharSpan], wanted: Collection[int]) -> int:
    """The character at which the passage should begin: a segment's start, as early as the wanted ones are seen."""
    begin, end = spans[min(wanted)][0], spans[max(wanted)][1]
    offsets = pair.all_offsets()
    room = int((pair.part == PASSAGE).sum())
    first = int(np.searchsorted(offsets[:, 1], begin, side="right"))
    after = int(np.searchsorted(offsets[:, 0], end, side="left"))
    earliest = min(max(after - room, 0), first, len(offsets) - 1)
    at = int(offsets[earliest, 0])
    return min(next((left for left, _ in spans if left >= at), begin), begin)
