"""Examples weighted by how hard they are: curricula that look at the losses, around any objective."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

from torch import Tensor

from cmp_rerank.objectives._checks import canonical, checked, is_finite
from cmp_rerank.objectives.base import Objective, Outputs, at, check_objective, check_steps
from cmp_rerank.objectives.hinge import hinges
from cmp_rerank.objectives.progress import TrainingProgress

__all__ = ["WeightedByLoss", "WeightedByViolation"]


@dataclass(frozen=True)
class _Weighted(Objective):
    """An objective whose examples are weighted by ``n * softmax(tilt * amount)`` over the n examples of the batch."""

    objective: Objective
    tilt: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", check_objective(self.objective))
        if not is_finite(self.tilt):
            raise ValueError(f"tilt must be a finite number, above 0 for hard examples first; got {self.tilt!r}.")
        object.__setattr__(self, "tilt", canonical(self.tilt))

    @abstractmethod
    def amount(self, losses: Tensor) -> Tensor:
        """How hard each example is, (n,)."""

    @property
    def needs_outputs(self) -> bool:  # type: ignore[override]
        """As its objective."""
        return self.objective.needs_outputs

    def check_steps(self, steps: int) -> None:
        """As its objective."""
        check_steps(self.objective, steps)

    def at(self, progress: TrainingProgress) -> Objective:
        """With the inner objective as it is at that moment of training."""
        return replace(self, objective=at(self.objective, progress))

    def example_weights(self, losses: Tensor) -> Tensor:
        """The weights of the examples, (n,), with mean 1 and without a graph.

        Args:
            losses: Task losses, shape (n, 1 + steps), full model first.

        Raises:
            ValueError: If the losses make no sense; the message says what was got.
        """
        amounts = self.amount(checked(losses).detach())
        heaviest = amounts.max() if self.tilt > 0 else amounts.min()
        # No exponent is above 0: whatever the tilt, none overflows.
        return (float(self.tilt) * (amounts - heaviest)).softmax(dim=0) * len(amounts)

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """The values of the inner objective, each times the weight of its example: (n,)."""
        return self.example_weights(losses) * self.objective(losses, outputs)


@dataclass(frozen=True)
class WeightedByLoss(_Weighted):
    """Weight the examples of a batch by the task loss of the full model, l(0)::

        w = n * exp(tilt * l(0)) / (sum of exp(tilt * l(0)) over the n examples)

    With a tilt above 0 examples with a high loss count more, as in tilted empirical risk minimisation. With one below
    0 the easy ones do, as in self-paced learning. At 0 all weigh the same, and this is the inner objective. No
    gradient flows through the weights. They compare the examples of one batch on one device: a batch of one example
    has the weight 1. Rows without a label (-100) have the loss 0 and take part.

    Args:
        objective: What the weighted values are of.
        tilt: How much the weights differ, in the inverse of the unit of the losses.

    Raises:
        ValueError: If the objective is none, or the tilt is not finite.

    Source: Li et al., Tilted Empirical Risk Minimization (arXiv 2007.01162); Kumar et al., Self-Paced Learning for
    Latent Variable Models, NeurIPS 2010, whose weights are 0 or 1. To go from easy to hard wrap it once more:
    ``ScheduledObjective(WeightedByLoss(PairwiseHinge()), {"tilt": LinearSchedule(-1.0, 1.0)})``.

    Example:
        exp(l) is 1 and 3: the weights are 2 * 1/4 and 2 * 3/4.

        >>> import torch
        >>> from cmp_rerank.objectives import MeanOfSteps
        >>> losses = torch.tensor([[1.0, 1.0], [3.0, 1.0]]).log()
        >>> WeightedByLoss(MeanOfSteps()).example_weights(losses)
        tensor([0.5000, 1.5000])
        >>> WeightedByLoss(MeanOfSteps())(losses)  # means 0 and log(3) / 2
        tensor([0.0000, 0.8240])
    """

    def amount(self, losses: Tensor) -> Tensor:
        """The task loss of the full model, (n,)."""
        return losses[:, 0]


@dataclass(frozen=True)
class WeightedByViolation(_Weighted):
    """Weight the examples of a batch by how far their steps are out of order::

        v = mean over pairs of steps i < j of max(0, l(i) - l(j))
        w = n * exp(tilt * v) / (sum of exp(tilt * v) over the n examples)

    With a tilt above 0 examples that violate the comparison principle count more, with one below 0 less. At 0 all
    weigh the same, and this is the inner objective. See `WeightedByLoss` for the rest.

    Args:
        objective: What the weighted values are of.
        tilt: How much the weights differ, in the inverse of the unit of the losses.

    Raises:
        ValueError: If the objective is none, or the tilt is not finite.

    Source: the violation is that of arXiv 2301.03765, the weights those of arXiv 2007.01162.

    Example:
        The first example is in order. In the second the ablation is better by log 3: weights 2 * 1/4 and 2 * 3/4.

        >>> import torch
        >>> from cmp_rerank.objectives import MeanOfSteps
        >>> losses = torch.tensor([[1.0, 2.0], [6.0, 2.0]]).log()
        >>> WeightedByViolation(MeanOfSteps()).example_weights(losses)
        tensor([0.5000, 1.5000])
    """

    def amount(self, losses: Tensor) -> Tensor:
        """The mean hinge over the pairs of steps, (n,)."""
        return hinges(losses, "mean")
