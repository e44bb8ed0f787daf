"""The plan: which ablation steps there are, in which order; and the nested views that they make of an example."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cmp_rerank.ablations.base import Ablation, Example, View
from cmp_rerank.ablations.crop import CmpCrop
from cmp_rerank.ablations.drop import CmpDrop
from cmp_rerank.objectives.progress import TrainingProgress


class Plan:
    """The order of the ablation steps, applied one after the other; their effects accumulate.

    Args:
        ablations: `Ablation` objects such as `CmpCrop` and `CmpDrop`, or a single one; one with ``steps=n`` stands
            for n steps. The paper found crop before drop best, and 1 or 2 steps enough with enough data (arXiv
            2301.03765, section 5).

    Raises:
        ValueError: for anything else than those objects, or for objects of one kind with different settings:
            steps are comparable only if each one takes away more of the same.

    Example:
        >>> plan = Plan([CmpCrop(), CmpDrop(p=0.1, steps=2)])
        >>> plan
        Plan([CmpCrop(), CmpDrop(p=0.1, steps=2)])
        >>> example = Example({"input_ids": np.arange(6)}, segment=np.array([-1, 0, 0, 1, 1, -1]), seed=3)
        >>> [(view.tokens.tolist(), view.levels) for view in plan.views(example)]
        [([0, 1, 2, 3, 4, 5], (0,)), ([0, 1, 2, 5], (0,)), ([0, 1, 2, 5], (1,)), ([0, 1, 2, 5], (2,))]
    """

    def __init__(self, ablations: Sequence[Ablation] | Ablation) -> None:
        self.ablations = _checked(ablations)
        #: One ablation for each step.
        self.steps = tuple(ablation.once() for ablation in self.ablations for _ in range(ablation.steps))
        #: The different ablations of the steps, in the order in which they first come.
        self.kinds = _kinds(self.steps)
        #: Those that act on the model: a view has a level for each of them.
        self.on_model = tuple(kind for kind in self.kinds if kind.on_model)
        #: The one that must be asked to prepare; None where none must.
        self.preparing = _only([kind for kind in self.kinds if kind.needs_text])
        self._of_step = [self.kinds.index(step) for step in self.steps]
        for number, kind in enumerate(self.kinds):
            kind.check(self._of_step.count(number))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"Plan({list(self.ablations)!r})"

    def views(self, example: Example, progress: TrainingProgress | None = None) -> list[View]:
        """The views of an example: the full model's first, then one for each step.

        Args:
            example: The example.
            progress: How far training has come. None: the ablations are as they were given, without schedules.

        Returns:
            1 + len(plan) views; fewer where a schedule says that there are fewer steps at that moment.
        """
        full = replace(example.full(), levels=(0,) * len(self.on_model))
        effects = [self._effect(number, progress) for number in range(len(self.kinds))]
        left = [
            kind.views(example, steps) if steps else None
            for kind, (steps, _) in zip(self.kinds, effects, strict=True)
        ]
        alone = sum(each is not None for each in left) == 1
        taken = [0] * len(self.kinds)
        views = [full]
        for step in self._present([steps for steps, _ in effects]):
            number = self._of_step[step - 1]
            kind, own, level = self.kinds[number], left[number], effects[number][1]
            taken[number] += 1
            # Independent copies begin at the full example, each with random choices of its own.
            view = views[-1] if kind.nested else replace(full, copy=taken[number])
            if own is not None:
                view = _both(view, own[taken[number] - 1], example, alone)
            if kind.on_model:
                levels: list[float] = list(view.levels)
                levels[self.on_model.index(kind)] += level
                view = replace(view, levels=tuple(levels))
            views.append(view)
        return views

    def present(self, progress: TrainingProgress | None = None) -> list[int]:
        """The numbers, from 1, of the steps that are there: those of the views after the full model's.

        Args:
            progress: How far training has come. None: all steps are there.

        Example:
            >>> from cmp_rerank.ablations import ScheduledAblation
            >>> plan = Plan([ScheduledAblation(CmpCrop(steps=2), count=lambda progress: progress.step), CmpDrop()])
            >>> [plan.present(TrainingProgress(step)) for step in (0, 1, 2)]
            [[3], [1, 3], [1, 2, 3]]
        """
        return self._present([self._effect(number, progress)[0] for number in range(len(self.kinds))])

    def _present(self, steps: Sequence[int]) -> list[int]:
        """The numbers of the steps that are there, if there are that many of each kind: the first ones of it."""
        left, present = list(steps), []
        for step, number in enumerate(self._of_step, start=1):
            if left[number]:
                left[number] -= 1
                present.append(step)
        return present

    def _effect(self, number: int, progress: TrainingProgress | None) -> tuple[int, float]:
        """Steps of a kind, and the level of one."""
        steps = self._of_step.count(number)
        return (steps, 1) if progress is None else self.kinds[number].effect(steps, progress)


def alternate(
    crops: int = 1, drops: int = 1, crop: CmpCrop | None = None, drop: CmpDrop | None = None
) -> list[Ablation]:
    """Crop and drop in turn, crop first, while both are left; then the rest.

    The order that the paper found best (arXiv 2301.03765, section 5).

    Args:
        crops: how many crop steps.
        drops: how many drop steps.
        crop: settings of the crops. Default: ``CmpCrop()``.
        drop: settings of the drops. Default: ``CmpDrop()``.

    Raises:
        ValueError: if a number is below 0, or both are 0.

    Example:
        >>> alternate(crops=2, drops=1)
        [CmpCrop(), CmpDrop(p=0.1), CmpCrop()]
    """
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (crops, drops))
    if not whole or min(crops, drops) < 0 or not crops + drops:
        raise ValueError(
            f"crops and drops must be whole numbers, at least 0 and not both 0; got {crops!r} and {drops!r}."
        )
    (one_crop,) = _checked(CmpCrop() if crop is None else crop)
    (one_drop,) = _checked(CmpDrop() if drop is None else drop)
    one_crop, one_drop = one_crop.once(), one_drop.once()
    steps: list[Ablation] = []
    for turn in range(max(crops, drops)):
        steps += [one_crop] * (turn < crops) + [one_drop] * (turn < drops)
    return steps


def _both(view: View, left: View, example: Example, alone: bool) -> View:
    """What is left of a view by a step that leaves ``left`` of the whole example."""
    tokens = left.tokens if alone else np.intersect1d(view.tokens, left.tokens, assume_unique=True)
    features = dict(view.features)
    for name, values in left.features.items():
        before, original = features.get(name), example.features[name]
        if before is not None:  # what an earlier step has replaced stays as it is
            features[name] = np.where(before != original, before, values)
        elif not np.array_equal(values, original):
            features[name] = values
    return replace(view, tokens=tokens, features=features)


def _checked(ablations: Any) -> tuple[Ablation, ...]:
    """A list of ablations; a single one is taken as a list of one."""
    several = isinstance(ablations, Iterable) and not isinstance(ablations, (Ablation, str, type))
    listed = tuple(ablations) if several else (ablations,)
    for ablation in listed:
        if not isinstance(ablation, Ablation):
            hint = " Give an object of the class: add ()." if isinstance(ablation, type) else ""
            raise ValueError(f"ablations must be Ablation objects such as CmpDrop(); got {ablation!r}.{hint}")
    return listed


def _kinds(steps: Sequence[Ablation]) -> tuple[Ablation, ...]:
    """The different ablations among steps; of one class there may be one only."""
    kinds: list[Ablation] = []
    for step in steps:
        same = next((kind for kind in kinds if kind.kind is step.kind), None)
        if same is None:
            kinds.append(step)
        elif same != step:
            raise ValueError(
                f"All {step.kind.__name__} steps of a plan must have the same settings; got {same!r} and {step!r}. "
                "Repeat one of them, or use its `steps`."
            )
    return tuple(kinds)


def _only(preparing: Sequence[Ablation]) -> Ablation | None:
    if len(preparing) > 1:
        raise ValueError(
            f"Only one ablation of a plan may divide passages into segments; got {list(preparing)!r}. Leave one out."
        )
    return preparing[0] if preparing else None
