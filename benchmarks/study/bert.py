"""BERT rerankers of one score, several side by side: each weight has one more dimension, the model that it is of.

It is the encoder of transformers, written once more, for two reasons. Models that go through a step together keep a
GPU busy. And a score is read off the first token: in the last layer no other one has a query, or is written to, which
saves most of that layer, a quarter of all that 3 layers cost. Tests compare scores and trained weights with those of
sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cmp_rerank.hooks.masks import Rows, nested_dropout

from .real import Row

#: Tokens in one pass, padding included: few enough for the caches of a CPU, or enough to keep a GPU busy.
PASS = {"cpu": 2_048, "cuda": 200_000}


# Rows as tokens -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """The pairs of rows: their tokens, and where the pairs of each row begin.

    Attributes:
        rows: The rows.
        ids: Token ids of each pair.
        types: Token types of each pair.
        starts: (rows + 1,) where the pairs of each row begin.
    """

    rows: Sequence[Row]
    ids: list[list[int]]
    types: list[list[int]]
    starts: np.ndarray

    def pairs(self, row: int) -> range:
        """The numbers of the pairs of a row."""
        return range(self.starts[row], self.starts[row + 1])

    def lengths(self) -> list[int]:
        """Tokens of each row, over all of its pairs."""
        return [sum(len(self.ids[pair]) for pair in self.pairs(row)) for row in range(len(self.rows))]


def tokenised(model: Any, rows: Sequence[Row], max_length: int) -> Tokens:
    """Tokenise the pairs of rows as a CrossEncoder does."""
    pairs = [(row["query"], doc) for row in rows for doc in row["docs"]]
    encoded = model.tokenizer(
        [query for query, _ in pairs], [doc for _, doc in pairs], truncation="longest_first",
        max_length=max_length,
    )  # fmt: skip
    starts = np.concatenate([[0], np.cumsum([len(row["docs"]) for row in rows])])
    return Tokens(rows, encoded["input_ids"], encoded["token_type_ids"], starts)


@dataclass(frozen=True)
class Batch:
    """One batch of each model, padded to the same number of pairs and tokens.

    Attributes:
        ids: (E, R, T) Token ids.
        types: (E, R, T) Token types.
        there: (E, R, T) Whether a token is there.
    """

    ids: Tensor
    types: Tensor
    there: Tensor

    def parts(self, budget: int) -> Iterator[tuple[slice, Batch]]:
        """Parts of about so many tokens each, where every model has its longest pairs first."""
        longest = self.there.sum(dim=2).amax(dim=0).tolist()  # of each place
        begin = 0
        while begin < len(longest):
            tokens = longest[begin]
            own = slice(begin, begin + max(1, budget // (tokens * len(self.ids))))
            cut = (part[:, own, :tokens].contiguous() for part in (self.ids, self.types, self.there))
            yield own, Batch(*cut)
            begin = own.stop


def batch_of(several: Sequence[tuple[Tokens, Sequence[int]]], device: str) -> Batch:
    """The pairs of each model as one batch."""
    most = max(len(pairs) for _, pairs in several)
    longest = max(len(tokens.ids[pair]) for tokens, pairs in several for pair in pairs)
    arrays = np.zeros((3, len(several), most, longest), dtype=np.int64)
    arrays[2, :, :, 0] = 1  # a pair that is not there has one token, so that no attention is over nothing
    for model, (tokens, pairs) in enumerate(several):
        for place, pair in enumerate(pairs):
            length = len(tokens.ids[pair])
            arrays[0, model, place, :length] = tokens.ids[pair]
            arrays[1, model, place, :length] = tokens.types[pair]
            arrays[2, model, place, :length] = 1
    ids, types, there = torch.from_numpy(arrays).to(device)
    return Batch(ids, types, there.bool())


# The models ---------------------------------------------------------------------------------------------


class Models:
    """E BERT rerankers of one score, with weights (E, ...) by their names in transformers.

    Args:
        model: The CrossEncoder that all begin as.
        count: How many.
        dropout: Rate of the models' own dropout in training.
    """

    def __init__(self, model: Any, count: int, dropout: float = 0.0) -> None:
        inner = model.model
        if inner.config.model_type != "bert" or inner.config.num_labels != 1:
            raise ValueError(f"a BERT with one score is needed; got {type(inner).__name__}; train it one by one")
        self.config, self.device = inner.config, str(model.device)
        self.weights = {
            name: weight.detach().clone()[None].repeat(count, *[1] * weight.ndim).requires_grad_()
            for name, weight in inner.named_parameters()
        }
        self.count, self.dropout = count, dropout
        self.budget = PASS[self.device.split(":")[0]]

    def scores(
        self, batch: Batch, drop: Sequence[Rows | None] = (), keys: Any = (), training: bool = False
    ) -> Tensor:
        """Scores (E, R) of a batch; ``drop`` has for each writer what CmpDrop does to it."""
        config = self.config
        count, pairs, tokens = batch.ids.shape
        heads, width = config.num_attention_heads, config.hidden_size
        rate = self.dropout if training else 0.0
        mask = batch.there.view(count * pairs, 1, 1, tokens)
        # Each model looks up its own table.
        offsets = torch.arange(count, device=self.device)[:, None, None]
        words = self.weights["bert.embeddings.word_embeddings.weight"]
        hidden = F.embedding(batch.ids + offsets * words.shape[1], words.flatten(0, 1))
        kinds = self.weights["bert.embeddings.token_type_embeddings.weight"]
        hidden = hidden + F.embedding(batch.types + offsets * kinds.shape[1], kinds.flatten(0, 1))
        hidden = hidden + self.weights["bert.embeddings.position_embeddings.weight"][:, None, :tokens]
        hidden = self._norm(hidden.flatten(1, 2), "bert.embeddings.LayerNorm")
        hidden = F.dropout(hidden, rate)  # (E, R * T, H)

        def written(states: Tensor, site: int) -> Tensor:
            states = F.dropout(states, rate)
            rows = drop[site] if drop else None
            if rows is None:
                return states
            shaped = states.reshape(count * pairs, -1, width).contiguous()
            kept = shaped.shape[1]
            rows = rows._replace(key=rows.key[:, :kept], multiplier=rows.multiplier[:, :kept])
            return nested_dropout(shaped, rows, keys[site]).view_as(states)

        def split(states: Tensor, name: str) -> Tensor:
            shaped = self._linear(states, name).view(count * pairs, -1, heads, width // heads)
            return shaped.transpose(1, 2)

        for layer in range(config.num_hidden_layers):
            name = f"bert.encoder.layer.{layer}"
            key, value = (split(hidden, f"{name}.attention.self.{part}") for part in ("key", "value"))
            if layer == config.num_hidden_layers - 1:
                hidden = hidden.view(count, pairs, tokens, width)[:, :, 0].contiguous()  # (E, R, H)
            query = split(hidden, f"{name}.attention.self.query")
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
            seen = seen.transpose(1, 2).reshape(count, -1, width)
            out = written(self._linear(seen, f"{name}.attention.output.dense"), 2 * layer)
            hidden = self._norm(out + hidden, f"{name}.attention.output.LayerNorm")
            inner = F.gelu(self._linear(hidden, f"{name}.intermediate.dense"))
            out = written(self._linear(inner, f"{name}.output.dense"), 2 * layer + 1)
            hidden = self._norm(out + hidden, f"{name}.output.LayerNorm")
        pooled = F.dropout(torch.tanh(self._linear(hidden, "bert.pooler.dense")), rate)
        return self._linear(pooled, "classifier")[..., 0]

    def all_scores(self, tokens: Tokens) -> np.ndarray:
        """Scores (E, pairs) of the same pairs by all models, sorted by length on the way."""
        order = sorted(range(len(tokens.ids)), key=lambda pair: -len(tokens.ids[pair]))
        scores = np.zeros((self.count, len(order)), dtype=np.float32)
        budget = max(1, self.budget // self.count)
        begin = 0
        with torch.inference_mode():
            while begin < len(order):
                chosen = order[begin : begin + max(1, budget // len(tokens.ids[order[begin]]))]
                one = batch_of([(tokens, chosen)], self.device)
                parts = (part.expand(self.count, *part.shape[1:]) for part in (one.ids, one.types, one.there))
                batch = Batch(*(part.contiguous() for part in parts))
                scores[:, chosen] = self.scores(batch).float().cpu().numpy()
                begin += len(chosen)
        return scores

    def _linear(self, states: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return torch.baddbmm(bias[:, None], states, weight.transpose(1, 2))

    def _norm(self, states: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        normal = F.layer_norm(states, states.shape[-1:], eps=self.config.layer_norm_eps)
        return torch.addcmul(bias[:, None], normal, weight[:, None])
