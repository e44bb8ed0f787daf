"""Models of transformers that take rows of token ids: how rows become examples and batches."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cmp_rerank.ablations import Example, View
from cmp_rerank.engine import Row, RowBatch, pad
from cmp_rerank.hooks.wrappers import base_model
from cmp_rerank.models.base import ExampleLosses, ModelAdapter

#: Columns of a row, beside the model's inputs, that say how it can be cropped.
SEGMENT, SUPPORT = "segment", "support"
#: Positions are counted from 0 in every view, and the mask is made when rows are padded.
_NOT_FEATURES = ("attention_mask", "position_ids", "labels", "start_positions", "end_positions")


@dataclass(frozen=True)
class Padding:
    """How rows become a batch; without the model, so that data loader workers can have it.

    Args:
        names: The features that the model takes; others, such as token types for a model without, are left out.
        fill: The value of padding, for each feature where it is not 0.
        left: Whether padding stands before the tokens.
    """

    names: frozenset[str]
    fill: Mapping[str, int]
    left: bool = False

    @classmethod
    def of(cls, model: Any, tokenizer: Any = None, left: bool = False) -> Padding:
        """Read from the signature of a model's forward, and from its tokenizer."""
        inner = base_model(model)
        names = frozenset(inspect.signature(inner.forward).parameters) - frozenset(_NOT_FEATURES)
        padding = getattr(tokenizer, "pad_token_id", None)
        padding = getattr(inner.config, "pad_token_id", None) if padding is None else padding
        fill = {"input_ids": padding or 0, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
        return cls(names, fill, left)

    def __call__(self, rows: Sequence[Row], device: torch.device) -> RowBatch:
        """See `cmp_rerank.engine.pad`."""
        names = [name for name in rows[0][0].features if name in self.names]
        return pad(rows, names, self.fill, device, self.left)


class TokenRowsAdapter(ModelAdapter):
    """A model of transformers with a loss of its own; a subclass says how its labels, logits and loss look.

    A training row is a mapping, ``input_ids`` and what else the model takes, or an object with an attribute
    ``example``. Rows can be cropped if they have a column ``segment`` (for each token the number of its segment, -1
    for what is never cropped), and ``support`` (a list of segments that stay).

    Args:
        padding: How rows become a batch.

    Attributes:
        label_names: What the model's forward calls its labels.
    """

    label_names: ClassVar[tuple[str, ...]] = ("labels",)

    def __init__(self, padding: Padding) -> None:
        self.padding = padding

    @classmethod
    def of(cls, model: Any, tokenizer: Any = None) -> TokenRowsAdapter:
        """The adapter of a model of this kind."""
        return cls(Padding.of(model, tokenizer, getattr(tokenizer, "padding_side", "right") == "left"))

    @classmethod
    def fits(cls, model: Any) -> bool:
        """Whether a model is of this kind, by the signature of its forward."""
        return set(cls.label_names) <= set(inspect.signature(base_model(model).forward).parameters)

    def collate(self, inner: Any, rows: Sequence[Row]) -> RowBatch:
        """Pad as the tokenizer says."""
        return self.padding(rows, inner.device)

    def example(self, row: Any) -> Example:
        """The tokens of a row; what was padding already is left out. A column that is None is missing.

        Raises:
            ValueError: If there are no tokens, or not one segment for each of them.
        """
        known = getattr(row, "example", None)
        if isinstance(known, Example):
            return known
        row = known_columns(row)
        ids = np.asarray(row.get("input_ids", ()))
        if ids.ndim != 1 or not len(ids):
            raise ValueError(f"A row must be a Window, or have the column input_ids, a list; got {sorted(row)}.")
        real = np.flatnonzero(np.asarray(row.get("attention_mask", np.ones(len(ids)))))
        if not len(real):
            raise ValueError(f"A row has {len(ids)} tokens, but its attention_mask is 0 for all of them.")
        features = {
            name: np.asarray(row[name])[real]
            for name in row
            if name in self.padding.names and np.shape(row[name])[:1] == (len(ids),) and np.ndim(row[name]) == 1
        }
        segment = np.asarray(row.get(SEGMENT, np.full(len(ids), -1)))
        if segment.shape != ids.shape:
            raise ValueError(f"A row has {len(ids)} tokens, but {segment.size} segments.")
        support = {int(i) for i in row.get(SUPPORT, ())}
        seed = int.from_bytes(hashlib.blake2b(ids[real].astype(np.int64).tobytes(), digest_size=8).digest(), "little")
        return Example(features, segment[real], frozenset(support), seed >> 2, croppable=bool((segment >= 0).any()))

    def labels(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """The labels of rows by the names of the model's forward; empty where rows have none."""
        raise ValueError(f"{type(self).__name__} has no labels(rows): define that method.")

    def split(
        self,
        model: Any,
        scores: Tensor,
        views: Sequence[Sequence[View]],
        labels: Mapping[str, Tensor],
        smoothing: float = 0.0,
    ) -> list[ExampleLosses]:
        """The task losses of examples in each view; several where they are compared on their own and averaged.

        Args:
            model: The model, for its configuration.
            scores: (n, 1 + steps, width).
            views: For each example its views.
            labels: What `labels` gave, on any device.
            smoothing: Label smoothing, given where it is not 0. Where it makes no sense, `check_smoothing` refuses
                it; for an adapter without this argument the trainer does.
        """
        raise ValueError(f"{type(self).__name__} has no split(model, scores, views, labels): define that method.")

    def outputs(self, scores: Tensor) -> dict[str, Tensor]:
        """The scores of the full model, (n, width), under the names that the model itself gives them."""
        return {"logits": scores}

    def trimmed(self, row: np.ndarray, example: Example) -> Any:
        """The scores of one example, (width,), without padding."""
        return row


def check_smoothing(smoothing: float, task: str) -> None:
    """Refuse label smoothing for a loss that has none.

    Args:
        smoothing: Given by the user.
        task: What the loss is of, in words.

    Raises:
        ValueError: It is not 0.

    Example:
        >>> check_smoothing(0.1, "regression")
        Traceback (most recent call last):
        ValueError: label_smoothing_factor must be 0 for regression: one class among several is smoothed; got 0.1.
    """
    if smoothing != 0:
        raise ValueError(
            f"label_smoothing_factor must be 0 for {task}: one class among several is smoothed; got {smoothing}."
        )


def known_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that have a value; `datasets` fills those that a row lacks with None."""
    return {name: value for name, value in row.items() if value is not None}


def mean_over(known: Tensor, losses: Tensor) -> Tensor:
    """Weights of a mean over known rows; all 0 where there is none."""
    return known.to(losses.dtype) / known.sum().clamp(min=1)
