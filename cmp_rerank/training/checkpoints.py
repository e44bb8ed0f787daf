"""Checkpoints by time: a training that takes days loses minutes, whatever its steps cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cmp_rerank.ir.arguments import check_number


class TimedCheckpoints(TrainerCallback):
    """Save a checkpoint after the first minute, and then every so many minutes, besides those by steps or epochs.

    None is saved at the end of an epoch that is evaluated next: resumed from it, the evaluation would be missed. A
    checkpoint of any kind begins a new interval. The processes of a distributed training agree on the clock of
    the first, so that all of them save at the same step. Saving draws no random number: the training goes on as
    without it.

    Args:
        minutes: how many minutes lie between two checkpoints, above 0.
        first: how many minutes after the start of the training the first one is saved, at most. At least 0: a
            training can be resumed from its first step on.
        clock: seconds, from any origin.

    Raises:
        ValueError: ``minutes`` or ``first`` is out of range.

    Example:
        >>> now = iter([0.0, 30.0, 61.0, 65.0, 600.0, 665.0])
        >>> checkpoints = TimedCheckpoints(10, clock=lambda: next(now))
        >>> args, state, control = TrainingArguments("checkpoints"), TrainerState(), TrainerControl()
        >>> checkpoints.on_train_begin(args, state, control)
        >>> def due():
        ...     control.should_save = False
        ...     checkpoints.on_step_end(args, state, control)
        ...     return control.should_save
        >>> due(), due()  # after 30 and 61 seconds
        (False, True)
        >>> checkpoints.on_save(args, state, control)  # it is written after 65 seconds
        >>> due(), due()  # after 600 and 665 seconds
        (False, True)
    """

    def __init__(
        self, minutes: float = 10.0, first: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        check_number("minutes", minutes, 0)
        if minutes == 0:
            raise ValueError(f"minutes must be above 0; got {minutes!r}; leave the callback out to save none by time")
        check_number("first", first, 0)
        self.minutes, self.first = minutes, min(first, minutes)
        self._clock = clock
        self._due = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin the first interval."""
        self._due = self._clock() + 60 * self.first

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin the next interval."""
        self._due = self._clock() + 60 * self.minutes

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint when it is time."""
        due = self._clock() >= self._due
        if _as_the_first(due, args) and not _evaluated_next(args, state):
            control.should_save = True


def _evaluated_next(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether an evaluation by epoch follows this step."""
    return args.eval_strategy == "epoch" and float(state.epoch or 0).is_integer()


def _as_the_first(decision: bool, args: TrainingArguments) -> bool:
    """The decision of the first process, on all of them; the clocks of two processes are never equal."""
    if not (dist.is_available() and dist.is_initialized()):
        return decision
    device = torch.device("cpu") if dist.get_backend() == "gloo" else args.device
    flag = torch.tensor([int(decision)], device=device)
    dist.broadcast(flag, src=0)
    return bool(flag.item())
