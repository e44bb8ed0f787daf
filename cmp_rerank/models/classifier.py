"""Sequence classifiers: a row of labels for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmp_rerank.ablations import View
from cmp_rerank.engine import RowBatch
from cmp_rerank.hooks.wrappers import base_model, unwrapped
from cmp_rerank.models.base import ExampleLosses
from cmp_rerank.models.token_rows import TokenRowsAdapter, check_smoothing, mean_over
from cmp_rerank.objectives import Outputs

_LABEL_NAMES = ("labels", "label", "label_ids")


class ClassifierAdapter(TokenRowsAdapter):
    """Sequence classifiers: a row of labels."""

    by_position = False

    def labels(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Classes or numbers, whichever of the usual names their column has."""
        for name in _LABEL_NAMES:
            if all(isinstance(row, Mapping) and row.get(name) is not None for row in rows):
                labels = torch.as_tensor(np.asarray([row[name] for row in rows]))
                return {"labels": labels.float() if labels.is_floating_point() else labels.long()}
        return {}

    def run(self, module: nn.Module, batch: RowBatch) -> Tensor:
        """Logits, (rows, labels)."""
        logits: Tensor = module(**batch.features)["logits"]
        if logits.ndim != 2:
            raise ValueError(
                f"A sequence classifier gives logits of (rows, labels); got {tuple(logits.shape)} from "
                f"{type(unwrapped(module)).__name__}."
            )
        return logits

    def split(
        self,
        model: Any,
        scores: Tensor,
        views: Sequence[Sequence[View]],
        labels: Mapping[str, Tensor],
        smoothing: float = 0.0,
    ) -> list[ExampleLosses]:
        """The loss of each row, as transformers defines it."""
        problem = problem_type(base_model(model).config, labels["labels"])
        return classification_losses(scores, labels["labels"], problem, smoothing)


def classification_losses(
    scores: Tensor, labels: Tensor, problem: str, smoothing: float = 0.0
) -> list[ExampleLosses]:
    """The loss of each row of a sequence classifier, as transformers defines it for the kind of problem.

    Args:
        scores: Logits, (n, views, labels).
        labels: Classes (n,), with -100 for rows to ignore; or numbers, (n,) or (n, labels).
        problem: "regression", "single_label_classification" or "multi_label_classification".
        smoothing: Label smoothing, for classes.

    Returns:
        One set.

    Raises:
        ValueError: If there is label smoothing, and no single label.

    Example:
        >>> classification_losses(torch.tensor([[[1.5], [3.0]]]), torch.tensor([1.0]), "regression")[0].losses
        tensor([[0.2500, 4.0000]])
    """
    n, views, width = scores.shape
    labels = labels.to(scores.device)

    def outputs() -> Outputs:
        return Outputs(scores, torch.arange(n, device=scores.device))

    if problem == "single_label_classification":
        labels = labels.reshape(n)
        losses = F.cross_entropy(
            scores.flatten(0, 1), labels.repeat_interleave(views), reduction="none", label_smoothing=smoothing
        ).reshape(n, views)
        return [ExampleLosses(losses, mean_over(labels != -100, losses), outputs)]
    check_smoothing(smoothing, "regression" if problem == "regression" else "several labels at once")
    targets = labels.reshape(n, 1, width).to(scores.dtype).expand_as(scores)
    each = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    losses = each(scores, targets, reduction="none").mean(dim=-1)
    return [ExampleLosses(losses, losses.new_full((n,), 1 / n), outputs)]


def problem_type(config: Any, labels: Tensor) -> str:
    """The kind of problem of a sequence classifier, by its configuration, or as transformers guesses it."""
    if config.problem_type is not None:
        return str(config.problem_type)
    if config.num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
