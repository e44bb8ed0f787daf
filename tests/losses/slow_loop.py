"""What the slow loops of this folder share: one row, one forward pass, with masks that are looked up unit by unit."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from cmp_rerank.ablations import CmpDrop, Example, View
from cmp_rerank.hooks.masks import Rows, dropped, unit_keys


def slow_score(model: CrossEncoder, drop: CmpDrop, example: Example, view: View) -> Tensor:
    """One row, unpadded, with a mask that is looked up unit by unit in a table of the hash."""
    flags = {module: module.training for module in model.modules()}
    sites = drop.hooks(model, lambda: model.predict([("a", "b")])).sites
    hooks = []
    for site in sites if view.level(0) else []:

        def ablate(module: nn.Module, args: Any, output: Tensor, number: int = site.number) -> Tensor:
            rate = 1 - (1 - drop.p) ** view.level(0)
            rows = Rows.of(torch.tensor([example.seed]), torch.from_numpy(view.tokens)[None], [rate])
            gone = dropped(rows, unit_keys(output.shape[-1], number))
            return output * (~gone) / (1 - rate)

        hooks.append(site.module.register_forward_hook(ablate))
    features = {k: torch.from_numpy(v[view.tokens])[None] for k, v in example.features.items()}
    features["attention_mask"] = torch.ones(1, len(view), dtype=torch.long)
    model.eval()  # the model's own dropout is off
    try:
        return model(features)["scores"][0]  # type: ignore[no-any-return]
    finally:
        for module, flag in flags.items():
            module.training = flag
        for hook in hooks:
            hook.remove()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of all parameters that have one, by name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same_gradients(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    """Assert that two sets of gradients are equal, and not all zero."""
    assert a.keys() == b.keys()
    assert max(g.abs().max() for g in b.values()) > 1e-3  # not a comparison of zeros
    for name, expected in b.items():
        torch.testing.assert_close(a[name], expected, msg=lambda text, name=name: f"{name}: {text}", **tolerance)
