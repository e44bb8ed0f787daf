"""The comparison: examples in, one number out. What `ComparativeLoss` and the trainers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cmp_rerank.ablations import Example, Plan, View
from cmp_rerank.engine import Scorer
from cmp_rerank.models import ExampleLosses
from cmp_rerank.objectives import (
    Baseline,
    Objective,
    PairwiseHinge,
    Reduction,
    TrainingProgress,
    check_objective,
)
from cmp_rerank.objectives.base import at
from cmp_rerank.text.checks import check_whole

#: Takes scores (rows, 1 + steps, width) and the views that they are of. A reader has two parts: starts and ends.
Split = Callable[[Tensor, Sequence[Sequence[View]]], Sequence[ExampleLosses]]


class Comparison:
    """Scores the views of examples, and compares the task losses of each example.

    Args:
        plan: the ablation steps.
        objective: what is made of the task losses of an example's steps.
        scorer: runs the model on the views.
        seed: what all random choices derive from, together with the training step and the examples.

    Attributes:
        diagnostics: of the last batch, task losses by step and what the objective says of itself.
        drawn: training step of the last batch that was drawn for, and which of its batches it was.
        progress: how far training had come at the last batch.
    """

    def __init__(self, plan: Plan, objective: Objective, scorer: Scorer, seed: int = 0) -> None:
        self.plan = plan
        self.objective = objective
        self.scorer = scorer
        self.seed = check_whole("seed", seed, None)
        self.diagnostics: dict[str, Tensor] = {}
        self.drawn = (-1, 0)
        self.progress = TrainingProgress(0)

    def draw(self, step: int | None, total: int | None = None) -> str:
        """The name of the next draw: seed, training step and batch within the step.

        It is the same after a resume, and on every process.

        Args:
            step: the training step; None: each batch is a step.
            total: how many training steps there will be; None or 0: nobody knows.
        """
        last, batch = self.drawn
        now = last + 1 if step is None else step
        self.drawn = (now, batch + 1 if now == last else 0)
        self.progress = TrainingProgress(now, total or None)
        return f"{self.seed} {self.drawn}"

    def __call__(self, model: nn.Module, examples: Sequence[Example], split: Split) -> tuple[Tensor, Tensor]:
        """Compare examples.

        Args:
            model: the model, or a wrapper of it.
            examples: the examples of a batch, with seeds of this draw.
            split: makes the task losses of examples from scores.

        Returns:
            The loss of the batch, and the scores, (rows, 1 + steps, width).

        Raises:
            ValueError: if the objective does not give one finite value for each example.
        """
        objective = at(self.objective, self.progress)
        views = [self.plan.views(example, self.progress) for example in examples]
        scores = self.scorer(model, examples, views)
        parts = split(scores, views)
        self.diagnostics = self._diagnostics(objective, parts)
        return reaching(torch.stack([_compared(objective, part) for part in parts]).mean(), scores), scores

    @torch.no_grad()
    def _diagnostics(self, objective: Objective, parts: Sequence[ExampleLosses]) -> dict[str, Tensor]:
        task = torch.stack([part.weights @ part.losses.to(part.weights.dtype) for part in parts]).mean(dim=0)
        # The log averages over batches. A step that a schedule has not added yet is what the step before it is.
        task = torch.cat([task, task[-1:].expand(1 + len(self.plan) - len(task))])
        names = ["task_loss_full", *(f"task_loss_step_{k}" for k in range(1, len(task)))]
        found = dict(zip(names, task.unbind(), strict=True))
        losses = torch.cat([part.losses[part.weights != 0] for part in parts])  # others are ignored
        if not len(losses):  # nothing to tell a rate of
            return found
        return found | {name: value.to(task.dtype) for name, value in objective.diagnostics(losses).items()}


def reaching(loss: Tensor, scores: Tensor) -> Tensor:
    """A loss with a gradient for all scores, if only zeros.

    A loss may return a constant for a batch with nothing to learn from, such as lists of single documents. In
    distributed training the gradients of a process without any would never come, and all others wait for them.
    """
    return loss + 0.0 * scores.sum()


def _compared(objective: Objective, part: ExampleLosses) -> Tensor:
    outputs = None
    if objective.needs_outputs:
        if part.outputs is None:
            raise ValueError(
                f"{objective!r} needs the scores behind the losses, and this kind of model does not give "
                "them: choose an objective of losses alone, such as PairwiseHinge()."
            )
        outputs = part.outputs()
    values = objective(part.losses, outputs)
    if not isinstance(values, Tensor) or values.shape != part.weights.shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"An objective must give one value for each of {len(part.weights)} examples; {objective!r} gave {got}."
        )
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"The values of an objective must be finite; {objective!r} gave {values.tolist()}: look for "
            "roots, logarithms and divisions at 0."
        )
    return (part.weights * values).sum()


def chosen_objective(
    objective: Objective | None, baseline: Baseline | None = None, reduction: Reduction | None = None
) -> Objective:
    """The objective that a caller has given, by itself or by the short form, ``baseline`` and ``reduction``.

    Raises:
        ValueError: if both were given, or what was given is no objective.
    """
    if isinstance(baseline, Objective):
        raise ValueError(
            f"baseline must be the loss of the dummy step; got an objective. Pass it by name: objective={baseline!r}."
        )
    if objective is None:
        return PairwiseHinge("zero" if baseline is None else baseline, "mean" if reduction is None else reduction)
    if baseline is not None or reduction is not None:
        raise ValueError(
            f"baseline and reduction are the short form of objective=PairwiseHinge(baseline, reduction); got "
            f"baseline={baseline!r}, reduction={reduction!r} and objective={objective!r}. Give one of the two."
        )
    return check_objective(objective)
