"""An objective in one file: hinges with a margin, beside the task loss of the full model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cmp_rerank.objectives import Objective, Outputs


@dataclass(frozen=True)
class Margin(Objective):
    """l(0) + sum over k of max(0, l(0) - l(k) + margin)."""

    margin: float = 0.1

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        return losses[:, 0] + (losses[:, :1] - losses[:, 1:] + self.margin).relu().sum(dim=1)
