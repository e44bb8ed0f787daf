"""How models of transformers are fed and read by the scorer: readers by token, classifiers by row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from cmp_rerank.ablations import Example
from cmp_rerank.engine import Row, Scorer, pad

#: Positions are counted anew for every view, and the mask is made when rows are padded.
_NOT_FEATURES = ("attention_mask", "position_ids", "labels", "start_positions", "end_positions")
#: Examples that are scored together, of similar length.
_BLOCK = 256


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
        inner = unwrapped(model)
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        names = frozenset(inspect.signature(inner.forward).parameters) - frozenset(_NOT_FEATURES)
        padding = getattr(tokenizer, "pad_token_id", None)
        padding = getattr(inner.config, "pad_token_id", None) if padding is None else padding
        fill = {"input_ids": padding or 0, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
        return cls(names, fill, left)

    def __call__(self, rows: Sequence[Row], device: torch.device) -> tuple[dict[str, Any], Tensor]:
        """See `cmp_rerank.engine.pad`."""
        names = [name for name in rows[0][0].features if name in self.names]
        return pad(rows, names, self.fill, device, self.left)


def unwrapped(model: nn.Module) -> Any:
    """The model inside of wrappers for distributed training and compilation."""
    inner: Any = model
    while (outer := inner) is not None:
        inner = extract_model_from_parallel(outer, keep_torch_compile=False)
        if inner is outer:
            break
    return inner


def plain_scores(
    scorer: Scorer,
    model: nn.Module,
    examples: Sequence[Example],
    order: Sequence[int],
    report: Callable[[float], None] | None = None,
) -> list[tuple[int, np.ndarray]]:
    """Scores of whole examples by the model as it is, without gradients and its own dropout.

    Args:
        scorer: Without ablations.
        model: The model; its mode is put back.
        examples: The examples.
        order: Which of them, in the order in which they are read; neighbours are padded to one length.
        report: Called with the share that is done.

    Returns:
        Number of the example and its scores, as the adapter of the scorer gives them, in that order.
    """
    found: list[tuple[int, np.ndarray]] = []
    training = model.training
    model.eval()
    try:
        for first in range(0, len(order), _BLOCK):
            block = order[first : first + _BLOCK]
            with torch.no_grad():
                scores = scorer(model, [examples[i] for i in block], [[examples[i].full()] for i in block])
            found += zip(block, scores[:, 0].cpu().numpy(), strict=True)
            if report is not None:
                report((first + len(block)) / len(order))
    finally:
        model.train(training)
    return found


class _TransformersAdapter:
    def __init__(self, padding: Padding) -> None:
        self.padding = padding

    def inner(self, model: nn.Module) -> Any:
        """The model inside of wrappers."""
        return unwrapped(model)

    def collate(self, inner: Any, rows: Sequence[Row]) -> tuple[dict[str, Any], Tensor]:
        """Pad as the tokenizer says."""
        return self.padding(rows, inner.device)


class SpanAdapter(_TransformersAdapter):
    """Readers: start logits, then end logits, each at the original positions of the tokens.

    A row's width is twice the tokens of the longest window of the batch. Where a view has no token, the value is 0
    and means nothing: the loss must leave such places out.
    """

    @staticmethod
    def halves(row: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The start and the end logits of an example of so many tokens, from its row of scores."""
        longest = len(row) // 2
        return row[:length].copy(), row[longest : longest + length].copy()

    def scores(self, module: nn.Module, features: dict[str, Any], positions: Tensor, longest: int) -> Tensor:
        """Logits of starts and ends, (rows, 2 * longest)."""
        outputs = module(**features)
        # Padding goes to a place of its own behind the last one, which is cut off.
        where = positions.masked_fill(features["attention_mask"] == 0, longest)
        placed = [
            logits.new_zeros(len(logits), longest + 1).scatter(1, where, logits)[:, :longest]
            for logits in (outputs["start_logits"], outputs["end_logits"])
        ]
        return torch.cat(placed, dim=1)


class ClassificationAdapter(_TransformersAdapter):
    """Sequence classifiers: a row of labels."""

    def scores(self, module: nn.Module, features: dict[str, Any], positions: Tensor, longest: int) -> Tensor:
        """Logits, (rows, labels)."""
        logits: Tensor = module(**features)["logits"]
        if logits.ndim != 2:
            raise ValueError(
                f"A sequence classifier gives logits of (rows, labels), got {tuple(logits.shape)} from "
                f"{type(unwrapped(module)).__name__}."
            )
        return logits
