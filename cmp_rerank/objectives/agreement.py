"""R-Drop and Intra-Distillation as objectives: passes that should agree, where a comparison wants them ordered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from cmp_rerank.objectives._checks import canonical, check_choice, check_number, checked
from cmp_rerank.objectives.base import Objective, Outputs
from cmp_rerank.objectives.divergences import (
    adaptive_alpha,
    intra_distillation_divergence,
    intra_distillation_variance,
    r_drop_divergence,
)
from cmp_rerank.objectives.progress import TrainingProgress

__all__ = ["Distribution", "IntraDistillation", "Prediction", "RDrop"]

#: What the scores of a pass are the distribution of.
Distribution: TypeAlias = Literal["labels", "bernoulli", "list"]
#: The same, and the numbers that a regression predicts.
Prediction: TypeAlias = Literal["labels", "bernoulli", "list", "values", "margins"]
# Stands for the score of what is not there. Its probability is 0, and unlike with -inf no gradient is NaN.
_LOW = -1e30


@dataclass(frozen=True)
class RDrop(Objective):
    """Two passes with dropout of their own: their task losses, and how far their distributions are apart::

        L = (l(0) + l(1)) / 2 + alpha * (KL(p_0 || p_1) + KL(p_1 || p_0)) / 2

    Give ``[IndependentCopies()]`` as the ablations: then both are plain passes with the model's own dropout. With an
    alpha of 0 this is `MeanOfSteps` of two passes. The paper adds the task losses up instead, as if all were 2 L
    with half this alpha; its code averages them as here.

    The distribution of a pass is that of an option:

    - ``"labels"``: over the labels of a pair or text: the softmax of its logits; of a single logit z the two classes
      that it stands for, with sigmoid(z) for the second. Of a reader over the tokens, of start and end each.
    - ``"bernoulli"``: each label of its own, with sigmoid(z); divergences are added up over the labels (multi-label
      classification).
    - ``"list"``: over the passages of a query: the softmax of their scores. For listwise and in-batch losses.

    Where an example has several rows, the divergences of rows are averaged. Tokens that a crop has taken from one of
    the passes take no part.

    Where a schedule leaves the full pass only, this is its task loss.

    Args:
        alpha: Weight of the divergence, >= 0.
        distribution: See above.

    Raises:
        ValueError: If an option is out of its range; for a plan of other than two passes; when called, if there are
            more than two, the scores are not given or not finite, or there is no list.

    Source: arXiv 2106.14448, equations 1 to 3.

    Example:
        One pair with the logits log 3 and -log 3: probabilities 3/4 and 1/4 of being relevant. Both divergences are
        (1/2) log 3 = 0.5493. The mean task loss is 0.5, so 0.5 + 2 * 0.5493.

        >>> losses = torch.tensor([[0.4, 0.6]])
        >>> z = torch.tensor([[[3.0], [1 / 3]]]).log()  # (rows, passes, labels)
        >>> RDrop(alpha=2.0)(losses, Outputs(z, example=torch.tensor([0])))
        tensor([1.5986])
    """

    alpha: float = 1.0
    distribution: Distribution = "labels"
    needs_outputs = True

    def __post_init__(self) -> None:
        _check_alpha(self)
        check_choice("distribution", self.distribution, get_args(Distribution))

    def check_steps(self, steps: int) -> None:
        """The plan must have one step: the second pass."""
        _check_steps(self, steps, 2)

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """Give one loss per example.

        Args:
            losses: Task losses of the two passes, shape (n, 2), or of one.
            outputs: The scores behind them.

        Returns:
            Shape (n,).
        """
        losses, outputs = _passes(self, losses, outputs, 2)
        if losses.shape[-1] == 1:
            return losses[:, 0]
        logits = _logits(outputs, len(losses), self.distribution)
        divergence = _by_example(r_drop_divergence(logits[0], logits[1]), outputs, len(losses), self.distribution)
        return losses.mean(dim=-1) + float(self.alpha) * divergence


@dataclass(frozen=True)
class IntraDistillation(Objective):
    """K passes with dropout of their own: their task losses, and how far they are from their mean::

        L = (1/K) sum over k of l(k)  +  alpha * X
        X = (1/K) sum over k of [KL(p_k || m) + KL(m || p_k)],  with m the mean of the p_k

    Give ``[IndependentCopies(steps=K - 1)]`` as the ablations, for the model's own dropout, or
    ``[IndependentCopies(CmpDrop(), steps=K - 1)]``. With an alpha of 0 this is `MeanOfSteps`.

    The weight may rise over the course of training, to alpha at training step N/p, through 1 at step N/q; see
    `cmp_rerank.objective.adaptive_alpha`. It is computed from the training step, so that a resumed training goes on
    where it was.

    Where a schedule leaves fewer passes, K is what is left; of a single pass this is the task loss.

    What should agree is an option: ``"labels"``, ``"bernoulli"`` or ``"list"``, as for `RDrop`, or in the regression
    form, where X is a variance over the passes:

    - ``"values"``: of the scores themselves, averaged over labels, as for models that are trained with MSE.
    - ``"margins"``: of the differences of scores within the list of a query, averaged over all pairs of its passages,
      as for MarginMSE. Adding a constant to all scores of a pass changes nothing.

    Args:
        alpha: Weight of X, >= 0.
        passes: The number of passes K, at least 2.
        p: Sets the step N/p from which on the weight is alpha, > 0. None: it is alpha from the beginning.
        q: Sets the step N/q at which the weight is 1, > p. None: as for p.
        distribution: What should agree; see above.

    Raises:
        ValueError: If an option is out of its range, or only one of p and q is given; for a plan of other than K
            passes; when called, if there are more than K, the scores are not given or not finite, or there is no
            list.

    Source: arXiv 2205.11416.

    Example:
        Two passes with the probabilities 3/4 and 1/4 of being relevant, mean 1/2: X = log(3) / 4 = 0.2747.

        >>> losses = torch.tensor([[0.4, 0.6]])
        >>> outputs = Outputs(torch.tensor([[[3.0], [1 / 3]]]).log(), example=torch.tensor([0]))
        >>> IntraDistillation(alpha=2.0, passes=2)(losses, outputs)
        tensor([1.0493])

        In the regression form, for scores 1 and 3 with variance 1:

        >>> outputs = Outputs(torch.tensor([[[1.0], [3.0]]]), example=torch.tensor([0]))
        >>> IntraDistillation(alpha=2.0, passes=2, distribution="values")(losses, outputs)
        tensor([2.5000])

        An adaptive weight at the tenth of 100 training steps:

        >>> IntraDistillation(alpha=5.0, p=5, q=10).at(TrainingProgress(10, total=100)).alpha
        1.0
    """

    alpha: float = 1.0
    passes: int = 3
    p: float | None = None
    q: float | None = None
    distribution: Prediction = "labels"
    needs_outputs = True

    def __post_init__(self) -> None:
        _check_alpha(self)
        if isinstance(self.passes, bool) or not isinstance(self.passes, int) or self.passes < 2:
            raise ValueError(f"passes must be a whole number, at least 2; got {self.passes!r}.")
        if (self.p is None) != (self.q is None):
            raise ValueError(
                f"p and q set the course of alpha together: give both or none of them; got p={self.p!r} and "
                f"q={self.q!r}."
            )
        if self.p is not None and self.q is not None:
            check_number("p", self.p, strict=True)
            check_number("q", self.q, minimum=self.p, strict=True)
        check_choice("distribution", self.distribution, get_args(Prediction))

    def check_steps(self, steps: int) -> None:
        """The plan must have K - 1 steps: the other passes."""
        _check_steps(self, steps, self.passes)

    def at(self, progress: TrainingProgress) -> IntraDistillation:
        """The objective with the weight that it has at that moment of training."""
        if self.p is None or self.q is None:
            return self
        alpha = adaptive_alpha(progress.step, progress.steps_in_all(), self.alpha, self.p, self.q)
        return replace(self, alpha=alpha, p=None, q=None)

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """Give one loss per example, with the final alpha.

        Args:
            losses: Task losses of the passes, shape (n, K), or of fewer.
            outputs: The scores behind them.

        Returns:
            Shape (n,).
        """
        losses, outputs = _passes(self, losses, outputs, self.passes)
        if losses.shape[-1] == 1:
            return losses[:, 0]
        if self.distribution in ("values", "margins"):
            apart = _variance(outputs, len(losses), self.distribution)
        else:
            logits = _logits(outputs, len(losses), self.distribution)
            apart = _by_example(intra_distillation_divergence(logits), outputs, len(losses), self.distribution)
        return losses.mean(dim=-1) + float(self.alpha) * apart


def _check_steps(objective: Objective, steps: int, passes: int) -> None:
    if steps != passes - 1:
        raise ValueError(
            f"{objective!r} compares {passes} passes; got ablations with {steps} steps, which make {1 + steps} "
            f"passes: give [IndependentCopies(steps={passes - 1})]."
        )


def _passes(objective: Objective, losses: Tensor, outputs: Outputs | None, passes: int) -> tuple[Tensor, Outputs]:
    """The losses and outputs of that many passes, or of fewer, as a schedule may leave; checked."""
    losses = checked(losses, layout="(examples, passes)")
    if losses.shape[-1] > passes:
        raise ValueError(
            f"{objective!r} compares {passes} passes; got losses of shape {tuple(losses.shape)}, (examples, passes): "
            f"give [IndependentCopies(steps={passes - 1})] as the ablations."
        )
    passes = losses.shape[-1]
    if outputs is None:
        raise ValueError(f"{objective!r} needs the scores behind the losses: call it with Outputs; got None.")
    if outputs.scores.shape[1] != passes:
        raise ValueError(
            f"The scores must be of {passes} passes, as the losses; got shape {tuple(outputs.scores.shape)}, (rows, "
            "passes, width)."
        )
    return losses, replace(outputs, scores=checked(outputs.scores, "scores", "(rows, passes, width)", 3))


def _logits(outputs: Outputs, examples: int, distribution: Prediction) -> Tensor:
    """Logits whose softmax is the distribution, (passes, rows or examples, ..., classes)."""
    if distribution == "list":
        scores, there = _lists(outputs, examples, distribution)
        return scores.masked_fill(~there[..., None], _LOW).permute(2, 0, 1)
    scores = outputs.scores  # (rows, passes, width)
    if distribution == "bernoulli":
        _check_no_positions(outputs, distribution)
        scores = torch.stack([torch.zeros_like(scores), scores], dim=-1)  # (rows, passes, width, 2)
    elif scores.shape[-1] == 1:
        scores = torch.cat([torch.zeros_like(scores), scores], dim=-1)  # (rows, passes, 2)
    elif outputs.kept is not None:
        scores = scores.masked_fill(~outputs.kept.all(dim=1, keepdim=True), _LOW)
    return scores.transpose(0, 1)


def _by_example(divergence: Tensor, outputs: Outputs, examples: int, distribution: Prediction) -> Tensor:
    """Divergences as `_logits` has its rows, (rows or examples, ...), as one number for each example."""
    if distribution == "list":
        return divergence
    if distribution == "bernoulli":
        divergence = divergence.sum(dim=-1)
    return outputs.mean_by_example(divergence, examples)


def _variance(outputs: Outputs, examples: int, distribution: Prediction) -> Tensor:
    """The regression form of Intra-Distillation, (examples,)."""
    _check_no_positions(outputs, distribution)
    if distribution == "values":
        by_row = intra_distillation_variance(outputs.scores.transpose(0, 1)).mean(dim=-1)
        return outputs.mean_by_example(by_row, examples)
    scores, there = _lists(outputs, examples, distribution)  # (n, longest, passes), 0 where no passage is
    size = there.sum(dim=1).clamp(min=1)  # (n,)
    centred = (scores - scores.sum(dim=1, keepdim=True) / size[:, None, None]) * there[..., None]
    variance = intra_distillation_variance(centred.permute(2, 0, 1)).sum(dim=-1)
    # The mean over pairs i < j of (d(i) - d(j))^2 is 2 / (n - 1) times the sum of (d(i) - mean)^2.
    return 2 * variance / (size - 1).clamp(min=1)


def _lists(outputs: Outputs, examples: int, distribution: Prediction) -> tuple[Tensor, Tensor]:
    """Scores of the passages of each query, (n, longest, passes), and which are there, (n, longest)."""
    _check_no_positions(outputs, distribution)
    if outputs.scores.shape[-1] != 1:
        raise ValueError(
            f"distribution={distribution!r} needs one score for each passage; got {outputs.scores.shape[-1]} labels: "
            'use "labels".'
        )
    scores, there = outputs.lists(examples)
    if there.shape[1] < 2:
        raise ValueError(
            f"distribution={distribution!r} compares the passages of a query; got one passage for each example. Use "
            'a listwise loss, or "labels".'
        )
    return scores[..., 0], there


def _check_no_positions(outputs: Outputs, distribution: Prediction) -> None:
    if outputs.kept is not None:
        raise ValueError(
            f'distribution={distribution!r} is for labels; got scores of tokens, as of a reader: use "labels".'
        )


def _check_alpha(objective: RDrop | IntraDistillation) -> None:
    check_number("alpha", objective.alpha)
    object.__setattr__(objective, "alpha", canonical(objective.alpha))
