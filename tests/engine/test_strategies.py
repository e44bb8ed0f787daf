"""Every strategy gives the loss and the gradients of the obvious one, for every kind of encoder and loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import (
    OTHERS,
    PASSAGES,
    QUERIES,
    bart_config,
    bert_config,
    byte_bpe,
    cross_encoder,
    modernbert_config,
    t5_config,
    wordpiece,
)

from cmp_rerank.ablations import CmpCrop, CmpDrop, Example, Plan, View
from cmp_rerank.engine import Scorer
from cmp_rerank.losses import ComparativeLoss
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

ADAPTER = CrossEncoderAdapter()

SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)


def roberta(**kwargs: Any) -> transformers.PretrainedConfig:
    return transformers.RobertaConfig(**(SIZES | dict(max_position_embeddings=160) | kwargs))


def distilbert(**kwargs: Any) -> transformers.PretrainedConfig:
    return transformers.DistilBertConfig(**(dict(dim=32, n_layers=3, n_heads=4, hidden_dim=64) | kwargs))


def modernbert_mean(**kwargs: Any) -> transformers.PretrainedConfig:
    return modernbert_config(classifier_pooling="mean", **kwargs)


def deberta(**kwargs: Any) -> transformers.PretrainedConfig:
    relative = dict(
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16, norm_rel_ebd="layer_norm"
    )
    return transformers.DebertaV2Config(
        **(SIZES | dict(max_position_embeddings=160, share_att_key=True) | relative | kwargs)
    )


def qwen3(**kwargs: Any) -> transformers.PretrainedConfig:
    return transformers.Qwen3Config(**(SIZES | dict(head_dim=8, num_key_value_heads=2) | kwargs))


ENCODERS = {
    "bert": (bert_config, wordpiece),
    "roberta": (roberta, byte_bpe),
    "distilbert": (distilbert, wordpiece),
    "modernbert": (modernbert_config, wordpiece),
    "modernbert-mean": (modernbert_mean, wordpiece),  # pools over the attention mask
    "deberta-v2": (deberta, wordpiece),  # relative positions
    "t5": (t5_config, byte_bpe),  # relative positions, a decoder behind the encoder; counts end-of-text tokens
    "bart": (bart_config, byte_bpe),  # a decoder behind the encoder; counts end-of-text tokens
    "qwen3": (qwen3, byte_bpe),  # a decoder: pools at the last token, keeps keys and values
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CrossEncoder]:
    """Models in float64: there, differences between strategies are rounding far below any real mistake."""
    models = {}
    for name, (config, tokenizer) in ENCODERS.items():
        models[name] = cross_encoder(tmp_path_factory.mktemp(name), config, tokenizer).double()
    return models


def gradients(model: CrossEncoder) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    assert found
    return found


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every gradient agrees, relative to the largest of all: some are rounding themselves (key biases)."""
    assert one.keys() == other.keys()
    scale = max(float(g.abs().max()) for g in one.values())
    assert scale > 1e-8, "nothing is compared: all gradients are zero"
    worst = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert worst <= tolerance * scale, f"gradients differ by {worst / scale:.2g} of the largest"


def examples(model: CrossEncoder, plan: Plan, draw: str = "0") -> list[Example]:
    pairs = [*zip(QUERIES, PASSAGES, strict=True), *zip(QUERIES, OTHERS, strict=True)]
    return tokenise(model, pairs, plan, draw=draw)


def run(model: CrossEncoder, plan: Plan, coefficients: torch.Tensor | None = None, **options: Any) -> Any:
    """Scores of all views, and the gradients of their weighted sum."""
    model.train()
    batch = examples(model, plan)
    scores = Scorer(ADAPTER, plan.on_model, **options)(model, batch, [plan.views(e) for e in batch])
    if coefficients is None:
        coefficients = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).reshape(scores.shape)
    (coefficients * scores).sum().backward()
    return scores.detach(), gradients(model)


def checkpoint_activations(model: CrossEncoder) -> None:
    """Gradient checkpointing, by the name that this version of transformers has for it."""
    encoder = model[0].model
    enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
    enable(dict(use_reentrant=False))


PLAN = Plan([CmpCrop(), CmpDrop(p=0.3, layers="top:1", steps=2)])


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", ENCODERS)
def test_all_strategies_agree(name: str, checkpointing: bool, encoders: dict[str, CrossEncoder]) -> None:
    model = encoders[name]
    # The norms of some compute in float32, whatever the precision of the model.
    tolerance = 1e-6 if name in ("qwen3", "t5") else 1e-9
    expected_scores, expected = run(model, PLAN, strategy="naive")
    # The steps differ, so that a mixed-up row would show.
    assert (expected_scores[:, 1:] - expected_scores[:, :-1]).abs().max() > 1e-3
    if checkpointing:
        checkpoint_activations(model)
    try:
        for strategy in ("stacked", "hybrid", "trunk", "auto"):
            scores, found = run(model, PLAN, strategy=strategy, tokens_per_chunk=200)
            assert torch.allclose(scores, expected_scores, rtol=tolerance, atol=tolerance), strategy
            close(expected, found, tolerance)
    finally:
        if checkpointing:
            model[0].model._set_gradient_checkpointing(enable=False)


@pytest.mark.parametrize("strategy", ["stacked", "hybrid", "trunk"])
@pytest.mark.parametrize("tokens", [1, 64, 150, 400, 10**6])
def test_chunks_from_one_row_to_all(strategy: str, tokens: int, encoders: dict[str, CrossEncoder]) -> None:
    model = encoders["bert"]
    expected_scores, expected = run(model, PLAN, strategy="naive")
    scores, found = run(model, PLAN, strategy=strategy, tokens_per_chunk=tokens)
    assert torch.allclose(scores, expected_scores, rtol=1e-9, atol=1e-9)
    close(expected, found, 1e-9)


@pytest.mark.parametrize("strategy", ["stacked", "hybrid", "trunk"])
def test_single_precision(strategy: str, tiny_model: CrossEncoder) -> None:
    _, expected = run(tiny_model, PLAN, strategy="naive")
    _, found = run(tiny_model, PLAN, strategy=strategy, tokens_per_chunk=200)
    close(expected, found, 1e-6)


@pytest.mark.parametrize("strategy", ["stacked", "hybrid", "trunk"])
def test_bfloat16_within_its_rounding(strategy: str, tiny_model: CrossEncoder) -> None:
    tiny_model.float()
    _, exact = run(tiny_model, PLAN, strategy="naive")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, expected = run(tiny_model, PLAN, strategy="naive")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, found = run(tiny_model, PLAN, strategy=strategy, tokens_per_chunk=200)

    def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
        gap = sum(float((one[n] - other[n]).square().sum()) for n in one)
        return (gap / sum(float(one[n].square().sum()) for n in one)) ** 0.5

    rounding = distance(exact, expected)
    assert 1e-4 < rounding < 0.5  # it really ran in bfloat16
    assert distance(exact, found) < 2 * rounding
    assert distance(expected, found) < 2 * rounding


def test_the_second_pass_has_the_precision_of_the_first(tiny_model: CrossEncoder) -> None:
    """The backward pass is outside of the autocast context: the rows that run again must enter it anew."""
    seen: list[torch.dtype] = []
    linear = tiny_model[0].model.bert.encoder.layer[0].attention.self.query
    hook = linear.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    tiny_model.train()
    batch = examples(tiny_model, PLAN)
    scorer = Scorer(ADAPTER, PLAN.on_model, strategy="hybrid")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scorer(tiny_model, batch, [PLAN.views(e) for e in batch])
    forward = len(seen)
    scores.sum().backward()
    hook.remove()
    assert len(seen) > forward
    assert set(seen) == {torch.bfloat16}


LOSSES: dict[str, Any] = {
    "bce": upstream.BinaryCrossEntropyLoss,
    "mse": upstream.MSELoss,
    "margin-mse": upstream.MarginMSELoss,
    "mnrl": lambda m: upstream.MultipleNegativesRankingLoss(m, num_negatives=2),
    "cached-mnrl": lambda m: upstream.CachedMultipleNegativesRankingLoss(m, num_negatives=2, mini_batch_size=2),
    "listnet": upstream.ListNetLoss,
    "listmle": upstream.ListMLELoss,
    "plistmle": upstream.PListMLELoss,
    "lambda": upstream.LambdaLoss,
    "ranknet": upstream.RankNetLoss,
    "adrmse": upstream.ADRMSELoss,
}
LISTS = [[a, b, c] for a, b, c in zip(PASSAGES, OTHERS, reversed(QUERIES), strict=True)]
INPUTS: dict[str, Any] = {
    "bce": ([QUERIES, PASSAGES], torch.tensor([1.0, 0.0, 1.0, 0.0])),
    "mse": ([QUERIES, PASSAGES], torch.tensor([0.9, -0.2, 2.0, 0.1])),
    "margin-mse": ([QUERIES, PASSAGES, OTHERS], torch.tensor([0.5, 1.5, -0.3, 2.0])),
    "mnrl": ([QUERIES, PASSAGES, OTHERS], None),
    "cached-mnrl": ([QUERIES, PASSAGES, OTHERS], None),
}
GRADES = [torch.tensor([2.0, 0.0, 1.0])] * 4


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_the_same_gradients_by_every_strategy(loss: str, encoders: dict[str, CrossEncoder]) -> None:
    model = encoders["bert"].train()
    columns, labels = INPUTS.get(loss, ([QUERIES, LISTS], GRADES))
    values, found = [], []
    for strategy in ("naive", "stacked", "hybrid", "trunk"):
        torch.manual_seed(3)  # random negatives
        comparative = ComparativeLoss(
            model, LOSSES[loss](model), list(PLAN.ablations), strategy=strategy, tokens_per_chunk=150
        )
        value = comparative(columns, labels)
        value.backward()
        values.append(float(value.detach()))
        found.append(gradients(model))
    assert values[1:] == pytest.approx([values[0]] * 3, rel=1e-9)
    for other in found[1:]:
        close(found[0], other, 1e-9)


def test_cross_entropy(tmp_path: Path) -> None:
    model = cross_encoder(tmp_path, num_labels=3).double().train()
    found = []
    for strategy in ("naive", "stacked", "hybrid", "trunk"):
        loss = ComparativeLoss(model, upstream.CrossEntropyLoss(model), list(PLAN.ablations), strategy=strategy)
        loss([QUERIES, PASSAGES], torch.tensor([0, 2, 1, 2])).backward()
        found.append(gradients(model))
    for other in found[1:]:
        close(found[0], other, 1e-9)


# What each strategy promises beyond that -----------------------------------------------------------------------


def passes_of(model: CrossEncoder, module: torch.nn.Module) -> list[tuple[int, bool]]:
    """Notes (rows, with a graph) of every pass through a module from now on."""
    seen: list[tuple[int, bool]] = []
    module.register_forward_hook(
        lambda _, args, out: seen.append(
            ((out[0] if isinstance(out, tuple) else out).shape[0], torch.is_grad_enabled())
        )
    )
    return seen


def test_hybrid_runs_again_only_the_rows_with_weight(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    plan = Plan([CmpDrop(p=0.3)])
    batch = examples(tiny_model, plan)
    seen = passes_of(tiny_model, tiny_model[0].model.classifier)
    scorer = Scorer(ADAPTER, plan.on_model, strategy="hybrid", tokens_per_chunk=10**6)
    views = [plan.views(e) for e in batch]
    scorer(tiny_model, batch[:1], views[:1])  # finds the sites, once
    seen.clear()
    scores = scorer(tiny_model, batch, views)
    assert sorted(seen) == [(8, False), (8, True)]  # the ablated rows without, the full ones with a graph
    seen.clear()
    coefficients = torch.ones(8, 2, 1)
    coefficients[[1, 4, 6], 1] = 0.0
    (coefficients * scores).sum().backward()
    assert seen == [(5, True)]
    expected = gradients(tiny_model)
    close(run(tiny_model, plan, coefficients, strategy="naive")[1], expected, 1e-6)
    # No row with weight: no second pass at all.
    scores = scorer(tiny_model, batch, views)
    seen.clear()
    scores[:, 0].sum().backward()
    assert seen == []


def test_hybrid_holds_the_activations_of_the_full_rows_only(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    plan = Plan([CmpDrop(p=0.3, steps=3)])
    batch = examples(tiny_model, plan)

    def saved(strategy: Any, views: int) -> int:
        storages: dict[int, int] = {}

        def note(x: torch.Tensor) -> torch.Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        scorer = Scorer(ADAPTER, plan.on_model, strategy=strategy)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            kept = scorer(tiny_model, batch, [plan.views(e)[:views] for e in batch])
        assert kept.requires_grad
        own = {p.untyped_storage().data_ptr() for p in tiny_model.parameters()}
        return sum(size for pointer, size in storages.items() if pointer not in own)

    full = saved("stacked", 1)
    assert saved("stacked", 4) > 3 * full
    assert saved("hybrid", 4) < 1.1 * full


def test_hybrid_lets_kept_graphs_go_before_rows_run_again(tiny_model: CrossEncoder) -> None:
    """Together they would be the memory of two: backward, the kept graph must be over when a second pass begins."""
    tiny_model.train()
    plan = Plan([CmpDrop(p=0.3)])
    batch = examples(tiny_model, plan)
    events: list[str] = []
    embeddings = tiny_model[0].model.bert.embeddings
    embeddings.register_forward_hook(lambda *_: events.append("forward" if torch.is_grad_enabled() else "no graph"))
    scorer = Scorer(ADAPTER, plan.on_model, strategy="hybrid", tokens_per_chunk=10**6)
    views = [plan.views(e) for e in batch]
    scorer(tiny_model, batch, views)  # finds the sites, once

    def note(_: Any, __: Any, out: torch.Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda _: events.append("backward"))

    embeddings.register_forward_hook(note)
    events.clear()
    scores = scorer(tiny_model, batch, views)
    assert "no graph" in events
    first = events.index("forward")
    assert events[:first] == ["no graph"] * first
    kept = len(events) - first
    events.clear()
    scores.sum().backward()
    assert events[:kept] == ["backward"] * kept
    assert events[kept:] == ["forward", "backward"] * ((len(events) - kept) // 2)
    assert len(events) > kept


@pytest.mark.parametrize("strategy", ["stacked", "trunk", "auto"])
def test_reentrant_checkpoints(strategy: str, tiny_model: CrossEncoder) -> None:
    """They cannot run inside of a backward pass: hybrid says so, the others do not need it."""
    tiny_model.double().train()
    _, expected = run(tiny_model, PLAN, strategy="naive")
    # What is checkpointed in this way must be given something that has a gradient.
    tiny_model[0].model.bert.embeddings.register_forward_hook(lambda _, __, out: out.requires_grad_())
    encoder = tiny_model[0].model
    enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
    enable(dict(use_reentrant=True))
    _, found = run(tiny_model, PLAN, strategy=strategy)
    close(expected, found, 1e-9)
    with pytest.raises(ValueError, match=r'strategy="hybrid" runs rows again .*"use_reentrant": False'):
        run(tiny_model, PLAN, strategy="hybrid")
    recomputing = Scorer(ADAPTER, PLAN.on_model, strategy="stacked")
    recomputing.budget.recompute_activations = True
    batch = examples(tiny_model, PLAN)
    with pytest.raises(ValueError, match="recomputing activations after memory ran out runs rows again"):
        recomputing(tiny_model, batch, [PLAN.views(e) for e in batch])
    with torch.no_grad():  # nothing is run again
        Scorer(ADAPTER, PLAN.on_model, strategy="hybrid")(tiny_model, batch, [PLAN.views(e) for e in batch])


def test_trunk_runs_the_lower_layers_once_for_each_selection(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    batch = examples(tiny_model, PLAN)
    views = [PLAN.views(e) for e in batch]
    selections = sum(len({tuple(v.tokens) for v in steps}) for steps in views)
    distinct = sum(len({(tuple(v.tokens), v.level(0)) for v in steps}) for steps in views)
    assert selections < distinct
    layers = tiny_model[0].model.bert.encoder.layer
    scorer = Scorer(ADAPTER, PLAN.on_model, strategy="trunk", tokens_per_chunk=10**6)
    scorer(tiny_model, batch, views)  # checks the model, once
    rows = [passes_of(tiny_model, layer) for layer in layers]
    scorer(tiny_model, batch, views)
    assert [sum(n for n, _ in seen) for seen in rows] == [selections, selections, distinct]


def test_trunk_refuses_with_the_reason(tiny_model: CrossEncoder) -> None:
    plan = Plan([CmpDrop()])
    with pytest.raises(ValueError, match="begins at the first layer"):
        run(tiny_model, plan, strategy="trunk")
    with pytest.raises(ValueError, match="nothing is dropped"):
        run(tiny_model, Plan([CmpCrop()]), strategy="trunk")


@pytest.mark.parametrize("how", ["pools", "mixes"])
def test_trunk_refuses_a_model_whose_layers_look_at_other_rows(how: str, tiny_model: CrossEncoder) -> None:
    """A module between embeddings and head that works on the batch from outside of the layers' arguments."""
    if how == "mixes":

        def batch_norm(_: Any, args: Any, output: Any) -> Any:
            return output - output.mean(dim=0, keepdim=True)

        tiny_model[0].model.bert.encoder.layer[0].register_forward_hook(batch_norm)
    else:
        inputs: list[torch.Tensor] = []
        tiny_model[0].model.bert.embeddings.register_forward_hook(lambda _, __, out: inputs.append(out))
        tiny_model[0].model.bert.encoder.layer[0].register_forward_hook(
            lambda _, __, out: out + inputs[-1].mean(1, True)
        )
    refused = r'strategy="trunk" cannot be used with CrossEncoder: (its scores differ|RuntimeError)'
    with pytest.raises(ValueError, match=refused):
        run(tiny_model, PLAN, strategy="trunk")
    # Left to itself, the scorer goes another way.
    assert Scorer(ADAPTER, PLAN.on_model).strategy == "auto"
    run(tiny_model, PLAN)


def test_nothing_stays_on_the_model(tiny_model: CrossEncoder) -> None:
    def picture() -> list[Any]:
        return [
            (name, m.training, len(m._forward_hooks), len(m._forward_pre_hooks), getattr(m, "p", None))
            for name, m in tiny_model.named_modules()
        ]

    tiny_model.train()
    before = picture()
    for strategy in ("stacked", "hybrid", "trunk", "naive"):
        run(tiny_model, PLAN, strategy=strategy)
        assert picture() == before
    hook = tiny_model[0].model.classifier.register_forward_hook(lambda *_: 1 / 0)
    for strategy in ("stacked", "hybrid", "trunk"):
        with pytest.raises((ZeroDivisionError, ValueError)):
            run(tiny_model, PLAN, strategy=strategy)
    hook.remove()
    assert picture() == before


def test_a_model_whose_modules_are_others_is_examined_again(tiny_model: CrossEncoder) -> None:
    """As by adapters that are put on between two trainings, or merged: units are dropped where they are then."""
    tiny_model.train()
    batch = examples(tiny_model, PLAN)
    views = [PLAN.views(example) for example in batch]
    same = Scorer(ADAPTER, PLAN.on_model)
    plain = same(tiny_model, batch, views)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["dense"], init_lora_weights=False)
    adapted = peft.get_peft_model(tiny_model[0].model, config)
    for changed in (lambda: adapted, adapted.merge_and_unload):
        tiny_model[0].model = changed()
        found = same(tiny_model, batch, views)
        assert not torch.allclose(found, plain, atol=1e-3)
        torch.testing.assert_close(found, Scorer(ADAPTER, PLAN.on_model)(tiny_model, batch, views))


def test_hybrid_with_the_models_own_dropout(tiny_model: CrossEncoder) -> None:
    """Without CmpDrop the model's own dropout runs: the second pass must draw what the first drew."""
    tiny_model.double().train()
    plan = Plan([CmpCrop()])
    batch = examples(tiny_model, plan)
    views = [[steps[-1]] * 2 for steps in map(plan.views, batch)]

    def scored(recompute: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        torch.manual_seed(5)
        scorer = Scorer(ADAPTER, tokens_per_chunk=100)
        scorer.budget.recompute_activations = recompute  # everything is recomputed
        scores = scorer(tiny_model, batch, views)
        torch.rand(1)  # the draws go on in between
        (torch.arange(8.0)[:, None, None] * scores).sum().backward()
        return scores.detach(), gradients(tiny_model), torch.rand(1)

    kept_scores, kept, kept_draw = scored(recompute=False)
    torch.manual_seed(5)
    other = Scorer(ADAPTER, tokens_per_chunk=100)(tiny_model, batch, views).detach()
    assert torch.equal(other, kept_scores)
    assert not torch.equal(
        Scorer(ADAPTER, tokens_per_chunk=100)(tiny_model, batch, views).detach(), other
    )  # it draws
    again_scores, again, again_draw = scored(recompute=True)
    assert torch.equal(again_scores, kept_scores)
    close(kept, again, 1e-9)
    assert torch.equal(kept_draw, again_draw)  # and the draws after it are those that would have come anyway


def test_a_changed_parameter_is_refused(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    plan = Plan([CmpDrop()])
    batch = examples(tiny_model, plan)
    scores = Scorer(ADAPTER, plan.on_model, strategy="hybrid")(tiny_model, batch, [plan.views(e) for e in batch])
    with torch.no_grad():
        tiny_model[0].model.classifier.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        scores[:, 1].sum().backward()


def test_frozen_parameters_and_no_gradients(tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    plan = Plan([CmpDrop(p=0.3)])
    for parameter in tiny_model[0].model.bert.parameters():
        parameter.requires_grad_(False)
    _, expected = run(tiny_model, plan, strategy="naive")
    _, found = run(tiny_model, plan, strategy="hybrid")
    assert set(found) == {"0.model.classifier.weight", "0.model.classifier.bias"}
    close(expected, found, 1e-6)
    batch = examples(tiny_model, plan)
    with torch.no_grad():
        assert not Scorer(ADAPTER, plan.on_model, strategy="hybrid")(
            tiny_model, batch, [plan.views(e) for e in batch]
        ).requires_grad
    for parameter in tiny_model.parameters():
        parameter.requires_grad_(False)
    assert not Scorer(ADAPTER, plan.on_model, strategy="hybrid")(
        tiny_model, batch, [plan.views(e) for e in batch]
    ).requires_grad


def test_equal_views_are_run_once(tiny_model: CrossEncoder) -> None:
    tiny_model.eval()
    seen = passes_of(tiny_model, tiny_model[0].model.classifier)
    example = examples(tiny_model, Plan([]))[0]
    full = example.full()
    scores = Scorer(ADAPTER, strategy="stacked")(tiny_model, [example], [[full, full, View(full.tokens[:-1], (0,))]])
    assert [n for n, _ in seen] == [2]
    assert scores.shape == (1, 3, 1)
    assert torch.equal(scores[0, 0], scores[0, 1])
    assert not torch.equal(scores[0, 0], scores[0, 2])


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"strategy must be one of \('auto', .*got 'fast'"):
        Scorer(ADAPTER, strategy="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tokens_per_chunk must be a whole number, at least 1; got 2\.5"):
        Scorer(ADAPTER, tokens_per_chunk=2.5)  # type: ignore[arg-type]


def test_sharded_parameters_need_equal_numbers_of_passes(
    tiny_model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under FSDP each pass waits for the other processes: here one that needs two passes more."""
    from cmp_rerank.engine import scorer

    monkeypatch.setattr(scorer, "is_sharded", lambda model: True)
    monkeypatch.setattr(scorer, "most_passes", lambda passes, device: passes + 2)
    monkeypatch.setattr(scorer.Budget, "start", lambda self, device: 10**6)  # as few passes as the budget allows
    with pytest.raises(ValueError, match="every pass waits for all processes"):
        run(tiny_model, PLAN, strategy="hybrid")
    _, expected = run(tiny_model, PLAN, strategy="naive")
    seen = passes_of(tiny_model, tiny_model[0].model.classifier)
    plan = Plan([CmpDrop(p=0.3, layers="top:1", steps=2)])
    batch = examples(tiny_model, plan)
    scorer.Scorer(ADAPTER, plan.on_model, strategy="stacked", tokens_per_chunk=10**6)(
        tiny_model, batch, [plan.views(e) for e in batch]
    )
    assert [n for n, _ in seen if n > 3] == [24]
    assert [n for n, _ in seen].count(1) >= 2
    seen.clear()
    _, found = run(tiny_model, PLAN, strategy="stacked", tokens_per_chunk=200)
    close(expected, found, 1e-6)
