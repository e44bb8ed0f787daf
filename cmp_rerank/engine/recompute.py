"""Scores without a graph, whose gradients come from running the needed rows again.

One autograd node stands for all passes over its rows. Forward, they run without gradients. Backward, the node
is given d objective / d scores; rows where that is all zero are left out, the others run again, chunk by chunk,
each chunk's gradients taken before the next one starts, so that the activations of one chunk is all that is ever
held. The parameters are inputs of the node and get their gradients from it as from any other: what depends
on them (accumulation, scaling, the hooks of distributed training) works as usual, once for each backward pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmp_rerank.engine.embedding_gradients import EmbeddingGradients, Tables
from cmp_rerank.engine.memory import free, out_of_memory
from cmp_rerank.engine.passes import Passes
from cmp_rerank.engine.rows import Chunking, Row, in_order
from cmp_rerank.hooks.random_state import RandomState


def recomputed(passes: Passes, rows: Sequence[Row], chunking: Chunking) -> Tensor:
    """Score rows, keeping nothing but the scores.

    Masks that depend only on the example make the second run exact in any chunks. Where a pass draws random
    numbers (the model's own dropout), the second run has the chunks and the random state of the first.

    Args:
        passes: how rows are scored; inside of its ``ready()``.
        rows: what to score.
        chunking: cuts rows into chunks. Its budget shrinks, and the chunk is divided, where memory runs out in the
            backward pass.

    Returns:
        (rows, width), as the model gives them.
    """
    parameters = [p for p in passes.inner.parameters() if p.requires_grad]
    work = _Work(passes, rows, chunking, {id(p): i for i, p in enumerate(parameters)})
    if not (torch.is_grad_enabled() and parameters):
        return work.scores()
    scores: Tensor = _Recomputed.apply(work, *parameters)
    return scores


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: _Work, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        ctx.work = work
        ctx.save_for_backward(*parameters)
        return work.scores()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # Reading them raises if one was changed in place since: a second run would be of another model.
        return None, *ctx.work.gradients(grad, ctx.saved_tensors)


class _Work:
    """Rows to be scored twice at most."""

    def __init__(self, passes: Passes, rows: Sequence[Row], chunking: Chunking, places: dict[int, int]) -> None:
        self.passes = passes
        self.rows = rows
        self.chunking = chunking
        self.places = places  # of the parameters, by id: those that autograd saves may come back as others
        self.device = passes.inner.device
        self.chunks: list[list[int]] = []
        self.states: list[RandomState] = []
        self.draws = False
        kind = self.device.type
        self.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))

    def scores(self) -> Tensor:
        self.chunks = self.chunking(self.rows)
        parts = []
        for chunk in self.chunks:
            self.states.append(RandomState.now(self.device))
            parts.append(self._run(chunk))
        self.draws = not self.states[0].same_as(RandomState.now(self.device))
        return in_order(parts, [i for chunk in self.chunks for i in chunk])

    def _run(self, chunk: Sequence[int]) -> Tensor:
        return self.passes.run([self.rows[i] for i in chunk])

    def gradients(self, grad: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of (grad * scores).sum(): one for each parameter, None where it has no part."""
        total: list[Tensor | None] = [None] * len(parameters)
        owned: set[int] = set()

        def add(i: int, gradient: Tensor | None) -> None:
            before = total[i]
            if gradient is None or before is None:
                total[i] = gradient if before is None else before
            elif i in owned:
                before.add_(gradient)
            else:  # what autograd gave may share its memory with something else
                total[i] = before + gradient
                owned.add(i)

        needed = grad.ne(0).flatten(1).any(dim=1).tolist()
        pending = deque(self._again(needed))
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            kind, dtype, enabled = self.autocast
            stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            embeddings = self.passes.find(EmbeddingGradients)
            tables = Tables() if embeddings is None else stack.enter_context(embeddings.detached())
            stack.enter_context(self.passes.ready())
            while pending:
                chunk, state = pending.popleft()
                gradients: Sequence[Tensor | None] | None = None
                try:
                    gradients = self._gradients_of(chunk, state, grad, parameters, tables)
                except Exception as error:
                    # The draws of a chunk belong to it as a whole: it cannot be divided.
                    if state is not None or len(chunk) == 1 or not out_of_memory(error):
                        raise
                    self.chunking.budget.halve(self.passes.tokens, error)
                for table in tables:
                    table.forget() if gradients is None else table.settle()
                if gradients is None:  # only here the exception, and the graph that it holds, are gone
                    free()
                    half = len(chunk) // 2
                    pending.extendleft([(chunk[half:], None), (chunk[:half], None)])
                    continue
                for i, gradient in enumerate(gradients):
                    add(i, gradient)
        for table in tables:
            if id(table.weight) in self.places:  # not if it is trained only since the forward pass
                add(self.places[id(table.weight)], table.take())
        return total

    def _again(self, needed: Sequence[bool]) -> Iterator[tuple[list[int], RandomState | None]]:
        if self.draws:
            for chunk, state in zip(self.chunks, self.states, strict=True):
                if any(needed[i] for i in chunk):
                    yield chunk, state
            return
        left = [i for i, each in enumerate(needed) if each]
        rows = [self.rows[i] for i in left]
        for chunk in self.chunking(rows):
            yield [left[i] for i in chunk], None

    def _gradients_of(
        self,
        chunk: list[int],
        state: RandomState | None,
        grad: Tensor,
        parameters: Sequence[Tensor],
        tables: Tables,
    ) -> Sequence[Tensor | None]:
        with nullcontext() if state is None else state.restored():
            scores = self._run(chunk)
        inputs = [*parameters, *tables.anchors()]
        gradients = torch.autograd.grad(scores, inputs, grad[chunk].to(scores.dtype), allow_unused=True)
        return gradients[: len(parameters)]
