"""Disabling the model's own dropout, and looking at a forward pass without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

#: A rate somewhere in a model: the namespace that holds it, its name there, and its value.
Rate = tuple[dict[str, Any], str, float]


def dropout_rates(model: nn.Module) -> list[Rate]:
    """Every dropout rate above 0 of a model, wherever its code may read it from.

    These are the numbers of dropout modules, and numbers whose name has "drop" in it, of modules (functional
    attention dropout, LayerDrop) and of configurations that modules keep.
    """
    namespaces: dict[int, tuple[dict[str, Any], bool]] = {}
    for module in model.modules():
        named = "drop" in type(module).__name__.lower()
        namespaces.setdefault(id(vars(module)), (vars(module), named))
        config = vars(module).get("config")
        if hasattr(config, "__dict__"):
            namespaces.setdefault(id(vars(config)), (vars(config), False))
    return [
        (namespace, name, value)
        for namespace, every in namespaces.values()
        for name, value in list(namespace.items())  # another thread's call may add to it
        if isinstance(value, float) and value > 0 and (every or "drop" in name)
    ]


@contextmanager
def disabled(rates: list[Rate]) -> Iterator[None]:
    """Set rates to 0, and back to what they were on leaving.

    Training flags stay as they are, since gradient checkpointing and other behaviour depend on them.
    """
    before = [namespace[name] for namespace, name, _ in rates]
    try:
        for namespace, name, _ in rates:
            namespace[name] = 0.0
        yield
    finally:
        for (namespace, name, _), value in zip(rates, before, strict=True):
            namespace[name] = value


@contextmanager
def dropout_disabled(model: nn.Module) -> Iterator[None]:
    """Disable the model's own dropout, and put it back on leaving."""
    with disabled(dropout_rates(model)):
        yield


@contextmanager
def inspecting(model: nn.Module) -> Iterator[None]:
    """Run a forward pass only to look at it: own dropout disabled, no gradients, and no trace left in the model.

    The random state is put back, and so is what the model has changed in itself: some models change permanently on a
    short input (BigBird switches to full attention). The rest is left alone, and so is the mode: a call in another
    thread may need it, or set it, meanwhile.
    """
    before = [kept for module in model.modules() for kept in _changeable(module)]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    # A compiled model would be traced with the hooks that only look.
    eager: Callable[[str], Any] | None = getattr(torch.compiler, "set_stance", None)
    with ExitStack() as stack:
        if eager is not None:
            stack.enter_context(eager("force_eager"))
        stack.enter_context(torch.random.fork_rng(devices=sorted(device.index for device in devices)))
        stack.enter_context(torch.no_grad())
        stack.enter_context(dropout_disabled(model))
        try:
            yield
        finally:
            for namespace, values in before:
                for name, value in values.items():
                    if namespace.get(name) is not value:
                        namespace[name] = value


def _changeable(module: nn.Module) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What the code of a module may change in it, and what is there now: submodules, buffers, plain attributes."""
    yield module._modules, dict(module._modules)
    yield module._buffers, dict(module._buffers)
    plain = {name: value for name, value in vars(module).copy().items() if isinstance(value, (bool, int, float, str))}
    plain.pop("training", None)  # a compiled model has none of its own
    yield vars(module), plain
