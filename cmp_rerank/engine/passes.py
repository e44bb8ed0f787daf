"""One forward pass: rows in, scores out, with the model ablated as the rows' views say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cmp_rerank.ablations.drop import Ablation
from cmp_rerank.engine.adapter import Adapter
from cmp_rerank.engine.embedding_gradients import Lookups, Tables
from cmp_rerank.engine.rows import Row
from cmp_rerank.engine.shared_trunk import Trunk
from cmp_rerank.engine.unpadded import Unpadded


class Passes:
    """The forward passes of one step.

    Args:
        model: the model, or a wrapper of it.
        adapter: knows this kind of model.
        longest: tokens of the longest example, see `Adapter.scores`.
        ablation: drops the units of rows with a drop depth; None: the model runs as it is, own dropout included.
        trunk: runs the layers below the ablated ones once for rows that read the same tokens; None: does not.
        unpadded: runs the layers on tokens instead of padded rows; None: does not.
        lookups: makes the gradient of an embedding once for all passes; None: each pass makes one.

    Attributes:
        tables: what the passes look up in, since they were last made ready.
        tokens: what the last pass that was begun holds, padding included.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        longest: int,
        ablation: Ablation | None,
        trunk: Trunk | None = None,
        unpadded: Unpadded | None = None,
        lookups: Lookups | None = None,
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.longest = longest
        self.inner = adapter.inner(model)
        self.trial = for_trials(model, self.inner)
        self.ablation = ablation
        self.trunk = trunk
        self.unpadded = unpadded
        self.lookups = lookups
        self.tables = Tables()
        self.tokens = 0
        self._bare = without_ddp(model)
        self._wrapped = False

    @contextmanager
    def ready(self, loose: bool = False) -> Iterator[None]:
        """Around all passes: what the ablation needs is on the model inside, and off again outside.

        Args:
            loose: whether the gradients of embeddings are left in the tables, see `Table`.
        """
        self.tables = Tables(loose)
        with ExitStack() as stack:
            if self.lookups is not None:
                stack.enter_context(self.lookups.installed())
            if self.ablation is not None:
                stack.enter_context(self.ablation.installed())
            if self.trunk is not None:
                stack.enter_context(self.trunk.installed())
            if self.unpadded is not None:
                stack.enter_context(self.unpadded.installed())
            yield

    def run(self, rows: Sequence[Row]) -> Tensor:
        """Score rows in one pass: (rows, width), as the model gives them."""
        features, positions = self.adapter.collate(self.inner, rows)
        self.tokens = positions.numel()
        with ExitStack() as stack:
            if self.lookups is not None:
                stack.enter_context(self.lookups.over(self.tables))
            packing = None
            if self.unpadded is not None:
                packing = stack.enter_context(self.unpadded.packed(features["attention_mask"]))
            if self.ablation is not None:
                seeds = torch.tensor([example.seed for example, _ in rows], device=positions.device)
                depths = [view.depth for _, view in rows]
                if packing is None:
                    stack.enter_context(self.ablation.rows(seeds, positions, depths))
                else:  # each token is a row
                    lengths = (len(view) for _, view in rows)
                    by_token = [depth for depth, n in zip(depths, lengths, strict=True) for _ in range(n)]
                    stack.enter_context(self.ablation.rows(packing.row(seeds), packing.taken(positions), by_token))
            if self.trunk is not None:
                stack.enter_context(self.trunk.fork(rows))
            return self.adapter.scores(self._module(), features, positions, self.longest)

    def repeat(self) -> None:
        """Say that the passes of this step are given up, and those that come next are of the same step."""
        wrapper = _ddp(self.model)
        if wrapper is not None and self._wrapped:
            # It has sent buffers to the other processes for this step: they do not wait for them again.
            wrapper.require_forward_param_sync = False

    def _module(self) -> nn.Module:
        """The wrapper for the first pass with a graph, what it wraps for the others.

        The wrapper of distributed training gets ready for one backward pass, and may talk to the other
        processes about buffers. These may have other numbers of chunks, and would wait for ever.
        """
        if self._bare is self.model or (torch.is_grad_enabled() and not self._wrapped):
            self._wrapped = True
            return self.model
        return self._bare


def _ddp(model: nn.Module) -> DistributedDataParallel | None:
    inner: Any = model
    while inner is not None:
        if isinstance(inner, DistributedDataParallel):
            return inner
        inner = getattr(inner, "_orig_mod", None)
    return None


def without_ddp(model: nn.Module) -> nn.Module:
    """What a wrapper for distributed data parallel training wraps; the model itself where there is none."""
    wrapper = _ddp(model)
    return model if wrapper is None else wrapper.module


def for_trials(model: nn.Module, inner: nn.Module) -> nn.Module:
    """The model to try things out on: without wrappers, but for one that has to gather parameters (FSDP1)."""
    while model is not inner and not isinstance(model, _fsdp_kinds()):
        model = getattr(model, "module", None) or model._orig_mod  # type: ignore[assignment]
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether it, or a part of it, runs through ``torch.compile``."""
    return any(
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def is_sharded(model: nn.Module) -> bool:
    """Whether the parameters are sharded over processes (FSDP): then every pass of one waits for the others."""
    return any(isinstance(module, _fsdp_kinds()) for module in model.modules())


def _fsdp_kinds() -> tuple[type, ...]:
    from torch.distributed import fsdp

    names = ("FSDPModule", "FullyShardedDataParallel")  # the first came with torch 2.6
    return tuple(getattr(fsdp, name) for name in names if hasattr(fsdp, name))


def is_reentrant(model: nn.Module) -> bool:
    """Whether activations are checkpointed in the reentrant way, which cannot be run inside of a backward pass."""
    for module in model.modules():
        function: Any = vars(module).get("_gradient_checkpointing_func")
        on = getattr(module, "gradient_checkpointing", False) is True and module.training
        if on and getattr(function, "keywords", {}).get("use_reentrant"):
            return True
    return False


def most_passes(passes: int, device: torch.device) -> int:
    """The greatest number of passes that any process needs."""
    count = torch.tensor(passes, device=device)
    torch.distributed.all_reduce(count, op=torch.distributed.ReduceOp.MAX)
    return int(count)
