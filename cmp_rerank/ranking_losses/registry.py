"""Losses by their names, so that a configuration can name one: those of sentence-transformers and of this package."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from sentence_transformers.cross_encoder import losses as upstream
from torch import nn

from cmp_rerank.ranking_losses import circle, distillation, margin, ndcg, pairwise_softmax, ranknet, softmax

__all__ = ["LOSSES", "loss_class"]

LOSSES: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        name: getattr(module, name)
        for module in (upstream, circle, distillation, margin, ndcg, pairwise_softmax, ranknet, softmax)
        for name in module.__all__
        if name.endswith("Loss")
    }
)
"""Every cross-encoder loss by its name, those of sentence-transformers included: ``LOSSES["LambdaLoss"](model)``."""


def loss_class(name: str) -> type[nn.Module]:
    """Find a loss by its name.

    Args:
        name: of the class, such as "NeuralNDCGLoss" or "LambdaLoss".

    Returns:
        The class. It takes the model, and its options by name.

    Raises:
        ValueError: there is none of that name.

    Example:
        >>> loss_class("NeuralNDCGLoss")
        <class 'cmp_rerank.ranking_losses.ndcg.NeuralNDCGLoss'>
        >>> loss_class("NeuralNDCG")
        Traceback (most recent call last):
        ValueError: there is no loss 'NeuralNDCG'; did you mean 'NeuralNDCGLoss'?
    """
    if isinstance(name, str) and name in LOSSES:
        return LOSSES[name]
    near = difflib.get_close_matches(str(name), LOSSES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sorted(LOSSES))}"
    raise ValueError(f"there is no loss {name!r}; {hint}")
