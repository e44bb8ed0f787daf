"""Rows: the views of all examples of a batch, each computation once, and a batch of model inputs made of some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from cmp_rerank.ablations import Example, View

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


def pooled(examples: Sequence[Example], views: Sequence[Sequence[View]]) -> tuple[list[Row], np.ndarray]:
    """All views of all examples as rows; a view that is the same computation as the one before it is no new row.

    Args:
        examples: n examples.
        views: for each example its views, the same number for all.

    Returns:
        The rows, and for each example and view the number of its row, (n, views) int64.

    Example:
        >>> example = Example({"input_ids": np.arange(3)}, segment=np.array([-1, 0, 1]))
        >>> full, again, dropped = View(np.arange(3), 0), View(np.arange(3), 0), View(np.arange(3), 1)
        >>> rows, index = pooled([example, example], [[full, again, dropped], [full, dropped, dropped]])
        >>> len(rows), index.tolist()
        (4, [[0, 0, 1], [2, 3, 3]])
    """
    rows: list[Row] = []
    index = np.empty((len(examples), len(views[0]) if len(views) else 0), dtype=np.int64)
    for i, (example, steps) in enumerate(zip(examples, views, strict=True)):
        for k, view in enumerate(steps):
            if k == 0 or not view.same_as(steps[k - 1]):
                rows.append((example, view))
            index[i, k] = len(rows) - 1
    return rows, index


def collate(model: CrossEncoder, rows: Sequence[Row]) -> tuple[dict[str, Any], Tensor]:
    """Pad rows into one batch of a cross-encoder's features; see `pad`."""
    tokenizer = model.tokenizer
    fill = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    return pad(rows, rows[0][0].features, fill, model.device, left=tokenizer.padding_side == "left")


def pad(
    rows: Sequence[Row], names: Iterable[str], fill: Mapping[str, int], device: torch.device, left: bool = False
) -> tuple[dict[str, Any], Tensor]:
    """Pad rows into one batch of features.

    Args:
        rows: what to pad.
        names: which of the examples' features.
        fill: the value of padding, for each feature where it is not 0.
        device: where the batch goes.
        left: whether padding stands before the tokens.

    Returns:
        The features, and the original position of every token, (rows, tokens) int64.

    Example:
        >>> example = Example({"input_ids": np.array([7, 8, 9])}, segment=np.array([-1, 0, 1]))
        >>> rows = [(example, View(np.array([0, 1, 2]), 0)), (example, View(np.array([0, 2]), 0))]
        >>> features, positions = pad(rows, ["input_ids"], {"input_ids": 1}, torch.device("cpu"))
        >>> features["input_ids"].tolist(), positions.tolist()
        ([[7, 8, 9], [7, 9, 1]], [[0, 1, 2], [0, 2, 0]])
    """
    width = max(len(view) for _, view in rows)

    def padded(arrays: list[np.ndarray], value: int) -> Tensor:
        out = np.full((len(arrays), width), value, dtype=np.int64)
        for row, array in enumerate(arrays):
            out[row, width - len(array) if left else 0 : width if left else len(array)] = array
        return torch.from_numpy(out).to(device)

    features: dict[str, Any] = {
        name: padded([example.features[name][view.tokens] for example, view in rows], fill.get(name, 0))
        for name in names
    }
    features["attention_mask"] = padded([np.ones(len(view), dtype=np.int64) for _, view in rows], 0)
    return features | rows[0][0].shared, padded([view.tokens for _, view in rows], 0)
