"""Tokenising the training data while training runs, a window of rows ahead of the batches that need it.

    the seed draws the order of an epoch            (`WindowBatches`, or a batch sampler of the caller)
      window after window of its rows is tokenised  (`Ahead`, in worker processes, each row once)
        into parts in a folder                      (`TokenStore`: temporary, or `token_cache`)
          true lengths make the batches             (`TokenisedBatches`, in the main process)
            a batch carries the places of its rows  (`TokenisedRows`, in data loader workers, reads them)

The first step waits for one window, whatever the size of the dataset. Nothing that is decided on the way depends on
what is in the folder already, or on the number of processes: they only change who tokenises a row, and when. A
resumed training passes over windows that are done without tokenising them.
"""

from __future__ import annotations

import bisect
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from cmp_rerank.models.pairs import Truncation
from cmp_rerank.training.collator import TOKENS
from cmp_rerank.training.row_tokens import RowTokeniser, content_of, pairs_of, row_length, warn_of
from cmp_rerank.training.token_part import TokenisedRow, TokenPart
from cmp_rerank.training.token_store import Place, TokenIndex, TokenStore
from cmp_rerank.training.windows import WindowBatches

logger = logging.getLogger(__name__)

#: Pairs of a window, about: few enough for seconds of one core, and enough for batches of similar length.
WINDOW = 16_384
#: Pairs of a part, about.
PART = 2_048
#: Rows whose pairs are counted to learn how many a row has.
_SAMPLE = 64

Progress = Callable[[], tuple[int, int]]


class Rows:
    """The rows of one dataset or several, numbered end to end.

    Args:
        datasets: each with a length, and rows as dictionaries.
    """

    def __init__(self, datasets: Sequence[Any]) -> None:
        self.datasets = list(datasets)
        self.ends = list(accumulate(len(dataset) for dataset in self.datasets))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Rows, all of one dataset."""
        if not numbers:
            return []
        which = self.dataset_of(numbers[0])
        first = self.ends[which] - len(self.datasets[which])
        columns = self.datasets[which][[number - first for number in numbers]]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def dataset_of(self, number: int) -> int:
        """Which dataset a row belongs to."""
        return bisect.bisect_right(self.ends, number)


class TokenisedRows(Dataset):  # type: ignore[type-arg]
    """Rows with their tokens, by their places; rows that are not in the store come without.

    A dataset may give another row each time that it is asked, as by a transform that draws a negative. Tokens belong
    to what a row held when they were made.

    Args:
        rows: of the dataset.
        store: where their tokens are.
    """

    def __init__(self, rows: Rows, store: TokenStore) -> None:
        self.rows, self.store = rows, store
        self._warned = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Place) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[Place]) -> list[dict[str, Any]]:
        """The rows of a batch."""
        rows = self.rows[[place.row for place in places]]
        found = [self.store.examples(place, content_of(row)) for row, place in zip(rows, places, strict=True)]
        if not self._warned and any(
            tokens is None and self.store.examples(place) is not None
            for tokens, place in zip(found, places, strict=True)
        ):
            self._warned = True
            logger.warning(
                "Rows of the dataset have changed since they were tokenised, as by a random transform: they are "
                "tokenised when their batch is collated. Their lengths are those of before."
            )
        return [row | {TOKENS: tokens} for row, tokens in zip(rows, found, strict=True)]


class Ahead:
    """Tokenises rows before they are needed; in the end all know their lengths.

    Args:
        rows: of the dataset.
        store: where tokens go.
        tokeniser: tokenises rows.
        workers: processes that tokenise while training runs; 0: this one does, when it needs the rows.
        turn: at which share of a window's parts this process begins.
        count: is told what the window cut of rows that were not known before, and which dataset they are of.
    """

    def __init__(
        self,
        rows: Rows,
        store: TokenStore,
        tokeniser: RowTokeniser,
        workers: int = 0,
        turn: float = 0,
        count: Callable[[Truncation, int], None] = lambda counts, dataset: None,
    ) -> None:
        self.rows, self.store, self.workers, self.turn = rows, store, workers, turn
        self.index = TokenIndex(store, len(rows))
        self._tokenise = _Tokenise(rows, store, tokeniser)
        self._count = count
        self._running: dict[bytes, Iterator[Any]] = {}
        self._warned_of_rows = self._warned_of_store = False
        self._refresh()

    def tokenise_by(self, tokeniser: RowTokeniser) -> None:
        """Tokenise by another one with the same settings, so that the model of the one before can go."""
        self._tokenise.tokeniser = tokeniser

    def begin(self, rows: np.ndarray) -> None:
        """Let workers tokenise rows that will be needed soon."""
        key = rows.tobytes()
        if self.workers and key not in self._running and (parts := self._parts(rows)):
            self._running[key] = self._results(parts, self.workers)

    def stop(self) -> None:
        """Let workers go; what they have written stays."""
        self._running.clear()

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of each row; waits until all have been tokenised."""
        self.begin(rows)
        self._take(self._running.pop(rows.tobytes(), ()))
        for again in (False, True):  # in this process, without workers; again, where another one's part is damaged
            if parts := self._parts(rows):
                self._take(self._results(parts, 0, again))
        return self.index.lengths(rows)

    def places(self, rows: Iterable[int]) -> list[Place]:
        """Where the tokens of rows are."""
        return [self.index.place(row) for row in rows]

    def _refresh(self) -> None:
        for part in self.index.refresh():
            self._count_cut(part)

    def _count_cut(self, part: TokenPart) -> None:
        self._count(Truncation(**part.meta["truncation"]), self.rows.dataset_of(int(part.rows[0])))

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows that are missing, in parts of one dataset each, ascending, so that files are read in order.

        Processes of one training need the same windows, and so the same parts: each begins with other ones, and finds
        the rest made, where they share a folder.
        """
        self._refresh()
        missing = np.sort(self.index.missing(rows))
        cuts = np.searchsorted(missing, self.rows.ends[:-1])
        parts = []
        for share in np.split(missing, cuts):
            size = max(1, PART // pairs_per_row(self.rows, share))
            parts += [share[start : start + size] for start in range(0, len(share), size)]
        begin = int(self.turn * len(parts))
        return parts[begin:] + parts[:begin]

    def _results(self, parts: list[np.ndarray], workers: int, again: bool = False) -> Iterator[Any]:
        workers = min(workers, len(parts))
        loader: DataLoader[Any] = DataLoader(
            _Parts(self._tokenise, parts, again),
            batch_size=None,
            collate_fn=_same,
            num_workers=workers,
            prefetch_factor=-(-len(parts) // workers) if workers else None,  # all are asked for at once
            generator=torch.Generator(),  # the seed of workers is not drawn from the state that training uses
        )
        with _quiet_fork():
            return iter(loader)

    def _take(self, results: Iterable[_Made]) -> None:
        for made in results:
            if made.bad_row and not self._warned_of_rows:
                self._warned_of_rows = True
                warn_of(made.bad_row)
            if made.not_kept and not self._warned_of_store:
                self._warned_of_store = True
                logger.warning(
                    "Tokens cannot be kept in %s (%s): they are made again when their batch is collated.",
                    self.store.folder, made.not_kept,
                )  # fmt: skip
            if made.rows is not None and made.lengths is not None:
                self.index.set_lengths(made.rows, made.lengths)
            elif (part := self.index.add(made.name)) is not None:
                self._count_cut(part)


@contextmanager
def _quiet_fork() -> Iterator[None]:
    """Tokenizers do not run in threads in processes that are started inside; they would say so for each of them."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ.setdefault(name, "false")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


class _Made(NamedTuple):
    """What became of a part."""

    name: str = ""  # it is not kept, then rows and lengths are said
    rows: np.ndarray | None = None
    lengths: np.ndarray | None = None
    bad_row: str = ""
    not_kept: str = ""


class _Tokenise:
    """Tokenises a part and writes it, in whatever process."""

    def __init__(self, rows: Rows, store: TokenStore, tokeniser: RowTokeniser) -> None:
        self.rows, self.store, self.tokeniser = rows, store, tokeniser

    def __call__(self, numbers: np.ndarray, again: bool) -> _Made:
        """Make a part, unless another process has made it meanwhile; ``again``: that one proved to be damaged."""
        name = "" if again else self.store.has(numbers)
        if name:
            return _Made(name)
        rows = self.rows[numbers.tolist()]
        found, truncation = self.tokeniser(rows)
        not_kept = ""
        if not self.tokeniser.problem:
            kept = [
                TokenisedRow(int(n), examples or [], content_of(row))
                for n, examples, row in zip(numbers, found, rows, strict=True)
            ]
            try:
                # No more than a name: a worker whose parent was killed could not end with a full pipe.
                return _Made(self.store.write(kept, {"truncation": asdict(truncation)}))
            except (OSError, ValueError) as error:
                not_kept = str(error)
        lengths = np.array([row_length(row, examples) for row, examples in zip(rows, found, strict=True)])
        return _Made("", numbers, lengths, self.tokeniser.problem, not_kept)


class _Parts(Dataset):  # type: ignore[type-arg]
    def __init__(self, tokenise: _Tokenise, parts: list[np.ndarray], again: bool) -> None:
        self.tokenise, self.parts, self.again = tokenise, parts, again

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Any:
        return self.tokenise(self.parts[number], self.again)


def _same(value: Any) -> Any:
    return value


def pairs_per_row(rows: Rows, numbers: np.ndarray) -> int:
    """How many pairs rows of one dataset have each, about, by the first few; at least 1."""
    sample = rows[numbers[:_SAMPLE].tolist()]
    return max(1, round(sum(map(pairs_of, sample)) / max(len(sample), 1)))


def passed_over(batches: TokenisedBatches | GivenBatches) -> int:
    """How many batches of the epoch that begins are done; says which epoch it is, where no one else does.

    The trainers of this package tell it. What accelerate wraps around a sampler in several processes does not.
    """
    epoch, done = batches.progress()
    if epoch > batches.epoch:
        batches.set_epoch(epoch)
    return done if epoch == batches.epoch else 0


class TokenisedBatches(BatchSampler):
    """Batches of places, of rows that have been tokenised; one batch for each process, in turn.

    Args:
        ahead: tokenises.
        plans: the batches of each dataset, by their numbers.
        mixed: yields ``[number]``, where the numbers of the datasets' batches follow those of their rows, as
            sentence-transformers mixes datasets.
        world: the number of processes.
        process: which of them this one is.
        progress: gives the epoch that training has come to, and how many of its batches are done. These are passed
            over: what comes in their place is empty.
    """

    def __init__(
        self,
        ahead: Ahead,
        plans: Sequence[WindowBatches],
        mixed: BatchSampler,
        *,
        world: int = 1,
        process: int = 0,
        progress: Progress = lambda: (0, 0),
    ) -> None:
        self.ahead, self.plans, self.mixed = ahead, plans, mixed
        self.world, self.process, self.progress = world, process, progress
        self.batch_size = None  # type: ignore[assignment]  # not the same for all
        self.drop_last = False
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Hand the epoch on."""
        self.epoch = epoch
        for each in (*self.plans, self.mixed):
            if hasattr(each, "set_epoch"):
                each.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.mixed) * self.world

    def __iter__(self) -> Iterator[list[Place]]:  # type: ignore[override]
        done = passed_over(self)
        for position, (number,) in enumerate(self.mixed):
            share = [] if position < done else self._share(number)
            for _ in range(self.world):  # accelerate gives every process each n-th
                yield share

    def _share(self, number: int) -> list[Place]:
        """What this process has of a batch."""
        which = self.ahead.rows.dataset_of(number)
        first = self.ahead.rows.ends[which] - len(self.ahead.rows.datasets[which])
        batch = self.plans[which].batch(number - first)
        size = len(batch) // self.world
        return self.ahead.places(first + row for row in batch[self.process * size : (self.process + 1) * size])


class Numbers(BatchSampler):
    """The numbers of a plan's batches, each as a batch: what datasets are mixed by.

    Args:
        plan: the batches.
    """

    def __init__(self, plan: WindowBatches) -> None:
        self.plan = plan
        self.batch_size, self.drop_last = 1, False

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[int]]:
        return ([number] for number in range(len(self.plan)))


class GivenBatches(BatchSampler):
    """The batches of any sampler, of rows that are tokenised as many batches ahead as make a window.

    Args:
        ahead: tokenises.
        batches: yields row numbers; a batch may be empty, where a resumed training passes over it.
        window: rows of a window, about.
        progress: as in `TokenisedBatches`.
    """

    def __init__(self, ahead: Ahead, batches: Any, window: int, progress: Progress = lambda: (0, 0)) -> None:
        self.ahead, self.batches, self.window, self.progress = ahead, batches, window, progress
        self.batch_size, self.drop_last = None, getattr(batches, "drop_last", False)  # type: ignore[assignment]
        self.epoch = 0
        self.sampler: Any = getattr(batches, "sampler", None)  # under these names accelerate looks for
        self.batch_sampler: Any = getattr(batches, "batch_sampler", None)  # what has epochs

    def set_epoch(self, epoch: int) -> None:
        """Hand the epoch on."""
        self.epoch = epoch
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:  # type: ignore[override]
        batches = iter(self.batches)
        for _ in range(passed_over(self)):
            next(batches, None)
            yield []
        windows = self._windows(batches)
        window = next(windows, None)
        while window is not None:
            following = next(windows, None)
            rows, held = window
            self.ahead.lengths(rows)
            if following is not None:
                self.ahead.begin(following[0])
            yield from (self.ahead.places(batch) for batch in held)
            window = following

    def _windows(self, batches: Iterator[list[int]]) -> Iterator[tuple[np.ndarray, list[list[int]]]]:
        held: list[list[int]] = []
        rows = 0
        for batch in batches:
            held.append(batch)
            rows += len(batch)
            if rows >= self.window:
                yield np.unique(np.concatenate(held)), held
                held, rows = [], 0
        if held:
            yield np.unique(np.concatenate(held)), held
