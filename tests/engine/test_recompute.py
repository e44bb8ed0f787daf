"""Which rows run again in the backward pass: all that have a part in the gradient, by any of their scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import PASSAGES, QUERIES, cross_encoder
from torch import Tensor

from cmp_rerank.ablations import CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise


@pytest.mark.parametrize("label", [0, 2])
def test_one_score_of_a_row_is_enough(label: int, tmp_path: Path) -> None:
    model = cross_encoder(tmp_path, num_labels=3).double().train()
    plan = Plan([CmpDrop(p=0.3)])
    batch = tokenise(model, list(zip(QUERIES, PASSAGES, strict=True)), plan)
    found: list[Tensor] = []
    for strategy in ("naive", "hybrid"):
        scorer = Scorer(CrossEncoderAdapter(), plan.on_model, strategy=strategy)
        scores = scorer(model, batch, [plan.views(example) for example in batch])
        scores[:, 1, label].sum().backward()  # of the ablated rows, and of one of their three scores
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        model.zero_grad(set_to_none=True)
    assert found[0].abs().max() > 1e-3
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-9 * float(found[0].abs().max()))
