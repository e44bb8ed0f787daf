"""Rows: the views of all examples of a batch, each computation once, and a batch of model inputs made of some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmp_rerank.ablations import Example, View

Row = tuple[Example, View]


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Rows as one batch of a model, and what masks depend on.

    Attributes:
        rows: the rows.
        features: the model's inputs.
        positions: (B, T) int64, the original position of every token in its example; anything where padded.
        seeds: (B,) int64, the seed of each row.
        levels: for each row the levels of its view. B is the number of rows, or where a modifier runs the model on
            single tokens, the number of tokens.
    """

    rows: Sequence[Row]
    features: dict[str, Any]
    positions: Tensor
    seeds: Tensor
    levels: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, rows: Sequence[Row], features: dict[str, Any], positions: Tensor) -> RowBatch:
        """The batch of rows, from what their tokens became."""
        seeds = torch.tensor([example.seed_of(view.copy) for example, view in rows], device=positions.device)
        return cls(rows, features, positions, seeds, [view.levels for _, view in rows])

    def level(self, number: int) -> list[int]:
        """For each row the level of one ablation, by its number among those that act on the model."""
        return [levels[number] if number < len(levels) else 0 for levels in self.levels]


def pooled(
    examples: Sequence[Example], views: Sequence[Sequence[View]], merge: bool = True
) -> tuple[list[Row], np.ndarray]:
    """All views of all examples as rows; a view that is the same computation as the one before it is no new row.

    Args:
        examples: n examples.
        views: for each example its views, the same number for all.
        merge: whether equal computations become one row.

    Returns:
        The rows, and for each example and view the number of its row, (n, views) int64.

    Example:
        >>> example = Example({"input_ids": np.arange(3)}, segment=np.array([-1, 0, 1]))
        >>> full, again, dropped = View(np.arange(3)), View(np.arange(3)), View(np.arange(3), (1,))
        >>> rows, index = pooled([example, example], [[full, again, dropped], [full, dropped, dropped]])
        >>> len(rows), index.tolist()
        (4, [[0, 0, 1], [2, 3, 3]])
    """
    rows: list[Row] = []
    index = np.empty((len(examples), len(views[0]) if len(views) else 0), dtype=np.int64)
    for i, (example, steps) in enumerate(zip(examples, views, strict=True)):
        for k, view in enumerate(steps):
            if k == 0 or not merge or not view.same_as(steps[k - 1]):
                rows.append((example, view))
            index[i, k] = len(rows) - 1
    return rows, index


def pad(
    rows: Sequence[Row], names: Iterable[str], fill: Mapping[str, int], device: torch.device, left: bool = False
) -> RowBatch:
    """Pad rows into one batch of features.

    Args:
        rows: what to pad.
        names: which of the examples' features.
        fill: the value of padding, for each feature where it is not 0.
        device: where the batch goes.
        left: whether padding stands before the tokens.

    Example:
        >>> example = Example({"input_ids": np.array([7, 8, 9])}, segment=np.array([-1, 0, 1]))
        >>> rows = [(example, View(np.array([0, 1, 2]))), (example, View(np.array([0, 2])))]
        >>> batch = pad(rows, ["input_ids"], {"input_ids": 1}, torch.device("cpu"))
        >>> batch.features["input_ids"].tolist(), batch.positions.tolist()
        ([[7, 8, 9], [7, 9, 1]], [[0, 1, 2], [0, 2, 0]])
    """
    width = max(len(view) for _, view in rows)

    def padded(arrays: list[np.ndarray], value: int) -> Tensor:
        out = np.full((len(arrays), width), value, dtype=np.int64)
        for row, array in enumerate(arrays):
            out[row, width - len(array) if left else 0 : width if left else len(array)] = array
        return torch.from_numpy(out).to(device)

    features: dict[str, Any] = {
        name: padded([view.feature(example, name) for example, view in rows], fill.get(name, 0)) for name in names
    }
    features["attention_mask"] = padded([np.ones(len(view), dtype=np.int64) for _, view in rows], 0)
    return RowBatch.of(rows, features | rows[0][0].shared, padded([view.tokens for _, view in rows], 0))
