"""The model's own dropout from a restored random state, and what it must refuse."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import tiny_models
import torch
from drop_rows import Row, ablated, batch, example, head
from native_dropout import NativeDrop, NativeDropout
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from cmp_rerank.ablations import CmpCrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.hooks.sites import default_probe
from cmp_rerank.models import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

FAMILIES = tiny_models.families()
EXAMPLES = [example(n, seed=n) for n in (13, 9, 17)]
NATIVE = NativeDrop(p=0.2, steps=2)


def one_pass(ablation: NativeDropout, rows: list[Row], width: int | None = None) -> Tensor:
    inputs, positions = batch(rows, width)
    with ablated(ablation, rows, positions):
        return head(ablation.model, inputs)


def at(depth: int) -> list[Row]:
    return [row.at(depth) for row in EXAMPLES]


def test_steps_are_nested_and_batches_differ() -> None:
    model: Any = FAMILIES["BERT"]()
    ablation = NATIVE.hooks(model, default_probe(model))
    before = {n: m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert set(before.values()) == {0.1}
    seen: list[Tensor] = []
    module = model.bert.encoder.layer[1].output.dropout
    module.register_forward_hook(lambda m, args, output: seen.append(output == 0))
    torch.manual_seed(0)
    for _ in range(2):
        with ablation.installed(), torch.no_grad():
            scores = [one_pass(ablation, at(depth)) for depth in (0, 1, 2)]
        assert (scores[0] - scores[1]).abs().max() > 1e-3
    full, first, second, _, other, _ = seen
    assert not full.any()
    assert (second | ~first).all()
    for mask, rate in ((first, 0.2), (second, 0.36)):
        assert abs(mask.float().mean().item() - rate) < 4.5 * (rate * (1 - rate) / mask.numel()) ** 0.5
    assert abs((first & other).float().mean().item() - 0.04) < 0.02  # the next batch draws anew
    assert {n: m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout)} == before


def test_the_full_model_has_no_dropout_and_chosen_layers_only_are_used() -> None:
    model: Any = FAMILIES["BERT"]()
    ablation = NativeDrop(p=0.2, layers="top:1").hooks(model, default_probe(model))
    assert len(ablation.modules) == 3
    seen: dict[str, bool] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(
                lambda m, a, output, name=name: seen.update({name: bool((output == 0).any())})
            )
    with ablation.installed(), torch.no_grad():
        full = one_pass(ablation, at(0))
        one_pass(ablation, at(1))
    assert {name for name, dropped in seen.items() if dropped} == {
        "bert.encoder.layer.2.attention.output.dropout",
        "bert.encoder.layer.2.output.dropout",
    }
    torch.testing.assert_close(full, head(model.eval(), batch(EXAMPLES)[0]), rtol=1e-5, atol=1e-6)


def test_what_it_cannot_do_right_is_refused() -> None:
    model: Any = FAMILIES["BERT"]()
    ablation = NATIVE.hooks(model, default_probe(model))
    with pytest.raises(ValueError, match=r"one rate for a whole pass; got rows of the levels \[0, 1\]"):  # noqa: SIM117
        with ablation.installed():
            one_pass(ablation, [EXAMPLES[0], EXAMPLES[1].at(1)])
    with pytest.raises(ValueError, match="Do not split the batch into chunks"), ablation.installed():  # noqa: PT012
        one_pass(ablation, at(0))
        one_pass(ablation, at(1)[:2])
    with pytest.raises(ValueError, match="Do not split the batch into chunks"), ablation.installed():  # noqa: PT012
        one_pass(ablation, at(0))
        one_pass(ablation, at(1)[::-1])
    cropped = [row.cropped(range(0, len(row.ids), 2)) for row in at(1)]
    with pytest.raises(ValueError, match="Leave CmpCrop out"), ablation.installed():  # noqa: PT012
        one_pass(ablation, at(0))
        one_pass(ablation, cropped)
    with pytest.raises(ValueError, match="Leave CmpCrop out"), ablation.installed():  # noqa: PT012
        one_pass(ablation, at(0))
        one_pass(ablation, at(1), width=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="cannot work under gradient checkpointing"), ablation.installed():
        pass
    warnings.simplefilter("ignore")
    model.gradient_checkpointing_disable()
    model.eval()
    with pytest.raises(ValueError, match=r"call model.train\(\) first"), ablation.installed():
        pass
    for config in (dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), dict()):
        kwargs = config or dict(attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0, classifier_dropout=0.1)
        silent = tiny_models.bert_config(vocab_size=64, **kwargs)
        bert = tiny_models.random_model(type(model), silent)
        drop = NativeDrop() if config else NativeDrop(layers=[0])
        with pytest.raises(ValueError, match="has none with a rate above 0 in the chosen layers"):
            drop.hooks(bert, default_probe(bert))


def test_through_the_scorer(tiny_model: CrossEncoder) -> None:
    """One pass over the whole batch for each step works; chunks and crops are refused."""
    tiny_model.train()
    pairs = list(zip(tiny_models.QUERIES, tiny_models.PASSAGES, strict=True))
    plan = Plan([NATIVE])
    examples = tokenise(tiny_model, pairs, plan)
    views = [plan.views(e) for e in examples]
    scores = Scorer(CrossEncoderAdapter(), [NATIVE], strategy="naive")(tiny_model, examples, views)
    assert scores.shape == (4, 3, 1)
    assert (scores.diff(dim=1).abs() > 1e-5).all()
    scores.sum().backward()  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="or use CmpDrop"):
        Scorer(CrossEncoderAdapter(), [NATIVE], strategy="stacked")(tiny_model, examples, views)
    plan = Plan([CmpCrop(), NativeDrop()])
    examples = tokenise(tiny_model, pairs, plan)
    with pytest.raises(ValueError, match="Leave CmpCrop out"):
        Scorer(CrossEncoderAdapter(), plan.on_model, strategy="naive")(
            tiny_model, examples, [plan.views(e) for e in examples]
        )
