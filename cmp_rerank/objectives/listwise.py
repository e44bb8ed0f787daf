"""The listwise comparative loss: the likelihood of the right order of all steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cmp_rerank.objectives._checks import Baseline, canonical, check_baseline, check_number, checked
from cmp_rerank.objectives.base import Objective, Outputs
from cmp_rerank.objectives.hinge import with_dummy

__all__ = ["Listwise", "listwise_comparative_loss"]


@dataclass(frozen=True)
class Listwise(Objective):
    """The likelihood of the right order of the steps: `listwise_comparative_loss` with its options chosen.

    Args:
        temperature: Softness of the order, in the unit of the losses, > 0.
        baseline: The loss of the dummy step, as for `PairwiseHinge`; ``None`` leaves the dummy out. Then nothing
            lowers the losses themselves.

    Raises:
        ValueError: If the temperature or the baseline is out of range; the message says what was got.

    Source: ListMLE is from Xia et al., ICML 2008; over ablation steps, from the code of arXiv 2301.03765.

    Example:
        >>> Listwise()(torch.tensor([[2.0, 3.0]]).log())
        tensor([2.6856])
        >>> Listwise(temperature=0.5, baseline=None)
        Listwise(temperature=0.5, baseline=None)
    """

    temperature: float = 1.0
    baseline: Baseline | None = "zero"

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, strict=True)
        object.__setattr__(self, "temperature", canonical(self.temperature))
        if self.baseline is not None:
            check_baseline(self.baseline)
            object.__setattr__(self, "baseline", canonical(self.baseline))

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """See `listwise_comparative_loss`. The outputs are not looked at."""
        return listwise_comparative_loss(losses, self.temperature, self.baseline)


def listwise_comparative_loss(losses: Tensor, temperature: float = 1.0, baseline: Baseline | None = "zero") -> Tensor:
    """Give the negative log-likelihood of the right order of the steps in a Plackett-Luce model (ListMLE).

    With scores ``s(i) = -l(i) / temperature`` and the dummy of `comparative_loss` in last place::

        L = sum over i of [ log( sum over j >= i of exp(s(j)) ) - s(i) ]

    It is smooth where `comparative_loss` has kinks, and pulls steps apart even when they are in order.
    ``temperature * L`` tends to the sum of ``l(i) - min over j >= i of l(j)`` as the temperature goes to 0.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first.
        temperature: Softness of the order, in the unit of the losses, > 0.
        baseline: As for `comparative_loss`; ``None`` leaves the dummy out. Then only differences between
            steps count and nothing lowers the losses themselves, so add a task loss.

    Returns:
        One loss per example, shape (batch,), never negative.

    Raises:
        ValueError: If an argument makes no sense; the message says what was got.

    Source: ListMLE is from Xia et al., ICML 2008; over ablation steps, from the code of arXiv 2301.03765.

    Example:
        exp(s) is 1/2 for the full model, 1/3 for the step, 1 for the dummy. The full model comes first with
        probability (1/2) / (1/2 + 1/3 + 1) = 3/11, the step next with (1/3) / (1/3 + 1) = 1/4: log(44/3).

        >>> listwise_comparative_loss(torch.tensor([[2.0, 3.0]]).log())
        tensor([2.6856])
    """
    check_number("temperature", temperature, strict=True)
    losses = checked(losses)
    scores = -(losses if baseline is None else with_dummy(losses, baseline)) / float(temperature)  # (..., n)
    n = scores.shape[-1]
    placed = torch.ones(n, n, dtype=torch.bool, device=scores.device).tril(diagonal=-1)  # [i, j]: j before i
    rivals = scores.unsqueeze(-2).masked_fill(placed, -math.inf)  # (..., n, n)
    return (rivals.logsumexp(dim=-1) - scores).sum(dim=-1)
