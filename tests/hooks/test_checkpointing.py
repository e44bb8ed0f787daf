"""A change of a model is found again, as it was, by what checkpoints run a second time and a third."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cmp_rerank.hooks.checkpointing import PassHooks


class Layer(nn.Linear):
    """Checkpoints itself, as layers of transformers do."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._gradient_checkpointing_func(super().forward, x)


def test_each_pass_is_repeated_with_its_own_state() -> None:
    model = nn.Sequential(Layer(), Layer())
    seen: list[tuple[str, int]] = []
    applied = 0

    @contextmanager
    def apply() -> Iterator[None]:
        nonlocal applied
        applied += 1

        def count(module: nn.Module, args: Any) -> Any:
            if change.now is None:
                seen.append(("none", 0))
                return
            name, calls = change.now
            calls.append(1)  # a pass changes its state
            seen.append((name, len(calls)))

        plain = nn.functional.linear

        def linear(*args: Any) -> torch.Tensor:
            count(model, args)
            return plain(*args)

        nn.functional.linear = linear
        try:
            yield
        finally:
            nn.functional.linear = plain
            applied -= 1

    change: PassHooks[tuple[str, list[int]]] = PassHooks(model, apply, lambda state: (state[0], list(state[1])))
    x = torch.randn(2, 3, requires_grad=True)
    with change.installed():
        outs = []
        for name in ("a", "b"):
            with change.at((name, [])):
                outs.append(model(x))
        out = model(x)  # a pass without a state
        assert applied == 1
    assert applied == 0
    forward = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("none", 0), ("none", 0)]
    assert seen == forward
    for again in (1, 2):  # a graph that is kept runs its layers again each time
        seen.clear()
        (outs[0].sum() + outs[1].sum() + out.sum()).backward(retain_graph=again == 1)
        assert sorted(seen) == sorted(forward)
        assert applied == 0
    assert change.now is None
