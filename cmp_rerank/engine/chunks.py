"""Chunks: rows in order of length, cut so that little is padded and no forward pass holds too many tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmp_rerank.engine.rows import Row


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
        >>> import numpy as np
        >>> from cmp_rerank.ablations import Example, View
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


def padding_share(chunks: Sequence[Sequence[int]], rows: Sequence[Row]) -> float:
    """The share of the tokens of all chunks that is padding."""
    real = sum(len(rows[i][1]) for chunk in chunks for i in chunk)
    padded = sum(len(chunk) * max(len(rows[i][1]) for i in chunk) for chunk in chunks)
    return 1.0 - real / padded if padded else 0.0
