"""Gradient checkpointing: a layer that runs again in the backward pass must be ablated as it was the first time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

#: Attributes that hold a checkpointing function, called with what to run first: of layers in transformers, and of
#: torch's wrapper for activation checkpointing.
CHECKPOINTS = ("_gradient_checkpointing_func", "checkpoint_fn")


@contextmanager
def replayed(model: nn.Module, replayable: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Hand every function that a model checkpoints through ``replayable`` first; undone on leaving.

    The recomputation comes in the backward pass, when the ablation is over. What is checkpointed must
    therefore carry its ablation with it.
    """
    with ExitStack() as stack:
        for module in model.modules():
            namespace = vars(module)
            for name in CHECKPOINTS:
                if callable(namespace.get(name)):
                    stack.callback(namespace.__setitem__, name, namespace[name])
                    namespace[name] = _carrying(namespace[name], replayable)
        yield


def _carrying(
    checkpoint: Callable[..., Any], replayable: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return checkpoint(replayable(function), *args, **kwargs)

    return run


def checkpoints(model: nn.Module) -> bool:
    """Whether any part of a model recomputes in the backward pass while it is trained."""
    return any(
        getattr(module, "gradient_checkpointing", False) is True or "checkpoint_fn" in vars(module)
        for module in model.modules()
    )
