"""Batches of similar length, for which only the rows of one window at a time must have been tokenised.

The order of an epoch is drawn from the seed before anything is known of the rows: the dataset is shuffled, and cut
into windows of as many rows each. When a window's turn comes, the true lengths of its rows are looked up, and
`LengthBatches` makes its batches. So lengths are exact, a batch keeps to its budget of tokens, and which rows meet in
a batch depends on the seed, the epoch and the data alone: not on who tokenised the rows, when, or in how many
processes. A dataset that is no larger than a window has the batches of `LengthBatches`.

**How many batches.** A trainer must know it before the first step. With a size in rows it follows from the number of
rows. With a budget of tokens it is estimated: windows are random samples of one dataset, so the first window of the
first epoch says how many batches the others need. To that come `MARGIN` standard errors. Where a window needs fewer
batches than it has been given, its largest ones are divided. Where it needs more, which chance alone makes happen
once in millions of windows, its last batches are left out of this epoch, and the log says so.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from torch.utils.data import BatchSampler

from cmp_rerank.text.checks import check_whole
from cmp_rerank.training.sampler import LengthBatches, with_company

logger = logging.getLogger(__name__)

#: Standard errors that are added to the estimated number of batches.
MARGIN = 5.0

Lengths = Callable[[np.ndarray], np.ndarray]


class WindowBatches(BatchSampler):
    """Batches of rows of similar length, in random order, window by window; see above.

    Args:
        count: rows of the dataset.
        lengths: gives the tokens of each of some rows, whatever it must do to know them.
        rows: rows of a batch for one process; or
        tokens: tokens of a batch for one process. A row that is longer is a batch by itself.
        window: rows of a window, about.
        world: the number of processes.
        drop_last: whether each batch must have all of its ``rows``.
        seed: what the order derives from, together with the epoch.
        soon: is told the rows of the next window, as soon as the lengths of one are known.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> lengths = np.array([9, 1, 8, 2, 9, 1])
        >>> batches = WindowBatches(6, lambda rows: lengths[rows], rows=2, window=6)
        >>> sorted(sorted(batch) for batch in batches)
        [[0, 4], [1, 5], [2, 3]]
    """

    def __init__(
        self,
        count: int,
        lengths: Lengths,
        rows: int | None = None,
        tokens: int | None = None,
        *,
        window: int,
        world: int = 1,
        drop_last: bool = False,
        seed: int = 0,
        soon: Callable[[np.ndarray], object] = lambda rows: None,
    ) -> None:
        self.count = check_whole("count", count)
        self.lengths, self.soon = lengths, soon
        self.rows, self.tokens = rows, tokens
        self.world, self.seed, self.drop_last = (
            check_whole("world", world),
            check_whole("seed", seed, None),
            drop_last,
        )
        self.batch_size = (rows or 1) * world
        self.epoch = 0
        unit = (rows or 1) * world
        windows = max(1, round(count / check_whole("window", window)))
        # All but the last window have full batches only, and no row that is left over.
        self.window = count if windows == 1 else math.ceil(count / windows / unit) * unit
        self._sizes = [min(self.window, count - start) for start in range(0, count, self.window)]
        self._order: tuple[int, np.ndarray] | None = None
        self._cut: tuple[int, list[list[int]]] | None = None
        if tokens is None:
            counts = [n // unit if drop_last else math.ceil((n - n % world) / unit) for n in self._sizes]
        else:
            counts = self._estimated()
        self._ends = np.cumsum(counts)

    def _estimated(self) -> list[int]:
        """Batches of each window, under a budget of tokens."""
        whole = self._batches(0)
        if len(self._sizes) == 1:
            return [len(whole)]
        shares = whole.shares()
        spread = MARGIN * float(shares.std() / shares.mean())
        return [
            min(
                n // self.world,
                math.ceil(len(whole) * n / self.window * (1 + spread * math.sqrt(1 / n + 1 / self.window))) + 1,
            )
            for n in self._sizes
        ]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: its order derives from it."""
        if epoch != self.epoch:
            self.epoch, self._cut = epoch, None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(len(self)):
            yield self.batch(number)

    def batch(self, number: int) -> list[int]:
        """The rows of a batch by its number in the epoch. Batches of one window are found out together."""
        window = int(np.searchsorted(self._ends, number, side="right"))
        start = int(self._ends[window - 1]) if window else 0
        if self._cut is None or self._cut[0] != window:
            rows = self._rows(window)
            batches = self._batches(window, int(self._ends[window]) - start)
            if window + 1 < len(self._sizes):
                self.soon(self._rows(window + 1))
            found = [rows[batch].tolist() for batch in islice(batches, batches.wanted)]
            if len(batches) > len(found):
                logger.warning(
                    "A window of %d rows needs %d batches instead of %d: %d are left out of this epoch.",
                    len(rows), len(batches), len(found), len(batches) - len(found),
                )  # fmt: skip
            self._cut = window, found
        return self._cut[1][number - start]

    def _rows(self, window: int) -> np.ndarray:
        """The rows of a window in this epoch."""
        if len(self._sizes) == 1:
            return np.arange(self.count)
        if self._order is None or self._order[0] != self.epoch:
            order = np.arange(self.count, dtype=np.int32 if self.count < 2**31 else np.int64)
            np.random.default_rng([self.seed, self.epoch, self.count]).shuffle(order)
            self._order = self.epoch, order
        return self._order[1][window * self.window :][: self.window].astype(np.int64)

    def _batches(self, window: int, wanted: int | None = None) -> _WindowOf:
        lengths = with_company(self.lengths(self._rows(window)))
        batches = _WindowOf(
            lengths, self.rows, self.tokens, world=self.world, drop_last=self.drop_last,
            seed=self.seed, wanted=wanted,
        )  # fmt: skip
        batches.set_epoch(self.epoch * len(self._sizes) + window)
        return batches


class _WindowOf(LengthBatches):
    """The batches of a window: at least as many as are wanted."""

    def __init__(self, *args: object, wanted: int | None, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.wanted = wanted
        more = 0 if wanted is None else wanted - len(self)
        largest = [(a - b, a) for a, b in zip(self._bounds[:-1], self._bounds[1:], strict=True) if b > a]
        heapq.heapify(largest)
        for _ in range(more):
            size, start = largest[0]
            half = -size // self.world // 2 * self.world
            heapq.heapreplace(largest, (-half, start))
            heapq.heappush(largest, (size + half, start + half))
        if more > 0:
            self._bounds = [*sorted(start for _, start in largest), self._bounds[-1]]

    def shares(self) -> np.ndarray:
        """The share of a batch that each row takes, whatever row it is."""
        widths = np.diff(self._bounds)
        return np.repeat(1 / widths[widths > 0], widths[widths > 0])
