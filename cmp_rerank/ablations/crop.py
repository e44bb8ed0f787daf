"""CmpCrop: ablate the context of a passage, segment by segment (arXiv 2301.03765, CmpCrop)."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from cmp_rerank.ablations.schedules import FeedbackCounts, FixedCounts, Fractions, RandomCounts, Schedule, shuffled
from cmp_rerank.text.segmenters import CharSpan, Segmenter, Sentences
from cmp_rerank.text.support import GivenSupport, LexicalSupport, SupportScorer, best_segments

LOST_SUPPORT = ("drop", "move", "ignore")


@dataclass(frozen=True, repr=False)
class CmpCrop:
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
        schedule: how many distractors each step keeps: `RandomCounts` (the default), `FixedCounts`, `Fractions`
            or `FeedbackCounts`.
        lost_support: what to do where the model's window has cut given support off. "drop" (the default) drops the
            example from cropping: its crop steps take nothing away, since what they keep could not be told. "move"
            moves the window: the passage starts at a later segment, so that its support is seen, by the full
            model too. "ignore" goes on with what is left of the support. All are counted.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> CmpCrop(segmenter=Sentences("de"), schedule=FixedCounts((4,)))
        CmpCrop(segmenter=Sentences(language='de'), schedule=FixedCounts(kept=(4,)))
    """

    steps: int = 1
    segmenter: Segmenter = Sentences()
    support: SupportScorer | GivenSupport | None = LexicalSupport()
    best: int = 1
    schedule: Schedule = RandomCounts()
    lost_support: str = "drop"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps!r}: leave CmpCrop out to do without it.")
        if not callable(self.segmenter):
            raise ValueError(
                f"segmenter must be a callable such as Sentences() or WordWindows(50), got {self.segmenter!r}."
            )
        if not (self.support is None or callable(self.support) or isinstance(self.support, GivenSupport)):
            raise ValueError(f"support must be GivenSupport, a scorer or None, got {self.support!r}.")
        if not isinstance(self.best, int) or self.best < 1:
            raise ValueError(f"best must be at least 1, got {self.best!r}: support=None does without support.")
        if not isinstance(self.schedule, (RandomCounts, FixedCounts, Fractions, FeedbackCounts)):
            raise ValueError(f"schedule must be RandomCounts() or one of its kind, got {self.schedule!r}.")
        if self.lost_support not in LOST_SUPPORT:
            raise ValueError(f"lost_support must be one of {LOST_SUPPORT}, got {self.lost_support!r}.")

    def __repr__(self) -> str:
        given = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        return f"CmpCrop({', '.join(f'{name}={value!r}' for name, value, default in given if value != default)})"

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
        scorer = self.support
        if isinstance(scorer, GivenSupport):
            if (query, passage) in scorer or scorer.fallback is None:
                given = scorer.segments(query, passage, spans)
                whole = {i for i in seen if window[0] <= spans[i][0] and spans[i][1] <= window[1]}
                return Support(given & frozenset(seen), given - whole)
            scorer = scorer.fallback
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
        counts = self.schedule.counts(len(distractors), steps, 0 if supporting else 1, rng)
        return [sorted([*supporting, *distractors[:count]]) for count in counts]


@dataclass(frozen=True)
class Support:
    """The supporting segments that the model sees, and those that its window has cut off, wholly or in part."""

    kept: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()
