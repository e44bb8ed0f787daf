"""A digest of a model: whether it is the one that a reranking was begun with."""

from __future__ import annotations

import hashlib
from typing import Any


def model_digest(model: Any) -> str:
    """A digest of all that makes the scores of a model: its class, weights, window and prompts.

    Of a model that is not one of torch, only the class is known.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> before = model_digest(model)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> before == model_digest(model)
        False
    """
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    if not hasattr(model, "state_dict"):
        return name
    import torch

    digest = hashlib.blake2b(digest_size=8)
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        for tensor in _tensors(value):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for attribute in ("max_seq_length", "prompts", "default_prompt_name", "settings"):
        digest.update(repr(getattr(model, attribute, None)).encode())
    return f"{name} {digest.hexdigest()}"


def _tensors(value: Any) -> list[Any]:
    """The tensors in a value of a state: quantised layers keep their weights packed, with their bias."""
    if isinstance(value, tuple | list):
        return [tensor for each in value for tensor in _tensors(each)]
    if not hasattr(value, "detach"):
        return []
    return [value.int_repr() if value.is_quantized else value]
