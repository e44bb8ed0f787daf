"""Tensors among the arguments of a module: where they stand, which belong to rows, and how to put others there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from cmp_rerank.hooks.turns import in_this_thread

Place = tuple[Any, ...]  # where an argument stands: indices and names, from the outside in


def tensors(value: Any, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """All tensors in nested tuples, lists and dictionaries, with their places."""
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from tensors(item, (*place, i))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from tensors(item, (*place, name))


def changed(value: Any, change: Callable[[Place, Tensor], Tensor], place: Place = ()) -> Any:
    """The same structure with every tensor replaced.

    >>> import torch
    >>> changed((torch.ones(2), {"mask": None}), lambda place, x: 2 * x)
    (tensor([2., 2.]), {'mask': None})
    """
    if isinstance(value, Tensor):
        return change(place, value)
    if type(value) in (tuple, list):
        return type(value)(changed(item, change, (*place, i)) for i, item in enumerate(value))
    if type(value) is dict:
        return {name: changed(item, change, (*place, name)) for name, item in value.items()}
    return value


def observe(
    layers: Sequence[nn.Module], run: Callable[[], Tensor], belongs: Callable[[Tensor], bool]
) -> tuple[list[set[Place]], Tensor]:
    """A pass, and for each layer the places of the arguments that belong to rows.

    Raises:
        ValueError: if a layer had none.
    """
    seen: list[set[Place]] = [set() for _ in layers]
    with ExitStack() as stack:
        for number, layer in enumerate(layers):

            def note(_: nn.Module, args: Any, kwargs: Any, number: int = number) -> None:
                seen[number] |= {place for place, x in tensors((args, kwargs)) if belongs(x)}

            stack.callback(layer.register_forward_pre_hook(in_this_thread(note), with_kwargs=True).remove)
        scores = run()
    if not all(seen):
        raise ValueError("its layers are not run one after the other on the batch")
    return seen, scores


def differ(found: Tensor, expected: Tensor, dtype: torch.dtype) -> str | None:
    """How scores differ by more than rounding; None where they do not.

    >>> import torch
    >>> differ(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]), torch.float32)
    'its scores differ by 0.1 (scores up to 2.1)'
    """
    scale = float(expected.abs().max())
    difference = float((found - expected).abs().max())
    # Far above the rounding of other batch sizes, far below what a wrong row makes.
    tolerance = min(1e3 * torch.finfo(dtype).eps, 0.05) * max(scale, 1e-3)
    if difference <= tolerance:
        return None
    return f"its scores differ by {difference:.3g} (scores up to {scale:.3g})"  # also where one is not a number
