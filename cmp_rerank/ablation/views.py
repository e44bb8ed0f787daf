"""Examples, tokenised once, and their views: what each step of an ablation leaves of them.

A view is a selection of an example's tokens and a drop depth. The views of one example are nested: each keeps a
subset of the tokens of the one before it and drops at least as deep. That nesting is what makes two steps
comparable (arXiv 2301.03765, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cmp_rerank.ablation.crop import CmpCrop
from cmp_rerank.ablation.drop import CmpDrop

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
    """

    features: dict[str, np.ndarray]
    segment: np.ndarray
    support: frozenset[int] = frozenset()
    seed: int = 0
    shared: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.segment)

    def segments(self) -> list[int]:
        """The segments that have tokens left (truncation may have taken some), in document order."""
        return [int(i) for i in np.unique(self.segment) if i >= 0]

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
        self.steps = tuple(ablation for ablation in ablations for _ in range(ablation.steps))
        self.crop = _single([a for a in ablations if isinstance(a, CmpCrop)])
        self.drop = _single([a for a in ablations if isinstance(a, CmpDrop)])

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
                # -1 is what no crop may take
                selected = np.isin(example.segment, [-1, *next(kept)])
                views.append(View(np.flatnonzero(selected), view.depth))
        return views

    def _survivors(self, example: Example) -> list[list[int]]:
        crops = sum(isinstance(step, CmpCrop) for step in self.steps)
        if self.crop is None or not crops:
            return []
        return self.crop.survivors(example.segments(), example.support, crops, example.seed)


def _single(ablations: list[Any]) -> Any:
    """The settings that all ablations of one kind share."""
    from dataclasses import replace

    settings = [replace(ablation, steps=1) for ablation in ablations]
    for other in settings[1:]:
        if other != settings[0]:
            raise ValueError(
                f"All {type(other).__name__} steps of a plan must have the same settings, got {settings[0]!r} "
                f"and {other!r}. Repeat one of them, or use its `steps`."
            )
    return settings[0] if settings else None
