"""Small random readers and questions for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import transformers as t
from tiny_models import PASSAGES, QUERIES, SIZES, TEXTS, byte_bpe, random_model, wordpiece

from cmp_rerank.ablations import CmpCrop
from cmp_rerank.reader import GoldAnswer, Question, Windows, make_windows

# Each is trained once: two trainings may give two vocabularies.
byte_bpe, wordpiece = cache(byte_bpe), cache(wordpiece)
_MODERN = dict(attention_dropout=0.1, embedding_dropout=0.1, mlp_dropout=0.1, classifier_dropout=0.1)
#: The model's class, its configuration, and its tokenizer.
READERS: dict[str, tuple[Any, Any, dict[str, Any], Any]] = {
    "bert": (t.BertForQuestionAnswering, t.BertConfig, {}, wordpiece),
    "roberta": (t.RobertaForQuestionAnswering, t.RobertaConfig, {}, byte_bpe),
    "modernbert": (t.ModernBertForQuestionAnswering, t.ModernBertConfig, _MODERN, wordpiece),
    "longformer": (t.LongformerForQuestionAnswering, t.LongformerConfig, dict(attention_window=16), byte_bpe),
    "bigbird": (t.BigBirdForQuestionAnswering, t.BigBirdConfig, dict(attention_type="original_full"), wordpiece),
}


def reader(name: str, seed: int = 0, **options: Any) -> tuple[Any, Any]:
    """A model and its tokenizer."""
    cls, config, own, make_tokenizer = READERS[name]
    tokenizer = make_tokenizer()
    special = dict(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=None,
        sep_token_id=tokenizer.sep_token_id, cls_token_id=tokenizer.cls_token_id,
    )  # fmt: skip
    sizes = SIZES | dict(max_position_embeddings=192) | special | own | options
    return random_model(cls, config(**sizes), seed), tokenizer


def questions() -> list[Question]:
    """Four questions with an answer, one without, of different lengths."""
    spans = ["bamboo", "honey", "an hour", "The river rose"]
    made = []
    for i, (query, passage, answer) in enumerate(zip(QUERIES, PASSAGES, spans, strict=True)):
        passages = (passage, TEXTS[(i + 1) % 5]) if i % 2 else (passage,)
        gold = (GoldAnswer(answer, 0, passage.index(answer)),)
        made.append(Question(f"q{i}", query, passages, gold, support=((0, 0, 5),) if i == 1 else None))
    return [*made, Question("q4", "how tall is it?", (TEXTS[3],), kind="none")]


def windows(tokenizer: Any, crop: CmpCrop | None = None, **options: Any) -> Windows:
    """Windows of the questions, of different lengths."""
    segmenter = None if crop is None else crop.segmenter
    sizes = dict(max_length=80, stride=10, pack=True, segmenter=segmenter)
    return make_windows(tokenizer, questions(), **(sizes | options))
