"""An objective whose options depend on the training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cmp_rerank.objectives.base import Objective, Outputs, at, check_steps
from cmp_rerank.objectives.descriptions import described
from cmp_rerank.objectives.progress import Schedule, TrainingProgress, check_callable, value_at

__all__ = ["ScheduledObjective"]


@dataclass(frozen=True, repr=False)
class ScheduledObjective(Objective):
    """An objective whose options change over the course of training, such as the weight of a comparison.

    In training the value of each schedule takes the place of the option of that name. It has no state: after a resume
    the options are those of the step at which training goes on. Called by itself, outside of training, it is the
    objective as it was given.

    Args:
        objective: The objective, with the values of the other options; a dataclass, as all of this package are.
        schedules: For each option that changes its schedule: `LinearSchedule`, `CosineSchedule`, or a function of the
            `TrainingProgress` that gives a number.

    Raises:
        ValueError: If the objective is no dataclass or has no such option, or something is no schedule; in training,
            if a schedule gives a value that the objective refuses.

    Example:
        >>> from cmp_rerank.objectives import HingeRegularized, LinearSchedule
        >>> objective = ScheduledObjective(HingeRegularized(), {"weight": LinearSchedule(0.0, 2.0)})
        >>> objective.at(TrainingProgress(25, total=100)).weight
        0.5
    """

    objective: Objective
    schedules: Mapping[str, Schedule]

    def __post_init__(self) -> None:
        if not dataclasses.is_dataclass(self.objective) or not isinstance(self.objective, Objective):
            raise ValueError(
                "objective must be one whose options are the fields of a dataclass, such as HingeRegularized(); got "
                f"{self.objective!r}."
            )
        if not isinstance(self.schedules, Mapping) or not self.schedules:
            raise ValueError(
                'schedules must say which options change, such as {"weight": LinearSchedule(0.0, 1.0)}; got '
                f"{self.schedules!r}."
            )
        options = [field.name for field in dataclasses.fields(self.objective)]
        for name, schedule in self.schedules.items():
            if name not in options:
                raise ValueError(f"{self.objective!r} has the options {options}; got a schedule for {name!r}.")
            check_callable(name, schedule)

    def __repr__(self) -> str:
        schedules = ", ".join(f"{name!r}: {described(schedule)}" for name, schedule in self.schedules.items())
        return f"{type(self).__qualname__}(objective={self.objective!r}, schedules={{{schedules}}})"

    def __hash__(self) -> int:
        return hash((self.objective, frozenset(self.schedules.items())))

    @property
    def needs_outputs(self) -> bool:  # type: ignore[override]
        """As its objective."""
        return self.objective.needs_outputs

    def check_steps(self, steps: int) -> None:
        """As its objective."""
        check_steps(self.objective, steps)

    def at(self, progress: TrainingProgress) -> Objective:
        """The objective with the values that its options have at that moment of training."""
        values = {name: value_at(schedule, progress) for name, schedule in self.schedules.items()}
        return at(dataclasses.replace(self.objective, **values), progress)  # type: ignore[type-var]

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        """The objective as it was given: (n,)."""
        return self.objective(losses, outputs)
