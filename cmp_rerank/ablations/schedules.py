"""How many distractors each crop keeps: the rule of training, that of evaluation, and that of feedback lists."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class RandomCounts:
    """Distinct counts, drawn at random below the full number, in descending order.

    The training rule of the reference code for multi-paragraph question answering (arXiv 2301.03765). Where there
    are too few distractors for that many distinct counts, the last one repeats: such a step is the same
    computation as the one before it.

    Example:
        >>> RandomCounts().counts(distractors=9, steps=3, least=0, rng=random.Random(1))
        [8, 3, 0]
    """

    def check(self, steps: int) -> None:
        """Any number of steps will do."""

    def counts(self, distractors: int, steps: int, least: int, rng: random.Random) -> list[int]:
        """How many distractors each of ``steps`` crops keeps, never more than the step before it, nor below least."""
        drawn = sorted(shuffled(range(least, distractors), rng)[:steps], reverse=True)
        return drawn + [drawn[-1] if drawn else distractors] * (steps - len(drawn))


@dataclass(frozen=True)
class FixedCounts:
    """The same counts for every passage: as in the reference code's evaluation, and for curves.

    Args:
        kept: how many distractors each crop keeps; a passage that has fewer keeps them all.

    Raises:
        ValueError: if they are no whole numbers of at least 0 in descending order.

    Example:
        >>> FixedCounts((5, 2)).counts(distractors=4, steps=2, least=0, rng=random.Random(1))
        [4, 2]
    """

    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", _descending("counts", self.kept, 0, None, int))

    def check(self, steps: int) -> None:
        """Raise a ValueError unless there is a count for each step."""
        _check_length(self, len(self.kept), steps)

    def counts(self, distractors: int, steps: int, least: int, rng: random.Random) -> list[int]:
        """How many distractors each of ``steps`` crops keeps."""
        return [max(min(count, distractors), min(least, distractors)) for count in self.kept[:steps]]


@dataclass(frozen=True)
class Fractions:
    """The same share of every passage's distractors.

    Args:
        kept: which share of the distractors each crop keeps, rounded up.

    Raises:
        ValueError: if they are no shares between 0 and 1 in descending order.

    Example:
        >>> Fractions((0.5, 0.25)).counts(distractors=6, steps=2, least=0, rng=random.Random(1))
        [3, 2]
    """

    kept: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", _descending("fractions", self.kept, 0.0, 1.0, float))

    def check(self, steps: int) -> None:
        """Raise a ValueError unless there is a share for each step."""
        _check_length(self, len(self.kept), steps)

    def counts(self, distractors: int, steps: int, least: int, rng: random.Random) -> list[int]:
        """How many distractors each of ``steps`` crops keeps."""
        # 1e-9: a third of 3 is 1, though 0.1 * 3 is a little more than 0.3
        kept = [math.ceil(share * distractors - 1e-9) for share in self.kept[:steps]]
        return [max(count, min(least, distractors)) for count in kept]


@dataclass(frozen=True)
class FeedbackCounts:
    """Distinct counts from 0 to all, both included, in descending order: LoL's rule for lists of feedback documents.

    With count 0 only the query is left (and the support, if there is any), even where a passage has no support;
    with all of them the step is the full model (arXiv 2204.11545).

    Example:
        >>> sorted({count for seed in range(40) for count in FeedbackCounts().counts(3, 2, 1, random.Random(seed))})
        [0, 1, 2, 3]
    """

    def check(self, steps: int) -> None:
        """Any number of steps will do."""

    def counts(self, distractors: int, steps: int, least: int, rng: random.Random) -> list[int]:
        """How many distractors each of ``steps`` crops keeps."""
        drawn = sorted(shuffled(range(distractors + 1), rng)[:steps], reverse=True)
        return drawn + [drawn[-1]] * (steps - len(drawn))


Schedule = RandomCounts | FixedCounts | Fractions | FeedbackCounts


def shuffled(items: Iterable[int], rng: random.Random) -> list[int]:
    """A random permutation. Of Python's generators, only random() promises the same numbers in every version."""
    return sorted(items, key=lambda _: rng.random())


def _descending(what: str, values: Iterable[float], low: float, high: float | None, kind: type) -> tuple:
    try:
        kept = tuple(values)
    except TypeError:
        kept = ()
    right = all(isinstance(v, (int, kind)) and not isinstance(v, bool) and v >= low for v in kept)
    if not kept or not right or (high is not None and max(kept) > high) or list(kept) != sorted(kept, reverse=True):
        bounds = f"of at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(
            f"The {what} must be numbers {bounds} in descending order, one for each crop; got {values!r}."
        )
    return kept


def _check_length(schedule: object, length: int, steps: int) -> None:
    if steps != length:
        raise ValueError(f"{schedule!r} is for {length} crops, but the plan has {steps}.")
