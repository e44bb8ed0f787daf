"""Rows: the views of all examples of a batch, each computation once; in chunks, and as batches of model inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmp_rerank.ablations import Example, View
from cmp_rerank.engine.memory import Budget

Row = tuple[Example, View]
"""One view of one example, (`Example`, `View`), which is scored once: ``example, view = row``."""


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
        longest: tokens of the longest example of all rows of the step.

    Example:
        >>> example = Example({"input_ids": np.array([7, 8, 9])}, np.array([-1, 0, 1]), seed=5)
        >>> rows = [(example, View(np.array([0, 1, 2]))), (example, View(np.array([0, 1, 2]), (1,)))]
        >>> ids = torch.tensor([[7, 8, 9], [7, 8, 9]])
        >>> batch = RowBatch.of(rows, {"input_ids": ids}, positions=torch.arange(3).expand(2, 3))
        >>> batch.seeds.tolist(), batch.level(0)
        ([5, 5], [0, 1])
    """

    rows: Sequence[Row]
    features: dict[str, Any]
    positions: Tensor
    seeds: Tensor
    levels: Sequence[tuple[float, ...]]
    longest: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row], features: dict[str, Any], positions: Tensor) -> RowBatch:
        """The batch of rows, from what their tokens became."""
        seeds = torch.tensor([example.seed_of(view.copy) for example, view in rows], device=positions.device)
        return cls(rows, features, positions, seeds, [view.levels for _, view in rows])

    def level(self, number: int) -> list[float]:
        """For each row the level of one ablation, by its number among those that act on the model."""
        return [levels[number] if number < len(levels) else 0 for levels in self.levels]


def computation(row: Row, by_position: bool = False) -> Hashable:
    """What the scores of a row depend on: rows of which this is equal are one computation.

    Masks derive from the row's seed and the original positions of its tokens, and there are none where no ablation
    acts on the model. So rows of several examples may be equal, such as documents that differ in what is cropped.

    Args:
        row: the row.
        by_position: whether scores depend on the original positions anyway; see `Adapter`.

    Example:
        >>> tokens, segment = {"input_ids": np.array([7, 8, 9])}, np.array([-1, 0, 1])
        >>> one, other = Example(tokens, segment, seed=1), Example(tokens, segment, seed=2)
        >>> view, dropped = View(np.array([0, 1])), View(np.array([0, 1]), (1,))
        >>> computation((one, view)) == computation((other, view))
        True
        >>> computation((one, dropped)) == computation((other, dropped))
        False
    """
    example, view = row
    ablated = any(view.levels)
    inputs = tuple(
        (name, view.feature(example, name).astype(np.int64).tobytes()) for name in sorted(example.features)
    )
    where = view.tokens.tobytes() if ablated or by_position else len(view)
    masks = (example.seed_of(view.copy), *np.trim_zeros(view.levels, "b")) if ablated else None
    return inputs, where, masks, view.copy


def pooled(
    examples: Sequence[Example],
    views: Sequence[Sequence[View]],
    identity: Callable[[int, int, Row], Hashable],
) -> tuple[list[Row], np.ndarray]:
    """All views of all examples as rows; a view that is the same computation as an earlier one is no new row.

    Args:
        examples: n examples.
        views: for each example its views, the same number for all.
        identity: what is equal for rows that are one computation, from the numbers of example and view, and the row.

    Returns:
        The rows, and for each example and view the number of its row, (n, views) int64.

    Example:
        >>> example = Example({"input_ids": np.arange(3)}, segment=np.array([-1, 0, 1]))
        >>> full, again, dropped = View(np.arange(3)), View(np.arange(3)), View(np.arange(3), (1,))
        >>> batch = [example, example], [[full, again, dropped], [full, dropped, dropped]]
        >>> rows, index = pooled(*batch, lambda i, k, row: computation(row))
        >>> len(rows), index.tolist()
        (2, [[0, 0, 1], [0, 1, 1]])
        >>> rows, index = pooled(*batch, lambda i, k, row: (i, computation(row)))
        >>> len(rows), index.tolist()
        (4, [[0, 0, 1], [2, 3, 3]])
    """
    rows: list[Row] = []
    known: dict[Hashable, int] = {}
    index = np.empty((len(examples), len(views[0]) if len(views) else 0), dtype=np.int64)
    for i, (example, steps) in enumerate(zip(examples, views, strict=True)):
        for k, view in enumerate(steps):
            index[i, k] = known.setdefault(identity(i, k, (example, view)), len(rows))
            if index[i, k] == len(rows):
                rows.append((example, view))
    return rows, index


@dataclass(frozen=True, eq=False)
class Step:
    """All that is to be scored in one step.

    Attributes:
        rows: the rows.
        index: for each example and view the number of its row, (n, views) int64.
        longest: tokens of the longest example.
        shares: whether there are rows that read the same tokens.
        idle: the rows of views that are expected to get no gradient, and of no other views.
    """

    rows: list[Row]
    index: np.ndarray
    longest: int
    shares: bool
    idle: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        views: Sequence[Sequence[View]],
        identity: Callable[[int, int, Row], Hashable],
        idle: Sequence[int] = (),
    ) -> Step:
        """The rows of examples; see `pooled`. ``idle`` are numbers of views."""
        rows, index = pooled(examples, views, identity)
        busy = np.delete(index, list(idle), axis=1)
        return cls(
            rows,
            index,
            max(map(len, examples)),
            len(forks(rows)) < len(rows),
            frozenset(range(len(rows))) - {*busy.flat},
        )


def shortened(row: Row, most: int, *cuts: int) -> list[Row]:
    """Rows of several lengths, made of one for a trial: special tokens stay, since a model may count on them.

    A sequence classifier such as T5 or BART pools at the last of its end-of-text tokens, and wants the same number of
    them in all rows. What stands between the texts of a pair stands at one of its ends, too. So the tokens of the two
    ends stay, and all others that have their ids.

    Args:
        row: the row.
        most: how many tokens the longest of the rows may have; more, where that many must stay.
        cuts: for each row how many tokens are taken from it, the last ones that may go.

    Returns:
        A row for each cut; none where there are not that many tokens that may go.

    Example:
        >>> example = Example({"input_ids": np.array([0, 7, 8, 2, 2, 9, 2])}, segment=np.full(7, -1))
        >>> for _, view in shortened((example, example.full()), 6, 0, 1, 2):
        ...     print(view.tokens.tolist())
        [0, 1, 2, 3, 4, 6]
        [0, 1, 3, 4, 6]
        [0, 3, 4, 6]
        >>> shortened((example, example.full()), 6, 0, 3)
        []
    """
    example, view = row
    ids = view.feature(example, "input_ids") if "input_ids" in example.features else view.tokens
    free = np.flatnonzero(~np.isin(ids, ids[[0, -1]]))
    surplus = min(max(0, len(view) - most), len(free))
    if surplus + max(cuts) > len(free):
        return []
    return [
        (example, replace(view, tokens=np.delete(view.tokens, free[len(free) - surplus - cut :]))) for cut in cuts
    ]


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


def in_order(parts: list[Tensor], order: list[int]) -> Tensor:
    """Scores of rows by their numbers, from parts end to end, which have them in another order.

    Example:
        >>> in_order([torch.tensor([3.0]), torch.tensor([1.0, 2.0])], [2, 0, 1])
        tensor([1., 2., 3.])
    """
    together = torch.cat(parts)
    where = torch.empty(len(order), dtype=torch.int64)
    where[order] = torch.arange(len(order))
    return together[where.to(together.device)]


# Chunks: rows in order of length, cut so that little is padded and no forward pass holds too many tokens --------


@dataclass(frozen=True)
class Chunking:
    """Cuts rows into chunks.

    Args:
        grouping: which rows stay together, `singles` or `forks`.
        budget: how many tokens a chunk may hold; it may shrink.
        device: where the rows run.
    """

    grouping: Callable[[Sequence[Row]], list[list[int]]]
    budget: Budget
    device: torch.device

    def __call__(self, rows: Sequence[Row]) -> list[list[int]]:
        """The chunks, by the numbers of their rows."""
        return cut(self.grouping(rows), rows, self.budget.of(self.device), self.budget.start(self.device))

    def of(self, rows: Sequence[Row], chosen: Sequence[int]) -> list[list[int]]:
        """The chunks of some of the rows, by their numbers among all."""
        return [[chosen[i] for i in chunk] for chunk in self([rows[i] for i in chosen])]


def singles(rows: Sequence[Row]) -> list[list[int]]:
    """Every row on its own, longest first."""
    return [[i] for i in sorted(range(len(rows)), key=lambda i: len(rows[i][1]), reverse=True)]


def forks(rows: Sequence[Row]) -> list[list[int]]:
    """Rows that read the same tokens of the same example together, longest first."""
    groups: list[list[int]] = []
    for i, (example, view) in enumerate(rows):
        last = rows[groups[-1][0]] if groups else None
        if last is not None and last[0] is example and last[1].reads_same(view):
            groups[-1].append(i)
        else:
            groups.append([i])
    return sorted(groups, key=lambda group: len(rows[group[0]][1]), reverse=True)


def cut(groups: Sequence[Sequence[int]], rows: Sequence[Row], budget: int, start: int) -> list[list[int]]:
    """Cut groups of rows, longest first, into the chunks that cost least, of at most ``budget`` tokens each.

    A chunk costs its tokens, padding included, and what it takes to start a pass. A group is divided only if it
    alone is more than the budget; a chunk has at least one row, whatever its length.

    Args:
        groups: which rows, of equal length, stay together, longest first.
        rows: the rows.
        budget: how many tokens a chunk may hold, padding included.
        start: what starting a pass costs, in tokens. At 0 nothing is padded; the more it is, the fewer the chunks.

    Example:
        >>> example = Example({}, segment=np.full(9, -1))
        >>> rows = [(example, View(np.arange(n))) for n in (3, 9, 4, 4)]
        >>> cut(singles(rows), rows, budget=100, start=0), cut(singles(rows), rows, budget=100, start=5)
        ([[1], [2, 3], [0]], [[1], [2, 3, 0]])
        >>> cut(singles(rows), rows, budget=9, start=5)
        [[1], [2, 3], [0]]
    """
    groups = [part for group in groups for part in _fitting(group, len(rows[group[0]][1]), budget)]
    n = len(groups)
    length = np.array([len(rows[group[0]][1]) for group in groups], dtype=np.int64)
    before = np.concatenate([[0], np.cumsum([len(group) for group in groups])]).astype(np.int64)
    # From the end: the least that the groups from i on cost, and where their first chunk ends.
    least = np.zeros(n + 1, dtype=np.int64)
    end = np.zeros(n, dtype=np.int64)
    for i in reversed(range(n)):
        most = np.searchsorted(before, before[i] + budget // length[i], side="right") - 1
        j = np.arange(max(int(most), i + 1), i, -1)  # the longest chunk first: it wins a tie
        costs = (before[j] - before[i]) * length[i] + start + least[j]
        best = int(costs.argmin())
        least[i], end[i] = costs[best], j[best]
    chunks: list[list[int]] = []
    i = 0
    while i < n:
        chunks.append([row for group in groups[i : end[i]] for row in group])
        i = int(end[i])
    return chunks


def _fitting(group: Sequence[int], length: int, budget: int) -> list[Sequence[int]]:
    """A group of rows of one length in parts that the budget allows."""
    most = max(1, budget // length)
    return [group[i : i + most] for i in range(0, len(group), most)]
