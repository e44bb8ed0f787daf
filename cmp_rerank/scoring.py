"""Scoring rows: every (example, view) of a batch through the model, in whatever order and chunks are cheapest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from cmp_rerank.ablation import CmpDrop, Example, View
from cmp_rerank.ablation.drop import Ablation

Row = tuple[Example, View]


def cross_encoder(model: nn.Module) -> CrossEncoder:
    """The cross-encoder inside of a wrapper (distributed or compiled), or the model itself.

    Raises:
        ValueError: if there is none.
    """
    inner: Any = model
    while not isinstance(inner, CrossEncoder):
        wrapped = getattr(inner, "module", None) or getattr(inner, "_orig_mod", None)
        if wrapped is None:
            raise ValueError(f"Expected a CrossEncoder (or a wrapper of one), got {type(model).__name__}.")
        inner = wrapped
    return inner


class Scorer:
    """Score rows with a cross-encoder, ablated as their views say.

    Rows that are the same computation are run once; the others are sorted by length and run in chunks, so that
    little is padded. Masks depend only on the example, so neither order nor chunks change a score beyond
    rounding.

    Args:
        drop: how neurons are ablated; None: the views of all rows have depth 0, and the model's own dropout
            stays as it is.
        tokens_per_chunk: how many tokens, padding included, one forward pass may hold. Default: 4,096 on a CPU,
            65,536 elsewhere.
    """

    def __init__(self, drop: CmpDrop | None, tokens_per_chunk: int | None = None) -> None:
        if tokens_per_chunk is not None and tokens_per_chunk < 1:
            raise ValueError(f"tokens_per_chunk must be at least 1, got {tokens_per_chunk}.")
        self.drop = drop
        self.tokens_per_chunk = tokens_per_chunk
        self._ablation: Ablation | None = None

    def __call__(self, model: nn.Module, examples: Sequence[Example], views: Sequence[Sequence[View]]) -> Tensor:
        """Score every view of every example, with gradients where they are enabled.

        Args:
            model: a CrossEncoder, or a wrapper of one.
            examples: n examples.
            views: for each example its views, the same number for all.

        Returns:
            Logits of shape (n, number of views, labels) in float32 or better, on the model's device.
        """
        rows: list[Row] = []
        index = np.empty((len(examples), len(views[0])), dtype=np.int64)
        for i, (example, steps) in enumerate(zip(examples, views, strict=True)):
            for k, view in enumerate(steps):
                if k == 0 or not view.same_as(steps[k - 1]):
                    rows.append((example, view))
                index[i, k] = len(rows) - 1
        scores = self._score(model, rows)
        return scores[torch.from_numpy(index).to(scores.device)]

    def _score(self, model: nn.Module, rows: list[Row]) -> Tensor:
        inner = cross_encoder(model)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][1]), reverse=True)
        with ExitStack() as stack:
            ablation = self._attach(inner, rows)
            if ablation is not None:
                stack.enter_context(ablation.installed())
            scores = [
                self._forward(model, ablation, [rows[i] for i in chunk])
                for chunk in _chunks(order, [len(view) for _, view in rows], self._budget(inner.device))
            ]
        together = torch.cat(scores)
        if torch.finfo(together.dtype).bits < 32:
            together = together.float()
        where = torch.empty(len(rows), dtype=torch.int64)
        where[order] = torch.arange(len(rows))
        return together[where.to(together.device)]

    def _attach(self, inner: CrossEncoder, rows: list[Row]) -> Ablation | None:
        if self.drop is None:
            return None
        if self._ablation is None or self._ablation.model is not inner:
            self._ablation = Ablation(inner, self.drop, lambda: inner(collate(inner, rows[:1])[0]))
        return self._ablation

    def _budget(self, device: torch.device) -> int:
        return self.tokens_per_chunk or (4096 if device.type == "cpu" else 65_536)

    def _forward(self, model: nn.Module, ablation: Ablation | None, rows: list[Row]) -> Tensor:
        features, positions = collate(cross_encoder(model), rows)
        with ExitStack() as stack:
            if ablation is not None:
                seeds = torch.tensor([example.seed for example, _ in rows], device=positions.device)
                stack.enter_context(ablation.rows(seeds, positions, [view.depth for _, view in rows]))
            scores: Tensor = model(features)["scores"]
        return scores.reshape(len(rows), -1)


def collate(model: CrossEncoder, rows: Sequence[Row]) -> tuple[dict[str, Any], Tensor]:
    """Pad rows into one batch of the model's features.

    Returns:
        The features on the model's device, and the original position of every token, (rows, tokens) int64.
    """
    tokenizer = model.tokenizer
    width = max(len(view) for _, view in rows)
    left = tokenizer.padding_side == "left"
    filler = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    device = model.device

    def padded(arrays: list[np.ndarray], value: int) -> Tensor:
        out = np.full((len(arrays), width), value, dtype=np.int64)
        for row, array in enumerate(arrays):
            out[row, width - len(array) if left else 0 : width if left else len(array)] = array
        return torch.from_numpy(out).to(device)

    features: dict[str, Any] = {
        name: padded([example.features[name][view.tokens] for example, view in rows], filler.get(name, 0))
        for name in rows[0][0].features
    }
    features["attention_mask"] = padded([np.ones(len(view), dtype=np.int64) for _, view in rows], 0)
    return features | rows[0][0].shared, padded([view.tokens for _, view in rows], 0)


def _chunks(order: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Cut rows in descending order of length into chunks of at most ``budget`` padded tokens, at least one row."""
    chunks: list[list[int]] = []
    for i in order:
        if chunks and (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] <= budget:
            chunks[-1].append(i)
        else:
            chunks.append([i])
    return chunks
