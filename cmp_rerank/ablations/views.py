"""Examples, tokenised once, and their views: what each step of an ablation leaves of them.

A view is a selection of an example's tokens and a drop depth. The views of one example are nested: each keeps a
subset of the tokens of the one before it and drops at least as deep. That nesting is what makes two steps
comparable (arXiv 2301.03765, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cmp_rerank.ablations.crop import CmpCrop
from cmp_rerank.ablations.drop import CmpDrop
from cmp_rerank.ablations.schedules import check_schedule

Ablation = CmpCrop | CmpDrop


@dataclass(frozen=True, eq=False)
class Example:
    """One (query, passage) pair as tokens.

    Attributes:
        features: what the tokenizer gave for each token, by name; every array has shape (T,).
        segment: (T,) the segment of the passage that each token belongs to; -1 for what is never cropped (the
            query, special tokens, prompts).
        support: the segments that support the label; a crop keeps them.
        seed: what the example's random choices derive from (masks, permutation of segments).
        shared: features of the whole batch that are not per token (for instance the modality).
        until: (T,) the last segment that each token belongs to, where segments overlap or a token stands on the
            border of two; such a token stays while any of its segments does. None: ``segment``.
        croppable: whether crops take anything away; if not, each of them is the same view as the one before.
    """

    features: dict[str, np.ndarray]
    segment: np.ndarray
    support: frozenset[int] = frozenset()
    seed: int = 0
    shared: dict[str, Any] = field(default_factory=dict)
    until: np.ndarray | None = None
    croppable: bool = True

    def __len__(self) -> int:
        return len(self.segment)

    def segments(self) -> list[int]:
        """The segments that have tokens left (truncation may have taken some), in document order."""
        first, last = self._spread()
        if not len(first):
            return []
        edges = np.bincount(first, minlength=last.max() + 2) - np.bincount(last + 1, minlength=last.max() + 2)
        return [int(i) for i in np.flatnonzero(np.cumsum(edges) > 0)]

    def keeping(self, segments: Sequence[int]) -> np.ndarray:
        """The tokens of these segments, and those of none: indices, ascending."""
        first, last = self._spread()
        kept = np.zeros(int(last.max(initial=-1)) + 2, dtype=np.int64)
        kept[[i + 1 for i in segments if i + 1 < len(kept)]] = 1
        until = np.cumsum(kept)  # until[i]: how many segments before i are kept
        selected = self.segment < 0
        selected[~selected] = until[last + 1] > until[first]
        return np.flatnonzero(selected)

    def _spread(self) -> tuple[np.ndarray, np.ndarray]:
        inside = self.segment >= 0
        return self.segment[inside], (self.segment if self.until is None else self.until)[inside]

    def full(self) -> View:
        """The view of the full model: every token, nothing dropped."""
        return View(np.arange(len(self)), 0)


@dataclass(frozen=True, eq=False)
class View:
    """A selection of an example's tokens (indices, ascending) and a drop depth."""

    tokens: np.ndarray
    depth: int

    def __len__(self) -> int:
        return len(self.tokens)

    def same_as(self, other: View) -> bool:
        """Whether both are the same computation."""
        return self.depth == other.depth and np.array_equal(self.tokens, other.tokens)


class Plan:
    """The order of the ablation steps, applied one after the other; their effects accumulate.

    Args:
        ablations: `CmpCrop` and `CmpDrop` objects; one with ``steps=n`` stands for n steps. The paper found crop
            before drop best, and 1 or 2 steps enough with enough data (arXiv 2301.03765, section 5).

    Raises:
        ValueError: for anything else than those objects, or for objects of one kind with different settings:
            steps are comparable only if each one takes away more of the same.

    Example:
        >>> plan = Plan([CmpCrop(), CmpDrop(p=0.1, steps=2)])
        >>> plan
        Plan([CmpCrop(), CmpDrop(p=0.1, steps=2)])
        >>> example = Example({"input_ids": np.arange(6)}, segment=np.array([-1, 0, 0, 1, 1, -1]), seed=3)
        >>> [(view.tokens.tolist(), view.depth) for view in plan.views(example)]
        [([0, 1, 2, 3, 4, 5], 0), ([0, 1, 2, 5], 0), ([0, 1, 2, 5], 1), ([0, 1, 2, 5], 2)]
    """

    def __init__(self, ablations: Sequence[Ablation]) -> None:
        for ablation in ablations:
            if not isinstance(ablation, (CmpCrop, CmpDrop)):
                raise ValueError(f"ablations must be CmpCrop or CmpDrop objects, got {ablation!r}.")
        self.ablations = tuple(ablations)
        #: One ablation for each step.
        self.steps = tuple(replace(ablation, steps=1) for ablation in ablations for _ in range(ablation.steps))
        self.crop = _single([a for a in ablations if isinstance(a, CmpCrop)])
        self.drop = _single([a for a in ablations if isinstance(a, CmpDrop)])
        if self.crop is not None:
            check_schedule(self.crop.schedule, sum(isinstance(step, CmpCrop) for step in self.steps))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"Plan({list(self.ablations)!r})"

    def views(self, example: Example) -> list[View]:
        """The views of an example: the full model's first, then one for each step. Always 1 + len(plan)."""
        views = [example.full()]
        kept = iter(self._survivors(example))
        for step in self.steps:
            view = views[-1]
            if isinstance(step, CmpDrop):
                views.append(View(view.tokens, view.depth + 1))
            else:
                views.append(View(example.keeping(next(kept)), view.depth))
        return views

    def _survivors(self, example: Example) -> list[list[int]]:
        crops = sum(isinstance(step, CmpCrop) for step in self.steps)
        if self.crop is None or not crops:
            return []
        if not example.croppable:
            return [example.segments()] * crops
        return self.crop.survivors(example.segments(), example.support, crops, example.seed)


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
    if min(crops, drops) < 0 or not crops + drops:
        raise ValueError(f"crops and drops must be at least 0 and not both 0, got {crops!r} and {drops!r}.")
    one_crop, one_drop = replace(crop or CmpCrop(), steps=1), replace(drop or CmpDrop(), steps=1)
    steps: list[Ablation] = []
    for turn in range(max(crops, drops)):
        steps += [one_crop] * (turn < crops) + [one_drop] * (turn < drops)
    return steps


def _single(ablations: list[Any]) -> Any:
    """The settings that all ablations of one kind share."""
    settings = [replace(ablation, steps=1) for ablation in ablations]
    for other in settings[1:]:
        if other != settings[0]:
            raise ValueError(
                f"All {type(other).__name__} steps of a plan must have the same settings, got {settings[0]!r} "
                f"and {other!r}. Repeat one of them, or use its `steps`."
            )
    return settings[0] if settings else None
