"""CmpDrop as the paper's own code has it: the model's dropout at a raised rate, from a restored random state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cmp_rerank.hooks.checkpointing import checkpoints
from cmp_rerank.hooks.dropout import dropout_rates, silenced


class NativeDropout:
    """The dropout modules of a model, run once per step from the same random state (arXiv 2301.03765).

    For comparison studies only. The masks of two steps are nested only while both see the same rows in the same
    shape, so every step must be one pass over the whole batch; anything else is refused.

    Args:
        model: the model, or a wrapper of it.
        layers: the modules whose dropout is used; None: all of the model.

    Raises:
        ValueError: if there is no dropout module with a rate above 0.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module] | None) -> None:
        self.model = model
        self.modules = [
            module
            for part in ([model] if layers is None else layers)
            for module in part.modules()
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        ]
        if not self.modules:
            raise ValueError(
                f'masks="native" uses the dropout modules of a model, and {type(model).__name__} has none with a '
                'rate above 0 in the chosen layers: nothing would be dropped. Use masks="hash".'
            )
        self._first: tuple[Tensor, Tensor] | None = None
        self._random: tuple[Tensor, Tensor | None] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """All dropout off but in a pass over rows of a step; put back on leaving.

        Raises:
            ValueError: under gradient checkpointing, or when the model is not in training mode.
        """
        if checkpoints(self.model) and self.model.training:
            raise ValueError(
                'masks="native" cannot work under gradient checkpointing: layers would be recomputed with other '
                'masks. Switch checkpointing off, or use masks="hash".'
            )
        if not all(module.training for module in self.modules):
            raise ValueError('masks="native" needs dropout modules in training mode: call model.train() first.')
        self._first = self._random = None
        try:
            with silenced(dropout_rates(self.model)):
                yield
        finally:
            self._first = self._random = None

    @contextmanager
    def rows(self, seeds: Tensor, positions: Tensor, depths: Sequence[int], rate: float) -> Iterator[None]:
        """One pass over the whole batch at one depth.

        Raises:
            ValueError: if rows differ in depth, or the pass is not over the very rows of the first one.
        """
        if len(set(depths)) != 1:
            raise ValueError(
                f'masks="native" has one rate for a whole pass, got rows of the depths {sorted(set(depths))} '
                'together: run each step as a pass of its own, or use masks="hash".'
            )
        if self._first is None:
            self._first = (seeds.clone(), positions.clone())
        elif not torch.equal(seeds, self._first[0]):
            raise ValueError(
                'masks="native" nests only when each step runs over the whole batch at once: this pass has other '
                'rows than the first one. Do not split the batch into chunks, or use masks="hash".'
            )
        elif not torch.equal(positions, self._first[1]):
            raise ValueError(
                'masks="native" nests only while the tokens of a batch stay the same: this pass was cropped or '
                'padded otherwise than the first one. Leave CmpCrop out, or use masks="hash".'
            )
        with ExitStack() as stack:
            if depths[0]:
                self._rewind(seeds.device)
                stack.enter_context(_raised(self.modules, rate))
            yield

    def _rewind(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        if self._random is None:
            self._random = (torch.get_rng_state(), torch.cuda.get_rng_state(device) if cuda else None)
            return
        torch.set_rng_state(self._random[0])
        if self._random[1] is not None:
            torch.cuda.set_rng_state(self._random[1], device)


@contextmanager
def _raised(modules: Sequence[Any], rate: float) -> Iterator[None]:
    before = [module.p for module in modules]
    try:
        for module in modules:
            module.p = rate
        yield
    finally:
        for module, p in zip(modules, before, strict=True):
            module.p = p
