"""Batches of rows of similar length, under a budget of tokens or rows, balanced between processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import BatchSampler

from cmp_rerank.text.checks import check_whole

#: Lengths within one class differ by this factor at most; rows of a class are shuffled among each other.
CLASS_RATIO = 1.05


class LengthBatches(BatchSampler):
    """Batches of rows of similar length, in random order, for all processes together.

    Rows are put in classes of nearly equal length. In each epoch the rows of a class are shuffled, the classes are
    laid end to end and cut into batches, and the batches are shuffled. Lengths are rounded up to those of their
    class where they count for the budget: so an epoch has the same number of batches each time, which a trainer
    must know in advance.

    A batch is the rows of all processes, one process after the other, each with the same number of rows and nearly
    the same number of tokens. An epoch has every row once. Where rows would be left over (fewer than there are
    processes; with ``drop_last``, fewer than a full batch), that many are left out, drawn again in each epoch.

    Args:
        lengths: tokens of each row of the dataset.
        rows: rows of a batch for one process; or
        tokens: tokens of a batch for one process. A row that is longer is a batch by itself.
        world: the number of processes.
        drop_last: whether each batch must have all of its ``rows``.
        seed: what the order derives from, together with the epoch.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> batches = LengthBatches([9, 1, 8, 2, 9, 1], rows=2)
        >>> sorted(sorted(batch) for batch in batches)
        [[0, 4], [1, 5], [2, 3]]
        >>> len(LengthBatches([9, 1, 8, 2, 9, 1], tokens=11))
        4
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        rows: int | None = None,
        tokens: int | None = None,
        *,
        world: int = 1,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        if (rows is None) == (tokens is None):
            raise ValueError(
                f"Give either the rows or the tokens of a batch; got rows={rows!r} and tokens={tokens!r}."
            )
        rows = None if rows is None else check_whole("rows", rows)
        tokens = None if tokens is None else check_whole("tokens", tokens)
        world = check_whole("world", world)
        self.lengths = _checked_lengths(lengths)
        self.rows, self.tokens, self.world, self.seed = rows, tokens, world, check_whole("seed", seed, None)
        self.drop_last = drop_last
        self.batch_size = (rows or 1) * world
        self.epoch = 0
        unit = rows * world if drop_last and rows else world
        classes = np.ceil(np.log(self.lengths) / math.log(CLASS_RATIO) - 1e-9).astype(np.int64)
        self._classes = classes
        inside = np.sort(classes)
        self._spare = len(inside) % unit
        # The n-th of the rows that are left is at most as long as that of the longest rows: whichever are left out
        # in an epoch, the same cut keeps to the budget.
        self._bounds = self._cut(np.floor(CLASS_RATIO ** inside[self._spare :] + 1e-9).astype(np.int64))

    def _cut(self, rounded: np.ndarray) -> list[int]:
        """Where batches begin and end in the order of the classes."""
        if self.tokens is None:
            assert self.rows is not None
            return [*range(0, len(rounded), self.rows * self.world), len(rounded)]
        bounds, held = [0], 0
        for start in range(0, len(rounded), self.world):
            unit = int(rounded[start : start + self.world].sum())
            if held and held + unit > self.tokens * self.world:
                bounds.append(start)
                held = 0
            held += unit
        return [*bounds, len(rounded)]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: its order derives from it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(b > a for a, b in zip(self._bounds[:-1], self._bounds[1:], strict=True))

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = np.lexsort([rng.random(len(self.lengths)), self._classes])
        order = np.delete(order, rng.choice(len(order), self._spare, replace=False))
        batches = [order[a:b] for a, b in zip(self._bounds[:-1], self._bounds[1:], strict=True) if b > a]
        for i in rng.permutation(len(batches)):
            yield self._balanced(batches[i])

    def _balanced(self, batch: np.ndarray) -> list[int]:
        """The rows of a batch, one process after the other: of each run of similar rows the longest goes to the
        process that has the fewest tokens so far.
        """
        if self.world == 1:
            return [int(i) for i in batch]
        shares: list[list[int]] = [[] for _ in range(self.world)]
        held = np.zeros(self.world, dtype=np.int64)
        batch = batch[np.argsort(-self.lengths[batch], kind="stable")]
        for start in range(0, len(batch), self.world):
            run = batch[start : start + self.world]
            for row, process in zip(run, np.argsort(held, kind="stable"), strict=True):
                shares[process].append(int(row))
                held[process] += self.lengths[row]
        return [row for share in shares for row in share]


class DistributedBatchSampler(BatchSampler):
    """Each batch in as many equal parts as there are processes, one after the other.

    ``accelerate`` gives every process each n-th batch.

    Args:
        batches: yields batches for all processes together.
        world: the number of processes.
    """

    def __init__(self, batches: BatchSampler, world: int) -> None:
        self.sampler: Any = batches  # under this name trainers look for what has epochs
        self.world = world
        self.batch_size = None  # type: ignore[assignment]  # not the same for all
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        """Hand the epoch on."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler) * self.world

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int]
        for batch in self.sampler:
            share = len(batch) // self.world
            for process in range(self.world):
                yield batch[process * share : (process + 1) * share]


def with_company(lengths: np.ndarray) -> np.ndarray:
    """Lengths of rows, where those of rows without tokens, such as queries without documents, are taken from others.

    So they come in batches with other rows. A batch of such rows alone would have no loss. Where no row has any, each
    counts as one token.

    Args:
        lengths: tokens of each row.

    Example:
        >>> with_company(np.array([0, 9, 0, 8, 7])).tolist()
        [9, 9, 8, 8, 7]
    """
    empty = lengths == 0
    if empty.all():
        return np.ones_like(lengths)
    return np.where(empty, np.resize(lengths[~empty], len(lengths))[np.cumsum(empty) - 1], lengths)


def _checked_lengths(lengths: Any) -> np.ndarray:
    """The lengths as an array; a ValueError unless each is a whole number of at least 1, and there are any."""
    try:
        array = np.asarray(lengths)
    except ValueError:  # of lists of several lengths
        array = np.empty((0, 0))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"lengths must be a list of whole numbers, the tokens of each row; got {lengths!r:.80}.")
    if not array.size or array.min() < 1:
        got = "no row" if not array.size else f"the length {array.min()}"
        raise ValueError(f"Every row must have a length of at least 1 token, and there must be rows; got {got}.")
    return array.astype(np.int64)
