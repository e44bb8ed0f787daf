"""Weights between those of several models, in one working model.

WiSE-FT (Wortsman et al., arXiv 2109.01903) interpolates a starting model and a tuned one; model soups (arXiv
2203.05482) average models that were tuned with several seeds; LM-Cocktail (Xiao et al., arXiv 2311.13534) does so for
rankers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: What a model's ``state_dict`` gives: name -> parameter or buffer.
Weights = Mapping[str, Tensor]


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers of a model, where they are."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@contextmanager
def restored(model: nn.Module) -> Iterator[Weights]:
    """A model whose weights and mode may be changed inside, and are put back, bit by bit, also after an error.

    Yields:
        The copy of its weights from which it is put back: the one extra copy that an interpolation costs.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = layer.weight.clone()
        >>> with restored(layer):
        ...     _ = layer.weight.data.zero_()
        >>> torch.equal(layer.weight, before)
        True
    """
    weights = copy_of(model)
    with same_mode(model):
        try:
            yield weights
        finally:
            put(model, [(weights, 1.0)])


@contextmanager
def same_mode(*models: nn.Module | None) -> Iterator[None]:
    """Models whose mode, training or evaluation, may be changed inside and is put back; None is no model.

    Example:
        >>> layer = nn.Dropout()
        >>> with same_mode(layer):
        ...     _ = layer.eval()
        >>> layer.training
        True
    """
    modes = [(module, module.training) for model in models if model is not None for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def put(model: nn.Module, parts: Sequence[tuple[Weights, float]]) -> None:
    """Give a model the weighted sum of several models' weights.

    Each number is ``t + sum of share * (other - t)``, where t is from the model of the largest share. So a model with
    share 1 is taken over bit by bit, and so is each number that is the same in all models. Sums are computed in 32
    bits at least and rounded once. Tensors without fractions, such as counters, come from the first model.

    Args:
        model: The model that is changed. Its tensors stay where they are, tied ones tied.
        parts: Weights and share of each model; shares add up to 1.

    Raises:
        ValueError: The shares do not add up to 1, models differ in names or shapes (see :func:`difference`), or
            tensors that are tied in ``model`` differ in one of the parts.

    Example:
        >>> one, other, mean = (nn.Linear(1, 1, bias=False) for _ in range(3))
        >>> _ = one.weight.data.fill_(1.0), other.weight.data.fill_(2.0)
        >>> put(mean, [(one.state_dict(), 0.25), (other.state_dict(), 0.75)])
        >>> mean.weight.item()
        1.75
    """
    total = sum(share for _, share in parts)
    if not parts or abs(total - 1) > 1e-9:
        raise ValueError(f"shares must add up to 1; got {[share for _, share in parts]}; divide them by their sum")
    target = model.state_dict()
    for weights, _ in parts:
        if found := difference(target, weights):
            raise ValueError(f"only models of one architecture can be interpolated; {found}")
    (anchor, _), *others = sorted((part for part in parts if part[1]), key=lambda part: -part[1])
    first = parts[0][0]
    done: dict[tuple[int, int], str] = {}
    for name, tensor in target.items():
        place = (tensor.data_ptr(), tensor.numel())
        if (tied := done.setdefault(place, name)) != name and tensor.numel():
            _check_tied(parts, tied, name)
            continue
        if not tensor.is_floating_point():
            tensor.copy_(first[name])
            continue
        origin = anchor[name].to(tensor.device)
        precise = origin.to(torch.promote_types(tensor.dtype, torch.float32))
        change = torch.zeros_like(precise)
        for weights, share in others:
            change += share * (weights[name].to(precise) - precise)
        # A sum with 0 would make -0.0 a 0.0; where nothing changes, the number itself is taken.
        tensor.copy_(torch.where(change == 0, precise, precise + change))


def difference(one: Weights, other: Weights) -> str | None:
    """In what tensors two models differ, in words; None if names and shapes are the same.

    Example:
        >>> difference(nn.Linear(2, 1).state_dict(), nn.Linear(2, 3).state_dict())
        "the tensor 'weight' has the shape (1, 2) in one and (3, 2) in the other"
    """
    for name in (*one, *other):
        if name not in one or name not in other:
            return f"the tensor {name!r} is in one only"
        if one[name].shape != other[name].shape:
            shape, others = tuple(one[name].shape), tuple(other[name].shape)
            return f"the tensor {name!r} has the shape {shape} in one and {others} in the other"
    return None


def obstacle(one: Weights, other: Weights) -> str | None:
    """Why nothing lies between two models, in words; None if something does.

    Beside other names and shapes, these are adapters such as LoRA: the mean of two products of matrices is not the
    product of the two means.

    Example:
        >>> obstacle({"lora_A.default.weight": torch.zeros(1)}, {"lora_A.default.weight": torch.ones(1)})
        "they have adapters (the tensor 'lora_A.default.weight'); merge these into the weights first, ..."
    """
    for name in (*one, *other):
        if any(part in name.lower() for part in ("lora_", ".base_layer.")):
            return (
                f"they have adapters (the tensor {name!r}); merge these into the weights first, for LoRA with "
                "merge_and_unload() of peft"
            )
    return difference(one, other)


def not_finite(weights: Weights) -> str | None:
    """The name of the first tensor that holds NaN, which a diverged training leaves; None if there is none.

    Infinity is no sign of that: masks are made of it.

    Example:
        >>> not_finite({"weight": torch.tensor([1.0, float("nan")])})
        'weight'
    """
    return next((name for name, t in weights.items() if t.is_floating_point() and bool(t.isnan().any())), None)


def _check_tied(parts: Sequence[tuple[Weights, float]], tied: str, name: str) -> None:
    for weights, share in parts:
        if share and not torch.equal(weights[tied], weights[name]):
            raise ValueError(
                f"the tensors {tied!r} and {name!r} are one in the model, but differ in a part of it; load all "
                "models in the same way"
            )
