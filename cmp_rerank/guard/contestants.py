"""The models that the guard compares: loaded, checked, and put into one working model one after the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sentence_transformers import CrossEncoder

from cmp_rerank.guard.candidates import Blend, blends
from cmp_rerank.guard.interpolation import Weights, difference, not_finite, obstacle, put
from cmp_rerank.guard.options import GuardOptions
from cmp_rerank.ir.arguments import kind
from cmp_rerank.ir.checkpoints import loading_checkpoint
from cmp_rerank.reranking.loading import load_reranker, open_checkpoint

ModelLike = CrossEncoder | str | os.PathLike[str]


@dataclass(frozen=True)
class Contestants:
    """The models, as weights and one working model that can be given any of them.

    Attributes:
        work: The working model; its weights change.
        start: The starting model as an object of its own, if it is one.
        start_weights: Its weights, where something lies between them and the tuned ones; None otherwise.
        tuned: Weights of each tuned model.
        blends: The models, from the start to the tuned ones.
        notes: What is left out, and why.
    """

    work: CrossEncoder
    start: CrossEncoder | None
    start_weights: Weights | None
    tuned: Sequence[Weights]
    blends: Sequence[Blend]
    notes: Sequence[str]

    def model(self, blend: Blend | None) -> CrossEncoder:
        """The model of a blend, until the next call; for the first stage alone, the starting one if there is one."""
        if self.start is not None and (blend is None or blend.start == 1):
            return self.start
        if blend is None:
            start = 0.0 if self.start_weights is None else 1.0
            blend = Blend("", "", start, (1 - start, *(0.0 for _ in self.tuned[1:])))
        parts = list(zip(self.tuned, blend.tuned, strict=True))
        # The start comes first: counters and the like are its.
        put(self.work, parts if self.start_weights is None else [(self.start_weights, blend.start), *parts])
        return self.work


def contestants(
    work: CrossEncoder,
    tuned: Sequence[Weights],
    options: GuardOptions,
    *,
    start: CrossEncoder | None = None,
    start_weights: Weights | None = None,
    new_head: bool = False,
) -> Contestants:
    """Find out which models can be compared.

    Args:
        work: The working model, of the architecture of the tuned ones.
        tuned: Weights of each tuned model.
        options: The options.
        start: The starting model as an object of its own, or None.
        start_weights: The weights of the starting model; None without one.
        new_head: Whether the head of the starting model was drawn at random, so that its own ranking means nothing.

    Returns:
        The models.

    Raises:
        ValueError: Tuned models differ in their architecture.
    """
    notes: list[str] = []
    for i, weights in enumerate(tuned[1:], 2):
        if found := obstacle(tuned[0], weights):
            raise ValueError(
                f"tuned models must be those of one training with several seeds; of model 1 and model {i}, {found}"
            )
    if start is None and start_weights is None:
        notes.append(
            "There is no starting model, so neither it nor anything between it and the tuned model is tried."
        )
    if new_head:
        start = None
        notes.append("The starting model has a new head, drawn at random: alone it cannot rank, and is not tried.")
    can_rank = not new_head and (start is not None or start_weights is not None)
    between = start_weights is not None
    if start_weights is not None and (found := obstacle(start_weights, tuned[0])):
        between = False
        notes.append(f"No weights between the starting and the tuned model are tried: {found}.")
        if start is not None or difference(start_weights, tuned[0]):
            start_weights = None
    models = blends(options, start=can_rank, between=between, tuned=len(tuned))
    if broken := [i for i, weights in enumerate(tuned) if not_finite(weights)]:
        which = ["The tuned model"] if len(tuned) == 1 else [f"Tuned model {i + 1}" for i in broken]
        notes += [
            f"{one} has weights that are NaN, from a training that diverged, and is not tried." for one in which
        ]
        models = [blend for blend in models if not any(blend.tuned[i] for i in broken)]
    return Contestants(work, start, start_weights, tuned, models, notes)


def load(model: Any, name: str, device: str | None = None, *, new_head: bool = False) -> CrossEncoder:
    """A model that is given as an object, a folder or a name on the hub.

    Args:
        model: The model.
        name: What an error calls it.
        device: Where it is loaded.
        new_head: Whether it may be an encoder without a head, which is then drawn at random.

    Raises:
        ValueError: It is something else, cannot be loaded, or has no head.
    """
    if isinstance(model, CrossEncoder):
        return model
    if not isinstance(model, str | os.PathLike):
        raise ValueError(f"{name} must be a CrossEncoder, its folder or its name; got {kind(model)}")
    if not new_head:
        return load_reranker(model, device=device)
    try:
        with loading_checkpoint(model):
            return open_checkpoint(model, device=device)
    except ValueError as error:
        raise ValueError(
            f"{name} must be the folder of a checkpoint, or a name on the hub; got {os.fspath(model)!r}, from which "
            f"no model can be loaded ({str(error).splitlines()[0]})"
        ) from error


def has_new_head(model: CrossEncoder) -> bool:
    """Whether the checkpoint that a model was loaded from is one without its head.

    Such as an encoder that becomes a reranker: the head is then drawn at random.
    """
    inner = model.transformers_model
    architectures = getattr(inner.config, "architectures", None) if inner is not None else None
    return type(inner).__name__ not in (architectures or [type(inner).__name__])


def share_weights(one: CrossEncoder, other: CrossEncoder) -> bool:
    """Whether two models are the same weights in memory, so that training one trains the other."""
    places = {parameter.data_ptr() for parameter in one.parameters()}
    return any(parameter.data_ptr() in places for parameter in other.parameters())
