"""Independent copies: passes that are not nested, and R-Drop as an objective over them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from drop_rows import example, zeros
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import PASSAGES, QUERIES, bert_config, random_model
from torch import Tensor

from cmp_rerank import ComparativeLoss
from cmp_rerank.ablations import CmpCrop, CmpDrop, Example, IndependentCopies, Plan
from cmp_rerank.engine import RowBatch
from cmp_rerank.models import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise
from cmp_rerank.objectives import Objective, Outputs

LABELS = torch.tensor([1.0, 0.0, 1.0, 0.0])


def test_views_begin_at_the_full_example() -> None:
    one = Example({"input_ids": np.arange(9)}, segment=np.array([-1, 0, 0, 1, 1, 2, 2, 3, 3]), seed=5)
    crop = CmpCrop(support=None)
    for views in (
        Plan([IndependentCopies(steps=3)]).views(one),
        Plan([IndependentCopies(CmpDrop(), steps=3)]).views(one),
        Plan([crop, IndependentCopies(CmpDrop(), steps=3)]).views(one)[1:],
    ):
        copies = [view.copy for view in views]
        assert copies == [0, 1, 2, 3]
        assert all(len(view) == len(one) for view in views[1:])
        assert len({one.seed_of(copy) for copy in copies}) == 4
    dropped = Plan([IndependentCopies(CmpDrop(), steps=2)]).views(one)
    assert [view.levels for view in dropped] == [(0,), (1,), (1,)]
    seeds = range(40)
    cropped = [
        Plan([IndependentCopies(crop, steps=2)]).views(Example(one.features, one.segment, seed=seed))
        for seed in seeds
    ]
    # Not nested: in some examples a copy has what the one before it has not.
    assert any(set(second.tokens) - set(first.tokens) for _, first, second in cropped)
    assert not any(first.same_as(second) for _, first, second in cropped)


def test_masks_of_copies_are_independent() -> None:
    model: Any = random_model(transformers.BertForSequenceClassification, bert_config(vocab_size=64))
    hooks = CmpDrop(p=0.3).hooks(model)
    batch = RowBatch.of(
        [
            (e, view)
            for e in [Example({}, np.full(17, -1), seed=9)]
            for view in Plan([IndependentCopies(steps=2)]).views(e)
        ],
        {},
        torch.arange(17).repeat(3, 1),
    )
    assert len(set(batch.seeds.tolist())) == 3
    row = example(17, seed=1).at(1)

    first, second = zeros(hooks, [replace(row, seed=int(seed)) for seed in batch.seeds[1:]])[0]
    both = (first & second).float().mean().item()
    assert abs(first.float().mean().item() - 0.3) < 0.06
    assert abs(both - 0.09) < 0.04  # nested masks would have 0.3


@dataclass(frozen=True)
class RDrop(Objective):
    alpha: float = 2.0
    needs_outputs = True

    def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
        assert outputs is not None
        p = outputs.scores[..., 0].sigmoid()  # (pairs, passes)
        log = torch.stack([p.log(), (1 - p).log()], dim=-1)
        divergence = ((log.exp()[:, 0] - log.exp()[:, 1]) * (log[:, 0] - log[:, 1])).sum(dim=-1) / 2
        return losses.sum(dim=1) + self.alpha * outputs.mean_by_example(divergence, len(losses))


def test_r_drop_with_the_models_own_dropout(tiny_model: CrossEncoder) -> None:
    """Two passes over the batch, one after the other, as a slow loop makes them from the same random state."""
    tiny_model.train()
    loss = ComparativeLoss(
        tiny_model, BinaryCrossEntropyLoss(tiny_model), [IndependentCopies()], objective=RDrop(), strategy="naive"
    )
    torch.manual_seed(3)
    value = loss([QUERIES, PASSAGES], LABELS)
    value.backward()
    found = torch.cat([p.grad.flatten() for p in tiny_model.parameters() if p.grad is not None])
    tiny_model.zero_grad(set_to_none=True)

    examples = tokenise(tiny_model, list(zip(QUERIES, PASSAGES, strict=True)), Plan([]))
    features = CrossEncoderAdapter().collate(tiny_model, [(e, e.full()) for e in examples]).features
    torch.manual_seed(3)
    passes = [tiny_model(dict(features))["scores"].flatten() for _ in range(2)]
    assert (passes[0] - passes[1]).abs().min() > 1e-5  # the canary: dropout is on
    total = torch.zeros(())
    for i, label in enumerate(LABELS):
        p, q = (torch.stack([z[i].sigmoid(), 1 - z[i].sigmoid()]) for z in passes)
        task = sum(torch.nn.functional.binary_cross_entropy_with_logits(z[i], label) for z in passes)
        kl = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
        total = total + (task + 2.0 * kl / 2) / len(LABELS)
    total.backward()
    expected = torch.cat([p.grad.flatten() for p in tiny_model.parameters() if p.grad is not None])
    torch.testing.assert_close(value, total)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation": "drop"}, "ablation must be one such as CmpDrop"),
        ({"ablation": CmpDrop}, "ablation must be an object; got the class CmpDrop"),
        ({"ablation": IndependentCopies()}, "ablation must be one such as CmpDrop"),
        ({"steps": 0}, "steps must be a whole number, at least 1; got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndependentCopies(**options)
