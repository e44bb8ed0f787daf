"""BERT rerankers of one score, or readers, several side by side: each weight has one more dimension, its model.

It is the encoder of transformers, written once more, for two reasons. Models that go through a step together keep a
GPU busy. And a score is read off the first token: in the last layer no other one has a query, or is written to, which
saves most of that layer, a quarter of all that 3 layers cost. Tests compare scores and trained weights with those of
sentence-transformers and transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from cmp_rerank.hooks.masks import Rows, dropped, nested_dropout

from .real import Row

#: Whether a training compiles what surrounds the products.
COMPILES = {"now": False}

WORDS = "bert.embeddings.word_embeddings.weight"

#: Tokens in one pass where models are measured, padding included: few enough for the caches of a CPU, or enough to
#: keep a GPU busy.
PASS = {"cpu": 2_048, "cuda": 200_000}

#: And where a CPU trains: each pass reads all weights, and adds to all gradients.
TRAINING_PASS = {"cpu": 8_192, "cuda": 200_000}


# Rows as tokens -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """The pairs of rows, or the windows of a reader, as tokens.

    Attributes:
        rows: The rows.
        ids: Token ids of each pair.
        types: Token types of each pair.
    """

    rows: Sequence[Row]
    ids: Sequence[Sequence[int]]
    types: Sequence[Sequence[int]]


def tokenised(model: Any, rows: Sequence[Row], max_length: int) -> Tokens:
    """Tokenise the pairs of rows as a CrossEncoder does."""
    pairs = [(row["query"], doc) for row in rows for doc in row["docs"]]
    encoded = model.tokenizer(
        [query for query, _ in pairs], [doc for _, doc in pairs], truncation="longest_first",
        max_length=max_length,
    )  # fmt: skip
    return Tokens(rows, encoded["input_ids"], encoded["token_type_ids"])


#: The tokens of one pair: ids, types, and the positions that they have in the whole pair (None: 0, 1, 2, ...).
PairTokens = tuple[Sequence[int], Sequence[int], "Sequence[int] | None"]


@dataclass(frozen=True)
class Batch:
    """One batch of each model, padded to the same number of pairs and tokens.

    Attributes:
        ids: (E, R, T) Token ids.
        types: (E, R, T) Token types.
        there: (E, R, T) Whether a token is there.
        positions: (E, R, T) The place of a token in the whole pair, of which a crop may have taken some.
        longest: (R,) The most tokens that a model has in each place.
    """

    ids: Tensor
    types: Tensor
    there: Tensor
    positions: Tensor
    longest: np.ndarray

    def parts(self, budget: int) -> Iterator[tuple[slice, Batch]]:
        """Parts of about so many tokens each, where every model has its longest pairs first."""
        begin = 0
        while begin < len(self.longest):
            tokens = int(self.longest[begin])
            end = begin + max(1, budget // (tokens * len(self.ids)))
            # Where pairs are much shorter another part begins, unless this one is small.
            shorter = begin + int((self.longest[begin:end] >= 0.8 * tokens).sum())
            least = begin + max(1, budget // 16 // (tokens * len(self.ids)))
            own = slice(begin, min(end, max(shorter, least)))
            cut = (each[:, own, :tokens].contiguous() for each in self.tensors())
            yield own, Batch(*cut, self.longest[own])
            begin = own.stop

    def of_models(self, count: int) -> Batch:
        """The batch of one model as that of several."""
        copies = (each.expand(count, *each.shape[1:]).contiguous() for each in self.tensors())
        return Batch(*copies, self.longest)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All that is for each token."""
        return self.ids, self.types, self.there, self.positions


def batch_of(several: Sequence[Sequence[PairTokens]], device: str) -> Batch:
    """The pairs of each model as one batch."""
    most = max(map(len, several))
    longest = max(len(ids) for pairs in several for ids, _, _ in pairs)
    arrays = np.zeros((4, len(several), most, longest), dtype=np.int64)
    arrays[2, :, :, 0] = 1  # a pair that is not there has one token, so that no attention is over nothing
    arrays[3] = np.arange(longest)
    for model, pairs in enumerate(several):
        for place, (ids, types, positions) in enumerate(pairs):
            length = len(ids)
            arrays[0, model, place, :length] = ids
            arrays[1, model, place, :length] = types
            arrays[2, model, place, :length] = 1
            if positions is not None:
                arrays[3, model, place, :length] = positions
    ids, types, there, positions = torch.from_numpy(arrays).to(device, non_blocking=True)
    return Batch(ids, types, there.bool(), positions, arrays[2].sum(axis=2).max(axis=0))


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """The attention of (pairs, heads, tokens, width) to where the mask (pairs, 1, 1, tokens) is true."""
    backwards = torch.is_grad_enabled()
    if query.device.type != "cpu" or not (dropout or (backwards and query.dtype == torch.bfloat16)):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    # On a CPU torch's own takes two to five times as long backwards in bfloat16, and is slow with dropout.
    heads = query.shape[1]
    bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    bias = bias.expand(-1, heads, -1, -1).flatten(0, 1)
    query = (query * query.shape[-1] ** -0.5).flatten(0, 1)
    weights = product(query, key.flatten(0, 1).transpose(1, 2), bias).softmax(dim=-1)
    return product(F.dropout(weights, dropout), value.flatten(0, 1)).unflatten(0, (-1, heads))


def normed(states: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm of (E, N, H), with the weights (E, H) of each model."""
    return torch.addcmul(bias[:, None], F.layer_norm(states, states.shape[-1:], eps=eps), weight[:, None])


def plainly_added(
    out: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, eps: float, rows: Rows | None, units: Tensor | None,
    half: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What ends each half of a layer: units are dropped by CmpDrop, the residual is added, and the sum normed.

    Returns:
        The hidden states (E, N, H), and as they go to products.
    """
    out = out.float()
    if rows is not None and units is not None:
        shaped = out.reshape(len(rows.scale), -1, out.shape[-1])
        out = nested_dropout(shaped.contiguous(), rows, units).view_as(out)
    states = normed(out + hidden, weight, bias, eps)
    return states, states.bfloat16() if half else states


def added_at_once(
    out: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, eps: float, rows: Rows | None, units: Tensor | None,
    half: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `plainly_added`, to be compiled: one pass over memory, not ten."""
    out = out.float()
    if rows is not None and units is not None:
        shaped = out.reshape(len(rows.scale), -1, out.shape[-1]) * rows.scale[:, None, None]
        out = torch.where(dropped(rows, units), 0.0, shaped).view_as(out)
    states = normed(out + hidden, weight, bias, eps)
    return states, states.bfloat16() if half else states


@cache
def compiled() -> Any:
    """`added_at_once` as kernels; made once for a process."""
    torch._dynamo.config.recompile_limit = 32
    return torch.compile(added_at_once, dynamic=True)


@cache
def has_bfloat16() -> bool:
    """Whether torch has fast products in bfloat16 on this processor; else they take longer than those in 32 bits."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # torch without oneDNN
        return False


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """``left @ right + bias`` of batches of matrices.

    A processor without bfloat16 multiplies the same numbers in 32 bits, and rounds what comes out, forwards and
    backwards. Others do so in their registers: only the order of sums differs. What torch does there is far slower.
    """
    half = left.dtype == torch.bfloat16 and left.device.type == "cpu" and not has_bfloat16()
    if half:
        left, right, bias = left.float(), right.float(), None if bias is None else bias.float()
    out = torch.bmm(left, right) if bias is None else torch.baddbmm(bias, left, right)
    return out.bfloat16() if half else out


# The models ---------------------------------------------------------------------------------------------


class Models:
    """E BERT rerankers of one score, or readers, with weights (E, ...) by their names in transformers.

    Args:
        model: The CrossEncoder, or the reader, that all begin as.
        count: How many.
        dropout: Rate of the models' own dropout in training.

    Attributes:
        half: Whether the products of the layers are in bfloat16; their sums, the head and all else are in 32 bits.
    """

    def __init__(self, model: Any, count: int, dropout: float = 0.0) -> None:
        inner = model.model
        self.reads = type(inner).__name__ == "BertForQuestionAnswering"
        if inner.config.model_type != "bert" or not (self.reads or inner.config.num_labels == 1):
            raise ValueError(
                f"a BERT with one score, or a reader, is needed; got {type(inner).__name__}; train it one by one"
            )
        self.config, self.device = inner.config, str(model.device)
        self.weights = {
            name: weight.detach().clone()[None].repeat(count, *[1] * weight.ndim).requires_grad_()
            for name, weight in inner.named_parameters()
        }
        self.count, self.dropout, self.half = count, dropout, False
        kind = self.device.split(":")[0]
        self.budget, self.compiles = TRAINING_PASS[kind], COMPILES["now"]
        self._to_measure = PASS[kind]
        self._table: Tensor | None = None
        self._place: Tensor | None = None

    def keep_words(self, tokens: np.ndarray) -> None:
        """Keep the rows of these tokens in the table of words, and of all other ones what weight decay makes of them.

        Other rows have no gradient, so that each step multiplies them by the same number. It is a weight, "others",
        (E, 1): what is done to weights is done to it. A table has most of a small model's weights.
        """
        words, kept = self.weights[WORDS].detach(), torch.from_numpy(tokens).to(self.device)
        self._table = words[0].clone()
        self._place = torch.full((words.shape[1],), -1, device=self.device)
        self._place[kept] = torch.arange(len(kept), device=self.device)
        self.weights[WORDS] = words[:, kept].clone().requires_grad_()
        self.weights["others"] = words.new_ones(self.count, 1).requires_grad_()

    @contextmanager
    def all_words(self) -> Iterator[None]:
        """Inside, the table of words has all of its rows."""
        kept, place = self.weights[WORDS], self._place
        if self._table is not None and place is not None:
            with torch.no_grad():
                table = self.weights["others"][..., None] * self._table
                table[:, place >= 0] = kept[:, place[place >= 0]]
            self.weights[WORDS], self._place = table, None
        try:
            yield
        finally:
            self.weights[WORDS], self._place = kept, place

    def put_words(self) -> None:
        """Have all rows again, for good."""
        with self.all_words():
            whole = self.weights[WORDS].requires_grad_()
        self.weights = {name: weight for name, weight in self.weights.items() if name != "others"} | {WORDS: whole}
        self._table = self._place = None

    def scores(
        self, batch: Batch, drop: Sequence[Rows | None] = (), keys: Any = (), training: bool = False
    ) -> Tensor:
        """What the models give for a batch; ``drop`` has for each writer what CmpDrop does to it.

        Returns:
            Scores (E, R); of readers start and end logits (E, R, T, 2).
        """
        config = self.config
        count, pairs, tokens = batch.ids.shape
        heads, width = config.num_attention_heads, config.hidden_size
        rate = self.dropout if training else 0.0
        mask = batch.there.view(count * pairs, 1, 1, tokens)
        # Each model looks up its own table.
        offsets = torch.arange(count, device=self.device)[:, None, None]
        words = self.weights[WORDS]
        ids = batch.ids if self._place is None else self._place[batch.ids]
        hidden = F.embedding(ids + offsets * words.shape[1], words.flatten(0, 1))
        kinds = self.weights["bert.embeddings.token_type_embeddings.weight"]
        hidden = hidden + F.embedding(batch.types + offsets * kinds.shape[1], kinds.flatten(0, 1))
        hidden = hidden + self.weights["bert.embeddings.position_embeddings.weight"][:, None, :tokens]
        hidden = self._norm(hidden.flatten(1, 2), "bert.embeddings.LayerNorm")
        hidden = F.dropout(hidden, rate)  # (E, R * T, H)

        def added(out: Tensor, states: Tensor, site: int, name: str) -> tuple[Tensor, Tensor]:
            out = F.dropout(out, rate)
            rows = drop[site] if drop else None
            if rows is not None:
                kept = out.shape[1] // pairs
                rows = rows._replace(key=rows.key[:, :kept], multiplier=rows.multiplier[:, :kept])
            norm = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], config.layer_norm_eps
            units = keys[site] if drop else None
            ends = compiled() if self.compiles and torch.is_grad_enabled() else plainly_added
            return ends(out, states, *norm, rows, units, self.half)

        def split(states: Tensor, *names: str) -> Sequence[Tensor]:
            shaped = self._linear(states, *names).view(count * pairs, -1, len(names), heads, width // heads)
            return shaped.transpose(1, 3).unbind(2)  # each (E * R, heads, T, width of a head)

        given = hidden  # to the products of a layer: the hidden states, perhaps in half precision
        for layer in range(config.num_hidden_layers):
            name = f"bert.encoder.layer.{layer}"
            own = [f"{name}.attention.self.{part}" for part in ("key", "value", "query")]
            if layer == config.num_hidden_layers - 1 and not self.reads:
                key, value = split(given, *own[:2])
                hidden, given = (
                    each.view(count, pairs, tokens, width)[:, :, 0].contiguous() for each in (hidden, given)
                )  # (E, R, H)
                (query,) = split(given, own[2])
            else:
                key, value, query = split(given, *own)
            seen = attended(query, key, value, mask, rate)
            seen = seen.transpose(1, 2).reshape(count, -1, width)
            out = self._linear(seen, f"{name}.attention.output.dense")
            hidden, given = added(out, hidden, 2 * layer, f"{name}.attention.output.LayerNorm")
            inner = F.gelu(self._linear(given, f"{name}.intermediate.dense"))
            out = self._linear(inner, f"{name}.output.dense")
            hidden, given = added(out, hidden, 2 * layer + 1, f"{name}.output.LayerNorm")
        if self.reads:
            return self._linear(hidden, "qa_outputs").view(count, pairs, tokens, 2)
        pooled = F.dropout(torch.tanh(self._linear(hidden, "bert.pooler.dense")), rate)
        return self._linear(pooled, "classifier")[..., 0]

    def all_scores(self, tokens: Tokens) -> np.ndarray:
        """Scores (E, pairs) of the same pairs by all rerankers."""
        scores = np.zeros((self.count, len(tokens.ids)), dtype=np.float32)
        for chosen, found in self._passes(tokens):
            scores[:, chosen] = found
        return scores

    def all_logits(self, tokens: Tokens) -> list[np.ndarray]:
        """For each window the logits (E, T, 2) of all readers."""
        logits: list[np.ndarray] = [np.empty(0)] * len(tokens.ids)
        for chosen, found in self._passes(tokens):
            for place, window in enumerate(chosen):
                logits[window] = found[:, place, : len(tokens.ids[window])]
        return logits

    def _passes(self, tokens: Tokens) -> Iterator[tuple[list[int], np.ndarray]]:
        """Which pairs, and what the models give for them; sorted by length on the way."""
        order = sorted(range(len(tokens.ids)), key=lambda pair: -len(tokens.ids[pair]))
        budget = max(1, self._to_measure // self.count)
        begin = 0
        with torch.inference_mode():
            while begin < len(order):
                chosen = order[begin : begin + max(1, budget // len(tokens.ids[order[begin]]))]
                one = batch_of([[(tokens.ids[pair], tokens.types[pair], None) for pair in chosen]], self.device)
                yield chosen, self.scores(one.of_models(self.count)).float().cpu().numpy()
                begin += len(chosen)

    @torch.no_grad()
    def move(self, other: Models, share: float) -> None:
        """Move the weights of all by a share of the way to those of another one, as the guard mixes them."""
        for name, weight in self.weights.items():
            weight.lerp_(other.weights[name], share)

    @torch.no_grad()
    def copy_to(self, model: Any) -> None:
        """Give the weights of the first one to a CrossEncoder, or a reader."""
        for name, weight in model.model.named_parameters():
            weight.copy_(self.weights[name][0])

    def _linear(self, states: Tensor, *names: str) -> Tensor:
        """The products with the weights of names, one behind the other."""
        weights, biases = ([self.weights[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        if self.half and ".layer." in names[0]:
            states = states.bfloat16()
            weights, biases = ([each.bfloat16() for each in several] for several in (weights, biases))
        weight, bias = (several[0] if len(names) == 1 else torch.cat(several, dim=1) for several in (weights, biases))
        return product(states, weight.transpose(1, 2), bias[:, None])

    def _norm(self, states: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return normed(states, weight, bias, self.config.layer_norm_eps)


@contextmanager
def products(models: Models, name: str, half: bool = False) -> Iterator[None]:
    """Inside, products of 32 bits are as precise as the name says to torch; those of layers may be in bfloat16."""
    before = torch.get_float32_matmul_precision(), models.half
    torch.set_float32_matmul_precision(name)
    models.half = half
    try:
        # On a GPU others plan anew for each shape, of which there is one in every batch.
        kernels = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        with nullcontext() if models.device == "cpu" else sdpa_kernel(kernels):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        models.half = before[1]
