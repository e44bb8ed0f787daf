"""What is looked at while a model trains: the mean of its weights, its best epoch, and its log."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from .arms import Arm

#: What is kept of a log, beside the loss.
RATES = ("violation_rate", "beaten_rate", "zero_weight_rate")


class Watch(TrainerCallback):
    """Does what an arm asks for between steps and epochs.

    Args:
        arm: The arm.
        model: The model that is trained.
        steps: Steps of the training.
        value: Gives the model's mean on validation.
    """

    def __init__(self, arm: Arm, model: nn.Module, steps: int, value: Callable[[], float]) -> None:
        self.arm, self.model, self.steps, self.value = arm, model, steps, value
        self.average = Average(model) if arm.averaged else None
        self.best: dict[str, Any] = {"value": -1.0}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the weights of a step of the last half to their mean."""
        if self.average is not None and state.global_step > self.steps // 2:
            self.average.add()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the model, and keep it if it is the best one."""
        if self.arm.keep_best:
            value = self.value()
            if value > self.best["value"]:
                self.best.update(value=value, epoch=state.epoch, weights=copy.deepcopy(self.model.state_dict()))
            self.model.train()

    def put(self) -> dict[str, Any]:
        """Put the weights that the arm asks for into the model; what the log says of it."""
        if self.average is not None:
            self.average.put()
        if not self.arm.keep_best:
            return {}
        self.model.load_state_dict(self.best["weights"])
        return {"best_epoch": self.best["epoch"]}


class Average:
    """The running mean of a model's weights."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.count = model, 0
        self.sums: dict[str, torch.Tensor] = {}

    def add(self) -> None:
        """Add the weights as they are now."""
        self.count += 1
        for name, weight in self.model.named_parameters():
            held = self.sums.setdefault(name, torch.zeros_like(weight))
            held += (weight.detach() - held) / self.count

    def put(self) -> None:
        """Replace the weights by their mean."""
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(self.sums[name])


def log_of(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The loss and the rates of a trainer's log, by its entries; None where an entry has no rate."""
    entries = [entry for entry in history if "loss" in entry]
    log: dict[str, Any] = {"loss": [round(float(entry["loss"]), 4) for entry in entries]}
    for name in RATES:
        # Where a share of the examples is compared, none may be in a batch.
        if any(name in entry for entry in entries):
            log[name] = [round(float(entry[name]), 4) if name in entry else None for entry in entries]
    return log
