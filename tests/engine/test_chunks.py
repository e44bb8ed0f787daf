"""Chunks: each row once, within the budget, at the least cost."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.ablations import Example, View
from cmp_rerank.engine.rows import Row, cut, forks, singles


def rows_of(lengths: list[int]) -> list[Row]:
    example = Example({}, segment=np.full(max(lengths), -1))
    return [(example, View(np.arange(n), (0,))) for n in lengths]


def cost(chunks: list[list[int]], lengths: list[int], start: int) -> int:
    return sum(start + len(chunk) * max(lengths[i] for i in chunk) for chunk in chunks)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 120), st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_no_other_way_to_cut_costs_less(lengths: list[int], budget: int, start: int) -> None:
    """Against every way to cut the rows, longest first."""
    rows = rows_of(lengths)
    groups = singles(rows)
    chunks = cut(groups, rows, budget, start)
    assert [[i] for chunk in chunks for i in chunk] == groups  # each row once, in order
    assert all(len(chunk) == 1 or len(chunk) * lengths[chunk[0]] <= budget for chunk in chunks)
    order = [i for group in groups for i in group]
    least = None
    for cuts in product([False, True], repeat=len(order) - 1):
        other = [[order[0]]]
        for i, new in zip(order[1:], cuts, strict=True):
            other += [[i]] if new else []
            if not new:
                other[-1].append(i)
        if all(len(chunk) == 1 or len(chunk) * lengths[chunk[0]] <= budget for chunk in other):
            value = cost(other, lengths, start)
            least = value if least is None else min(least, value)
    assert cost(chunks, lengths, start) == least


def test_groups_are_divided_only_where_they_alone_are_too_much() -> None:
    example = Example({}, segment=np.full(9, -1))
    tokens = np.arange(9)
    rows = [(example, View(tokens, depth)) for depth in range(3)] + rows_of([5])
    groups = forks(rows)
    assert groups == [[0, 1, 2], [3]]
    assert cut(groups, rows, budget=36, start=1000) == [[0, 1, 2, 3]]
    assert cut(groups, rows, budget=35, start=1000) == [[0, 1, 2], [3]]
    assert cut(groups, rows, budget=27, start=1000) == [[0, 1, 2], [3]]
    assert cut(groups, rows, budget=26, start=1000) == [[0, 1], [2, 3]]
    assert cut(groups, rows, budget=1, start=1000) == [[0], [1], [2], [3]]


def test_the_price_of_a_pass_decides_how_much_is_padded() -> None:
    lengths = list(np.random.default_rng(0).integers(20, 257, 64))
    rows = rows_of([int(n) for n in lengths])
    shares = []
    for start in (0, 24, 64, 4096, 10**6):
        chunks = cut(singles(rows), rows, 10**6, start)
        real = sum(map(int, lengths))
        padded = sum(len(chunk) * max(int(lengths[i]) for i in chunk) for chunk in chunks)
        shares.append(1 - real / padded)
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[1] < 0.03
    assert shares[-1] > 0.3


def test_rows_of_different_examples_are_never_a_fork() -> None:
    """Even where their views select the same positions: the tokens there are others."""
    one, other = (Example({}, segment=np.full(5, -1), seed=seed) for seed in (1, 2))
    full, dropped, shorter = View(np.arange(5)), View(np.arange(5), (1,)), View(np.arange(4))
    rows = [(one, full), (one, dropped), (other, full), (other, dropped), (other, shorter)]
    assert forks(rows) == [[0, 1], [2, 3], [4]]
