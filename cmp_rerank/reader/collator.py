"""Batches of windows, or of rows that were tokenised elsewhere, for `ComparativeReaderTrainer`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cmp_rerank.ablations import Example
from cmp_rerank.reader.adapters import Padding
from cmp_rerank.reader.windows import Window

#: Where a batch carries its examples.
EXAMPLES = "examples"
#: Columns of a row, beside the model's inputs, that say how it can be cropped.
SEGMENT, SUPPORT = "segment", "support"
SPAN_LABELS = ("start_positions", "end_positions")
_LABEL_NAMES = ("labels", "label", "label_ids")


class ReaderCollator:
    """Pads rows for the model, and adds their examples, of which views can be made.

    Args:
        padding: How rows become a batch.
        spans: Whether the labels are spans, not classes.
    """

    def __init__(self, padding: Padding, spans: bool) -> None:
        self.padding = padding
        self.spans = spans

    def __call__(self, rows: Sequence[Window | Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch: the model's inputs, padded, the labels, and the examples."""
        examples = [self.example(row) for row in rows]
        features, _ = self.padding([(example, example.full()) for example in examples], torch.device("cpu"))
        return features | self._labels(rows) | {EXAMPLES: examples}

    def example(self, row: Window | Mapping[str, Any]) -> Example:
        """The tokens of a row; what was padding already is left out.

        Raises:
            ValueError: If there are no tokens, or not one segment for each of them.
        """
        if isinstance(row, Window):
            return row.example
        ids = np.asarray(row.get("input_ids", ()))
        if ids.ndim != 1 or not len(ids):
            raise ValueError(f"A row must be a Window, or have the column input_ids, a list; got {sorted(row)}.")
        real = np.flatnonzero(np.asarray(row.get("attention_mask", np.ones(len(ids)))))
        if not len(real):
            raise ValueError(f"A row has {len(ids)} tokens, but its attention_mask is 0 for all of them.")
        if self.spans and real[0] != 0:
            raise ValueError("A row has padding before its tokens: labels of spans would move. Pad on the right.")
        features = {
            name: np.asarray(row[name])[real]
            for name in row
            if name in self.padding.names and np.shape(row[name])[:1] == (len(ids),) and np.ndim(row[name]) == 1
        }
        segment = np.asarray(row.get(SEGMENT, np.full(len(ids), -1)))
        if segment.shape != ids.shape:
            raise ValueError(f"A row has {len(ids)} tokens, but {segment.size} segments.")
        support = {int(i) for i in row.get(SUPPORT, ())}
        if self.spans and all(name in row for name in SPAN_LABELS):
            first, last = (int(row[name]) for name in SPAN_LABELS)
            support.update(int(i) for i in segment[max(first, 0) : last + 1])
        seed = int.from_bytes(hashlib.blake2b(ids[real].astype(np.int64).tobytes(), digest_size=8).digest(), "little")
        return Example(features, segment[real], frozenset(support), seed >> 2, croppable=bool((segment >= 0).any()))

    def _labels(self, rows: Sequence[Window | Mapping[str, Any]]) -> dict[str, Any]:
        if not self.spans:
            for name in _LABEL_NAMES:
                if all(isinstance(row, Mapping) and row.get(name) is not None for row in rows):
                    labels = torch.as_tensor(np.asarray([row[name] for row in rows]))  # type: ignore[index]
                    return {"labels": labels.float() if labels.is_floating_point() else labels.long()}
            return {}
        if all(isinstance(row, Window) for row in rows):
            spans = [(row.start, row.end) for row in rows]  # type: ignore[union-attr]
        elif all(isinstance(row, Mapping) and all(name in row for name in SPAN_LABELS) for row in rows):
            spans = [tuple(int(row[name]) for name in SPAN_LABELS) for row in rows]  # type: ignore[index, misc]
        else:
            return {}
        return {
            name: torch.tensor(column) for name, column in zip(SPAN_LABELS, zip(*spans, strict=True), strict=True)
        }
