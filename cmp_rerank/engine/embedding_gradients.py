"""Accumulated embedding gradients: the gradient of a table is made once for all passes, and not by each of them.

The gradient of a table has a row for every token of the vocabulary, however few of them a pass has looked up, and
with many passes that adds up: of a multilingual model of 12 layers with 250,000 tokens, passes of 400 tokens spent a
fifth of their time on it. Here the lookups of all passes add their output gradients to one table, and the gradient
is made after the last of them, by the same kernel as without this module:

    table ── anchor ─┬─ lookup of pass 1       backward, each lookup adds its tokens and their gradients;
                     ├─ lookup of pass 2       the anchor comes after all of them, and makes one gradient
                     └─ lookup of pass 3

The anchor is a zero that nothing is computed with. It is there for autograd to wait for all lookups.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cmp_rerank.engine.modifier import Run
from cmp_rerank.engine.rows import Row, RowBatch
from cmp_rerank.hooks.checkpointing import PassHooks


class Table:
    """An embedding, and the output gradients of its lookups.

    Args:
        module: the embedding.
        detached: whether the anchor is detached from the weight. Then the gradient does not reach the weight by
            itself: whoever runs the backward pass asks for that of the anchor, says how it ended, and takes that of
            the weight.
    """

    def __init__(self, module: nn.Embedding, detached: bool) -> None:
        self.weight = module.weight
        self._detached = detached
        self._padding = -1 if module.padding_idx is None else module.padding_idx % module.num_embeddings
        self._backward = -1
        self._new: list[tuple[Tensor, Tensor]] = []
        self._settled: list[tuple[Tensor, Tensor]] = []
        self._sum: Tensor | None = None

    def anchor(self) -> Tensor:
        """A new anchor. The table does not hold it: the graph holds the table, and both would live for ever."""
        if self._detached:
            return self.weight.new_zeros((), requires_grad=True)
        anchor: Tensor = _Anchor.apply(self, self.weight)
        return anchor

    def add(self, tokens: Tensor, grad: Tensor) -> None:
        """Add what has reached a lookup: tokens (...) and gradients (..., units)."""
        backward = torch._C._current_graph_task_id()
        if backward != self._backward and not self._detached:  # one that is over has taken all, unless it failed
            self._settled.clear()
            self._sum = None
        self._backward = backward
        if 2 * sum(len(tokens) for tokens, _ in self._settled) >= len(self.weight):
            self._accumulate()  # to hold on to it would take as much memory as the gradient
        self._new.append((tokens.flatten(), grad.reshape(-1, grad.shape[-1])))
        if not self._detached:
            self.settle()

    def settle(self) -> None:
        """What was added is right: it counts."""
        self._settled += self._new
        self._new.clear()

    def forget(self) -> None:
        """What was added since the last time is of a backward pass that has failed."""
        self._new.clear()

    def take(self) -> Tensor | None:
        """The gradient of the weight, of what was settled and not taken before; None if that is nothing."""
        self._accumulate()
        gradient, self._sum = self._sum, None
        return gradient

    def _accumulate(self) -> None:
        if not self._settled:
            return
        tokens, grads = (torch.cat(parts) for parts in zip(*self._settled, strict=True))
        kind = grads.dtype
        if grads.device.type == "cpu" and grads.element_size() < 4:
            grads = grads.float()  # the kernel would add up in half precision: 256 + 1 is not a bfloat16
        gradient = torch.ops.aten.embedding_dense_backward(grads, tokens, len(self.weight), self._padding, False)
        gradient = gradient.to(kind)
        self._sum = gradient if self._sum is None else self._sum.add_(gradient)
        self._settled.clear()  # not before: had memory run out, it would be lost


class _Anchor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Table, weight: Tensor) -> Tensor:  # type: ignore[override]
        ctx.table = table
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None]:  # type: ignore[override]
        return None, ctx.table.take()


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Table, tokens: Tensor, anchor: Tensor) -> Tensor:  # type: ignore[override]
        ctx.table = table
        ctx.save_for_backward(tokens)
        return nn.functional.embedding(tokens, table.weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:  # type: ignore[override]
        ctx.table.add(*ctx.saved_tensors, grad)
        return None, None, grad.new_zeros(())


class Tables:
    """The tables of some passes that share a backward pass; made as they are looked up in.

    Args:
        detached: see `Table`.
    """

    def __init__(self, detached: bool = False) -> None:
        self.detached = detached
        self._made: dict[tuple[nn.Module, int], tuple[Table, Tensor]] = {}

    def __iter__(self) -> Iterator[Table]:
        return (table for table, _ in self._made.values())

    def of(self, module: Any) -> tuple[Table, Tensor]:
        """The table of an embedding, with the weight that it has, and its anchor."""
        key = module, id(module.weight)
        if key not in self._made:
            table = Table(module, self.detached)
            self._made[key] = table, table.anchor()
        return self._made[key]

    def anchors(self) -> list[Tensor]:
        """The anchors of all tables."""
        return [anchor for _, anchor in self._made.values()]


class EmbeddingGradients:
    """Accumulates the output gradients of a model's embeddings, so that each gradient is computed once a step.

    Embeddings of other kinds (those that scale, renormalise, have sparse gradients or a ``forward`` of their own),
    and those that are not trained, are left alone.

    Args:
        model: the model itself.

    Attributes:
        tables: those of the passes of a step, made as they are looked up in.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tables = Tables()
        self._modules = [module for module in model.modules() if _is_plain(module)]
        self._passes: PassHooks[Tables] = PassHooks(model, self._on_model)

    @contextmanager
    def detached(self) -> Iterator[Tables]:
        """Inside, the gradients stay in new tables: whoever runs the backward pass takes them from there."""
        before, self.tables = self.tables, Tables(detached=True)
        try:
            yield self.tables
        finally:
            self.tables = before

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The hooks are on the embeddings inside, and off again outside."""
        detached = self.tables.detached
        if not detached:
            self.tables = Tables()
        try:
            with self._passes.installed():
                yield
        finally:
            if not detached:  # the graph holds the tables that it needs, and nothing else should
                self.tables = Tables()

    @contextmanager
    def around(self, batch: RowBatch) -> Iterator[RowBatch]:
        """Inside is a pass over the tables."""
        with self.over(self.tables):
            yield batch

    def over(self, tables: Tables) -> AbstractContextManager[None]:
        """Inside is a pass over these tables."""
        return self._passes.at(tables)

    def verify(self, run: Run, row: Row) -> str | None:
        """Right by construction: the lookups are those of the model, and so is the kernel of the gradient."""
        return None

    @contextmanager
    def _on_model(self) -> Iterator[None]:
        look_up = self._passes.hook(self._look_up)
        with ExitStack() as stack:
            for module in self._modules:  # before other hooks, which may change what was looked up
                handle = module.register_forward_hook(look_up, prepend=True, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _look_up(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        tables = self._passes.now
        own = type(module.weight) is nn.Parameter  # and not that of a copy, or a part on this device
        if tables is None or not (own and torch.is_grad_enabled() and output.requires_grad):
            return None
        table, anchor = tables.of(module)
        rows: Tensor = _Lookup.apply(table, args[0] if args else kwargs["input"], anchor)
        return rows


def _is_plain(module: nn.Module) -> bool:
    return (
        type(module) is nn.Embedding
        and "forward" not in vars(module)
        and module.max_norm is None
        and not module.scale_grad_by_freq
        and not module.sparse
    )
