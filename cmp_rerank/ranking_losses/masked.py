"""Sums over the values that count, finite also where none does."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["logsumexp_over", "mean_over"]


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
