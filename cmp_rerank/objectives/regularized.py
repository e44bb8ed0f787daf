"""Task losses with the comparison as a regulariser of its own weight, as in LoL."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cmp_rerank.objectives._checks import Reduction, canonical, check_number, check_reduction, checked
from cmp_rerank.objectives.base import Objective, Outputs
from cmp_rerank.objectives.hinge import hinges

__all__ = ["HingeRegularized", "hinge_regularized_loss"]


@dataclass(frozen=True)
class HingeRegularized(Objective):
    """The mean task loss and weighted hinges: `hinge_regularized_loss` with its options chosen.

    Args:
        weight: Weight of the hinges, >= 0. At 0 this is `MeanOfSteps`.
        reduction: ``"mean"`` of the hinges over their pairs, or ``"sum"``.

    Raises:
        ValueError: If the weight or the reduction is out of range; the message says what was got.

    Source: LoL (arXiv 2204.11545).

    Example:
        >>> import torch
        >>> HingeRegularized(weight=2.0)(torch.tensor([[0.6, 0.3, 0.9]]))
        tensor([0.8000])
        >>> HingeRegularized(weight=2.0)
        HingeRegularized(weight=2.0, reduction='mean')
    """

    weight: float = 1.0
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        check_number("weight", self.weight)
        check_reduction(self.reduction)
        object.__setattr__(self, "weight", canonical(self.weight))
        object.__setattr__(self, "reduction", canonical(self.reduction))

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """See `hinge_regularized_loss`. The outputs are not looked at."""
        return hinge_regularized_loss(losses, self.weight, self.reduction)


def hinge_regularized_loss(losses: Tensor, weight: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    """Average the task losses of all steps, and add the hinges of all ordered pairs, without a dummy::

        L = (1 / (c+1)) sum over i of l(i)  +  weight * sum over 0 <= i < j <= c of max(0, l(i) - l(j))

    `comparative_loss` balances task and comparison by the number of pairs, this by ``weight``. Where no loss
    is negative they meet: ``comparative_loss(losses)`` is ``2 / (c+2)`` times this with ``weight=c / 2``.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first. Without steps this is the task loss.
        weight: Weight of the hinges, >= 0. At 0 this is plain training on all ablations alike.
        reduction: ``"mean"`` of the hinges over their (c+1)c/2 pairs, or ``"sum"``. The task losses are
            averaged either way.

    Returns:
        One loss per example, shape (batch,).

    Raises:
        ValueError: If an argument makes no sense; the message says what was got.

    Source: LoL (arXiv 2204.11545), where the steps are revisions of a query with less and less feedback.

    Example:
        The task losses have mean 0.6. One pair of three is out of order, by 0.3: 0.6 + 0.3 / 3.

        >>> import torch
        >>> hinge_regularized_loss(torch.tensor([[0.6, 0.3, 0.9]]))
        tensor([0.7000])
    """
    check_reduction(reduction)
    check_number("weight", weight)
    losses = checked(losses)
    return losses.mean(dim=-1) + float(weight) * hinges(losses, reduction)
