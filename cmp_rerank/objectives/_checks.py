"""What objectives refuse, and the precision in which they compute. Shared by the modules of this package."""

from __future__ import annotations

from numbers import Real
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Baseline: TypeAlias = Literal["zero", "full", "best"] | float
"""The loss of the dummy step: "zero", "full", "best" or a number, such as
``PairwiseHinge(baseline="full")``; see `comparative_loss`."""
Reduction: TypeAlias = Literal["mean", "sum"]
""""mean" or "sum" over the pairs of steps: ``PairwiseHinge(reduction="sum")`` gives the paper's value."""
BASELINES = ("zero", "full", "best")
REDUCTIONS = ("mean", "sum")
_LARGEST = torch.finfo(torch.float32).max


def check_baseline(baseline: object) -> None:
    """Raise a ValueError unless `comparative_loss` knows the baseline.

    >>> check_baseline("first")
    Traceback (most recent call last):
    ValueError: baseline must be 'zero', 'full', 'best' or a finite number; got 'first'
    """
    if not (baseline in BASELINES if isinstance(baseline, str) else is_finite(baseline)):
        choices = ", ".join(map(repr, BASELINES))
        raise ValueError(f"baseline must be {choices} or a finite number; got {baseline!r}")


def check_reduction(reduction: object) -> None:
    """Raise a ValueError unless `comparative_loss` knows the reduction."""
    if not (isinstance(reduction, str) and reduction in REDUCTIONS):
        raise ValueError(f"reduction must be {' or '.join(map(repr, REDUCTIONS))}; got {reduction!r}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless an option is one of its choices."""
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name} must be {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}; got {value!r}")


def is_finite(value: object) -> bool:
    # Finite in float32; a comparison with NaN is False.
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= _LARGEST  # type: ignore[operator]


def check_number(name: str, value: float, minimum: float = 0, strict: bool = False) -> None:
    if not is_finite(value) or value < minimum or (strict and value == minimum):
        raise ValueError(f"{name} must be a finite number {'>' if strict else '>='} {minimum}; got {value!r}")


def checked(values: Tensor, name: str = "losses", layout: str = "(batch, 1 + steps)", least_dim: int = 2) -> Tensor:
    """Refuse values without a meaning, and give the others in the precision to compute in."""
    if not isinstance(values, Tensor):
        raise ValueError(f"{name} must be a tensor of shape {layout}; got {type(values).__name__}")
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating-point, see Tensor.float(); got {values.dtype}")
    # Losses of one dimension may be a batch, whose examples would be compared with each other, unnoticed.
    if values.dim() < least_dim or values.numel() == 0:
        raise ValueError(f"{name} must have shape {layout} and not be empty; got {tuple(values.shape)}")
    finite = values.isfinite()
    if not finite.all():
        index = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be finite; got {values[tuple(index)].item()} at index {index} of {layout}, "
            f"the first of {int((~finite).sum())}: check the learning rate, the labels and half precision"
        )
    return values if values.dtype == torch.float64 else values.float()


def check_two(values: Tensor, name: str, what: str, dim: int) -> None:
    if values.shape[dim] < 2:
        raise ValueError(f"{name} must hold at least 2 {what}; got shape {tuple(values.shape)}")


def canonical(value: float | str) -> float | str:
    """Give a checked option as a plain int, float or str, whose ``repr`` parses back: numpy's scalars do not."""
    if isinstance(value, str):
        return next(known for known in (*BASELINES, *REDUCTIONS) if known == value)
    return value if type(value) in (int, float) else float(value)
