"""How far training has come, and schedules: numbers that depend on it.

A schedule is any callable that takes a `TrainingProgress` and gives a number. It keeps no state of its own: after a
resume the trainer says where it is, and the schedule goes on from there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

from cmp_rerank.objectives._checks import is_finite

__all__ = ["CosineSchedule", "LinearSchedule", "Schedule", "TrainingProgress", "check_callable", "value_at"]


@dataclass(frozen=True)
class TrainingProgress:
    """How far training has come.

    Args:
        step: The number of optimizer steps that were taken, from 0; the trainer's ``global_step``.
        total: How many there will be; None where nobody knows, as outside of a trainer.

    Raises:
        ValueError: If a number is not a whole number in its range.

    Example:
        >>> TrainingProgress(25, total=100).share_of(1.0), TrainingProgress(25, total=100).share_of(0.5)
        (0.25, 0.5)
        >>> TrainingProgress(25).share_of(50)  # 50 training steps, however many there are
        0.5
    """

    step: int
    total: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("step", self.step, 0), ("total", self.total, 1)):
            if name == "total" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}.")

    def steps_in_all(self) -> int:
        """The number of training steps.

        Raises:
            ValueError: If it is not known.
        """
        if self.total is None:
            raise ValueError(
                "What depends on the share of training that is over needs the number of training steps; got none, "
                "since no trainer is running. Train with a trainer, or give the length as a number of steps."
            )
        return self.total

    def share_of(self, until: float) -> float:
        """Which share of a part of training is over, from 0 to 1.

        Args:
            until: Where the part ends: a whole number of training steps, or as a float a share of them all.

        Raises:
            ValueError: If it is a share, and the number of training steps is not known.
        """
        end = until if isinstance(until, int) else until * self.steps_in_all()
        return min(1.0, self.step / end)


Schedule: TypeAlias = Callable[[TrainingProgress], float]
"""A number that depends on how far training has come, such as ``LinearSchedule(0.0, 0.2)``, or a function of yours:
``lambda progress: 0.1 if progress.step > 500 else 0.0``."""


@dataclass(frozen=True)
class _Course(ABC):
    """From one number to another over a part of training, and constant from then on."""

    start: float
    end: float
    until: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            if not is_finite(value):
                raise ValueError(f"{name} must be a finite number; got {value!r}.")
        until = self.until
        whole = isinstance(until, int) and not isinstance(until, bool) and until >= 1
        share = not isinstance(until, int) and isinstance(until, Real) and 0 < until <= 1
        if not (whole or share):
            raise ValueError(
                "until must be a share of training, a float in (0, 1], or a number of training steps, an int of at "
                f"least 1; got {until!r}."
            )

    @abstractmethod
    def change(self, share: float) -> float:
        """Which share of the change is made, from 0 to 1, after that share of the part."""

    def __call__(self, progress: TrainingProgress) -> float:
        """The value at that moment."""
        change = self.change(progress.share_of(self.until))
        return self.start * (1 - change) + self.end * change  # exact at both ends


@dataclass(frozen=True)
class LinearSchedule(_Course):
    """From one number to another in a straight line, and constant from then on.

    Args:
        start: The value at the first training step.
        end: The value at the end of the line, and after it.
        until: Where the line ends: as a float in (0, 1] the share of training, as an int the number of training
            steps.

    Raises:
        ValueError: If an argument is not a finite number in its range.

    Example:
        >>> schedule = LinearSchedule(1.0, 5.0, until=0.5)
        >>> [schedule(TrainingProgress(step, total=100)) for step in (0, 25, 50, 99)]
        [1.0, 3.0, 5.0, 5.0]
    """

    def change(self, share: float) -> float:
        """The same share."""
        return share


@dataclass(frozen=True)
class CosineSchedule(_Course):
    """From one number to another along half a wave of the cosine, slow at both ends, and constant from then on.

    Args:
        start: The value at the first training step.
        end: The value at the end of the wave, and after it.
        until: Where the wave ends: as a float in (0, 1] the share of training, as an int the number of training
            steps.

    Raises:
        ValueError: If an argument is not a finite number in its range.

    Example:
        A quarter of the way the cosine of 45 degrees is 0.7071, so (1 - 0.7071) / 2 of the change is made.

        >>> schedule = CosineSchedule(0.0, 1.0)
        >>> [round(schedule(TrainingProgress(step, total=100)), 4) for step in (0, 25, 50, 100)]
        [0.0, 0.1464, 0.5, 1.0]
    """

    def change(self, share: float) -> float:
        """Half a wave of the cosine."""
        return (1 - math.cos(math.pi * share)) / 2


def value_at(schedule: Schedule, progress: TrainingProgress) -> float:
    """Ask a schedule for its value, and check what it returns.

    Args:
        schedule: Any callable that takes the progress.
        progress: How far training has come.

    Returns:
        A finite number.

    Raises:
        ValueError: If the schedule does not return one. The message names it.

    Example:
        >>> value_at(lambda progress: 2 * progress.step, TrainingProgress(4))
        8.0
    """
    value = schedule(progress)
    if not is_finite(value):
        raise ValueError(f"A schedule must return a finite number; {schedule!r} returned {value!r} for {progress}.")
    return float(value)


def check_callable(name: str, schedule: object) -> None:
    """Raise a ValueError unless an object can be a schedule.

    Args:
        name: What the schedule is for.
        schedule: The object.
    """
    if isinstance(schedule, type) or not callable(schedule):
        raise ValueError(
            f"The schedule of {name} must be LinearSchedule(start, end) or a function of the TrainingProgress; "
            f"got {schedule!r}."
        )
