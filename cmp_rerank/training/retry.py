"""A training step that is repeated where memory ran out in its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cmp_rerank.engine import Scorer
from cmp_rerank.engine.memory import free, out_of_memory
from cmp_rerank.losses.core import Comparison


def retry_on_oom(
    step: Callable[[], Tensor],
    trainer: Any,
    model: nn.Module,
    scorers: Sequence[Scorer],
    comparisons: Sequence[Comparison],
) -> Tensor:
    """Take a training step; again, with smaller chunks and fewer activations kept, while memory runs out in it.

    Passes that run out of memory by themselves are repeated where they are run. What is left for here is the backward
    pass through activations that were kept. It can be repeated only if there are no gradients yet of which it is not
    known whether they are complete, and no other process that waits.

    Args:
        step: the forward and the backward pass.
        trainer: whose step it is.
        model: what gets the gradients.
        scorers: run the passes of the step.
        comparisons: they draw the views of the step; a repeated step has the same.

    Raises:
        Exception: what the step raised, where it cannot be repeated, or chunks are as small as can be.
    """
    fresh = trainer.args.world_size == 1 and all(p.grad is None for p in model.parameters())
    drawn = [(each.training, each.drawn) for each in comparisons]
    device = next(model.parameters()).device
    while True:
        try:
            return step()
        except Exception as error:
            if not fresh or not out_of_memory(error) or not _smaller(scorers, device, error):
                raise
        for each, before in zip(comparisons, drawn, strict=True):
            each.training, each.drawn = before
        model.zero_grad(set_to_none=True)
        free()


def _smaller(scorers: Sequence[Scorer], device: torch.device, error: Exception) -> bool:
    """Halve the chunks of all passes; False if they are as small as can be."""
    budgets = [scorer.budget for scorer in scorers]
    able = any(not budget.recompute_activations or budget.of(device) > 1 for budget in budgets)
    for budget in budgets:
        budget.halve(budget.of(device), error)
    return able
