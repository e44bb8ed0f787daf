"""An ablation whose rate, and whose number of steps, depend on the training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cmp_rerank.ablations.base import Ablation, Example, ModelHooks, Prepared, TextPair, View
from cmp_rerank.objectives.descriptions import described
from cmp_rerank.objectives.progress import Schedule, TrainingProgress, check_callable, value_at
from cmp_rerank.text.checks import refuse_class


@dataclass(frozen=True, repr=False)
class ScheduledAblation(Ablation):
    """An ablation that changes over the course of training: its rate, the number of its steps, or both.

    It has no state: after a resume it is what it is at the step at which training goes on. Outside of training, as in
    `cmp_rerank.models.show.show_views`, it is the ablation as it was given.

    Where a plan has no step left, only the full model is trained, in the way of the plan: with `CmpDrop` without the
    model's own dropout.

    Args:
        ablation: The ablation, with the most steps that it ever has.
        rate: Schedule of the rate of one step, of an ablation that has one (`CmpDrop`, or `IndependentCopies` of
            it): at least 0 and below 1. Step k drops with ``1 - (1 - rate) ** k``. At rate 0 a step is the same
            computation as the one before it, and costs nothing. None: the rate of the ablation.
        count: Schedule of the number of steps, rounded to a whole number between 0 and that of the ablation; the
            mildest steps stay. None: all of them.

    Raises:
        ValueError: If there is no schedule, or one for the rate of an ablation that has none; in training, if a
            schedule gives a value out of range.

    Example:
        >>> from cmp_rerank.ablations import CmpDrop
        >>> from cmp_rerank.objectives import LinearSchedule
        >>> drop = CmpDrop(p=0.2, steps=2)
        >>> scheduled = ScheduledAblation(drop, rate=LinearSchedule(0.0, 0.2), count=LinearSchedule(1, 2))
        >>> [scheduled.effect(2, TrainingProgress(step, total=100)) for step in (0, 100)]
        [(1, 0.0), (2, 1.0)]
        >>> steps, level = scheduled.effect(2, TrainingProgress(60, total=100))
        >>> [drop.rate(number * level) for number in range(1, 1 + steps)]  # as of CmpDrop(p=0.12)
        [0.12, 0.2256]
    """

    ablation: Ablation
    rate: Schedule | None = None
    count: Schedule | None = None

    def __post_init__(self) -> None:
        refuse_class("ablation", self.ablation)
        if not isinstance(self.ablation, Ablation):
            raise ValueError(f"ablation must be one such as CmpDrop(); got {self.ablation!r}.")
        if self.rate is None and self.count is None:
            raise ValueError(
                f"There is nothing to change: give a schedule as rate or as count; or {self.ablation!r} by itself."
            )
        if self.rate is not None:
            check_callable("rate", self.rate)
            self.ablation.level_of(0.0)
        if self.count is not None:
            check_callable("count", self.count)

    def __repr__(self) -> str:
        rate, count = described(self.rate), described(self.count)
        return f"{type(self).__qualname__}(ablation={self.ablation!r}, rate={rate}, count={count})"

    @property
    def steps(self) -> int:  # type: ignore[override]
        """As its ablation."""
        return self.ablation.steps

    @property
    def kind(self) -> type[Ablation]:
        """As its ablation."""
        return self.ablation.kind

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        """As its ablation."""
        return self.ablation.needs_text

    @property
    def on_model(self) -> bool:  # type: ignore[override]
        """As its ablation."""
        return self.ablation.on_model

    @property
    def nested(self) -> bool:  # type: ignore[override]
        """As its ablation."""
        return self.ablation.nested

    @property
    def prepared_by(self) -> Ablation:
        """As its ablation: no schedule has a part in it."""
        return self.ablation.prepared_by

    def once(self) -> ScheduledAblation:
        """The same settings for one step."""
        return replace(self, ablation=self.ablation.once())

    def effect(self, steps: int, progress: TrainingProgress) -> tuple[int, float]:
        """How many of its steps there are at that moment, and which level one of them has."""
        steps, level = self.ablation.effect(steps, progress)
        if self.count is not None:
            steps = min(steps, max(0, round(value_at(self.count, progress))))
        if self.rate is not None:
            level = self.ablation.level_of(value_at(self.rate, progress))
        return steps, level

    def level_of(self, rate: float) -> float:
        """As its ablation."""
        return self.ablation.level_of(rate)

    def prepare(self, pair: TextPair) -> Prepared:
        """As its ablation."""
        return self.ablation.prepare(pair)

    def check(self, steps: int) -> None:
        """As its ablation."""
        self.ablation.check(steps)

    def views(self, example: Example, steps: int) -> Sequence[View] | None:
        """As its ablation."""
        return self.ablation.views(example, steps)

    def hooks(self, model: nn.Module, probe: Callable[[], Any]) -> ModelHooks:
        """As its ablation."""
        return self.ablation.hooks(model, probe)

    def label(self, level: float) -> str:
        """As its ablation."""
        return self.ablation.label(level)
