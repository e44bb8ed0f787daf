"""A copy of a model in another precision."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from cmp_rerank.ir.arguments import kind
from cmp_rerank.ir.ranking import check_choice

PRECISIONS = ("float32", "bf16", "int8")


def in_precision(model: Any, precision: str | None) -> Any:
    """A model that computes in another precision; the one that is given stays as it is.

    Args:
        model: A CrossEncoder.
        precision: None: the model as it is. "float32" and "bf16": parameters and computation in that type; the last
            linear layer of "bf16" is in 32 bits, since scores of 8 bits would be equal for documents that are not.
            "int8": linear layers in 8 bits on a CPU. Their inputs are scaled by the greatest number in the whole
            pass, so that a score depends, in the order of the loss of precision, on what else is in the pass.

    Returns:
        The model itself, or a copy.

    Raises:
        ValueError: The precision is unknown, or the model has no parameters that could be converted.
    """
    if precision is None:
        return model
    check_choice("precision", precision, PRECISIONS)
    import torch
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ValueError(
            f"precision={precision!r} needs a model of torch, such as a CrossEncoder; got {kind(model)}; leave "
            "precision out"
        )
    copied = copy.deepcopy(model).eval()
    if precision == "float32":
        return copied.to(torch.float32)
    if precision == "bf16":
        return _with_exact_head(copied.to(torch.bfloat16))
    if next(copied.parameters()).device.type != "cpu":
        raise ValueError('precision="int8" is for a CPU; got a model on another device; use "bf16" there')
    quantize = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
    if quantize is None:
        raise ValueError('precision="int8" needs torch.ao.quantization, which this torch does not have; use "bf16"')
    with warnings.catch_warnings():
        # It points to torchao, whose quantised linear layers are for GPUs.
        warnings.simplefilter("ignore")
        return quantize(copied.to(torch.float32), {nn.Linear}, dtype=torch.qint8, inplace=True)


def _with_exact_head(model: Any) -> Any:
    """The model with its last linear layer in 32 bits, unless that shares its weights with another module."""
    import torch
    from torch import nn

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    weights = [id(weight) for module in model.modules() for weight in module.parameters(recurse=False)]
    if layers and weights.count(id(layers[-1].weight)) == 1:
        head = layers[-1].to(torch.float32)
        head.register_forward_pre_hook(lambda _, inputs: tuple(x.to(torch.float32) for x in inputs))
    return model
