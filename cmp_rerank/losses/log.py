"""What training logs of its losses: means over batches, by the name of the dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Means:
    """Means of named numbers, each over the batches that had it.

    A number that is not finite does not count, so that a log never has one.

    Example:
        >>> means = Means()
        >>> means.add({"task_loss_full": torch.tensor(0.5), "violation_rate": torch.tensor(1.0)})
        >>> means.add({"task_loss_full": torch.tensor(1.5)})
        >>> means.add({"task_loss_full": torch.tensor(torch.inf), "ratio": torch.tensor(torch.nan)})
        >>> means.take()
        {'task_loss_full': 1.0, 'violation_rate': 1.0}
        >>> means.take()
        {}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # for each name the sum, and how many batches had it

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the numbers of a batch; nothing is read from an accelerator for it."""
        for name, value in values.items():
            counts = value.isfinite()
            one = torch.stack([value.detach().masked_fill(~counts, 0.0), counts.to(value.dtype)])
            self._sums[name] = self._sums[name] + one if name in self._sums else one

    def take(self, together: bool = False) -> dict[str, float]:
        """The means, after which they begin anew.

        Args:
            together: whether they are those over the batches of all processes, each of which must then call this.
        """
        own = {name: tuple(one.tolist()) for name, one in self._sums.items()}
        self._sums = {}
        return _means(gather_object([own]) if together else [own])


def _means(parts: Iterable[Mapping[str, tuple[float, ...]]]) -> dict[str, float]:
    """Means of the sums and counts that processes have."""
    totals: dict[str, tuple[float, float]] = {}
    for part in parts:
        for name, (value, count) in part.items():
            before = totals.get(name, (0.0, 0.0))
            totals[name] = before[0] + value, before[1] + count
    return {name: value / count for name, (value, count) in totals.items() if count}


class LossLog(TrainerCallback):
    """Adds to each entry of a trainer's log what its losses have told since the one before.

    The trainers of sentence-transformers keep such numbers themselves, but under one set of names, and divide by the
    batches that told any: with several datasets and none of these, that is NaN.

    Args:
        together: whether all processes have this callback when the first of them logs. Then the means are those of
            all; if not, each process has its own, and the log is that of the main process.
        several: whether there are several datasets, by whose names the numbers go. One that another trainer has mixed
            with others keeps its name there.
    """

    def __init__(self, together: bool, several: bool = True) -> None:
        self.together, self.several = together, several
        self._means = Means()

    @classmethod
    def of(cls, trainer: Any, together: bool | None = None) -> LossLog:
        """The one of a trainer, which gets one if it has none.

        Args:
            trainer: a trainer of sentence-transformers.
            together: see above. Default: whether there is one loss, and so each process runs it in each step.
        """
        callbacks = trainer.callback_handler.callbacks
        found = next((each for each in callbacks if isinstance(each, cls)), None)
        if found is None:
            several = isinstance(getattr(trainer, "train_dataset", None), dict)
            found = cls(not isinstance(trainer.loss, dict) if together is None else together, several)
            callbacks.insert(0, found)  # before those that report the log
        return found

    def add(self, values: Mapping[str, Tensor], dataset: str | None = None) -> None:
        """Add the numbers of a batch of a dataset; None: it has no name."""
        self._means.add(
            {
                name if dataset is None or not self.several else f"{dataset}_{name}": value
                for name, value in values.items()
            }
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave out what a training before this one has not logged."""
        self._means.take()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the means to an entry of training: to what is reported, and to what is kept with checkpoints."""
        if logs is None or "loss" not in logs:
            return
        found = {name: round(value, 4) for name, value in self._means.take(self.together).items()}
        logs.update(found)
        state.log_history[-1].update(found)
