"""CmpDrop: ablate hidden neurons (arXiv 2301.03765, CmpDrop) by counter-based masks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cmp_rerank.masks import drop_rate, nested_dropout


@dataclass(frozen=True, repr=False)
class CmpDrop:
    """Drop hidden units of the encoder, more of them at each step.

    Step k of a plan drops with rate ``1 - (1 - p) ** k``, and what is dropped at step k stays dropped at k + 1.
    Units are dropped where the residual stream is written (attention output and feed-forward output of the
    chosen layers); attention probabilities are left alone, so that fused attention kernels stay in use. While
    an ablation runs, the model's own dropout is off, for the full model too.

    Args:
        p: rate of one step, in (0, 1). The paper uses the model's own dropout rate, 0.1 for BERT-like encoders.
        layers: ``"all"``, ``"top:k"`` for the k layers nearest to the output, or a list of layer indices (from 0;
            negative ones count from the top).
        steps: how many steps of the plan this object stands for.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> CmpDrop(p=0.2, layers="top:2")
        CmpDrop(p=0.2, layers='top:2')
        >>> CmpDrop(p=0.2).rate(depth=2)
        0.36
    """

    p: float = 0.1
    layers: str | Sequence[int] = "all"
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.p < 1.0:
            raise ValueError(f"p must be a rate between 0 and 1 (exclusive), got {self.p!r}.")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}: leave CmpDrop out to do without it.")
        if isinstance(self.layers, str):
            if self.layers != "all" and not re.fullmatch(r"top:[1-9]\d*", self.layers):
                raise ValueError(f'layers must be "all", "top:k" or a list of indices, got {self.layers!r}.')
        else:
            object.__setattr__(self, "layers", tuple(self.layers))
            if not self.layers or not all(isinstance(index, int) for index in self.layers):
                raise ValueError(f"layers must name at least one layer by index, got {self.layers!r}.")

    def __repr__(self) -> str:
        parts = [f"p={self.p}"]
        parts += [] if self.layers == "all" else [f"layers={self.layers!r}"]
        parts += [] if self.steps == 1 else [f"steps={self.steps}"]
        return f"CmpDrop({', '.join(parts)})"

    def rate(self, depth: int) -> float:
        """The rate at a drop depth; 0 at depth 0, the full model."""
        return round(drop_rate(self.p, depth), 12)

    def select(self, layers: int) -> list[int]:
        """The indices of the layers to ablate, of an encoder that has ``layers`` of them."""
        if self.layers == "all":
            return list(range(layers))
        if isinstance(self.layers, str):
            top = int(self.layers.removeprefix("top:"))
            if top > layers:
                raise ValueError(f"layers={self.layers!r}, but the encoder has only {layers} layers.")
            return list(range(layers - top, layers))
        if not all(-layers <= index < layers for index in self.layers):
            raise ValueError(f"layers={self.layers!r}, but the encoder has {layers} layers.")
        return sorted({index % layers for index in self.layers})


@dataclass(frozen=True)
class Site:
    """A module that writes to the residual stream: where units are dropped."""

    layer: int
    name: str
    module: nn.Module


def repeated_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The encoder's stack of layers: the largest list of modules of one class, with its name.

    Raises:
        ValueError: if the model has no such list.
    """
    found = [
        (sum(p.numel() for p in module.parameters()), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(child) for child in module}) == 1
    ]
    if not found:
        raise ValueError(
            f"CmpDrop found no repeated layers in {type(model).__name__}: nothing can be ablated. Use CmpCrop alone."
        )
    _, name, layers = max(found, key=lambda candidate: candidate[0])
    return name, layers


@torch.no_grad()
def find_sites(model: nn.Module, drop: CmpDrop, probe: Callable[[], Any]) -> list[Site]:
    """Find the residual writers of the chosen layers, by a rule that knows no model by name.

    They are the Linear modules inside the repeated layers whose output is as wide as the layer's and whose input
    feeds no other Linear (query, key and value projections share their input). One forward pass shows which
    inputs are shared.

    Args:
        model: the model, or a wrapper of it.
        drop: says which layers.
        probe: runs one forward pass of the model on any input.

    Raises:
        ValueError: if there is none, so that an ablation is never silently a no-op.
    """
    prefix, layers = repeated_layers(model)
    inputs: dict[int, list[tuple[nn.Module, Tensor]]] = {}  # by identity; the tensor is held so that none is reused
    width: dict[int, int] = {}
    order: list[nn.Module] = []

    def note_input(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.setdefault(id(args[0]), []).append((module, args[0]))
        order.append(module)

    def note_width(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        width[id(module)] = hidden.shape[-1]

    chosen = drop.select(len(layers))
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(note_width).remove)
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    stack.callback(module.register_forward_pre_hook(note_input).remove)
        stack.enter_context(own_dropout_off(model))
        probe()

    alone = {id(group[0][0]) for group in inputs.values() if len(group) == 1}
    sites = [
        Site(index, f"{prefix}.{index}.{name}", module)
        for index in chosen
        for name, module in layers[index].named_modules()
        if isinstance(module, nn.Linear)
        and id(module) in alone
        and module.out_features == width.get(id(layers[index]))
    ]
    if not sites:
        raise ValueError(
            f"CmpDrop found no residual writers in {type(model).__name__} ({prefix}, layers {chosen}): nothing "
            "would be ablated. Use CmpCrop alone for this model."
        )
    return sorted(sites, key=lambda site: order.index(site.module))


@contextmanager
def own_dropout_off(model: nn.Module) -> Iterator[None]:
    """Switch the model's own dropout off, as modules and as float attributes, and put it back on leaving.

    Training flags stay as they are, since gradient checkpointing and other behaviour hang on them.
    """
    with ExitStack() as stack:
        for module in model.modules():
            for name, value in list(vars(module).items()):
                dropout_module = isinstance(module, nn.modules.dropout._DropoutNd) and name == "p"
                if isinstance(value, float) and value > 0 and (dropout_module or "drop" in name):
                    stack.callback(setattr, module, name, value)
                    setattr(module, name, 0.0)
        yield


class Ablation:
    """CmpDrop at work on a model: `installed` while rows are scored, `rows` around each forward pass.

    The hooks are on the model only inside of `installed`, and everything is put back on leaving, also when the
    forward pass raises.

    Args:
        model: the model, or a wrapper of it.
        drop: what to drop.
        probe: runs one forward pass of the model, to find the sites.
    """

    def __init__(self, model: nn.Module, drop: CmpDrop, probe: Callable[[], Any]) -> None:
        self.model = model
        self.drop = drop
        self.sites = find_sites(model, drop, probe)
        self._rows: tuple[Tensor, Tensor, Tensor] | None = None

    @contextmanager
    def installed(self) -> Iterator[Ablation]:
        """Own dropout off, hooks on; both undone on leaving."""
        with ExitStack() as stack:
            stack.enter_context(own_dropout_off(self.model))
            for number, site in enumerate(self.sites):
                stack.callback(site.module.register_forward_hook(self._hook(number)).remove)
            yield self

    @contextmanager
    def rows(self, seeds: Tensor, positions: Tensor, depths: Sequence[int]) -> Iterator[None]:
        """Say which rows the next forward pass is of.

        Args:
            seeds: (B,) int64 example seeds.
            positions: (B, T) int64 original token positions.
            depths: B drop depths.
        """
        rates = torch.tensor([self.drop.rate(depth) for depth in depths], device=seeds.device)
        self._rows = (seeds, positions, rates) if any(depths) else None
        try:
            yield
        finally:
            self._rows = None

    def _hook(self, number: int) -> Callable[..., Tensor | None]:
        def drop_units(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if self._rows is None:
                return None
            seeds, positions, rates = self._rows
            return nested_dropout(output, seeds, positions, number, rates)

        return drop_units
