"""Another processor: what linear maps give differs by a rounding error, the same one for the same value.

Processors sum in different orders, so the last digit of a matrix product is that of the machine, and a test that
hangs on it passes on one and fails on the next. ``pytest --rounding 1`` (or any number) gives all of them others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Rounded(torch.autograd.Function):
    """x (1 + e), forward and backward, |e| at most the distance from 1 to the next number."""

    seed = 1.0

    @staticmethod
    def off(x: Tensor) -> Tensor:
        exact = x.double()
        return (exact + (1e5 * _Rounded.seed * exact).sin() * exact.abs() * torch.finfo(x.dtype).eps).to(x.dtype)

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return _Rounded.off(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _Rounded.off(grad)


def install(seed: int) -> None:
    """From now on, in this process."""
    real = nn.functional.linear

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        exact = real(input, weight, bias)
        if torch.compiler.is_compiling() or type(exact) is not Tensor:
            return exact
        rounded: Tensor = _Rounded.apply(exact)
        return rounded

    _Rounded.seed = float(seed)
    nn.functional.linear = linear  # type: ignore[assignment]
