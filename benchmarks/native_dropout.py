"""CmpDrop as the paper's own code has it: the model's dropout at a raised rate, from a restored random state.

An ablation of its own, to compare the package's masks with. It needs whole batches and one pass for each step:
``Scorer(..., [NativeDrop()], strategy="naive")``, ``ComparativeLoss(..., [NativeDrop()], strategy="naive")``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cmp_rerank.ablations import Ablation, CmpDrop
from cmp_rerank.hooks.dropout import disabled, dropout_rates
from cmp_rerank.hooks.random_state import RandomState
from cmp_rerank.hooks.sites import survey


@dataclass(frozen=True)
class NativeDrop(Ablation):
    """Raise the rate of the model's own dropout modules at each step, from the same random state.

    Args:
        p: rate of one step; step k drops with rate ``1 - (1 - p) ** k``.
        layers: as for `CmpDrop`; "all" is the whole model, embeddings and head included.
        steps: how many steps of the plan this object stands for.
    """

    p: float = 0.1
    layers: str | Sequence[int] = "all"
    steps: int = 1
    on_model = True

    def hooks(self, model: nn.Module, probe: Callable[[], Any]) -> NativeDropout:
        """The dropout modules of the chosen layers."""
        drop = CmpDrop(self.p, self.layers)
        if self.layers == "all":
            return NativeDropout(model, None, drop)
        outputs = survey(model, probe).outputs
        return NativeDropout(model, [outputs[index].module for index in drop.select(len(outputs))], drop)


class NativeDropout:
    """The dropout modules of a model, run once per step from the same random state (arXiv 2301.03765).

    For comparison studies only. The masks of two steps are nested only while both see the same rows in the same
    shape, so every step must be one pass over the whole batch; anything else is refused.

    Args:
        model: the model, or a wrapper of it.
        layers: the modules whose dropout is used; None: all of the model.
        drop: says the rate of a level.

    Raises:
        ValueError: if there is no dropout module with a rate above 0.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module] | None, drop: CmpDrop) -> None:
        self.model = model
        self.drop = drop
        self.first_layer = 0
        self.modules = [
            module
            for part in ([model] if layers is None else layers)
            for module in part.modules()
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        ]
        if not self.modules:
            raise ValueError(
                f"NativeDrop uses the dropout modules of a model, and {type(model).__name__} has none with a "
                "rate above 0 in the chosen layers: nothing would be dropped. Use CmpDrop."
            )
        self._first: tuple[Tensor, Tensor] | None = None
        self._random: RandomState | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """All dropout off but in a pass over rows of a step; put back on leaving.

        Raises:
            ValueError: under gradient checkpointing, or when the model is not in training mode.
        """
        if checkpoints(self.model) and self.model.training:
            raise ValueError(
                "NativeDrop cannot work under gradient checkpointing: layers would be recomputed with other "
                "masks. Switch checkpointing off, or use CmpDrop."
            )
        if not all(module.training for module in self.modules):
            raise ValueError("NativeDrop needs dropout modules in training mode: call model.train() first.")
        self._first = self._random = None
        try:
            with disabled(dropout_rates(self.model)):
                yield
        finally:
            self._first = self._random = None

    @contextmanager
    def rows(self, seeds: Tensor, positions: Tensor, levels: Sequence[int]) -> Iterator[None]:
        """One pass over the whole batch at one level.

        Raises:
            ValueError: if rows differ in level, or the pass is not over the very rows of the first one.
        """
        if len(set(levels)) != 1:
            raise ValueError(
                f"NativeDrop has one rate for a whole pass; got rows of the levels {sorted(set(levels))} "
                'together. Run each step as a pass of its own, strategy="naive", or use CmpDrop.'
            )
        if self._first is None:
            self._first = (seeds.clone(), positions.clone())
        elif not torch.equal(seeds, self._first[0]):
            raise ValueError(
                "NativeDrop nests only when each step runs over the whole batch at once: this pass has other "
                "rows than the first one. Do not split the batch into chunks, or use CmpDrop."
            )
        elif not torch.equal(positions, self._first[1]):
            raise ValueError(
                "NativeDrop nests only while the tokens of a batch stay the same: this pass was cropped or "
                "padded otherwise than the first one. Leave CmpCrop out, or use CmpDrop."
            )
        with ExitStack() as stack:
            if levels[0]:
                self._rewind(seeds.device)
                stack.enter_context(_raised(self.modules, self.drop.rate(levels[0])))
            yield

    def _rewind(self, device: torch.device) -> None:
        if self._random is None:
            self._random = RandomState.now(device)
        else:
            self._random.set()


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


def checkpoints(model: nn.Module) -> bool:
    """Whether any part of a model recomputes in the backward pass while it is trained."""
    return any(
        getattr(module, "gradient_checkpointing", False) is True or "checkpoint_fn" in vars(module)
        for module in model.modules()
    )
