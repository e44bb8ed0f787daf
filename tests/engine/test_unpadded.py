"""Passes without padding give the scores and the gradients of padded ones, or are refused with the reason."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_models import OTHERS, PASSAGES, QUERIES, bert_config, byte_bpe, cross_encoder, modernbert_config, wordpiece
from transformers import AlbertConfig, DebertaV2Config, Qwen3Config, RobertaConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cmp_rerank.ablations import CmpCrop, CmpDrop, Plan
from cmp_rerank.engine import Scorer, unpadded
from cmp_rerank.engine.memory import Budget
from cmp_rerank.engine.unpadded import Unpadded
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

ADAPTER = CrossEncoderAdapter()

SIZES: dict[str, Any] = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)


def roberta(**kwargs: Any) -> Any:
    return RobertaConfig(**(SIZES | dict(max_position_embeddings=160) | kwargs))


def albert(**kwargs: Any) -> Any:
    return AlbertConfig(**(SIZES | dict(embedding_size=16) | kwargs))


def local(**kwargs: Any) -> Any:
    """Most layers see their neighbours only."""
    return modernbert_config(local_attention=8, classifier_pooling="mean", **kwargs)


def qwen3(**kwargs: Any) -> Any:
    return Qwen3Config(**(SIZES | dict(head_dim=8, num_key_value_heads=2) | kwargs))


def deberta(**kwargs: Any) -> Any:
    relative = dict(relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16)
    return DebertaV2Config(**(SIZES | dict(max_position_embeddings=160) | relative | kwargs))


ENCODERS = {
    "bert": (bert_config, wordpiece),
    "roberta": (roberta, byte_bpe),
    "albert": (albert, wordpiece),  # one layer, run three times
    "modernbert": (modernbert_config, wordpiece),
    "modernbert-local": (local, wordpiece),
    "qwen3": (qwen3, byte_bpe),  # a decoder: causal, with grouped heads, pools at the last token
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CrossEncoder]:
    """Models in float64: there, rounding is far below any real mistake."""
    return {
        name: cross_encoder(tmp_path_factory.mktemp(name), config, tokenizer).double()
        for name, (config, tokenizer) in ENCODERS.items()
    }


def run(model: CrossEncoder, scorer: Scorer, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    model.train()
    pairs = [*zip(QUERIES, PASSAGES, strict=True), *zip(QUERIES, OTHERS, strict=True)]
    batch = tokenise(model, pairs, plan)
    scores = scorer(model, batch, [plan.views(example) for example in batch])
    (torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape) * scores).sum().backward()
    found = torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    assert found.abs().max() > 1e-8
    return scores.detach(), found


def shapes(model: CrossEncoder) -> list[tuple[int, ...]]:
    """Notes what the feed-forward part of a layer is given, from now on."""
    seen: list[tuple[int, ...]] = []
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and max(m.weight.shape) > 32][-1]
    linear.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    return seen


PLAN = Plan([CmpCrop(), CmpDrop(p=0.3, steps=2)])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("strategy", ["stacked", "hybrid"])
@pytest.mark.parametrize("name", ENCODERS)
def test_scores_and_gradients_are_those_of_padded_passes(
    name: str, strategy: Any, side: str, encoders: dict[str, CrossEncoder]
) -> None:
    model = encoders[name]
    if side == "left" and name != "qwen3":
        pytest.skip("encoders with absolute positions count padding on the left")
    before, model.tokenizer.padding_side = model.tokenizer.padding_side, side
    try:
        expected_scores, expected = run(model, Scorer(ADAPTER, PLAN.on_model, strategy="naive"), PLAN)
        scorer = Scorer(ADAPTER, PLAN.on_model, strategy=strategy, unpadded=True, tokens_per_chunk=10**6)
        seen = shapes(model)
        scores, found = run(model, scorer, PLAN)
    finally:
        model.tokenizer.padding_side = before
    assert scorer.uses(Unpadded)
    assert any(shape[:-1].count(1) and max(shape[:-1]) > 100 for shape in seen)  # tokens of several rows at once
    tolerance = 1e-6 if name == "qwen3" else 1e-9  # its norms compute in float32, whatever the model's precision
    assert (expected_scores[:, 1:] - expected_scores[:, :-1]).abs().max() > 1e-3
    assert (scores - expected_scores).abs().max() <= tolerance
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", ENCODERS)
def test_attention_over_nested_tensors(
    name: str, encoders: dict[str, CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on CUDA, by the way of computing it that a CPU has."""
    model, calls = encoders[name], []
    expected_scores, expected = run(model, Scorer(ADAPTER, PLAN.on_model, strategy="naive"), PLAN)
    plain = torch.nn.functional.scaled_dot_product_attention

    def noted(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(query.is_nested)
        return plain(query, *args, **kwargs)

    monkeypatch.setattr(unpadded, "_has_kernel", lambda device: True)
    monkeypatch.setattr(Budget, "start", lambda self, device: 10**6)  # rows of many lengths in one pass
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    scorer = Scorer(ADAPTER, PLAN.on_model, strategy="hybrid", unpadded=True, tokens_per_chunk=10**6)
    run(model, scorer, PLAN)  # compares itself with padded passes once
    calls.clear()
    passes: list[Any] = []
    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(lambda *args: passes.append(args)).remove)
        scores, found = run(model, scorer, PLAN)
    assert scorer.uses(Unpadded)
    if name == "qwen3":  # not causal attention
        assert not any(calls)
    elif name == "modernbert-local":  # not local attention: two layers of three
        assert sum(calls) > 1
        assert calls.count(False) > 2 * sum(calls)
    else:
        assert all(calls)
        assert len(calls) == 3 * len(passes)  # one call for each layer
    tolerance = 1e-6 if name == "qwen3" else 1e-9
    assert (scores - expected_scores).abs().max() <= tolerance
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("unit", ["head", "layer"])
def test_units_that_tokens_share(unit: Any, encoders: dict[str, CrossEncoder]) -> None:
    plan = Plan([CmpDrop(p=0.4, unit=unit)])
    expected_scores, expected = run(encoders["bert"], Scorer(ADAPTER, plan.on_model, strategy="naive"), plan)
    scores, found = run(encoders["bert"], Scorer(ADAPTER, plan.on_model, strategy="stacked", unpadded=True), plan)
    assert (scores - expected_scores).abs().max() <= 1e-9
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("strategy", ["stacked", "hybrid"])
@pytest.mark.parametrize("name", ["bert", "modernbert-local"])
def test_with_gradient_checkpointing(name: str, strategy: Any, encoders: dict[str, CrossEncoder]) -> None:
    model = encoders[name]
    expected_scores, expected = run(model, Scorer(ADAPTER, PLAN.on_model, strategy="naive"), PLAN)
    encoder = model[0].model
    enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
    enable(dict(use_reentrant=False))
    try:
        scorer = Scorer(ADAPTER, PLAN.on_model, strategy=strategy, unpadded=True, tokens_per_chunk=10**6)
        scores, found = run(model, scorer, PLAN)
    finally:
        encoder._set_gradient_checkpointing(enable=False)
    assert scorer.uses(Unpadded)
    assert (scores - expected_scores).abs().max() <= 1e-9
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_padding_reaches_no_layer(tiny_model: CrossEncoder) -> None:
    seen = shapes(tiny_model)
    plan = Plan([])
    batch = tokenise(tiny_model, list(zip(QUERIES, PASSAGES, strict=True)), plan)
    scorer = Scorer(ADAPTER, unpadded=True, tokens_per_chunk=10**6)
    scorer(tiny_model.eval(), batch, [[example.full()] for example in batch])
    seen.clear()
    scorer(tiny_model, batch, [[example.full()] for example in batch])
    assert sum(int(np.prod(shape[:-1])) for shape in seen) == sum(map(len, batch))
    assert len({len(example) for example in batch}) > 1


def test_nothing_stays_behind(tiny_model: CrossEncoder) -> None:
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def picture() -> list[Any]:
        return [(name, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in tiny_model.named_modules()]

    before, config = picture(), tiny_model[0].model.config
    scorer = Scorer(ADAPTER, PLAN.on_model, strategy="stacked", unpadded=True)
    run(tiny_model, scorer, PLAN)
    assert scorer.uses(Unpadded)
    assert picture() == before
    assert config._attn_implementation == "sdpa"
    tiny_model[0].model.classifier.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tiny_model, Scorer(ADAPTER, PLAN.on_model, strategy="hybrid", unpadded=True), PLAN)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is plain
    assert config._attn_implementation == "sdpa"


def test_what_is_used_of_transformers(tiny_model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention and masks are looked up by the name in the configuration, when a layer runs: upstream may change."""
    names = []

    class Noting(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            names.append(name)
            return super().__getitem__(name)

    for functions in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        assert {"sdpa", unpadded.IMPLEMENTATION} <= set(functions)
        monkeypatch.setattr(type(functions), "_global_mapping", Noting(type(functions)._global_mapping))
    scorer = Scorer(ADAPTER, PLAN.on_model, strategy="stacked", unpadded=True)
    run(tiny_model, scorer, PLAN)
    names.clear()
    run(tiny_model, scorer, PLAN)
    # The name of this package is looked up by the model, that of the replaced attention by this package.
    layers = len(tiny_model[0].model.bert.encoder.layer)
    assert names.count(unpadded.IMPLEMENTATION) >= layers
    assert names.count("sdpa") >= layers


def test_models_that_cannot_are_padded_with_the_reason(
    tmp_path: Any, tiny_model: CrossEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    relative = cross_encoder(tmp_path, deberta, wordpiece)  # attention of its own, with relative positions

    def mixes(_: Any, args: Any, output: Any) -> Any:
        return output - output.mean(dim=1, keepdim=True)  # over the tokens of a row, outside of attention

    tiny_model[0].model.bert.encoder.layer[0].register_forward_hook(mixes)
    for model, reason in ((relative, "eager"), (tiny_model, "its scores differ by")):
        with caplog.at_level(logging.WARNING):
            scorer = Scorer(ADAPTER, PLAN.on_model, strategy="stacked", unpadded=True)
            scores, _ = run(model, scorer, PLAN)
        expected, _ = run(model, Scorer(ADAPTER, PLAN.on_model, strategy="stacked"), PLAN)
        assert torch.equal(scores, expected)
        told = [r.message for r in caplog.records if "cannot run unpadded" in r.message]
        assert len(told) == 1
        assert reason in told[0]
        caplog.clear()
