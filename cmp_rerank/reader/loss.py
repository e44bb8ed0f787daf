"""The task losses of single examples, for each view: what the comparative loss compares.

Each function returns one or more sets of losses that are compared on their own, and the weights with which the
examples enter the batch value, so that ``weights @ losses`` is what the model itself would give, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmp_rerank.ablations import View


class Compared(NamedTuple):
    """Losses of examples by view, (n, 1 + steps), and the examples' weights, (n,)."""

    losses: Tensor
    weights: Tensor


def kept_tokens(views: Sequence[Sequence[View]], longest: int) -> Tensor:
    """Which tokens each view of each example has, (n, views, longest) bool.

    Example:
        >>> kept_tokens([[View(np.arange(3), 0), View(np.array([0, 2]), 0)]], longest=4).int().tolist()
        [[[1, 1, 1, 0], [1, 0, 1, 0]]]
    """
    kept = np.zeros((len(views), len(views[0]), longest), dtype=bool)
    for i, steps in enumerate(views):
        for k, view in enumerate(steps):
            kept[i, k, view.tokens] = True
    return torch.from_numpy(kept)


def span_losses(scores: Tensor, kept: Tensor, starts: Tensor, ends: Tensor) -> list[Compared]:
    """Cross-entropy of the start, and of the end, over the tokens that a view has.

    Unlike the loss of transformers' own models, padding takes no part in the softmax: a loss does not depend on what
    else is in the batch. A label behind the last token of the whole window is ignored, as there; a negative one is 0.

    Args:
        scores: Start, then end logits at original token positions, (n, views, 2 * longest).
        kept: Which tokens each view has, (n, views, longest).
        starts: Token positions, (n,) or (n, 1).
        ends: Token positions, inclusive.

    Returns:
        Two sets, of starts and of ends.

    Raises:
        ValueError: If a view does not have the token of its label.

    Example:
        >>> logits = torch.tensor([[[2.0, 1.0, 0.0, 0.0, 0.0, 3.0]]])
        >>> kept = torch.ones(1, 1, 3, dtype=torch.bool)
        >>> [round(each.losses.item(), 4) for each in span_losses(logits, kept, torch.tensor([0]), torch.tensor([2]))]
        [0.4076, 0.0949]
    """
    n, views, longest = kept.shape
    kept = kept.to(scores.device)
    found = []
    for logits, given in zip(scores.split(longest, dim=-1), (starts, ends), strict=True):
        places = given.reshape(n).to(scores.device).clamp(min=0)
        known = places < kept[:, 0].sum(dim=-1)
        labels = places.masked_fill(~known, 0)
        there = kept.gather(2, labels[:, None, None].expand(n, views, 1))[..., 0]
        if not bool((there | ~known[:, None]).all()):
            raise ValueError(
                "A view has lost the token of its label, so that its loss would be infinite: mark the segments of "
                "the label as support."
            )
        inside = logits.masked_fill(~kept, -torch.inf)
        losses = F.cross_entropy(
            inside.flatten(0, 1), labels.masked_fill(~known, -100).repeat_interleave(views), reduction="none"
        ).reshape(n, views)
        found.append(Compared(losses, _mean_over(known, losses)))
    return found


def classification_losses(scores: Tensor, labels: Tensor, problem: str, smoothing: float = 0.0) -> list[Compared]:
    """The loss of each row of a sequence classifier, as transformers defines it for the kind of problem.

    Args:
        scores: Logits, (n, views, labels).
        labels: Classes (n,), with -100 for rows to ignore; or numbers, (n,) or (n, labels).
        problem: "regression", "single_label_classification" or "multi_label_classification".
        smoothing: Label smoothing, for classes.

    Returns:
        One set.

    Example:
        >>> classification_losses(torch.tensor([[[1.5], [3.0]]]), torch.tensor([1.0]), "regression")[0].losses
        tensor([[0.2500, 4.0000]])
    """
    n, views, width = scores.shape
    labels = labels.to(scores.device)
    if problem == "single_label_classification":
        labels = labels.reshape(n)
        losses = F.cross_entropy(
            scores.flatten(0, 1), labels.repeat_interleave(views), reduction="none", label_smoothing=smoothing
        ).reshape(n, views)
        return [Compared(losses, _mean_over(labels != -100, losses))]
    targets = labels.reshape(n, 1, width).to(scores.dtype).expand_as(scores)
    each = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    losses = each(scores, targets, reduction="none").mean(dim=-1)
    return [Compared(losses, losses.new_full((n,), 1 / n))]


def problem_type(config: Any, labels: Tensor) -> str:
    """The kind of problem of a sequence classifier, by its configuration, or as transformers guesses it."""
    if config.problem_type is not None:
        return str(config.problem_type)
    if config.num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def _mean_over(known: Tensor, losses: Tensor) -> Tensor:
    """Weights of a mean over known rows; all 0 where there is none."""
    return known.to(losses.dtype) / known.sum().clamp(min=1)
