"""Scores of whole examples, by the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from cmp_rerank.ablations import Example
from cmp_rerank.engine.scorer import Scorer

#: Examples that are scored together, of similar length.
_BLOCK = 256


def whole_scores(
    scorer: Scorer,
    model: nn.Module,
    examples: Sequence[Example],
    order: Sequence[int],
    report: Callable[[float], None] | None = None,
    block: int = _BLOCK,
) -> list[tuple[int, np.ndarray]]:
    """Scores of whole examples by the model as it is, without gradients and its own dropout.

    Args:
        scorer: Without ablations.
        model: The model; its mode is put back.
        examples: The examples.
        order: Which of them, in the order in which they are read; neighbours are padded to one length.
        report: Called with the share that is done.
        block: How many examples are put into order of length, and run in passes, together.

    Returns:
        Number of the example and its scores, as the adapter of the scorer gives them, in that order.
    """
    found: list[tuple[int, np.ndarray]] = []
    training = model.training
    model.eval()
    try:
        for first in range(0, len(order), block):
            part = order[first : first + block]
            with torch.no_grad():
                scores = scorer(model, [examples[i] for i in part], [[examples[i].full()] for i in part])
            found += zip(part, scores[:, 0].cpu().numpy(), strict=True)
            if report is not None:
                report((first + len(part)) / len(order))
    finally:
        model.train(training)
    return found
