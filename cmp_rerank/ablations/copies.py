"""Independent copies: passes that are not nested, as R-Drop and Intra-Distillation want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cmp_rerank.ablations.base import Ablation, Example, ModelHooks, Prepared, TextPair, View, check_steps
from cmp_rerank.objectives.progress import TrainingProgress
from cmp_rerank.text.checks import refuse_class


@dataclass(frozen=True)
class IndependentCopies(Ablation):
    """Steps that are passes of their own over the full example, each ablated with other random choices.

    Without an ablation, each copy is a plain pass: with the model's own dropout on, ``[IndependentCopies()]`` gives
    the two passes of R-Drop (arXiv 2106.14448). Copies are not nested, so a hinge between them means nothing: give an
    objective that wants passes to agree.

    Args:
        ablation: what each copy loses, one step of it. None: nothing.
        steps: how many copies, beside the full pass.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from cmp_rerank.ablations import CmpDrop
        >>> IndependentCopies(CmpDrop(p=0.1), steps=2)
        IndependentCopies(ablation=CmpDrop(p=0.1), steps=2)
    """

    ablation: Ablation | None = None
    steps: int = 1
    nested = False

    def __post_init__(self) -> None:
        check_steps(self, self.steps)
        if self.ablation is not None:
            refuse_class("ablation", self.ablation)
            if not isinstance(self.ablation, Ablation) or not self.ablation.nested:
                raise ValueError(f"ablation must be one such as CmpDrop(), or None; got {self.ablation!r}.")
            object.__setattr__(self, "ablation", self.ablation.once())

    @property
    def needs_text(self) -> bool:  # type: ignore[override]
        """As its ablation."""
        return self.ablation is not None and self.ablation.needs_text

    @property
    def on_model(self) -> bool:  # type: ignore[override]
        """As its ablation."""
        return self.ablation is not None and self.ablation.on_model

    @property
    def prepared_by(self) -> Ablation:
        """As its ablation."""
        return self if self.ablation is None else self.ablation.prepared_by

    def effect(self, steps: int, progress: TrainingProgress) -> tuple[int, float]:
        """All copies, each with its ablation as it is at that moment."""
        return steps, 1 if self.ablation is None else self.ablation.effect(1, progress)[1]

    def level_of(self, rate: float) -> float:
        """As its ablation."""
        return super().level_of(rate) if self.ablation is None else self.ablation.level_of(rate)

    def prepare(self, pair: TextPair) -> Prepared:
        """As its ablation."""
        return super().prepare(pair) if self.ablation is None else self.ablation.prepare(pair)

    def check(self, steps: int) -> None:
        """Any number of copies will do."""
        if self.ablation is not None:
            self.ablation.check(1)

    def views(self, example: Example, steps: int) -> Sequence[View] | None:
        """The copies, each with the first step of the ablation from a seed of its own."""
        if self.ablation is None:
            return None
        views = []
        for number in range(1, steps + 1):
            own = self.ablation.views(replace(example, seed=example.seed_of(number)), 1)
            if own is None:
                return None
            views.append(own[0])
        return views

    def hooks(self, model: nn.Module, probe: Callable[[], Any]) -> ModelHooks:
        """Those of its ablation."""
        return super().hooks(model, probe) if self.ablation is None else self.ablation.hooks(model, probe)
