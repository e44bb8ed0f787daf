"""Wrappers around a model: distributed training, sharding, compilation, adapters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def wrapped(model: nn.Module) -> Iterator[nn.Module]:
    """The model, what it wraps, what that wraps, and so on: from the outside in.

    A wrapper is what torch, accelerate or DeepSpeed make one of, or a module whose only child is called ``module``.

    Example:
        >>> inner = nn.Linear(1, 1)
        >>> [type(each).__name__ for each in wrapped(nn.DataParallel(inner))]
        ['DataParallel', 'Linear']
    """
    while True:
        yield model
        if "_orig_mod" in model._modules:
            inner = model._modules["_orig_mod"]
        elif list(model._modules) == ["module"] or isinstance(model, fsdp_classes()):
            inner = getattr(model, "module", model)  # sharded in place (FSDP2), there is nothing inside
        else:
            inner = extract_model_from_parallel(model, keep_torch_compile=False)
        if inner is None or inner is model:
            return
        model = inner


def unwrapped(model: nn.Module) -> Any:
    """The model inside of all wrappers; adapters that are part of it (PEFT) stay."""
    *_, inner = wrapped(model)
    return inner


def base_model(model: nn.Module) -> Any:
    """The model of transformers inside of all wrappers and adapters (PEFT)."""
    inner = unwrapped(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def data_parallel(model: nn.Module) -> DistributedDataParallel | None:
    """The wrapper of distributed data parallel training around or inside of a model; None without one."""
    return next((each for each in wrapped(model) if isinstance(each, DistributedDataParallel)), None)


def without_data_parallel(model: nn.Module) -> nn.Module:
    """What the wrapper of distributed data parallel training wraps; the model itself without one."""
    wrapper = data_parallel(model)
    return model if wrapper is None else wrapper.module


def for_trials(model: nn.Module, inner: nn.Module) -> nn.Module:
    """The model to try things out on: without wrappers, but for one that has to gather parameters (FSDP1)."""
    return next((each for each in wrapped(model) if each is inner or isinstance(each, fsdp_classes())), inner)


def is_compiled(model: nn.Module) -> bool:
    """Whether it, or a part of it, runs through ``torch.compile``."""
    return any(
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def is_sharded(model: nn.Module) -> bool:
    """Whether the parameters are sharded over processes (FSDP): then every pass of one waits for the others."""
    return any(isinstance(module, fsdp_classes()) for module in model.modules())


def fsdp_classes() -> tuple[type, ...]:
    """The classes of sharded modules in this version of torch."""
    from torch.distributed import fsdp

    names = ("FSDPModule", "FullyShardedDataParallel")  # the first came with torch 2.6
    return tuple(getattr(fsdp, name) for name in names if hasattr(fsdp, name))
