"""A layer that is checkpointed together with its hooks, as transformers did at first, runs again as it ran."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.models.bert.modeling_bert import BertLayer

from cmp_rerank.ablations import CmpCrop, CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.unpadded import Unpadded
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

ADAPTER = CrossEncoderAdapter()

PLAN = Plan([CmpCrop(), CmpDrop(p=0.3, layers="top:1")])


@pytest.fixture
def checkpointed(tiny_model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Layers checkpoint the whole of their call, hooks included; gives how often they ran."""
    ran: list[int] = []

    def call(self: BertLayer, *args: Any, **kwargs: Any) -> Any:
        again = vars(self).get("_gradient_checkpointing_func")
        whole = partial(nn.Module.__call__, self, **kwargs)
        return whole(*args) if again is None or not self.training else again(whole, *args)

    monkeypatch.setattr(BertLayer, "__call__", call)
    for layer in tiny_model[0].model.bert.encoder.layer:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.register_forward_pre_hook(lambda *_: ran.append(1))
    return ran


def gradient(model: CrossEncoder, scorer: Scorer) -> torch.Tensor:
    pairs = [*zip(QUERIES, PASSAGES, strict=True), *zip(QUERIES, OTHERS, strict=True)]
    batch = tokenise(model, pairs, PLAN)
    scores = scorer(model.train(), batch, [PLAN.views(example) for example in batch])
    (torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape) * scores).sum().backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("unpadded", [False, True])
@pytest.mark.parametrize("strategy", ["stacked", "hybrid", "trunk"])
def test_gradients_are_those_without_checkpoints(
    strategy: Any, unpadded: bool, tiny_model: CrossEncoder, checkpointed: list[int]
) -> None:
    tiny_model.double()
    layers = tiny_model[0].model.bert.encoder.layer
    functions = [vars(layer).pop("_gradient_checkpointing_func") for layer in layers]
    expected = gradient(tiny_model, Scorer(ADAPTER, PLAN.on_model, strategy="naive"))
    scorer = Scorer(ADAPTER, PLAN.on_model, strategy=strategy, unpadded=unpadded)
    gradient(tiny_model, scorer)
    checkpointed.clear()
    assert torch.allclose(gradient(tiny_model, scorer), expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
    once = len(checkpointed)
    for layer, function in zip(layers, functions, strict=True):
        layer._gradient_checkpointing_func = function
    checkpointed.clear()
    found = gradient(tiny_model, scorer)
    assert len(checkpointed) > once  # layers did run again
    assert torch.allclose(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
    assert scorer.uses(Unpadded) == (unpadded and strategy != "trunk")
