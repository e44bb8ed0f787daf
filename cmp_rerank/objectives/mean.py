"""The control: the same passes as comparative training, without the comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmp_rerank.objectives._checks import checked
from cmp_rerank.objectives.base import Objective, Outputs

__all__ = ["MeanOfSteps"]


@dataclass(frozen=True)
class MeanOfSteps(Objective):
    """The mean of the task losses over the steps: plain training on all ablations alike.

    It is the control of equal compute. It runs the passes that comparative training runs, on the same ablated
    inputs, and leaves out the comparison: what differs between the two is due to the comparison alone. Every step
    has the same weight, so no backward pass is left out.

    Raises:
        ValueError: When called, if the losses make no sense; the message says what was got.

    Example:
        >>> objective = MeanOfSteps()
        >>> objective(torch.tensor([[0.6, 0.3, 0.9]]))
        tensor([0.6000])
        >>> objective.weights(torch.tensor([[0.6, 0.3, 0.9]]))
        tensor([[0.3333, 0.3333, 0.3333]])
        >>> objective
        MeanOfSteps()
    """

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """Average ``losses`` of shape (batch, 1 + steps) over the steps: (batch,). The outputs are not looked at."""
        return checked(losses).mean(dim=-1)

    def weights(self, losses: Tensor) -> Tensor:
        """Give 1 / (1 + steps) for every step, in the shape of ``losses``, without a graph."""
        losses = checked(losses)
        return torch.full_like(losses, 1 / losses.shape[-1], requires_grad=False)
