"""Rerankers from checkpoints: what sentence-transformers gives no random head is loaded, and ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from sentence_transformers import CrossEncoder
from tiny_models import CHAT_TEMPLATE, PASSAGES, QUERIES, SIZES, byte_bpe, cross_encoder, save_checkpoint

from cmp_rerank.reranking import rerank_run
from cmp_rerank.reranking.loading import load_reranker

CORPUS = {f"d{i}": passage for i, passage in enumerate(PASSAGES)}
RUN = {"q": dict.fromkeys(CORPUS, 1.0)}


def test_a_language_model_is_a_reranker(tmp_path: Path) -> None:
    """As it is on the hub, without modules.json: it scores by its logits of "yes" and "no"."""
    tokenizer = byte_bpe()
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.chat_template = CHAT_TEMPLATE
    config = transformers.Qwen2Config(**SIZES, num_key_value_heads=2, max_position_embeddings=160)
    save_checkpoint(tmp_path, config, tokenizer, transformers.AutoModelForCausalLM, num_labels=None)
    expected = CrossEncoder(str(tmp_path), device="cpu").rank(QUERIES[0], PASSAGES)
    found = rerank_run(load_reranker(tmp_path, device="cpu"), {"q": QUERIES[0]}, CORPUS, RUN)
    assert list(found["q"]) == [f"d{each['corpus_id']}" for each in expected]


def test_several_labels_are_told_with_a_way_out(tmp_path: Path) -> None:
    model = cross_encoder(tmp_path, num_labels=2)

    class Relevance:
        def predict(self, pairs: list[tuple[str, str]]) -> object:
            logits = model.predict(pairs)
            return logits[:, 1] - logits[:, 0]

    with pytest.raises(ValueError, match=r"got scores of shape \(4, 2\) for 4 pairs; of a model with several labels"):
        rerank_run(model, {"q": QUERIES[0]}, CORPUS, RUN)
    assert len(rerank_run(Relevance(), {"q": QUERIES[0]}, CORPUS, RUN)["q"]) == 4
