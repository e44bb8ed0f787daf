"""The comparative loss of the paper: hinges over the ordered pairs of steps, and their gradient in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmp_rerank.objectives._checks import Baseline, Reduction, canonical, check_baseline, check_reduction, checked
from cmp_rerank.objectives.base import Objective, Outputs, violations

__all__ = ["PairwiseHinge", "comparative_loss", "comparative_weights", "violations"]


@dataclass(frozen=True)
class PairwiseHinge(Objective):
    """The comparative loss: `comparative_loss` with its options chosen.

    Args:
        baseline: The loss of the dummy step: ``"zero"``, ``"full"``, ``"best"`` or a number; see `comparative_loss`.
        reduction: ``"mean"`` over the pairs of steps, or ``"sum"``, as in the paper.

    Raises:
        ValueError: If the baseline or the reduction is unknown; the message says what was got.

    Source: arXiv 2301.03765.

    Example:
        >>> objective = PairwiseHinge(baseline="full", reduction="sum")
        >>> objective(torch.tensor([[0.5, 0.3, 0.9]]))
        tensor([0.6000])

        The full model is above step 1, and step 2 above the dummy, which has the full model's loss.

        >>> objective.weights(torch.tensor([[0.5, 0.3, 0.9]]))
        tensor([[ 1., -1.,  1.]])
        >>> objective
        PairwiseHinge(baseline='full', reduction='sum')
    """

    baseline: Baseline = "zero"
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        check_baseline(self.baseline)
        check_reduction(self.reduction)
        object.__setattr__(self, "baseline", canonical(self.baseline))
        object.__setattr__(self, "reduction", canonical(self.reduction))

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """See `comparative_loss`. The outputs are not looked at."""
        return comparative_loss(losses, self.baseline, self.reduction)

    def weights(self, losses: Tensor) -> Tensor:
        """See `comparative_weights`."""
        return comparative_weights(losses, self.baseline, self.reduction)


def comparative_loss(losses: Tensor, baseline: Baseline = "zero", reduction: Reduction = "mean") -> Tensor:
    """Sum, or average, the hinges of all ordered pairs of steps, with a dummy step in last place.

    The dummy's loss ``l(c+1)`` is the *baseline*, a constant through which no gradient flows::

        L = sum over 0 <= i < j <= c+1 of max(0, l(i) - l(j))

    Pairs with the dummy are the plain task losses, measured from the baseline; pairs of real steps are the
    comparison. No step is detached: a pair in the wrong order lowers l(i) and raises l(j).

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first. Without steps there is one pair: the
            full model and the baseline.
        baseline: ``"zero"``, so that every positive loss is minimised for itself, too; ``"full"``, the full
            model's own loss, for when the full model overfits: it is then trained only where an ablation does
            better; ``"best"``, the lowest loss of all steps; or a number: a loss below it is low enough.
        reduction: ``"mean"`` over the (c+2)(c+1)/2 pairs, or ``"sum"``, the form in the paper.

    Returns:
        One loss per example, shape (batch,), never negative.

    Raises:
        ValueError: If the losses, the baseline or the reduction make no sense; the message says what was got.

    Source: arXiv 2301.03765.

    Example:
        >>> losses = torch.tensor([[0.5, 0.3, 0.9]])  # the first ablation does better than the full model

        The pair (0, 1) gives 0.5 - 0.3 = 0.2, the pairs (0, 2) and (1, 2) are in order, and the three pairs
        with the dummy give the losses themselves: 0.2 + 0.5 + 0.3 + 0.9 = 1.9, over 6 pairs.

        >>> comparative_loss(losses, reduction="sum")
        tensor([1.9000])
        >>> comparative_loss(losses)
        tensor([0.3167])

        With the full model's 0.5 as the baseline, only the last step's 0.9 - 0.5 is added to the 0.2.

        >>> comparative_loss(losses, baseline="full", reduction="sum")
        tensor([0.6000])
    """
    check_reduction(reduction)
    return hinges(with_dummy(checked(losses), baseline), reduction)


def comparative_weights(losses: Tensor, baseline: Baseline = "zero", reduction: Reduction = "mean") -> Tensor:
    """Give the gradient of `comparative_loss` with respect to each task loss, in closed form.

    The comparative loss is piecewise linear, so its gradient is a matter of counting::

        w(i) = #{j > i : l(i) > l(j)} - #{j < i : l(j) > l(i)}

    with the dummy among the ``j > i``, and divided by the number of pairs for ``"mean"``. A pair of equal
    losses counts as ordered: it has weight 0, here as in the autograd of `comparative_loss`.
    A step of weight 0 needs no backward pass. With the zero baseline and positive losses w(0) is at least 1
    before the division: the full model is always trained.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first.
        baseline: As for `comparative_loss`.
        reduction: As for `comparative_loss`.

    Returns:
        d comparative_loss(losses).sum() / d losses, the shape of ``losses``, without a graph.

    Raises:
        ValueError: As for `comparative_loss`.

    Example:
        The full model is above step 1 and the dummy: 2. Step 1 is above the dummy, and below the full model,
        where it should not be: 1 - 1 = 0. Step 2 is above the dummy: 1.

        >>> comparative_weights(torch.tensor([[0.5, 0.3, 0.9]]), reduction="sum")
        tensor([[2., 0., 1.]])
    """
    check_reduction(reduction)
    gaps = ordered_gaps(with_dummy(checked(losses), baseline))  # (..., n, n), n = 1 + steps + 1
    out_of_order = (gaps > 0).to(gaps.dtype)
    weights = out_of_order.sum(dim=-1) - out_of_order.sum(dim=-2)  # (..., n)
    return weights[..., :-1] / divisor(gaps.shape[-1], reduction)


def with_dummy(losses: Tensor, baseline: Baseline) -> Tensor:
    """Append the dummy step: (..., 1 + steps) -> (..., 1 + steps + 1)."""
    check_baseline(baseline)
    constant = losses.detach()
    if baseline == "full":
        dummy = constant[..., :1]
    elif baseline == "best":
        dummy = constant.amin(dim=-1, keepdim=True)
    else:
        dummy = torch.full_like(constant[..., :1], 0.0 if baseline == "zero" else float(baseline))
    return torch.cat([losses, dummy], dim=-1)


def ordered_gaps(values: Tensor, detached: bool = False) -> Tensor:
    """Differences of ordered pairs: (..., n) -> (..., n, n), l(i) - l(j) at [i, j] for i < j, else 0.

    With ``detached`` no gradient flows through the l(j).
    """
    later = values.detach() if detached else values
    return (values.unsqueeze(-1) - later.unsqueeze(-2)).triu(diagonal=1)


def hinges(values: Tensor, reduction: Reduction, detached: bool = False) -> Tensor:
    """Sum or mean over the ordered pairs of how far they are out of order: (..., n) -> (...)."""
    # relu, not clamp(min=0): its derivative at 0 is 0, so a pair of equal losses has weight 0.
    return ordered_gaps(values, detached).relu().sum(dim=(-2, -1)) / divisor(values.shape[-1], reduction)


def divisor(n: int, reduction: Reduction) -> int:
    """What the sum over the ordered pairs of n values is divided by. Without a pair the sum, 0, stays."""
    return max(1, n * (n - 1) // 2) if reduction == "mean" else 1
