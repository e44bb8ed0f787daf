"""Schedules: how many distractors each crop keeps.

A schedule is any object with a method ``counts(distractors, steps, least, rng)``; see `Schedule`. Those here are the
training rule of the paper, fixed counts and fractions, and the rule for lists of feedback documents.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cmp_rerank.text.checks import refuse_class


class Schedule(Protocol):
    """What `CmpCrop` asks for the number of distractors that each crop keeps.

    A schedule may also have a method ``check(steps)``. It raises a ValueError if the schedule does not fit a plan
    with that many crops. `check_schedule` calls it once, when the plan is made.

    Prepared examples are cached under the ``repr`` of the ablation. So the ``repr`` of a schedule should contain its
    settings.

    Example:
        >>> class Halves:
        ...     def counts(self, distractors, steps, least, rng):
        ...         return [max(distractors >> step, min(least, distractors)) for step in range(1, steps + 1)]
        >>> checked_counts(Halves(), distractors=9, steps=3, least=0, rng=random.Random(1))
        [4, 2, 1]
    """

    def counts(self, distractors: int, steps: int, least: int, rng: random.Random) -> Sequence[int]:
        """How many distractors each crop keeps.

        Args:
            distractors: how many there are; may be 0.
            steps: how many crops the plan has.
            least: how many should stay at least: 1 where a passage has no support and would be empty without, else 0.
                `FeedbackCounts` empties a passage on purpose.
            rng: what random choices are drawn from. Only its ``random()`` gives the same numbers in every version of
                Python.

        Returns:
            One count for each step, between 0 and ``distractors``, none above the one before it.
        """
        ...


@dataclass(frozen=True)
class RandomCounts:
    """Distinct counts, drawn at random below the full number, in descending order.

    The training rule of the reference code for multi-paragraph question answering (arXiv 2301.03765). Where there
    are too few distractors for that many distinct counts, the last one repeats. Such a step is the same computation
    as the one before it.

    Example:
        >>> RandomCounts().counts(distractors=9, steps=3, least=0, rng=random.Random(1))
        [8, 3, 0]
    """

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
    """The same fraction of every passage's distractors.

    Args:
        kept: which fraction of the distractors each crop keeps, rounded up.

    Raises:
        ValueError: if they are no fractions between 0 and 1 in descending order.

    Example:
        >>> Fractions((0.5, 0.25)).counts(distractors=6, steps=2, least=0, rng=random.Random(1))
        [3, 2]
    """

    kept: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", _descending("fractions", self.kept, 0.0, 1.0, float))

    def check(self, steps: int) -> None:
        """Raise a ValueError unless there is a fraction for each step."""
        _check_length(self, len(self.kept), steps)

    def counts(self, distractors: int, steps: int, least: int, rng: random.Random) -> list[int]:
        """How many distractors each of ``steps`` crops keeps."""
        # 0.07 * 100 is 7.000000000000001 in floating point. Without the 1e-9 it would be rounded up to 8.
        kept = [math.ceil(fraction * distractors - 1e-9) for fraction in self.kept[:steps]]
        return [max(count, min(least, distractors)) for count in kept]


@dataclass(frozen=True)
class FeedbackCounts:
    """Distinct counts from 0 to all, both included, in descending order: LoL's rule for lists of feedback documents.

    With count 0 only the query is left (and the support, if there is any), even where a passage has no support.
    With all of them the step is the full model (arXiv 2204.11545).

    Example:
        >>> sorted({count for seed in range(40) for count in FeedbackCounts().counts(3, 2, 1, random.Random(seed))})
        [0, 1, 2, 3]
    """

    def counts(self, distractors: int, steps: int, least: int, rng: random.Random) -> list[int]:
        """How many distractors each of ``steps`` crops keeps."""
        drawn = sorted(shuffled(range(distractors + 1), rng)[:steps], reverse=True)
        return drawn + [drawn[-1]] * (steps - len(drawn))


def check_schedule(schedule: Any, steps: int | None = None) -> None:
    """Check that an object can be a schedule.

    Args:
        schedule: the object.
        steps: how many crops the plan has; None: not known yet. If it is known, the schedule's own ``check(steps)``
            is called, where it has one.

    Raises:
        ValueError: for a class instead of an object, an object without the method ``counts``, and what the schedule's
            own check refuses.

    Example:
        >>> check_schedule(FixedCounts((4, 2)), steps=3)
        Traceback (most recent call last):
        ...
        ValueError: FixedCounts(kept=(4, 2)) is for 2 crops, but the plan has 3. Give one value for each crop.
    """
    refuse_class("schedule", schedule)
    if not callable(getattr(schedule, "counts", None)):
        raise ValueError(
            "schedule must be RandomCounts() or another object with a method counts(distractors, steps, least, rng); "
            f"got {schedule!r}. For fixed counts pass FixedCounts((8, 4))."
        )
    check = getattr(schedule, "check", None)
    if steps is not None and callable(check):
        check(steps)


def checked_counts(schedule: Schedule, distractors: int, steps: int, least: int, rng: random.Random) -> list[int]:
    """Ask a schedule for its counts, and check what it returns.

    Args:
        schedule: any object of that shape; see `Schedule` for it and the other arguments.
        distractors: how many there are.
        steps: how many crops the plan has.
        least: how many should stay at least.
        rng: what random choices are drawn from.

    Returns:
        One count for each step.

    Raises:
        ValueError: if the schedule does not return one whole number for each step, between 0 and ``distractors``, in
            descending order (equals are allowed). The message names the schedule.
    """
    returned = schedule.counts(distractors, steps, least, rng)
    asked = f"{schedule!r} returned {returned!r} for {distractors} distractors and {steps} crops"
    try:
        given = list(returned)
        if any(isinstance(count, bool) for count in given):
            raise TypeError
        counts = [operator.index(count) for count in given]
    except TypeError:
        raise ValueError(f"{asked}. Its method counts must return a list of whole numbers.") from None
    if len(counts) != steps:
        raise ValueError(f"{asked}. It must return one count for each crop.")
    if not all(0 <= count <= distractors for count in counts):
        raise ValueError(f"{asked}. Every count must lie between 0 and the number of distractors.")
    if counts != sorted(counts, reverse=True):
        raise ValueError(f"{asked}. No count may be above the one before it, since crops are nested.")
    return counts


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
        raise ValueError(
            f"{schedule!r} is for {length} crops, but the plan has {steps}. Give one value for each crop."
        )
