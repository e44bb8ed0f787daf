"""Training without the model's own dropout, which is off in the steps and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from cmp_rerank.hooks.dropout import dropout_disabled


@contextmanager
def training_without_dropout(trainer: Trainer) -> Iterator[None]:
    """Disable the model's own dropout in each training step of a trainer of any kind, forward and backward pass.

    Between the steps its rates are what they were: whatever is saved there, and by whom, is saved with them.

    Example:
        ::

            with training_without_dropout(trainer):
                trainer.train()
    """
    plain, known = trainer.training_step, vars(trainer).get("training_step")

    def training_step(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        with dropout_disabled(model):
            return plain(model, *args, **kwargs)

    trainer.training_step = training_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        if known is None:
            del trainer.training_step
        else:
            trainer.training_step = known  # type: ignore[method-assign]
