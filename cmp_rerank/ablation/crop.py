"""CmpCrop: ablate the context of a passage, segment by segment (arXiv 2301.03765, CmpCrop)."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cmp_rerank.segments import LexicalSupport, Segmenter, Sentences, Span, SupportScorer


@dataclass(frozen=True, repr=False)
class CmpCrop:
    """Crop the passage to fewer segments at each step; the query is never cropped.

    The segments that support the label stay. Of the others, the distractors, each step keeps fewer: they are
    permuted at random once, and every step keeps a prefix of that permutation, with counts that are distinct,
    drawn at random below the full number, and descending. So the survivors of a step are a subset of those of
    the step before. Document order is kept.

    Args:
        steps: how many steps of the plan this object stands for.
        segmenter: splits a passage into spans of characters. Default: sentences.
        support: scores the segments of a relevant passage against the query; the best one is its support. Where no
            segment scores above 0, it is the first one: documents lead with their topic. None: no support,
            any segment may go. A passage that is not relevant has no support; there at least one segment stays.

    Raises:
        ValueError: if ``steps`` is below 1.
    """

    steps: int = 1
    segmenter: Segmenter = Sentences()
    support: SupportScorer | None = LexicalSupport()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}: leave CmpCrop out to do without it.")

    def __repr__(self) -> str:
        parts = [] if self.steps == 1 else [f"steps={self.steps}"]
        parts += [] if self.segmenter == Sentences() else [f"segmenter={self.segmenter!r}"]
        parts += [] if self.support == LexicalSupport() else [f"support={self.support!r}"]
        return f"CmpCrop({', '.join(parts)})"

    def supporting(self, query: str, passage: str, spans: Sequence[Span], alive: Sequence[int]) -> frozenset[int]:
        """The segments of a relevant passage that support its label, among those with tokens left (``alive``)."""
        if self.support is None or not alive:
            return frozenset()
        scores = self.support(query, [passage[start:end] for start, end in spans])
        # max takes the first of equals, which is the earlier segment
        return frozenset([max(alive, key=lambda i: scores[i])])

    def survivors(self, segments: Sequence[int], support: Collection[int], steps: int, seed: int) -> list[list[int]]:
        """The segments that each of ``steps`` crops keeps, nested, each in document order.

        A passage with too few distractors for that many distinct counts repeats its last selection: the step is
        then the same computation as the one before it.

        Example:
            >>> CmpCrop().survivors([0, 1, 2, 3, 4], support={1}, steps=2, seed=1)
            [[0, 1], [1]]
        """
        # Of Python's generators, only random() promises the same numbers in every version.
        rng = random.Random(seed)
        distractors = _shuffled([i for i in segments if i not in support], rng)
        floor = 0 if support else 1
        counts = sorted(_shuffled(range(floor, len(distractors)), rng)[:steps], reverse=True)
        counts += [counts[-1] if counts else len(distractors)] * (steps - len(counts))
        return [sorted([*support, *distractors[:count]]) for count in counts]


def _shuffled(items: Iterable[int], rng: random.Random) -> list[int]:
    return sorted(items, key=lambda _: rng.random())
