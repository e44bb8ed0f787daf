"""Chunks: rows in order of length, cut so that each forward pass holds at most so many tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmp_rerank.ablation import View
from cmp_rerank.scoring.rows import Row


def singles(rows: Sequence[Row]) -> list[list[int]]:
    """Every row on its own, longest first."""
    return [[i] for i in sorted(range(len(rows)), key=lambda i: len(rows[i][1]), reverse=True)]


def forks(rows: Sequence[Row]) -> list[list[int]]:
    """Rows that read the same tokens of the same example together, longest first."""
    groups: list[list[int]] = []
    for i, (example, view) in enumerate(rows):
        last = rows[groups[-1][0]] if groups else None
        if last is not None and last[0] is example and _same_tokens(last[1], view):
            groups[-1].append(i)
        else:
            groups.append([i])
    return sorted(groups, key=lambda group: len(rows[group[0]][1]), reverse=True)


def _same_tokens(one: View, other: View) -> bool:
    return one.tokens is other.tokens or np.array_equal(one.tokens, other.tokens)


def cut(groups: Sequence[Sequence[int]], rows: Sequence[Row], budget: int) -> list[list[int]]:
    """Cut groups of rows, longest first, into chunks of at most ``budget`` tokens, padding included.

    A group is never divided, so a chunk has at least one group, whatever its length.

    Example:
        >>> import numpy as np
        >>> from cmp_rerank.ablation import Example, View
        >>> example = Example({}, segment=np.full(9, -1))
        >>> rows = [(example, View(np.arange(n), 0)) for n in (3, 9, 4, 4)]
        >>> cut(singles(rows), rows, budget=9)
        [[1], [2, 3], [0]]
    """
    chunks: list[list[int]] = []
    for group in groups:
        if chunks and (len(chunks[-1]) + len(group)) * len(rows[chunks[-1][0]][1]) <= budget:
            chunks[-1].extend(group)
        else:
            chunks.append(list(group))
    return chunks


def padding_share(chunks: Sequence[Sequence[int]], rows: Sequence[Row]) -> float:
    """The share of the tokens of all chunks that is padding."""
    real = sum(len(rows[i][1]) for chunk in chunks for i in chunk)
    padded = sum(len(chunk) * max(len(rows[i][1]) for i in chunk) for chunk in chunks)
    return 1.0 - real / padded if padded else 0.0
