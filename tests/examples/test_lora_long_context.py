"""The example of LoRA on an encoder with a long context, with a small ModernBERT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from tiny_models import modernbert_config, save_checkpoint, wordpiece


def test_adapters_end_up_in_an_ordinary_checkpoint(
    beir: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    start = save_checkpoint(tmp_path / "modernbert", modernbert_config(max_position_embeddings=512), wordpiece())
    out = tmp_path / "out"
    printed = run_example(
        "lora_long_context",
        f"beir:{beir}",
        "--model",
        start,
        "--out",
        out,
        "--rank",
        2,
        "--max-length",
        512,
        "--epochs",
        4,
    )
    assert "trainable params" in printed
    assert "tuned" in printed
    before, after = (CrossEncoder(str(path), device="cpu") for path in (start, out / "model"))
    weights, tuned = before[0].model.state_dict(), after[0].model.state_dict()
    assert weights.keys() == tuned.keys()  # nothing of peft is left
    changed = {name for name in weights if not torch.equal(weights[name], tuned[name])}
    assert any("attn.Wqkv" in name for name in changed)
    assert "model.embeddings.tok_embeddings.weight" not in changed
    # What an adapter has changed has its rank.
    name = next(name for name in changed if "attn.Wqkv" in name)
    assert torch.linalg.matrix_rank((tuned[name] - weights[name]).double(), rtol=1e-3) == 2
