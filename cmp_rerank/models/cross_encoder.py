"""Cross-encoders of sentence-transformers: one row of labels for each pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from cmp_rerank.engine import Row, RowBatch, pad
from cmp_rerank.hooks.wrappers import wrapped
from cmp_rerank.models.base import ModelAdapter, adapter_of
from cmp_rerank.models.encoding import Encoded, encode


class CrossEncoderAdapter(ModelAdapter):
    """Cross-encoders of sentence-transformers: one row of labels for each pair.

    Example:
        ::

            adapter = adapter_of(model)  # a CrossEncoderAdapter, where the model is a CrossEncoder
            encoded = adapter.encode(model, [("what do pandas eat", "Pandas eat bamboo.")])
            encoded.features[0]["input_ids"]  # the tokens of the first pair
    """

    by_position = False

    def inner(self, model: nn.Module) -> CrossEncoder:
        """The cross-encoder inside of wrappers."""
        return cross_encoder(model)

    def encode(self, inner: CrossEncoder, pairs: Sequence[tuple[str, str]], **options: Any) -> Encoded:
        """Tokenise pairs; see `cmp_rerank.models.encoding.encode`."""
        return encode(inner, pairs, **options)

    def collate(self, inner: CrossEncoder, rows: Sequence[Row]) -> RowBatch:
        """Pad as the model's tokenizer says."""
        tokenizer = inner.tokenizer
        fill = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
        return pad(rows, rows[0][0].features, fill, inner.device, left=tokenizer.padding_side == "left")

    def run(self, module: nn.Module, batch: RowBatch) -> Tensor:
        """Logits, (rows, labels)."""
        scores: Tensor = module(batch.features)["scores"]
        return scores.reshape(len(batch.positions), -1)


@adapter_of.register
def _(model: CrossEncoder) -> CrossEncoderAdapter:
    return CrossEncoderAdapter()


def cross_encoder(model: nn.Module) -> CrossEncoder:
    """The cross-encoder inside of a wrapper (distributed or compiled), or the model itself.

    Raises:
        ValueError: if there is none.

    Example:
        ::

            model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")
            cross_encoder(torch.nn.parallel.DistributedDataParallel(model)) is model
    """
    found = None
    if isinstance(model, nn.Module):
        found = next((each for each in wrapped(model) if isinstance(each, CrossEncoder)), None)
    if found is None:
        raise ValueError(f"Expected a CrossEncoder (or a wrapper of one); got {type(model).__name__}.")
    return found


def pair_adapter(model: CrossEncoder) -> CrossEncoderAdapter:
    """The adapter of a model of pairs.

    Raises:
        ValueError: if the adapter of its class does not encode pairs.
    """
    adapter = adapter_of(model)
    if not isinstance(adapter, CrossEncoderAdapter):
        raise ValueError(
            f"{type(adapter).__name__} does not encode pairs of texts: derive it from CrossEncoderAdapter."
        )
    return adapter
