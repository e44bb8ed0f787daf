"""CmpDrop on every encoder family: sites, own noise, nesting, and invariance to where a row stands."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import tiny_models
import torch
from drop_rows import ablated, batch, example, head, score, zeros
from torch import Tensor, nn

from cmp_rerank.ablations.drop import CmpDrop, DropHooks
from cmp_rerank.hooks.dropout import dropout_disabled

FAMILIES = tiny_models.families()
DECODERS = ("Qwen2", "Qwen3", "Gemma3")

# The writers of the first layer, by the names that their authors gave them: the oracle of a rule without names.
BERT_LIKE = ("attention.output.dense", "output.dense")
LLAMA_LIKE = ("self_attn.o_proj", "mlp.down_proj")
WRITERS = {
    **dict.fromkeys(("BERT", "RoBERTa", "XLM-R", "ELECTRA", "DeBERTa-v2", "DeBERTa-v3"), BERT_LIKE),
    **dict.fromkeys(("BigBird", "Longformer"), BERT_LIKE),
    **dict.fromkeys(("NomicBERT", "EuroBERT", "GTE", *DECODERS), LLAMA_LIKE),
    **dict.fromkeys(("T5", "T5 encoder"), ("layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo")),
    "BART": ("self_attn.out_proj", "fc2"),
    "MPNet": ("attention.attn.o", "output.dense"),
    "DistilBERT": ("attention.out_lin", "ffn.lin2"),
    "ALBERT": ("albert_layers.0.attention.dense", "albert_layers.0.ffn_output"),
    "ModernBERT": ("attn.Wo", "mlp.Wo"),
    "Jina-v3": ("self_attn.o_proj", "mlp.fc2"),
}

family = pytest.mark.parametrize("name", FAMILIES)


@cache
def made(name: str) -> nn.Module:
    return FAMILIES[name]()


def model_of(name: str) -> nn.Module:
    return copy.deepcopy(made(name))


@cache
def ablation_of(name: str, drop: CmpDrop | None = None) -> DropHooks:
    return DropHooks(made(name), drop or CmpDrop(p=0.2, steps=2))


EXAMPLES = [example(n, seed=n) for n in (13, 9, 17)]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@family
def test_sites(name: str) -> None:
    ablation = ablation_of(name)
    assert len(ablation.sites) == 6
    assert [site.layer for site in ablation.sites] == [0, 0, 1, 1, 2, 2]
    assert [site.number for site in ablation.sites] == [0, 1, 2, 3, 4, 5]
    for site in ablation.sites:
        assert (
            site.name == f"{ablation.stack}.{0 if name == 'ALBERT' else site.layer}.{WRITERS[name][site.number % 2]}"
        )
        assert dict(made(name).named_modules())[site.name] is site.module
        assert site.units == 32
    assert [site.call for site in ablation.sites] == ([0, 0, 1, 1, 2, 2] if name == "ALBERT" else [0] * 6)
    heads = ablation_of(name, CmpDrop(unit="head"))
    assert [site.name for site in heads.sites] == [site.name for site in ablation.sites[::2]]
    assert {site.units for site in heads.sites} == {4}
    top = ablation_of(name, CmpDrop(p=0.2, layers="top:1"))
    assert [(site.layer, site.number) for site in top.sites] == [(2, 4), (2, 5)]


@family
def test_masks_are_nested_and_have_their_rate(name: str) -> None:
    ablation = ablation_of(name)
    rows = [row.at(depth) for row in EXAMPLES for depth in (0, 1, 2)]
    seen = zeros(ablation, rows)
    assert len(seen) == 6
    for site in seen:
        for full, first, second in zip(site[::3], site[1::3], site[2::3], strict=True):
            assert not full.any()  # the canary of "zero means dropped"
            assert (second | ~first).all()
            assert (second & ~first).any()
    first, second = (torch.cat([mask for site in seen for mask in site[k::3]]).float() for k in (1, 2))
    for mask, rate in ((first, 0.2), (second, 0.36)):
        deviation = (rate * (1 - rate) / mask.numel()) ** 0.5
        assert abs(mask.mean().item() - rate) < 4 * deviation
    # sites differ, layers that share one module too
    for i, a in enumerate(seen):
        for b in seen[:i]:
            both = (torch.cat(a[1::3]) & torch.cat(b[1::3])).float()
            assert abs(both.mean().item() - 0.04) < 5 * (0.04 * 0.96 / both.numel()) ** 0.5


@family
@pytest.mark.parametrize("unit", ["head", "layer"])
def test_heads_and_layers_are_dropped_whole_and_nested(name: str, unit: Any) -> None:
    ablation = ablation_of(name, CmpDrop(p=0.5, unit=unit))
    rows = [example(7, seed).at(depth) for seed in range(8) for depth in (0, 1, 2)]
    seen = zeros(ablation, rows)
    groups = 4 if unit == "head" else 1
    counts = torch.zeros(3)
    for site in seen:
        for i, mask in enumerate(site):
            by_unit = mask.unflatten(1, (groups, -1))  # (T, units, size)
            assert bool((by_unit == by_unit[:1, :, :1]).all())  # all tokens, all neurons alike
            counts[i % 3] += by_unit[0, :, 0].sum()
        for first, second in zip(site[1::3], site[2::3], strict=True):
            assert (second | ~first).all()
    drawn = len(seen) * 8 * groups
    assert counts[0] == 0
    for k, rate in ((1, 0.5), (2, 0.75)):
        independent = drawn if unit == "head" else drawn // 2  # both writers of a layer go together
        assert abs(counts[k].item() / drawn - rate) < 4 * (rate * (1 - rate) / independent) ** 0.5
    if unit == "layer":
        assert all(torch.equal(a[1], b[1]) for a, b in zip(seen[::2], seen[1::2], strict=True))
    scores = score(ablation, rows)
    assert (scores[0::3] - scores[1::3]).abs().max() > 1e-3
    close(score(ablation, rows, width=30, chunk=5), scores)


@family
def test_a_score_does_not_depend_on_where_its_row_stands(name: str) -> None:
    """Re-padded, alone, in another order, stacked with its other steps, in chunks: the same score."""
    ablation = ablation_of(name)
    rows = [row.at(depth) for row in EXAMPLES for depth in (0, 1, 2)]
    with torch.no_grad():
        alone = torch.cat([score(ablation, [row]) for row in rows])
        # the canary: steps and examples do differ
        assert (alone.reshape(3, 3).diff(dim=1).abs().amax(dim=1) > 1e-3).all()
        sides = (False, True) if name in DECODERS else (False,)
        for left in sides:
            close(score(ablation, rows, left=left), alone)
            close(score(ablation, rows, width=33, left=left), alone)
            close(score(ablation, rows, width=24, left=left, chunk=2), alone)
            close(score(ablation, rows[::-1], left=left, chunk=4), alone.flip(0))


@family
def test_masks_of_a_crop_are_those_of_its_tokens(name: str) -> None:
    ablation = ablation_of(name)
    keep = [0, 3, 4, 7, 8, 9, 12]
    full = EXAMPLES[0].at(1)
    rows = [full, full.cropped(keep), full.cropped(keep).at(2), EXAMPLES[2].at(2)]
    left = name in DECODERS
    for whole, cropped, deeper, _ in zeros(ablation, rows, left):
        assert torch.equal(whole[keep], cropped)
        assert (deeper | ~cropped).all()


@cache
def draws_by_itself(name: str) -> bool:
    """Whether a pass without dropout draws random numbers: BART does in older transformers, for LayerDrop at 0."""
    model, state = model_of(name).train(), torch.get_rng_state()
    with torch.random.fork_rng(devices=[]), dropout_disabled(model):
        head(model, batch(EXAMPLES)[0])
        return not torch.equal(state, torch.get_rng_state())


@family
def test_own_dropout_is_disabled(name: str) -> None:
    model = model_of(name)
    inputs, _ = batch(EXAMPLES)
    torch.manual_seed(1)
    with torch.no_grad():
        assert not torch.equal(head(model, inputs), head(model, inputs)), "the canary: no own noise in training mode"
        plain = head(model.eval(), inputs)
        model.train()
        ablation = DropHooks(model, CmpDrop(p=0.2))
        state = torch.get_rng_state()
        full = score(ablation, EXAMPLES)
        first, again = (score(ablation, [row.at(1) for row in EXAMPLES]) for _ in range(2))
    close(full, plain)
    assert torch.equal(first, again)
    assert not torch.allclose(first, full, atol=1e-3)
    assert draws_by_itself(name) or torch.equal(state, torch.get_rng_state())


def picture(model: nn.Module) -> dict[str, Any]:
    """All that an ablation could leave changed: hooks, flags, rates, submodules, configurations, parameters."""
    seen: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules") or key.endswith("_hooks") or "hooks_" in key:
                seen[f"{name}.{key}"] = [(k, id(v)) for k, v in value.items()] if isinstance(value, dict) else value
            elif isinstance(value, (bool, int, float, str, type(None))):
                seen[f"{name}.{key}"] = value
            else:
                seen[f"{name}.{key}"] = id(value)
        config = vars(module).get("config")
        if config is not None:
            seen[f"{name}.config"] = repr(sorted((k, repr(v)) for k, v in vars(config).items()))
    return seen


@family
@pytest.mark.parametrize("raises", [False, True])
def test_the_model_is_left_as_it_was(name: str, raises: bool) -> None:
    model = model_of(name)
    list(model.modules())[-1].eval()  # flags may differ between modules
    before, state = picture(model), torch.get_rng_state()
    assert any("drop" in key and value == 0.1 for key, value in before.items() if isinstance(value, float)) or any(
        isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()
    )
    for drop in (CmpDrop(), CmpDrop(site="layer"), CmpDrop(unit="head")):
        ablation = DropHooks(model, drop)
        assert picture(model) == before
        rows = [EXAMPLES[0].at(1)]
        inputs, positions = batch(rows)
        if raises:
            inputs["input_ids"] = inputs["input_ids"] + 10_000
            with pytest.raises(IndexError), ablation.installed(), ablated(ablation, rows, positions):  # noqa: PT012
                assert picture(model) != before
                head(model, inputs)
        else:
            score(ablation, rows).backward()  # type: ignore[no-untyped-call]
        assert picture(model) == before
    assert draws_by_itself(name) or torch.equal(state, torch.get_rng_state())


def gradients(model: nn.Module, ablation: DropHooks) -> dict[str, Tensor]:
    """Two chunks with different rows are alive before the one backward pass."""
    rows = [row.at(depth) for row in EXAMPLES for depth in (0, 1, 2)]
    model.zero_grad()
    weights = torch.linspace(-1, 1.5, len(rows))
    (score(ablation, rows, chunk=4) * weights).sum().backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@family
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(name: str, reentrant: bool) -> None:
    model: Any = model_of(name)
    if not model.supports_gradient_checkpointing:
        pytest.skip("the family has no gradient checkpointing")
    for drop in (CmpDrop(p=0.2), CmpDrop(p=0.2, site="layer"), CmpDrop(p=0.3, unit="head", layers=[0, 2])):
        ablation = DropHooks(model, drop)
        plain = gradients(model, ablation)
        assert max(g.abs().max() for g in plain.values()) > 1e-3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        if reentrant and name == "DeBERTa-v3":
            # all layers share the graph of its normalised relative embeddings, which the first of them frees
            with pytest.raises(RuntimeError, match="backward through the graph a second time"):
                head(model, batch(EXAMPLES)[0]).sum().backward()
            pytest.skip("re-entrant checkpointing of this family fails without CmpDrop too")
        runs = 0

        def count(*_: Any) -> None:
            nonlocal runs
            runs += 1

        watched = ablation.sites[0].module.register_forward_hook(count)
        before = picture(model)
        checkpointed = gradients(model, ablation)
        after = picture(model)
        watched.remove()
        warnings.simplefilter("ignore")
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
        calls = 3 * (3 if name == "ALBERT" else 1)  # three chunks
        inside = drop.site != "layer"  # hooks of a layer itself may stand outside of what is recomputed
        assert runs == 2 * calls or not inside, "the canary: nothing was recomputed"
        assert before == after
        assert plain.keys() == checkpointed.keys()
        for key, gradient in plain.items():
            torch.testing.assert_close(checkpointed[key], gradient, rtol=1e-4, atol=1e-6, msg=f"{key}, {drop}")
