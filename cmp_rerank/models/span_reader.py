"""Readers, models of extractive question answering: start and end logits for each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmp_rerank.ablations import Example, View
from cmp_rerank.engine import RowBatch
from cmp_rerank.hooks.wrappers import base_model
from cmp_rerank.models.base import ExampleLosses
from cmp_rerank.models.token_rows import Padding, TokenRowsAdapter, check_smoothing, known_columns, mean_over
from cmp_rerank.objectives import Outputs

SPAN_LABELS = ("start_positions", "end_positions")


class SpanReaderAdapter(TokenRowsAdapter):
    """Readers: start logits, then end logits, each at the original positions of the tokens.

    A row's width is twice the tokens of the longest window of the batch. Where a view has no token, the value is 0
    and means nothing: the loss leaves such places out.
    """

    label_names = SPAN_LABELS

    @classmethod
    def of(cls, model: Any, tokenizer: Any = None) -> SpanReaderAdapter:
        """The adapter of a reader; labels of spans want padding on the right.

        Raises:
            ValueError: If the model does not give two logits for each token.
        """
        labels = getattr(base_model(model).config, "num_labels", 2)
        if labels != 2:
            raise ValueError(
                f"A reader gives two logits for each token, start and end; this model has num_labels={labels} "
                "as rerankers have. Load it by AutoModelForQuestionAnswering.from_pretrained(..., num_labels=2)."
            )
        return cls(Padding.of(model, tokenizer))

    def example(self, row: Any) -> Example:
        """As for other models; the segments of the labels are support."""
        example = super().example(row)
        if getattr(row, "example", None) is example:
            return example
        row = known_columns(row)
        mask = np.asarray(row.get("attention_mask", (1,)))
        if len(mask) and not mask[0]:
            raise ValueError("A row has padding before its tokens: labels of spans would move. Pad on the right.")
        if not all(name in row for name in SPAN_LABELS):
            return example
        first, last = (int(row[name]) for name in SPAN_LABELS)
        labelled = {int(i) for i in example.segment[max(first, 0) : last + 1]}
        return replace(example, support=example.support | labelled)

    def labels(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Positions of the first and the last token of each answer."""
        if all(hasattr(row, "example") for row in rows):
            spans = [(row.start, row.end) for row in rows]
        elif all(
            isinstance(row, Mapping) and all(name in known_columns(row) for name in SPAN_LABELS) for row in rows
        ):
            spans = [(int(row[SPAN_LABELS[0]]), int(row[SPAN_LABELS[1]])) for row in rows]
        else:
            return {}
        return {
            name: torch.tensor(column) for name, column in zip(SPAN_LABELS, zip(*spans, strict=True), strict=True)
        }

    def run(self, module: nn.Module, batch: RowBatch) -> Tensor:
        """Logits of starts and ends, (rows, 2 * longest)."""
        longest = batch.longest
        outputs = module(**batch.features)
        # Padding goes to a place of its own behind the last one, which is cut off.
        where = batch.positions.masked_fill(batch.features["attention_mask"] == 0, longest)
        placed = [
            logits.new_zeros(len(logits), longest + 1).scatter(1, where, logits)[:, :longest]
            for logits in (outputs["start_logits"], outputs["end_logits"])
        ]
        return torch.cat(placed, dim=1)

    def split(
        self,
        model: Any,
        scores: Tensor,
        views: Sequence[Sequence[View]],
        labels: Mapping[str, Tensor],
        smoothing: float = 0.0,
    ) -> list[ExampleLosses]:
        """Starts and ends, each compared on their own."""
        check_smoothing(smoothing, "starts and ends of answers")
        kept = kept_tokens(views, scores.shape[-1] // 2)
        return span_losses(scores, kept, *(labels[name] for name in SPAN_LABELS))

    def outputs(self, scores: Tensor) -> dict[str, Tensor]:
        """Start and end logits, (n, tokens) each."""
        starts, ends = scores.chunk(2, dim=-1)
        return {"start_logits": starts, "end_logits": ends}

    def trimmed(self, row: np.ndarray, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """The start and the end logits of an example, (T,) each."""
        longest = len(row) // 2
        return row[: len(example)].copy(), row[longest : longest + len(example)].copy()


def kept_tokens(views: Sequence[Sequence[View]], longest: int) -> Tensor:
    """Which tokens each view of each example has, (n, views, longest) bool.

    Example:
        >>> kept_tokens([[View(np.arange(3)), View(np.array([0, 2]))]], longest=4).int().tolist()
        [[[1, 1, 1, 0], [1, 0, 1, 0]]]
    """
    kept = np.zeros((len(views), len(views[0]), longest), dtype=bool)
    for i, steps in enumerate(views):
        for k, view in enumerate(steps):
            kept[i, k, view.tokens] = True
    return torch.from_numpy(kept)


def span_losses(scores: Tensor, kept: Tensor, starts: Tensor, ends: Tensor) -> list[ExampleLosses]:
    """Cross-entropy of the start, and of the end, over the tokens that a view has.

    Unlike the loss of transformers' own models, padding takes no part in the softmax: a loss does not depend on what
    else is in the batch. A label behind the last token of the whole window is ignored, as there; a negative one is 0.
    That token is the last one of any view.

    Args:
        scores: Start, then end logits at original token positions, (n, views, 2 * longest).
        kept: Which tokens each view has, (n, views, longest).
        starts: Token positions, (n,) or (n, 1).
        ends: Token positions, inclusive.

    Returns:
        Two sets, of starts and of ends.

    Raises:
        ValueError: If a view does not have the token of its label.

    Example:
        >>> logits = torch.tensor([[[2.0, 1.0, 0.0, 0.0, 0.0, 3.0]]])
        >>> kept = torch.ones(1, 1, 3, dtype=torch.bool)
        >>> [round(each.losses.item(), 4) for each in span_losses(logits, kept, torch.tensor([0]), torch.tensor([2]))]
        [0.4076, 0.0949]
    """
    n, views, longest = kept.shape
    kept = kept.to(scores.device)
    found = []
    last = (kept.any(dim=1) * torch.arange(longest, device=scores.device)).amax(dim=-1)
    for logits, given in zip(scores.split(longest, dim=-1), (starts, ends), strict=True):
        places = given.reshape(n).to(scores.device).clamp(min=0)
        known = places <= last
        labels = places.masked_fill(~known, 0)
        there = kept.gather(2, labels[:, None, None].expand(n, views, 1))[..., 0]
        if not bool((there | ~known[:, None]).all()):
            raise ValueError(
                "A view has lost the token of its label, so that its loss would be infinite: mark the segments of "
                "the label as support."
            )
        inside = logits.masked_fill(~kept, -torch.inf)
        losses = F.cross_entropy(
            inside.flatten(0, 1), labels.masked_fill(~known, -100).repeat_interleave(views), reduction="none"
        ).reshape(n, views)

        def outputs(logits: Tensor = logits) -> Outputs:
            return Outputs(logits, torch.arange(n, device=logits.device), kept)

        found.append(ExampleLosses(losses, mean_over(known, losses), outputs))
    return found
