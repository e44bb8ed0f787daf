"""The comparison: examples in, one number out. What `ComparativeLoss` and the trainers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cmp_rerank.ablations import Example, Plan, View
from cmp_rerank.ablations.base import derived_seed
from cmp_rerank.engine import Scorer
from cmp_rerank.ir.arguments import check_number
from cmp_rerank.models import ExampleLosses
from cmp_rerank.objectives import (
    Baseline,
    Objective,
    Outputs,
    PairwiseHinge,
    Reduction,
    TrainingProgress,
    check_objective,
)
from cmp_rerank.objectives.base import at, check_steps, idle_steps
from cmp_rerank.text.checks import check_whole
from cmp_rerank.version import package_version

#: Takes scores (rows, 1 + steps, width) and the views that they are of. A reader has two parts: starts and ends.
Split = Callable[[Tensor, Sequence[Sequence[View]]], Sequence[ExampleLosses]]

#: BibTeX of the paper, for model cards.
CITATION = """
@article{zhu2024comparative,
    title={Cross-Model Comparative Loss for Enhancing Neuronal Utility in Language Understanding},
    author={Zhu, Yunchang and Pang, Liang and Wu, Kangxi and Lan, Yanyan and Shen, Huawei and Cheng, Xueqi},
    journal={ACM Transactions on Information Systems},
    year={2024},
    eprint={2301.03765},
    archivePrefix={arXiv}
}
"""


class Comparison:
    """Scores the views of examples, and compares the task losses of each example.

    Args:
        plan: the ablation steps.
        objective: what is made of the task losses of an example's steps.
        scorer: runs the model on the views.
        seed: what all random choices derive from, together with the training step and the examples.
        compare_share: the share of the examples that is compared, above 0; at 1 all are. The others are scored in
            full only, and count as if their ablations changed nothing. What comparing changes in the value of an
            example is then divided by the share, so that the expected loss and gradient are those of comparing all.

    Raises:
        ValueError: if an argument is out of its range, or the objective is for another number of steps.

    Attributes:
        diagnostics: of the last batch, task losses by step and what the objective says of itself.
        drawn: training step of the last batch that was drawn for, and which of its batches it was.
        training: what stands for the training that this was in.
        progress: how far training had come at the last batch.
    """

    def __init__(
        self, plan: Plan, objective: Objective, scorer: Scorer, seed: int = 0, compare_share: float = 1.0
    ) -> None:
        check_number("compare_share", compare_share, 0, 1)
        if not compare_share:
            raise ValueError("compare_share must be above 0; got 0. For plain training leave the ablations out.")
        if len(plan):
            check_steps(objective, len(plan))
        self.compare_share = float(compare_share)
        self.plan = plan
        self.objective = objective
        self.scorer = scorer
        self.seed = check_whole("seed", seed, None)
        self.diagnostics: dict[str, Tensor] = {}
        self.drawn = (-1, 0)
        self.training: Any = None
        self.progress = TrainingProgress(0)

    def settings(self) -> dict[str, Any]:
        """What a model card says of the comparison: all that repeats it, and the version of this package."""
        return {
            "ablations": repr(list(self.plan.ablations)),
            "objective": repr(self.objective),
            "seed": self.seed,
            "compare_share": self.compare_share,
            "cmp_rerank": package_version(),
        }

    def draw(self, step: int | None, total: int | None = None, training: Any = None) -> str:
        """The name of the next draw: seed, training step and batch within the step.

        It is the same after a resume, and on every process.

        Args:
            step: the training step; None: each batch is a step.
            total: how many training steps there will be; None or 0: nobody knows.
            training: the state of the trainer, which has a new one for each training: the batches of a step that was
                interrupted do not count in the one that resumes.
        """
        if training is not self.training:
            self.training, self.drawn = training, (-1, 0)
        last, batch = self.drawn
        now = last + 1 if step is None else step
        self.drawn = (now, batch + 1 if now == last else 0)
        self.progress = TrainingProgress(now, total or None)
        return f"{self.seed} {self.drawn}"

    def __call__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        split: Split,
        owner: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compare examples.

        Args:
            model: the model, or a wrapper of it.
            examples: the examples of a batch, with seeds of this draw.
            split: makes the task losses of examples from scores.
            owner: for each example the number of the loss that it is part of, such as that of its query. Default:
                each has its own.

        Returns:
            The loss of the batch, and the scores, (rows, 1 + steps, width).

        Raises:
            ValueError: if the objective does not give one finite value for each example.
        """
        objective = at(self.objective, self.progress)
        views = [self.plan.views(example, self.progress) for example in examples]
        if self.compare_share < 1:
            compared = sampled(range(len(examples)) if owner is None else owner, examples, self.compare_share)
            views = [own if each else own[:1] * len(own) for own, each in zip(views, compared, strict=True)]
        scores = self.scorer(model, examples, views, idle_steps(objective, len(views[0]) - 1) if views else [])
        parts = split(scores, views)
        self.diagnostics = self._diagnostics(objective, parts)
        loss = torch.stack([_compared(objective, part, self.compare_share) for part in parts]).mean()
        return reaching(loss, scores), scores

    @torch.no_grad()
    def _diagnostics(self, objective: Objective, parts: Sequence[ExampleLosses]) -> dict[str, Tensor]:
        task = torch.stack([part.weights @ part.losses.to(part.weights.dtype) for part in parts]).mean(dim=0)
        task = task[0] + (task - task[0]) / self.compare_share
        # The log averages over batches. A step that a schedule has not added yet is what the step before it is.
        present = self.plan.present(self.progress)
        column = [sum(there <= step for there in present) for step in range(1 + len(self.plan))]
        names = ["task_loss_full", *(f"task_loss_step_{step}" for step in range(1, len(column)))]
        found = dict(zip(names, task[column].unbind(), strict=True))
        losses = torch.cat([part.losses[part.weights != 0] for part in parts])  # others are ignored
        if self.compare_share < 1:
            losses = losses[(losses != losses[:, :1]).any(dim=1)]  # of others it is not known what ablations do
        if not len(losses):  # nothing to tell a rate of
            return found
        return found | {name: value.to(task.dtype) for name, value in objective.diagnostics(losses).items()}


def reaching(loss: Tensor, scores: Tensor) -> Tensor:
    """A loss with a gradient for all scores, if only zeros.

    A loss may return a constant for a batch with nothing to learn from, such as lists of single documents. In
    distributed training the gradients of a process without any would never come, and all others wait for them.
    """
    return loss + 0.0 * scores.sum()


def sampled(owner: Sequence[int], examples: Sequence[Example], share: float) -> list[bool]:
    """Whether each example is among a random share of them; those of one owner are so together.

    Each owner is drawn by itself, from the seeds of its examples: so it does not depend on the batch around it.

    Args:
        owner: for each example, whose it is.
        examples: the examples, with seeds of this draw.
        share: how likely an owner is drawn.

    Example:
        >>> import numpy as np
        >>> examples = [Example({}, np.zeros(1), seed=derived_seed(str(i))) for i in range(1000)]
        >>> drawn = sampled([i // 2 for i in range(1000)], examples, share=0.25)
        >>> sum(drawn), drawn[::2] == drawn[1::2]
        (236, True)
    """
    seeds: dict[int, list[int]] = {}
    for number, example in zip(owner, examples, strict=True):
        seeds.setdefault(number, []).append(example.seed)
    drawn = {number: derived_seed(f"compare {sorted(own)}") < share * 2**62 for number, own in seeds.items()}
    return [drawn[number] for number in owner]


def _compared(objective: Objective, part: ExampleLosses, share: float) -> Tensor:
    outputs = None
    if objective.needs_outputs:
        if part.outputs is None:
            raise ValueError(
                f"{objective!r} needs the scores behind the losses, and this kind of model does not give "
                "them: choose an objective of losses alone, such as PairwiseHinge()."
            )
        outputs = part.outputs()
    values = _values(objective, part, part.losses, outputs)
    if share < 1:
        # Examples that are not compared have this value already, and it cancels out.
        unchanged = _values(objective, part, _as_in_full(part.losses), outputs and _outputs_as_in_full(outputs))
        values = unchanged + (values - unchanged) / share
    return (part.weights * values).sum()


def _values(objective: Objective, part: ExampleLosses, losses: Tensor, outputs: Outputs | None) -> Tensor:
    """The values of the objective, checked: (n,)."""
    values = objective(losses, outputs)
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
    return values


def _as_in_full(x: Tensor) -> Tensor:
    """What stands in (n, 1 + steps, ...) if no step changes anything."""
    return x[:, :1].expand_as(x)


def _outputs_as_in_full(outputs: Outputs) -> Outputs:
    kept = outputs.kept
    return replace(outputs, scores=_as_in_full(outputs.scores), kept=None if kept is None else _as_in_full(kept))


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
