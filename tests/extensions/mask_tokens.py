"""An ablation in one file: the mask token in place of passage tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from cmp_rerank.ablations import Ablation, Example, View


@dataclass(frozen=True)
class MaskTokens(Ablation):
    """Replace passage tokens by the mask token; step k replaces a share of 1 - (1 - share) ** k."""

    mask_id: int
    share: float = 0.3
    steps: int = 1

    def views(self, example: Example, steps: int) -> Sequence[View]:
        passage = np.flatnonzero(example.segment >= 0)
        order = np.random.default_rng(example.seed).permutation(passage)
        views = []
        for step in range(1, steps + 1):
            ids = example.features["input_ids"].copy()
            ids[order[: ceil((1 - (1 - self.share) ** step) * len(order))]] = self.mask_id
            views.append(View(np.arange(len(example)), features={"input_ids": ids}))
        return views
