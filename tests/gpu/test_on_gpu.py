"""The engine on a GPU: equal to the CPU, in half precision, with its attention kernels, and short of memory.

Run by themselves: `python -m pytest tests/gpu -m gpu`. Without CUDA all are skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES, bert_config, byte_bpe, cross_encoder, modernbert_config, wordpiece
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Qwen3Config, RobertaConfig

from cmp_rerank.ablations import CmpCrop, CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.losses import ComparativeLoss
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.models.pairs import tokenise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]

SIZES: dict[str, Any] = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128)
STRATEGIES = ("naive", "stacked", "hybrid", "trunk", "auto")


def wider(config: Any) -> Any:
    return lambda **kwargs: config(**(SIZES | kwargs))


def roberta(**kwargs: Any) -> Any:
    return RobertaConfig(**(SIZES | dict(max_position_embeddings=160) | kwargs))


def qwen3(**kwargs: Any) -> Any:
    return Qwen3Config(**(SIZES | dict(head_dim=16, num_key_value_heads=2) | kwargs))


ENCODERS = {
    "bert": (wider(bert_config), wordpiece),
    "roberta": (roberta, byte_bpe),
    "modernbert": (wider(modernbert_config), wordpiece),
    "qwen3": (qwen3, byte_bpe),
}
PLAN = Plan([CmpCrop(), CmpDrop(p=0.3, layers="top:1", steps=2)])


@pytest.fixture(scope="module", autouse=True)
def _exact_products() -> Any:
    """Matrix products in full float32, so that a GPU can be compared with a CPU."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, (config, tokenizer) in ENCODERS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        cross_encoder(tmp_path_factory.mktemp(f"{name}-made"), config, tokenizer).save_pretrained(str(folders[name]))
    return folders


def on(checkpoint: Path, device: str) -> CrossEncoder:
    return CrossEncoder(str(checkpoint), device=device)


def gradients(model: CrossEncoder) -> torch.Tensor:
    found = torch.cat([p.grad.flatten().double().cpu() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    assert found.abs().max() > 1e-8, "nothing is compared"
    return found


def run(model: CrossEncoder, *, autocast: torch.dtype | None = None, **options: Any) -> tuple[Any, torch.Tensor]:
    """Scores of all views, and the gradients of a weighted sum of them."""
    model.train()
    pairs = [*zip(QUERIES, PASSAGES, strict=True), *zip(QUERIES, OTHERS, strict=True)]
    batch = tokenise(model, pairs, PLAN)
    scorer = Scorer(CrossEncoderAdapter(), PLAN.on_model, **options)
    with torch.autocast("cuda", autocast or torch.bfloat16, enabled=autocast is not None):
        scores = scorer(model, batch, [PLAN.views(example) for example in batch])
    weights = torch.linspace(-1, 2, scores.numel(), device=scores.device).reshape(scores.shape)
    (weights * scores.float()).sum().backward()
    return scores.detach().float().cpu(), gradients(model)


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("unpadded", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ENCODERS)
def test_float32_equals_the_cpu(name: str, strategy: str, unpadded: bool, checkpoints: dict[str, Path]) -> None:
    scores, found = run(on(checkpoints[name], "cpu"), strategy="naive")
    gpu_scores, gpu_found = run(on(checkpoints[name], "cuda"), strategy=strategy, unpadded=unpadded)
    assert (scores[:, 1:] - scores[:, :-1]).abs().max() > 1e-3, "the steps do not differ"
    assert far(gpu_scores, scores) < 1e-4
    assert far(gpu_found, found) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("unpadded", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_half_precision_is_near(
    strategy: str, unpadded: bool, dtype: torch.dtype, checkpoints: dict[str, Path]
) -> None:
    scores, found = run(on(checkpoints["bert"], "cpu"), strategy="naive")
    half_scores, half_found = run(
        on(checkpoints["bert"], "cuda"), strategy=strategy, unpadded=unpadded, autocast=dtype
    )
    assert torch.isfinite(half_scores).all()
    assert torch.isfinite(half_found).all()
    assert 0 < far(half_scores, scores) < 0.05
    cosine = torch.nn.functional.cosine_similarity(half_found, found, dim=0)
    assert cosine > 0.99


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fp16_with_a_scaler_trains(strategy: str, checkpointing: bool, checkpoints: dict[str, Path]) -> None:
    """The gradients of a scaled loss are scaled ones, also through rows that are recomputed."""
    found = []
    for scale in (1.0, 1024.0):
        model = on(checkpoints["bert"], "cuda")
        model.train()
        if checkpointing:
            encoder = model[0].model if hasattr(model, "__getitem__") else model.model
            encoder.gradient_checkpointing_enable(dict(use_reentrant=False))
        loss = ComparativeLoss(
            model,
            upstream.BinaryCrossEntropyLoss(model),
            [CmpCrop(), CmpDrop(0.3, layers="top:1")],
            strategy=strategy,
        )
        with torch.autocast("cuda", torch.float16):
            value = loss([QUERIES, PASSAGES], torch.tensor([1.0, 0.0, 1.0, 0.0], device="cuda"))
        (value * scale).backward()
        found.append(gradients(model) / scale)
    assert far(found[1], found[0]) < 0.02


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION])
def test_fused_attention_is_in_use_while_neurons_are_dropped(backend: Any, checkpoints: dict[str, Path]) -> None:
    """With one kernel allowed, a pass that needs another one would fail."""
    model = on(checkpoints["bert"], "cuda").half()
    model.train()
    batch = tokenise(model, list(zip(QUERIES, PASSAGES, strict=True)), PLAN)
    flash = backend is SDPBackend.FLASH_ATTENTION
    scorer = Scorer(CrossEncoderAdapter(), PLAN.on_model, strategy="stacked", unpadded=flash, tokens_per_chunk=10**6)
    scorer(model, batch, [PLAN.views(example) for example in batch])  # what is tried once may use any kernel
    with sdpa_kernel(backend):
        scores = scorer(model, batch, [PLAN.views(example) for example in batch])
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("strategy", ["hybrid", "trunk", "auto"])
def test_out_of_memory_is_survived(strategy: Any, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """With less memory than the batch needs, a training takes smaller chunks, and ends with the same weights."""
    from cmp_rerank.training import RerankerTrainer, RerankerTrainingArguments

    data = datasets.Dataset.from_dict(
        {"query": QUERIES * 128, "passage": [" ".join(PASSAGES * 2)] * 512, "label": [1.0, 0.0] * 256}
    )
    weights, peaks = [], []
    for limited in (False, True):
        model = on(checkpoints["bert"], "cuda")
        loss = ComparativeLoss(
            model,
            upstream.BinaryCrossEntropyLoss(model),
            [CmpDrop(p=0.3, layers="top:1", steps=2)],
            strategy=strategy,
            tokens_per_chunk=10**7,
            activation_bytes=10**12 if strategy == "auto" else None,
        )
        arguments = RerankerTrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=512, max_steps=2, report_to="none", seed=1,
            save_strategy="no", disable_tqdm=True, learning_rate=0.1, optim="sgd",
        )  # fmt: skip
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        if limited:
            room = held + int(0.4 * (peaks[0] - held))
            torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
        try:
            RerankerTrainer(model=model, args=arguments, train_dataset=data, loss=loss).train()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        peaks.append(torch.cuda.max_memory_allocated())
        weights.append(torch.cat([p.detach().flatten().double().cpu() for p in model.parameters()]))
        assert (loss.scorer.budget.of(torch.device("cuda")) < 10**7) == limited, "no chunk was halved"
    assert peaks[1] < 0.5 * peaks[0]
    assert far(weights[1], weights[0]) < 1e-4


def test_a_training_is_the_same_twice(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Masks derive from the seed on a GPU, too; another seed gives other ones."""
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = on(checkpoints["bert"], "cuda")
        model.train()
        loss = ComparativeLoss(model, upstream.BinaryCrossEntropyLoss(model), [CmpDrop(p=0.3, steps=2)], seed=seed)
        loss([QUERIES, PASSAGES], torch.tensor([1.0, 0.0, 1.0, 0.0], device="cuda")).backward()
        found.append(gradients(model))
    assert far(found[1], found[0]) < 1e-5
    assert far(found[2], found[0]) > 1e-2
