"""Task losses with the comparison as a regulariser of its own weight, as in LoL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from cmp_rerank.objectives._checks import Reduction, canonical, check_choice, check_number, check_reduction, checked
from cmp_rerank.objectives.base import Objective, Outputs
from cmp_rerank.objectives.hinge import hinges

__all__ = ["HingeRegularized", "Task", "hinge_regularized_loss"]

#: Whose task losses are trained: the mean over all steps, or the full model's alone.
Task: TypeAlias = Literal["mean", "full"]


@dataclass(frozen=True)
class HingeRegularized(Objective):
    """The mean task loss and weighted hinges: `hinge_regularized_loss` with its options chosen.

    Args:
        weight: Weight of the hinges, >= 0. At 0 this is `MeanOfSteps`.
        reduction: ``"mean"`` of the hinges over their pairs, or ``"sum"``.
        task: ``"mean"`` of the task losses over all steps, or that of the ``"full"`` model alone. Then steps that are
            in order need no backward pass.
        detached: Whether the later step of a pair is a constant in its hinge. Then a hinge lowers the loss of the
            fuller step only, and does not raise that of an ablated one that did better.

    Raises:
        ValueError: If an option is out of range; the message says what was got.

    Source: LoL (arXiv 2204.11545).

    Example:
        >>> import torch
        >>> HingeRegularized(weight=2.0)(torch.tensor([[0.6, 0.3, 0.9]]))
        tensor([0.8000])
        >>> HingeRegularized(weight=2.0)
        HingeRegularized(weight=2.0, reduction='mean', task='mean', detached=False)
        >>> HingeRegularized(weight=2.0, task="full").weights(torch.tensor([[0.6, 0.3]]))
        tensor([[ 3., -2.]])
        >>> HingeRegularized(weight=2.0, task="full", detached=True).weights(torch.tensor([[0.6, 0.3]]))
        tensor([[3., 0.]])
    """

    weight: float = 1.0
    reduction: Reduction = "mean"
    task: Task = "mean"
    detached: bool = False

    def __post_init__(self) -> None:
        check_number("weight", self.weight)
        check_reduction(self.reduction)
        _check_kind(self.task, self.detached)
        object.__setattr__(self, "weight", canonical(self.weight))
        object.__setattr__(self, "reduction", canonical(self.reduction))

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """See `hinge_regularized_loss`. The outputs are not looked at."""
        return hinge_regularized_loss(losses, self.weight, self.reduction, self.task, self.detached)


def hinge_regularized_loss(
    losses: Tensor, weight: float = 1.0, reduction: Reduction = "mean", task: Task = "mean", detached: bool = False
) -> Tensor:
    """Average the task losses of all steps, and add the hinges of all ordered pairs, without a dummy::

        L = (1 / (c+1)) sum over i of l(i)  +  weight * sum over 0 <= i < j <= c of max(0, l(i) - l(j))

    `comparative_loss` balances task and comparison by the number of pairs, this by ``weight``. Where no loss
    is negative they meet: ``comparative_loss(losses)`` is ``2 / (c+2)`` times this with ``weight=c / 2``.
    With ``task="full"`` the first term is ``l(0)`` alone.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first. Without steps this is the task loss.
        weight: Weight of the hinges, >= 0. At 0 this is plain training on all ablations alike.
        reduction: ``"mean"`` of the hinges over their (c+1)c/2 pairs, or ``"sum"``. The task losses are
            averaged either way.
        task: ``"mean"`` of the task losses over all steps, or that of the ``"full"`` model alone.
        detached: Whether l(j), the loss of the later step, is a constant in the hinges. The value is the same.

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
        >>> hinge_regularized_loss(torch.tensor([[0.6, 0.3, 0.9]]), task="full")
        tensor([0.7000])
    """
    check_reduction(reduction)
    check_number("weight", weight)
    _check_kind(task, detached)
    losses = checked(losses)
    first = losses.mean(dim=-1) if task == "mean" else losses[..., 0]
    return first + float(weight) * hinges(losses, reduction, detached)


def _check_kind(task: object, detached: object) -> None:
    check_choice("task", task, get_args(Task))
    if not isinstance(detached, bool):
        raise ValueError(f"detached must be True or False; got {detached!r}")
