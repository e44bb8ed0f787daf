"""One training by a trainer of transformers: what is alike for every kind of model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from .arms import Arm
from .watch import Watch, log_of

if TYPE_CHECKING:
    from .tasks import Task

#: Makes a trainer from the arguments that all kinds of models share, and its callbacks.
Build = Callable[[dict[str, Any], list[Any]], Any]


def train(
    build: Build, model: nn.Module, task: Task, arm: Arm, rows: int, value: Callable[[], float], *,
    rate: float, epochs: int, seed: int, scheduler: str,
) -> dict[str, Any]:  # fmt: skip
    """Train a model; what is logged is the mean task loss and the rate of violations, by tenths of the training.

    Args:
        build: Makes the trainer.
        model: The model that it trains.
        task: Says how many rows a batch has.
        arm: Says the weight decay, and what is done between steps and epochs.
        rows: How many rows an epoch has.
        value: Gives the model's mean on validation.
        rate: The highest learning rate.
        epochs: How often each row is seen.
        seed: What the order of the rows derives from.
        scheduler: How the rate goes on after the warm-up.
    """
    from transformers import PrinterCallback

    if arm.instead:
        raise ValueError("an arm whose examples make one of their passes is trained by `steps.train` alone")
    steps = -(-rows // task.batch) * epochs
    watch = Watch(arm, model, steps, value)
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "output_dir": folder,
            "num_train_epochs": epochs,
            "per_device_train_batch_size": task.batch,
            "learning_rate": rate,
            "warmup_steps": max(1, steps // 10),
            "lr_scheduler_type": scheduler,
            "weight_decay": arm.decay,
            "seed": seed,
            "logging_steps": max(1, steps // 10),
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": model.device.type == "cpu",
            "dataloader_pin_memory": False,
        }
        trainer = build(arguments, [watch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    found = watch.put()
    return log_of(trainer.state.log_history) | found
