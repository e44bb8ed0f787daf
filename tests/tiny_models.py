"""Small random models, made in code: real architectures, real tokenizers, no hub.

`TEXTS` is what the tokenizers are trained on and what tests may use as input.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Pandas eat bamboo. They live in China! Are they bears? Yes, they are bears.",
    "A cross-encoder reads the query and the passage together. It gives one score. That score orders passages.",
    "Bees fly by flapping their wings. They make honey. Honey is sweet, and bears like it.",
    "Torch gives light. It burns for an hour. A library of the same name holds tensors.",
    "Rain fell all day. The river rose. The bridge was closed. Nobody was hurt, they said.",
    "熊猫吃竹子。它们住在中国。 Медведи любят мёд. Мёд сладкий. الدب يحب العسل. العسل حلو.",
]

QUERIES = ["what do pandas eat", "who makes honey", "how does a torch burn", "why was the bridge closed"]
PASSAGES = [TEXTS[0], TEXTS[2], TEXTS[3], TEXTS[4]]
OTHERS = [TEXTS[4], TEXTS[1], TEXTS[2], TEXTS[0]]

SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)


BART_SIZES = dict(layers=3, attention_heads=4, ffn_dim=64)


def wordpiece() -> PreTrainedTokenizerFast:
    """A BERT-like tokenizer: [CLS] a [SEP] b [SEP], with token types."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer()
    # The trainer numbers the letters within words in the order of a hash table, another one each time, and breaks
    # ties by these numbers. Given beforehand, they are the same in every run, and so is the vocabulary.
    letters = sorted(set("".join(normalizer.normalize_str("".join(TEXTS)).split())))
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=[*specials, *(f"##{letter}" for letter in letters)]
    )
    learned = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learned.normalizer, learned.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    learned.train_from_iterator(TEXTS * 2, trainer)
    tokenizer = Tokenizer(models.WordPiece(learned.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = learned.normalizer, learned.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_bpe() -> PreTrainedTokenizerFast:
    """A RoBERTa-like tokenizer: <s> a </s></s> b </s>, without token types."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(TEXTS * 2, trainers.BpeTrainer(vocab_size=600, special_tokens=specials))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )


def sentencepiece() -> PreTrainedTokenizerFast:
    """A SentencePiece-like (unigram, metaspace) tokenizer: a </s> b </s>, as XLM-R and T5 have them."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learned = Tokenizer(models.Unigram())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator(
        TEXTS * 2, trainers.UnigramTrainer(vocab_size=350, special_tokens=specials, unk_token="<unk>")
    )
    # Letters that are in no other piece get scores a little apart, in the order of a hash table, each time another.
    scores = {piece: round(score, 1) for piece, score in json.loads(learned.to_str())["model"]["vocab"]}
    pieces = specials + sorted(scores.keys() - set(specials))
    tokenizer = Tokenizer(models.Unigram([(p, scores[p]) for p in pieces], unk_id=specials.index("<unk>")))
    tokenizer.pre_tokenizer = learned.pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )


def bert_config(**kwargs: Any) -> transformers.PretrainedConfig:
    return transformers.BertConfig(**(SIZES | dict(max_position_embeddings=160) | kwargs))


def modernbert_config(**kwargs: Any) -> transformers.PretrainedConfig:
    specials = dict(pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)
    return transformers.ModernBertConfig(**(SIZES | dict(max_position_embeddings=160) | specials | kwargs))


def t5_config(**kwargs: Any) -> transformers.PretrainedConfig:
    """For the special tokens of `byte_bpe`."""
    sizes = dict(d_model=32, d_kv=8, d_ff=64, num_layers=3, num_decoder_layers=2, num_heads=4)
    return transformers.T5Config(**(sizes | dict(eos_token_id=2, decoder_start_token_id=1) | kwargs))


def bart_config(**kwargs: Any) -> transformers.PretrainedConfig:
    """For the special tokens of `byte_bpe`."""
    sizes = dict(d_model=32, max_position_embeddings=160)
    both = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in BART_SIZES.items()}
    specials = dict(bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None)
    return transformers.BartConfig(**(sizes | both | specials | kwargs))


def save_checkpoint(
    folder: Path,
    config: transformers.PretrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    auto: Any = transformers.AutoModelForSequenceClassification,
    num_labels: int | None = 1,
    seed: int = 0,
) -> Path:
    """Write a random model of a configuration, with its tokenizer, as an ordinary checkpoint."""
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    if num_labels is not None:
        config.num_labels = num_labels
    torch.manual_seed(seed)
    model = auto.from_config(config)
    # The usual initialisation (0.02) makes scores of a small model nearly constant; effects would drown in rounding.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0 if "classifier" not in name else 20.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def cross_encoder(
    folder: Path,
    config: Callable[..., transformers.PretrainedConfig] = bert_config,
    tokenizer: Callable[[], PreTrainedTokenizerFast] = wordpiece,
    num_labels: int = 1,
    seed: int = 0,
    **config_kwargs: Any,
) -> CrossEncoder:
    """A small random CrossEncoder, loaded from a checkpoint in ``folder`` as users load theirs."""
    save_checkpoint(folder, config(**config_kwargs), tokenizer(), num_labels=num_labels, seed=seed)
    return CrossEncoder(str(folder), device="cpu")


def families() -> dict[str, Callable[[], transformers.PreTrainedModel]]:
    """Small random rerankers of the families that people rerank with, by name; dropout is on where there is any.

    All take ids in 5..63, with 1 as padding, and give one logit a row (``T5 encoder``: hidden states).
    """
    vocabulary = dict(
        vocab_size=64, pad_token_id=1, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, num_labels=1
    )
    sizes = SIZES | vocabulary | dict(max_position_embeddings=160)
    grouped = sizes | dict(num_key_value_heads=2, head_dim=8, attention_dropout=0.1)
    t5 = vocabulary | dict(d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4)
    coders = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in BART_SIZES.items()}
    bart = vocabulary | coders | dict(d_model=32, max_position_embeddings=160, decoder_start_token_id=1)
    distil = vocabulary | dict(dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=160)
    relative = dict(
        relative_attention=True, position_buckets=16, pos_att_type=["c2p", "p2c"], max_relative_positions=-1
    )
    modern = dict(attention_dropout=0.1, embedding_dropout=0.1, mlp_dropout=0.1, classifier_dropout=0.1)
    dropout = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    v2 = relative | dict(share_att_key=False, position_biased_input=False)
    v3 = relative | dict(
        share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0
    )
    windows = dict(sliding_window=64, layer_types=["sliding_attention", "sliding_attention", "full_attention"])
    configs: dict[str, tuple[str, str, dict[str, Any]]] = {
        "BERT": ("BertForSequenceClassification", "BertConfig", sizes),
        "RoBERTa": ("RobertaForSequenceClassification", "RobertaConfig", sizes),
        "XLM-R": ("XLMRobertaForSequenceClassification", "XLMRobertaConfig", sizes),
        "ELECTRA": ("ElectraForSequenceClassification", "ElectraConfig", sizes | dict(embedding_size=16)),
        "MPNet": ("MPNetForSequenceClassification", "MPNetConfig", sizes),
        "DistilBERT": ("DistilBertForSequenceClassification", "DistilBertConfig", distil),
        "ALBERT": ("AlbertForSequenceClassification", "AlbertConfig", sizes | dropout | dict(embedding_size=16)),
        "DeBERTa-v2": ("DebertaV2ForSequenceClassification", "DebertaV2Config", sizes | v2),
        "DeBERTa-v3": ("DebertaV2ForSequenceClassification", "DebertaV2Config", sizes | v3),
        "BigBird": (
            "BigBirdForSequenceClassification",
            "BigBirdConfig",
            sizes | dict(attention_type="original_full"),
        ),
        "Longformer": ("LongformerForSequenceClassification", "LongformerConfig", sizes | dict(attention_window=16)),
        "ModernBERT": ("ModernBertForSequenceClassification", "ModernBertConfig", sizes | modern),
        "NomicBERT": ("NomicBertForSequenceClassification", "NomicBertConfig", sizes | dropout | dict(head_dim=8)),
        "EuroBERT": ("EuroBertForSequenceClassification", "EuroBertConfig", grouped | dict(mask_token_id=4)),
        "GTE": ("GteForSequenceClassification", "GteConfig", sizes | dropout),
        "Jina-v3": ("JinaEmbeddingsV3ForSequenceClassification", "JinaEmbeddingsV3Config", sizes),
        "T5 encoder": ("T5EncoderModel", "T5Config", t5),
        "T5": ("T5ForSequenceClassification", "T5Config", t5 | dict(decoder_start_token_id=1)),
        "BART": ("BartForSequenceClassification", "BartConfig", bart),
        "Qwen2": ("Qwen2ForSequenceClassification", "Qwen2Config", grouped),
        "Qwen3": ("Qwen3ForSequenceClassification", "Qwen3Config", grouped),
        "Gemma3": ("Gemma3TextForSequenceClassification", "Gemma3TextConfig", grouped | windows),
    }
    return {name: partial(_family, *parts) for name, parts in configs.items()}


def _family(cls: str, config: str, arguments: dict[str, Any]) -> transformers.PreTrainedModel:
    """A random model, by the names of its classes: older versions of transformers lack some."""
    if not hasattr(transformers, cls):
        pytest.skip(f"transformers {transformers.__version__} has no {cls}")
    return random_model(getattr(transformers, cls), getattr(transformers, config)(**arguments))


def random_model(cls: Any, config: transformers.PretrainedConfig, seed: int = 0) -> transformers.PreTrainedModel:
    """A model with weights large enough for effects to stand out from rounding."""
    torch.manual_seed(seed)
    model = cls(copy.deepcopy(config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5 * parameter.shape[-1] ** -0.5)
    return model.train()


CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n"
    "{% if message['role'] == 'document' %}Text: {% endif %}{{ message['content'] }}</s>\n{% endfor %}"
    "<s>assistant\nRelevant:"
)


def chat_reranker(folder: Path, template: str = CHAT_TEMPLATE, seed: int = 0) -> CrossEncoder:
    """A small random causal reranker that renders its pairs by a chat template, as Qwen3-Reranker does."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    tokenizer = byte_bpe()
    tokenizer.chat_template = template
    config = transformers.Qwen2Config(**SIZES, num_key_value_heads=2, max_position_embeddings=160)
    save_checkpoint(folder, config, tokenizer, transformers.AutoModelForCausalLM, num_labels=None, seed=seed)
    transformer = Transformer(str(folder), transformer_task="text-generation")
    return CrossEncoder(modules=[transformer, LogitScore(10, 11)], device="cpu")


class OutOfMemoryOnce(torch.autograd.Function):
    """Passes a tensor on; its backward pass runs out of memory as often as `fail` says."""

    fail = 0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if OutOfMemoryOnce.fail:
            OutOfMemoryOnce.fail -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return grad
