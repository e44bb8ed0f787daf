"""The scorer drives any model through an adapter: here an encoder that scores tokens, not rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_models import random_model
from torch import Tensor, nn

from cmp_rerank.ablations import CmpDrop, Example, View
from cmp_rerank.engine import Row, RowBatch, Scorer, pad
from cmp_rerank.models import CrossEncoderAdapter, ModelAdapter

SIZES = dict(vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)


class TokenScores(ModelAdapter):
    """Scores of tokens, at the tokens' original positions."""

    def inner(self, model: nn.Module) -> Any:
        return getattr(model, "module", model)

    def collate(self, inner: Any, rows: Sequence[Row]) -> RowBatch:
        return pad(rows, ["input_ids"], {"input_ids": 1}, inner.device)

    def run(self, module: nn.Module, batch: RowBatch) -> Tensor:
        logits = module(**batch.features).logits[..., 0] * batch.features["attention_mask"]
        return logits.new_zeros(len(logits), batch.longest).scatter_add(1, batch.positions, logits)


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **features: Any) -> Any:
        return self.module(**features)


@pytest.fixture
def tagger() -> transformers.PreTrainedModel:
    config = transformers.BertConfig(**SIZES, num_labels=1, max_position_embeddings=40)
    return random_model(transformers.BertForTokenClassification, config).double()


def batch() -> tuple[list[Example], list[list[View]]]:
    rng = np.random.default_rng(0)
    examples, views = [], []
    for number, length in enumerate((20, 9, 31)):
        ids = rng.integers(5, 64, length)
        examples.append(Example({"input_ids": ids, "unknown": ids}, np.zeros(length, dtype=np.int64), seed=number))
        crop = np.sort(rng.permutation(length)[: length // 2])
        views.append([examples[-1].full(), View(crop, (0,)), View(crop, (1,)), View(crop, (2,))])
    return examples, views


def gradients(model: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    assert max(float(g.abs().max()) for g in found) > 1e-6
    return found


def test_without_drop_each_view_is_a_plain_pass(tagger: transformers.PreTrainedModel) -> None:
    tagger.eval()
    examples, views = batch()
    scores = Scorer(TokenScores(), tokens_per_chunk=40)(tagger, examples, [v[:2] for v in views])
    assert scores.shape == (3, 2, 31)
    expected = torch.zeros_like(scores)
    for i, (example, steps) in enumerate(zip(examples, views, strict=True)):
        for k, view in enumerate(steps[:2]):
            ids = torch.from_numpy(example.features["input_ids"][view.tokens])[None]
            expected[i, k, view.tokens] = tagger(input_ids=ids).logits[0, :, 0]
    assert torch.allclose(scores, expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("strategy", ["stacked", "hybrid", "trunk", "auto"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["", "wrapped"])
def test_all_strategies_agree(strategy: Any, wrapped: bool, tagger: transformers.PreTrainedModel) -> None:
    model: nn.Module = Wrapper(tagger) if wrapped else tagger
    examples, views = batch()
    drop = CmpDrop(p=0.3, layers="top:1", steps=2)

    def run(strategy: Any, **options: Any) -> tuple[Tensor, list[Tensor]]:
        scores = Scorer(TokenScores(), [drop], strategy=strategy, **options)(model, examples, views)
        (torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape) * scores).sum().backward()
        return scores.detach(), gradients(tagger)

    expected_scores, expected = run("naive")
    assert (expected_scores[:, 2:] - expected_scores[:, 1:-1]).abs().max() > 1e-3
    scores, found = run(strategy, tokens_per_chunk=64)
    assert torch.allclose(scores, expected_scores, rtol=1e-9, atol=1e-9)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_a_model_of_another_kind_is_refused(tagger: transformers.PreTrainedModel) -> None:
    examples, views = batch()
    with pytest.raises(ValueError, match=r"Expected a CrossEncoder .* got BertForTokenClassification"):
        Scorer(CrossEncoderAdapter())(tagger, examples, views)
