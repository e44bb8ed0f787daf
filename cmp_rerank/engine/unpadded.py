"""Passes without padding: the encoder's layers see the tokens of all rows, and nothing between them.

Embeddings and head of a model see the padded batch. Before the first layer, hooks take the tokens out of it, each
as a row of one token: (rows, tokens, units) becomes (all tokens, 1, units). All that works on single tokens (linear
maps, norms, rotary positions, masks of CmpDrop) is right as it is. Attention is not: to the thread that runs layers
unpadded, the model's configuration names an attention function of this module, registered with transformers'
`AttentionInterface`. It puts the tokens of each row together again, attends within rows, and takes them apart. On
CUDA that is done as nested tensors, in one call of a variable-length kernel, if every token sees all tokens of its
row; else with rows of equal length in one call. After the last layer tokens go back to their places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nested import nested_tensor_from_jagged
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cmp_rerank.engine.modifier import LayerInputs
from cmp_rerank.engine.places import Place, changed
from cmp_rerank.engine.rows import Row, RowBatch, shortened
from cmp_rerank.hooks.checkpointing import PassHooks
from cmp_rerank.hooks.dropout import dropout_disabled
from cmp_rerank.hooks.sites import repeated_layers

#: The implementation of attention that is replaced: it computes with the mask that it is given, and no other.
REPLACED = "sdpa"
#: The name under which transformers finds the attention of this module.
IMPLEMENTATION = "cmp_rerank_unpadded"
#: What runs the layers that an attention module belongs to, by the identity of the module, while it does.
_RUNNING: dict[int, Unpadded] = {}


def _attend(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The attention of a layer: within rows in an unpadded pass, the replaced one in any other."""
    plain = ALL_ATTENTION_FUNCTIONS[REPLACED]
    running = _RUNNING.get(id(module))
    if running is None or running.packing is None:
        return plain(module, *args, **kwargs)
    return running.attend(running.packing, plain, module, *args, **kwargs)


def _mask(*args: Any, **kwargs: Any) -> Any:
    """The mask that the replaced attention is given."""
    return ALL_MASK_ATTENTION_FUNCTIONS[REPLACED](*args, **kwargs)


AttentionInterface.register(IMPLEMENTATION, _attend)
AttentionMaskInterface.register(IMPLEMENTATION, _mask)


class _Run(NamedTuple):
    """Neighbouring rows of one length, whose tokens stand in the same columns."""

    rows: slice
    columns: slice
    tokens: slice


class _Packing:
    """Where the tokens of a padded batch are."""

    def __init__(self, mask: Tensor) -> None:
        real = mask.bool()
        self.shape = (mask.shape[0], mask.shape[1])
        self.index = real.flatten().nonzero().squeeze(1)  # (all tokens,) in the flattened batch
        self.runs: list[_Run] = []
        begin = 0
        spans = [(int(row.argmax()), int(row.sum())) for row in real.cpu().numpy()]
        for row, (start, length) in enumerate(spans):
            columns = slice(start, start + length)
            if not bool(real[row, columns].all()):
                raise ValueError("the tokens of a row have padding between them")
            tokens = slice(begin, begin + length)
            begin += length
            last = self.runs[-1] if self.runs else None
            if last is not None and last.columns == columns:
                self.runs[-1] = _Run(slice(last.rows.start, row + 1), columns, slice(last.tokens.start, begin))
            else:
                self.runs.append(_Run(slice(row, row + 1), columns, tokens))
        self.tokens = begin
        lengths = [length for _, length in spans]
        self.shortest, self.longest = min(lengths), max(lengths)
        self.offsets = torch.tensor([0, *accumulate(lengths)], device=mask.device)
        self._real = real
        self._masks: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}
        self._open: dict[int, tuple[Tensor, bool]] = {}

    def row(self, x: Tensor) -> Tensor:
        """(rows,) as (all tokens,)."""
        return self.taken(x[:, None].expand(self.shape))[:, 0]

    def taken(self, x: Tensor) -> Tensor:
        """(rows or 1, tokens, ...) as (all tokens, 1, ...)."""
        return x.expand(self.shape[0], *x.shape[1:]).flatten(0, 1)[self.index].unsqueeze(1)

    def back(self, x: Tensor) -> Tensor:
        """(all tokens, 1, ...) as (rows, tokens, ...), zero where padded."""
        rows, columns = self.shape
        padded = x.new_zeros(rows * columns, *x.shape[2:]).index_copy(0, self.index, x.squeeze(1))
        return padded.unflatten(0, self.shape)

    def open(self, mask: Tensor | None) -> bool:
        """Whether an attention mask lets every token see all tokens of its row."""
        if mask is None or mask.dtype != torch.bool:
            return mask is None
        known = self._open.get(id(mask))
        if known is None or known[0] is not mask:
            pair = self._real[:, None, :, None] & self._real[:, None, None, :]
            known = self._open[id(mask)] = (mask, bool((mask | ~pair).all()))
        return known[1]

    def nested(self, x: Tensor) -> Tensor:
        """(all tokens, heads, 1, units) as a nested tensor, (rows, heads, tokens of the row, units)."""
        return nested_tensor_from_jagged(
            x.squeeze(2).contiguous(), self.offsets, min_seqlen=self.shortest, max_seqlen=self.longest
        ).transpose(1, 2)

    def mask(self, mask: Tensor, number: int, causal: bool) -> Tensor | None:
        """The part of an attention mask for one run; None where nothing is masked."""
        known = self._masks.get((id(mask), number))
        if known is None or known[0] is not mask:
            part: Tensor | None = _square(mask, self.runs[number], self.shape)
            if part is not None and part.dtype == torch.bool and not causal and bool(part.all()):
                part = None
            known = self._masks[id(mask), number] = (mask, part)
        return known[1]


def _square(x: Tensor, run: _Run, shape: tuple[int, int]) -> Tensor:
    """The part of (rows or 1, heads or 1, tokens, tokens) that belongs to a run."""
    rows, columns = shape
    if x.ndim != 4 or x.shape[0] not in (1, rows) or x.shape[2:] != (columns, columns):
        raise ValueError(f"an attention mask of shape {tuple(x.shape)} for {rows} rows of {columns} tokens")
    return (x if len(x) == 1 else x[run.rows])[..., run.columns, run.columns]


def _configs(model: nn.Module) -> list[Any]:
    """The configurations of a model's modules, and those inside of them; outer ones first."""
    found: dict[int, Any] = {}
    pending = [config for module in model.modules() if (config := vars(module).get("config")) is not None]
    while pending:
        config = pending.pop(0)
        if id(config) not in found and hasattr(config, "_attn_implementation"):
            found[id(config)] = config
            pending += [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
    return list(found.values())


def _naming(kind: type[Any], unpadded: Callable[[], bool]) -> type[Any]:
    """A class of configuration that names the attention of this module where it runs, and elsewhere what it has.

    The configuration belongs to every thread that calls the model, and some models compute in another way for each
    name. So the name is not changed, but looked up.

    Args:
        kind: The class of the configuration.
        unpadded: Whether this thread runs a pass without padding.
    """
    plain: property = kind._attn_implementation

    def name(self: Any) -> Any:
        found = plain.__get__(self)
        return IMPLEMENTATION if found == REPLACED and unpadded() else found

    same = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {"_attn_implementation": property(name, plain.__set__), **same})


def _has_kernel(device: torch.device) -> bool:
    """Whether nested attention has a kernel of its own; on a CPU it is slower than a call for each length."""
    return device.type == "cuda"


class Unpadded(LayerInputs):
    """Runs the layers of a model on tokens instead of padded rows.

    Args:
        model: the model itself.

    Raises:
        ValueError: if that cannot be.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(list(repeated_layers(model)[1]))
        self.model = model
        self._inside = [id(module) for layer in self.layers for module in layer.modules()]
        self._passes: PassHooks[_Packing] = PassHooks(model, self._on_model)
        self._attended = 0  # how often
        self._configs = [(config, type(config), _naming(type(config), self._runs)) for config in _configs(model)]
        found = {
            getattr(vars(module).get("config"), "_attn_implementation", None)
            for layer in self.layers
            for module in layer.modules()
        } - {None}
        if found - {REPLACED}:
            raise ValueError(f'its attention is "{found.pop()}", and only "{REPLACED}" is replaced')

    def trial_rows(self, row: Row) -> tuple[list[Row], list[Row]]:
        """Rows of several lengths, some of them equal."""
        more = shortened(row, 40, 0, 1, 1, 3, 4)
        return (shortened(row, 40, 1, 2, 4), more) if more else ([], [])

    def belongs(self, x: Tensor, rows: Sequence[Row]) -> bool:
        """Whether a tensor has a value for every token of the padded rows."""
        width = len(rows[0][1])
        return x.ndim > 1 and tuple(x.shape[:2]) in ((1, width), (len(rows), width))

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Without the model's own dropout, which two passes would not share."""
        self._attended = 0
        with dropout_disabled(self.model):
            yield

    def missed(self) -> str | None:
        """The attention must have been this module's."""
        return None if self._attended else "its attention does not go through transformers' attention interface"

    @property
    def packing(self) -> _Packing | None:
        """Where the tokens of the pass that runs are; None in a padded pass."""
        return self._passes.now

    def _runs(self) -> bool:
        return self._passes.now is not None

    def installed(self) -> AbstractContextManager[None]:
        """Hooks and attention are in place inside, and as they were outside."""
        return self._passes.installed()

    @contextmanager
    def around(self, batch: RowBatch) -> Iterator[RowBatch]:
        """Run without padding, if there is any. Yields a batch in which each token is a row."""
        mask = batch.features["attention_mask"]
        if self.places is None or bool(mask.all()):
            yield batch
            return
        packing = _Packing(mask)
        lengths = [len(view) for _, view in batch.rows]
        by_token = [levels for levels, n in zip(batch.levels, lengths, strict=True) for _ in range(n)]
        with self._passes.at(packing):
            yield replace(
                batch, seeds=packing.row(batch.seeds), positions=packing.taken(batch.positions), levels=by_token
            )

    @contextmanager
    def _on_model(self) -> Iterator[None]:
        """Hooks are on the layers, and the configuration of this model names the attention of this module."""
        with ExitStack() as stack:
            for number, layer in enumerate(self.layers):
                before = self._passes.hook(self._before(number))
                stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(self.layers[-1].register_forward_hook(self._after).remove)
            for config, plain, naming in self._configs:
                stack.callback(object.__setattr__, config, "__class__", plain)
                object.__setattr__(config, "__class__", naming)
            for inside in self._inside:
                stack.callback(_RUNNING.pop, inside, None)
                _RUNNING[inside] = self
            yield

    def attend(
        self,
        now: _Packing,
        plain: Callable[..., Any],
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        position_bias: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Attention within rows: queries, keys and values are (all tokens, heads, 1, units of a head)."""
        self._attended += 1
        if any(x.shape[0] != now.tokens or x.shape[2] != 1 for x in (query, key, value)):
            raise ValueError("its attention is not from each token to the tokens of its row")
        causal = kwargs.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
        alike = query.shape == key.shape == value.shape
        if _has_kernel(query.device) and alike and not causal and position_bias is None and now.open(attention_mask):
            out = nn.functional.scaled_dot_product_attention(
                now.nested(query),
                now.nested(key),
                now.nested(value),
                dropout_p=kwargs.get("dropout", 0.0),
                scale=kwargs.get("scaling"),
            )
            return out.transpose(1, 2).values().unsqueeze(1), None
        parts = []
        for number, run in enumerate(now.runs):
            rows = run.rows.stop - run.rows.start

            def together(x: Tensor, run: _Run = run, rows: int = rows) -> Tensor:
                return x[run.tokens].squeeze(2).unflatten(0, (rows, -1)).transpose(1, 2)  # (rows, heads, tokens, d)

            mask = None if attention_mask is None else now.mask(attention_mask, number, causal)
            bias = None if position_bias is None else _square(position_bias, run, now.shape)
            out, _ = plain(
                module, together(query), together(key), together(value), mask, position_bias=bias, **kwargs
            )  # (rows, tokens, heads, d)
            parts.append(out.flatten(0, 1))
        return torch.cat(parts).unsqueeze(1), None  # (all tokens, 1, heads, d)

    def _before(self, number: int) -> Callable[..., tuple[Any, Any] | None]:
        def take(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
            now = self._passes.now
            if now is None or self.places is None:
                return None
            places = self.places[number]

            def change(place: Place, x: Tensor) -> Tensor:
                padded = place in places and tuple(x.shape[:2]) in (now.shape, (1, now.shape[1]))
                return now.taken(x) if padded else x

            fitting: tuple[Any, Any] = changed((args, kwargs), change)
            return fitting

        return take

    def _after(self, _: nn.Module, args: Any, output: Any) -> Any:
        now = self._passes.now
        if now is None:
            return None
        return changed(output, lambda _, x: now.back(x) if tuple(x.shape[:2]) == (now.tokens, 1) else x)
