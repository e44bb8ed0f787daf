"""Divergences of R-Drop and Intra-Distillation: passes that should agree, where a comparison wants them ordered."""

from __future__ import annotations

import math

from torch import Tensor

from cmp_rerank.objectives._checks import check_number, check_two, checked

__all__ = ["adaptive_alpha", "intra_distillation_divergence", "intra_distillation_variance", "r_drop_divergence"]

_CLASSES = "classes (for a single logit z use torch.stack([torch.zeros_like(z), z], dim=-1))"


def intra_distillation_divergence(logits: Tensor) -> Tensor:
    """Measure how far the class distributions of K passes with different dropout are from their mean.

    With ``p_k = softmax(logits_k)`` and ``m`` the mean of the p_k::

        X = (1/K) sum over k, classes of (p_k - m) (log p_k - log m)

    Intra-Distillation minimises ``mean of the task losses + alpha * X``. For a single logit z per example
    pass ``torch.stack([torch.zeros_like(z), z], dim=-1)``, or use `intra_distillation_variance`.

    Args:
        logits: Shape (K, batch, classes) or (K, ..., classes), at least two passes and two classes.

    Returns:
        One divergence per example, shape (batch,), never negative, 0 where all passes agree.

    Raises:
        ValueError: If the logits make no sense; the message says what was got.

    Source: arXiv 2205.11416.

    Example:
        (3/4, 1/4) and (1/4, 3/4), with mean (1/2, 1/2): X = (1/4) log(3/2) + (1/4) log(2) = log(3) / 4.

        >>> import torch
        >>> logits = torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]]).log()  # (K, batch, classes) = (2, 1, 2)
        >>> intra_distillation_divergence(logits)
        tensor([0.2747])
    """
    logits = checked(logits, "logits", "(passes, batch, classes)", least_dim=3)
    check_two(logits, "logits", "passes", dim=0)
    check_two(logits, "logits", _CLASSES, dim=-1)
    log_p = logits.log_softmax(dim=-1)  # (K, ..., classes)
    log_m = log_p.logsumexp(dim=0) - math.log(logits.shape[0])  # (..., classes)
    return _symmetric_kl(log_p, log_m).mean(dim=0)


def intra_distillation_variance(predictions: Tensor) -> Tensor:
    """Give the regression form of Intra-Distillation, X = (1/K) sum over k of (y_k - mean of y)^2.

    Args:
        predictions: Shape (K, batch) or (K, ...), at least two passes.

    Returns:
        The variance over the passes, shape (batch,), in the square of the unit of the predictions.

    Raises:
        ValueError: If the predictions make no sense; the message says what was got.

    Source: arXiv 2205.11416.

    Example:
        >>> import torch
        >>> intra_distillation_variance(torch.tensor([[1.0], [2.0], [6.0]]))  # (4 + 1 + 9) / 3
        tensor([4.6667])
    """
    predictions = checked(predictions, "predictions", "(passes, batch)", least_dim=2)
    check_two(predictions, "predictions", "passes", dim=0)
    return predictions.var(dim=0, correction=0)


def adaptive_alpha(step: int, total: int, alpha: float, p: float, q: float) -> float:
    """Give the weight of the intra-distillation term at a training step, rising from 0 to ``alpha``::

        alpha(t) = alpha * (p t / N)^g,  g = log(alpha) / log(q / p),  while t < N/p, if alpha > 1
        alpha(t) = alpha                                               otherwise

    It passes 1 at t = N/q and reaches ``alpha`` at t = N/p, which for p < 1 is after the end of training.

    Args:
        step: The training step t, >= 0.
        total: The number of training steps N, > 0.
        alpha: The final weight, >= 0.
        p: Sets the step N/p from which on the weight is ``alpha``, > 0.
        q: Sets the step N/q at which the weight is 1, > p.

    Returns:
        The weight at that step.

    Raises:
        ValueError: If an argument is not a finite number in its range.

    Source: arXiv 2205.11416, there written p^g alpha t^g / N^g with g = log_{p/q}(1/alpha).

    Example:
        >>> [round(adaptive_alpha(t, total=100, alpha=5, p=5, q=10), 2) for t in (0, 5, 10, 15, 20, 100)]
        [0.0, 0.2, 1.0, 2.56, 5.0, 5.0]
    """
    check_number("step", step)
    check_number("total", total, strict=True)
    check_number("alpha", alpha)
    check_number("p", p, strict=True)
    check_number("q", q, minimum=p, strict=True)
    if alpha <= 1 or p * step >= total:
        return float(alpha)
    return float(alpha * (p * step / total) ** (math.log(alpha) / math.log(q / p)))


def r_drop_divergence(logits_1: Tensor, logits_2: Tensor) -> Tensor:
    """Measure how far the class distributions of two passes with different dropout are from each other.

    With ``p_k = softmax(logits_k)``::

        D = (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2 = (1/2) sum over classes of (p_1 - p_2) (log p_1 - log p_2)

    R-Drop minimises ``task_1 + task_2 + a * D``. For a single logit see `intra_distillation_divergence`.

    Args:
        logits_1: Logits of the first pass, shape (batch, classes) or (..., classes), at least two classes.
        logits_2: Logits of the second pass, the same shape.

    Returns:
        One divergence per example, shape (batch,), never negative, 0 where the passes agree.

    Raises:
        ValueError: If the logits make no sense; the message says what was got.

    Source: arXiv 2106.14448.

    Example:
        For (3/4, 1/4) and (1/4, 3/4) both Kullback-Leibler divergences are log(3) / 2.

        >>> import torch
        >>> r_drop_divergence(torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log())
        tensor([0.5493])
    """
    logits_1 = checked(logits_1, "logits_1", "(batch, classes)", least_dim=2)
    logits_2 = checked(logits_2, "logits_2", "(batch, classes)", least_dim=2)
    check_two(logits_1, "logits_1", _CLASSES, dim=-1)
    if logits_1.shape != logits_2.shape:
        raise ValueError(
            "logits_1 and logits_2 must be two passes over one batch, with equal shapes; "
            f"got {tuple(logits_1.shape)} and {tuple(logits_2.shape)}"
        )
    return _symmetric_kl(logits_1.log_softmax(dim=-1), logits_2.log_softmax(dim=-1)) / 2


def _symmetric_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p) over the last dimension. No term is negative, since exp keeps the order."""
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1)
