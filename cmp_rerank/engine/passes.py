"""Forward passes: rows in, scores out, with the modifiers of the step around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from cmp_rerank.engine.adapter import Adapter
from cmp_rerank.engine.modifier import PassModifier
from cmp_rerank.engine.rows import Row
from cmp_rerank.hooks.wrappers import data_parallel, for_trials, without_data_parallel

Kind = TypeVar("Kind")


class Passes:
    """The forward passes of one step.

    Args:
        model: the model, or a wrapper of it.
        adapter: knows this kind of model.
        longest: tokens of the longest example, see `RowBatch`.
        modifiers: what is around the passes, from the outside in.

    Attributes:
        tokens: how many the last pass that was started holds, padding included.
    """

    def __init__(
        self, model: nn.Module, adapter: Adapter, longest: int, modifiers: Sequence[PassModifier] = ()
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.longest = longest
        self.modifiers = tuple(modifiers)
        self.inner = adapter.inner(model)
        self.tokens = 0
        self._without_ddp = without_data_parallel(model)
        self._wrapper_ran = False

    def trial(self, *modifiers: PassModifier) -> Passes:
        """Passes of the model without its wrappers, with these modifiers, to find something out."""
        return Passes(for_trials(self.model, self.inner), self.adapter, self.longest, modifiers)

    def find(self, kind: type[Kind]) -> Kind | None:
        """The modifier of a class; None if there is none."""
        return next((modifier for modifier in self.modifiers if isinstance(modifier, kind)), None)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Around all passes: what the modifiers need is on the model inside, and off again outside."""
        with ExitStack() as stack:
            for modifier in self.modifiers:
                stack.enter_context(modifier.installed())
            yield

    def run(self, rows: Sequence[Row]) -> Tensor:
        """Score rows in one pass: (rows, width), as the model gives them."""
        whole = batch = replace(self.adapter.collate(self.inner, rows), longest=self.longest)
        self.tokens = batch.positions.numel()
        with ExitStack() as stack:
            for modifier in self.modifiers:
                batch = stack.enter_context(modifier.around(batch))
            return self.adapter.run(self._module(), whole)

    def repeat(self) -> None:
        """Say that the passes of this step are given up, and those that come next are of the same step."""
        wrapper = data_parallel(self.model)
        if wrapper is not None and self._wrapper_ran:
            # It has sent buffers to the other processes for this step: they do not wait for them again.
            wrapper.require_forward_param_sync = False

    def _module(self) -> nn.Module:
        """The wrapper for the first pass with a graph, what it wraps for the others.

        The wrapper of distributed training gets ready for one backward pass, and may talk to the other
        processes about buffers. These may have other numbers of chunks, and would wait for ever.
        """
        if self._without_ddp is self.model or (torch.is_grad_enabled() and not self._wrapper_ran):
            self._wrapper_ran = True
            return self.model
        return self._without_ddp


def most_passes(passes: int, device: torch.device) -> int:
    """The greatest number of passes that any process needs."""
    count = torch.tensor(passes, device=device)
    torch.distributed.all_reduce(count, op=torch.distributed.ReduceOp.MAX)
    return int(count)
