"""CmpDrop: ablate hidden neurons (arXiv 2301.03765, CmpDrop) by counter-based masks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cmp_rerank.ablations.base import Ablation, check_steps
from cmp_rerank.hooks.checkpointing import PassHooks
from cmp_rerank.hooks.dropout import Rate, disabled, dropout_rates
from cmp_rerank.hooks.masks import Rows, drop_rate, nested_dropout, unit_keys
from cmp_rerank.hooks.sites import Site, Survey, default_probe, survey

Where = Literal["writers", "layer"]
Unit = Literal["neuron", "head", "layer"]


@dataclass(frozen=True, repr=False)
class CmpDrop(Ablation):
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
        site: ``"writers"``: the outputs of attention and of the feed-forward part, before they are added to the
            residual stream (where a model shows none, the layers' outputs); ``"layer"``: the layers' outputs.
        unit: what is dropped as a whole: a ``"neuron"`` of one token, or in all tokens of an example an attention
            ``"head"``, or all that a ``"layer"`` adds (stochastic depth).

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> CmpDrop(p=0.2, layers="top:2")
        CmpDrop(p=0.2, layers='top:2')
        >>> CmpDrop(p=0.2).rate(level=2)
        0.36
    """

    p: float = 0.1
    layers: str | Sequence[int] = "all"
    steps: int = 1
    site: Where = "writers"
    unit: Unit = "neuron"
    on_model = True

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not isinstance(self.p, Real) or not 0.0 < self.p < 1.0:
            raise ValueError(f"p must be a rate between 0 and 1 (exclusive); got {self.p!r}.")
        check_steps(self, self.steps)
        if isinstance(self.layers, str):
            if self.layers != "all" and not re.fullmatch(r"top:[1-9]\d*", self.layers):
                raise ValueError(f'layers must be "all", "top:k" or a list of indices; got {self.layers!r}.')
        else:
            object.__setattr__(self, "layers", _indices(self.layers))
        for name, choices in (("site", Where), ("unit", Unit)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}; got {getattr(self, name)!r}.")
        if self.site == "layer" and self.unit != "neuron":
            raise ValueError(
                f'unit={self.unit!r} is dropped where the residual stream is written; got site="layer". Use '
                'site="writers".'
            )

    def __repr__(self) -> str:
        defaults = {"layers": "all", "steps": 1, "site": "writers", "unit": "neuron"}
        set_ = [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        return f"CmpDrop({', '.join([f'p={self.p}', *set_])})"

    def hooks(self, model: nn.Module, probe: Callable[[], Any] | None = None) -> DropHooks:
        """The hooks that drop units of a model."""
        return DropHooks(model, self, probe)

    def level_of(self, rate: float) -> float:
        """The level, a fraction of a step or more than one, that drops with a rate of at least 0 and below 1."""
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0.0 <= rate < 1.0:
            raise ValueError(f"rate must be at least 0 and below 1; got {rate!r}.")
        return math.log1p(-rate) / math.log1p(-self.p)

    def label(self, level: float) -> str:
        """The rate of a level."""
        return f"p = {self.rate(level):.3g}" if level else ""

    def rate(self, level: float) -> float:
        """The rate at a level, ``1 - (1 - p) ** level``; 0 at level 0, the full model."""
        return round(drop_rate(self.p, level), 12)

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

    def describe(self, model: nn.Module, probe: Callable[[], Any] | None = None) -> None:
        """Print what would be ablated in a model: its layers, the sites in them, and the rate of each step.

        Args:
            model: a CrossEncoder, a model of transformers, or a wrapper.
            probe: runs one forward pass; see `DropHooks`.

        Raises:
            ValueError: if nothing could be ablated.

        Example:
            >>> from transformers import BertConfig, BertModel
            >>> sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
            >>> CmpDrop(layers="top:1", steps=2).describe(BertModel(BertConfig(vocab_size=30, **sizes)))
            DropHooks(BertModel, CmpDrop(p=0.1, layers='top:1', steps=2): 2 residual writers in 1 of 2 layers)
            layer  site                                    units     rate by step
                1  encoder.layer.1.attention.output.dense  8 neurons  0.1, 0.19
                1  encoder.layer.1.output.dense            8 neurons  0.1, 0.19
        """
        print(self.hooks(model, probe).table())


def _all_sites(model: nn.Module, drop: CmpDrop, found: Survey) -> list[Site]:
    """The sites of all layers. Which layers are chosen must not change a site's number, nor so its masks."""
    if drop.unit == "head":
        return found.attention_heads(model)
    everywhere = all(found.writers)
    if drop.unit == "layer":
        if not everywhere:
            raise ValueError(
                'unit="layer" drops what the writers of a layer add to the residual stream, and not every layer of '
                f'{type(model).__name__} ({found.stack}) has writers. Use unit="neuron".'
            )
        # one key for all writers of a layer: they go together
        return [replace(site, number=site.layer, units=1) for writers in found.writers for site in writers]
    if drop.site == "layer" or not everywhere:
        return found.outputs
    return [site for writers in found.writers for site in writers]


@dataclass
class _Pass:
    """One forward pass: the keys of its rows (None: all at level 0), and which modules have run."""

    rows: Rows | None
    keys: list[Tensor]
    #: how often each module that layers share has run
    calls: dict[int, int] = field(default_factory=dict)
    used: bool = False


class DropHooks:
    """The hooks of CmpDrop on a model: `installed` while rows are scored, `rows` around each forward pass.

    The hooks are on the model only inside of `installed`, and everything is put back on leaving, also when the
    forward pass raises. A layer under gradient checkpointing is ablated again in the same way when the backward
    pass recomputes it.

    Args:
        model: the model, or a wrapper of it.
        drop: what to drop.
        probe: runs one forward pass of the model, on two rows or more, to find the sites. Default: two short
            rows made up for the model (`cmp_rerank.hooks.sites.default_probe`).

    Raises:
        ValueError: if nothing could be ablated, or the model has random behaviour that cannot be disabled.

    Example:
        ::

            hooks = CmpDrop(p=0.1).hooks(model)
            with hooks.installed(), hooks.rows(seeds, positions, levels=[0, 1, 2]):
                logits = model(**batch).logits  # rows: the full model, one step, two steps
    """

    def __init__(self, model: nn.Module, drop: CmpDrop, probe: Callable[[], Any] | None = None) -> None:
        self.model = model
        self.drop = drop
        found = survey(model, probe or default_probe(model))
        self.stack, self.layers = found.stack, len(found.outputs)
        everywhere = _all_sites(model, drop, found)
        chosen = drop.select(self.layers)
        self.sites = [site for site in everywhere if site.layer in chosen]
        self.first_layer = min(site.layer for site in self.sites)
        self._pads = not found.adds_tokens
        self._passes: PassHooks[_Pass] = PassHooks(
            model, self._on_model, lambda now: replace(now, calls=dict(now.calls))
        )
        self._rates: list[Rate] = []
        self._keys: dict[torch.device, list[Tensor]] = {}
        shared = {site.module for site in everywhere if site.call}
        # Made once: a compiled model would be traced again for every new hook.
        self._hooks = [
            self._hook(module, module in shared) for module in dict.fromkeys(site.module for site in self.sites)
        ]

    def __repr__(self) -> str:
        layers = len({site.layer for site in self.sites})
        found = f"{len(self.sites)} {self._kind()} in {layers} of {self.layers} layers"
        return f"DropHooks({type(self.model).__name__}, {self.drop!r}: {found})"

    def _kind(self) -> str:
        if self.drop.unit == "head":
            return "attention outputs"
        return (
            "residual writers" if isinstance(getattr(self.sites[0].module, "out_features", None), int) else "layers"
        )

    def table(self) -> str:
        """What is ablated: a line for each site, with its layer, its units, and the rate of each step."""
        rates = ", ".join(f"{self.drop.rate(level):.4g}" for level in range(1, self.drop.steps + 1))
        noun = "whole output" if self.drop.unit == "layer" else f"{self.drop.unit}s"
        head = ("layer", "site", "units", "rate by step")
        lines = [
            (str(site.layer), site.name, noun if self.drop.unit == "layer" else f"{site.units} {noun}", rates)
            for site in self.sites
        ]
        width = [max(len(line[column]) for line in [head, *lines]) for column in range(3)]
        rows = [f"{a:>{width[0]}}  {b:<{width[1]}}  {c:<{width[2]}}  {d}" for a, b, c, d in [head, *lines]]
        return "\n".join([repr(self), *rows])

    @contextmanager
    def installed(self) -> Iterator[DropHooks]:
        """The model's own dropout is disabled and the hooks are on it; both are undone on leaving."""
        self._rates = dropout_rates(self.model)
        with self._passes.installed():
            yield self

    @contextmanager
    def rows(self, seeds: Tensor, positions: Tensor, levels: Sequence[float]) -> Iterator[None]:
        """Say which rows the next forward pass is of.

        Args:
            seeds: (B,) int64 example seeds.
            positions: (B, T) int64 original token positions.
            levels: B levels.

        Raises:
            ValueError: if the numbers of rows differ, or the forward pass ran past all sites, so that nothing
                was ablated.
        """
        if not len(seeds) == len(positions) == len(levels):
            raise ValueError(f"got {len(seeds)} seeds, {len(positions)} rows of positions and {len(levels)} levels.")
        current = _Pass(None, [])
        if any(levels):
            rates = [self.drop.rate(level) for level in levels]
            by_token = positions if self.drop.unit == "neuron" else None
            current = _Pass(Rows.of(seeds, by_token, rates), self._unit_keys(seeds.device))
        with self._passes.at(current):
            yield
        if current.rows is not None and not current.used:
            raise ValueError(
                f"A forward pass of {type(self.model).__name__} was not ablated: none of its {len(self.sites)} sites "
                "ran. Enter `installed()` first, and run the model that the hooks were made for."
            )

    @contextmanager
    def _on_model(self) -> Iterator[None]:
        """Own dropout disabled and hooks on."""
        with ExitStack() as stack:
            stack.enter_context(disabled(self._rates))
            for module, hook, before in self._hooks:
                register = module.register_forward_pre_hook if before else module.register_forward_hook
                stack.callback(register(hook).remove)
            yield

    def _unit_keys(self, device: torch.device) -> list[Tensor]:
        if device not in self._keys:
            self._keys[device] = [unit_keys(site.units, site.number, device) for site in self.sites]
        return self._keys[device]

    def _hook(self, module: nn.Module, shared: bool) -> tuple[nn.Module, Callable[..., Any], bool]:
        """A module, the hook that ablates it, and whether it goes before the module's forward."""
        by_call = {site.call: index for index, site in enumerate(self.sites) if site.module is module}
        only = next(iter(by_call.values()))

        def ablated(x: Tensor) -> Tensor:
            now = self._passes.now
            if now is None or now.rows is None:
                return x
            index: int | None = only
            if shared:  # the same module at several depths: which one shows only in how often it ran
                call = now.calls.get(only, 0)
                now.calls[only] = call + 1
                index = by_call.get(call)
            if index is None:
                return x
            now.used = True
            return nested_dropout(x, self._fit(now.rows, x), now.keys[index].to(x.device))

        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (ablated(args[0]), *args[1:])

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, (tuple, list)):
                return type(output)([ablated(output[0]), *output[1:]])
            return ablated(output)

        return (module, before, True) if self.sites[only].before else (module, after, False)

    def _fit(self, rows: Rows, x: Tensor) -> Rows:
        """The rows' keys for a batch of hidden states, which a model may have padded or moved to another device."""
        if x.device != rows.key.device:
            rows = Rows(*(keys.to(x.device) for keys in rows))
        tokens = rows.key.shape[1]
        if self._pads and self.drop.unit == "neuron" and x.ndim == 3 and x.shape[1] > tokens:
            return rows.padded(x.shape[1])
        if x.ndim != 3 or x.shape[0] != len(rows.key) or tokens not in (1, x.shape[1]):
            raise ValueError(
                f"The rows have {len(rows.key)} x {tokens} tokens, but {type(self.model).__name__} works on hidden "
                f"states of shape {tuple(x.shape)}: it adds tokens (a soft prompt) or joins them, puts tokens before "
                "rows, unpads, splits the batch over devices or the sequence into chunks. Which token is which would "
                "be a guess; switch that off, or use CmpCrop alone."
            )
        return rows


def _indices(layers: object) -> tuple[int, ...]:
    """Layer indices, as a tuple."""
    try:
        indices = tuple(layers)  # type: ignore[arg-type, var-annotated]
    except TypeError:
        indices = ()
    if not indices or not all(isinstance(index, int) and not isinstance(index, bool) for index in indices):
        raise ValueError(
            f'layers must be "all", "top:k" or a list with at least one layer index; got {layers!r}. One layer is a '
            'list of one, the top ones are a string: layers=[2], layers="top:2".'
        )
    return indices
