"""Batches of tokenised rows, with the examples of which views are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cmp_rerank.models.token_rows import TokenRowsAdapter

#: Where a batch carries its examples.
EXAMPLES = "examples"


class ExampleCollator:
    """Pads rows for the model, and adds their examples.

    Args:
        adapter: Knows the kind of model; without the model, so that data loader workers can have it.
    """

    def __init__(self, adapter: TokenRowsAdapter) -> None:
        self.adapter = adapter

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Make a batch: the model's inputs, padded, the labels, and the examples."""
        examples = [self.adapter.example(row) for row in rows]
        batch = self.adapter.padding([(example, example.full()) for example in examples], torch.device("cpu"))
        return batch.features | self.adapter.labels(rows) | {EXAMPLES: examples}
