"""The common start of a task: what all of its cells begin with."""

from __future__ import annotations

from pathlib import Path

import torch

from cmp_rerank.ir.lines import replacing_folder

from . import readers
from .arms import Arm
from .steps import train_start
from .tasks import TASKS, Task, load, training_rows
from .training import fit, opened, start_folder


def make_start(
    task: Task, cache: Path, encoder: str, layers: int | None = None, device: str = "cpu", trainer: bool = True
) -> Path:
    """Train the head, and the first layers of a pretrained encoder, on rows of their own; saved in half precision.

    By its trainer, or as the cells that are trained together, which needs no ``datasets``.
    """
    folder = start_folder(task, cache)
    layers = task.layers if layers is None else layers
    if task.start_of:
        return make_start(TASKS[task.start_of], cache, encoder, layers, device, trainer)
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        dropout = task.start_dropout
        model = readers.opened(encoder, device, dropout) if task.reads else opened(encoder, task, device, dropout)
        inner = model.model
        inner.base_model.encoder.layer = inner.base_model.encoder.layer[:layers]
        inner.config.num_hidden_layers = layers
        size, epochs = task.start
        rows = training_rows(task, load(task.name, cache)["start"], size, 0)
        if trainer and task.exact:
            scheduler = "constant_with_warmup" if task.start_constant else "linear"
            fit(model, task, Arm(), rows, rate=task.start_rate, epochs=epochs, seed=0, scheduler=scheduler)
        else:
            train_start(model, task, rows)
        with replacing_folder(folder) as made:
            inner.half()
            if task.reads:
                inner.save_pretrained(str(made))
                model.tokenizer.save_pretrained(str(made))
            else:
                model.save_pretrained(str(made))
    return folder
