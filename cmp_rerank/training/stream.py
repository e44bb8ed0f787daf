"""Streams of rows that train in buffers: of a window of rows, batches of similar length, then of the next window.

A stream is read in its order, once for each process. Its rows are held for a window, tokenised, shuffled by the seed,
and put into batches as `LengthBatches` has it. Where the stream ends it begins again, as its next epoch; so it is
``max_steps`` that ends the training. A resumed training reads the stream from its start up to where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from cmp_rerank.models.pairs import Truncation
from cmp_rerank.training.collator import CUT, TOKENS
from cmp_rerank.training.row_tokens import RowTokeniser, pairs_of, row_length, warn_of
from cmp_rerank.training.sampler import LengthBatches, with_company

#: Pairs that are tokenised together.
_BLOCK = 2_048


class StreamedBatches(IterableDataset):  # type: ignore[type-arg]
    """What one process has of the batches of a stream.

    Args:
        stream: an ``IterableDataset`` of ``datasets``, or anything that yields rows each time that it is iterated.
        tokeniser: tokenises rows.
        rows: rows of a batch for one process; or
        tokens: tokens of a batch for one process. A row that is longer is a batch by itself.
        window: pairs of a window, about.
        by_length: whether the rows of a batch have similar lengths.
        world: the number of processes.
        process: which of them this one is.
        drop_last: whether each batch must have all of its ``rows``.
        seed: what the order within windows derives from.
    """

    def __init__(
        self,
        stream: Any,
        tokeniser: RowTokeniser,
        rows: int | None = None,
        tokens: int | None = None,
        *,
        window: int,
        by_length: bool = True,
        world: int = 1,
        process: int = 0,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        self.stream, self.tokeniser, self.rows, self.tokens = stream, tokeniser, rows, tokens
        self.window, self.by_length, self.world, self.process = window, by_length, world, process
        self.drop_last, self.seed = drop_last, seed
        self._warned = False

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        numbers = count()
        for epoch in count():
            if hasattr(self.stream, "set_epoch"):
                self.stream.set_epoch(epoch)
            found = False
            for window in self._windows():
                for batch in self._batches(window, next(numbers)):
                    found = True
                    yield batch
            if not found:
                raise ValueError(
                    "A stream must have rows for a batch of each process; got too few of them for "
                    f"{self.world} process(es). Give more rows, or smaller batches."
                )

    def _windows(self) -> Iterator[list[dict[str, Any]]]:
        held: list[dict[str, Any]] = []
        pairs = 0
        for row in self.stream:
            held.append(row)
            pairs += pairs_of(row)
            if pairs >= self.window and self._whole(len(held)):
                yield held
                held, pairs = [], 0
        if held:
            yield held

    def _whole(self, rows: int) -> bool:
        """Whether rows divide into batches for all processes: only the last window of a stream leaves some over."""
        return rows % ((self.rows or 1) * self.world) == 0

    def _batches(self, window: list[dict[str, Any]], number: int) -> Iterator[list[dict[str, Any]]]:
        tokens = []
        cut = Truncation()
        block = max(1, _BLOCK * len(window) // max(sum(map(pairs_of, window)), 1))
        for start in range(0, len(window), block):
            found, truncation = self.tokeniser(window[start : start + block])
            tokens += found
            cut.add_counts(truncation)
            if self.tokeniser.problem and not self._warned:
                self._warned = True
                warn_of(self.tokeniser.problem)
        rows = [row | {TOKENS: pairs} for row, pairs in zip(window, tokens, strict=True)]
        lengths = np.array([row_length(row, pairs) for row, pairs in zip(window, tokens, strict=True)])
        batches = LengthBatches(
            with_company(lengths) if self.by_length else np.ones_like(lengths), self.rows, self.tokens,
            world=self.world, drop_last=self.drop_last, seed=self.seed,
        )  # fmt: skip
        batches.set_epoch(number)
        for batch in batches:
            size = len(batch) // self.world
            first, *others = (rows[i] for i in batch[self.process * size : (self.process + 1) * size])
            yield [first | {CUT: cut}, *others]  # from a worker nothing else reaches the loss
            cut = Truncation()
