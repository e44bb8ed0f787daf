"""Sums over the values that count, finite also where none does."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["logsumexp_over", "mean_over", "softplus"]


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values that count; 0 where none does.

    Args:
        values: shape (..., n).
        mask: which count, the shape of the values.

    Returns:
        Shape (...).

    Example:
        >>> mean_over(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([2.])
    """
    return values.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)


def logsumexp_over(values: Tensor, mask: Tensor) -> Tensor:
    """The logarithm of the sum of the exponentials of the values that count; very low, but finite, where none does.

    Args:
        values: shape (..., n).
        mask: which count, the shape of the values.

    Returns:
        Shape (...). The gradient is 0 for values that do not count.

    Example:
        >>> logsumexp_over(torch.tensor([2.0, 3.0, 7.0]).log(), torch.tensor([True, True, False])).exp()
        tensor(5.)
    """
    return values.masked_fill(~mask, torch.finfo(values.dtype).min / 2).logsumexp(dim=-1)


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(x)), without overflow and without the threshold of torch's own.

    Args:
        values: any shape.

    Returns:
        The same shape.

    Example:
        >>> softplus(torch.tensor([0.0, 1000.0]))
        tensor([6.9315e-01, 1.0000e+03])
    """
    return -torch.nn.functional.logsigmoid(-values)
