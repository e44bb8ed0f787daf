"""Batches by windows: every row once, in the budget, as many as were announced, and nothing looked at too early."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.training.sampler import CLASS_RATIO, LengthBatches
from cmp_rerank.training.windows import WindowBatches


class Known:
    """Lengths that are known; notes which rows were asked for."""

    def __init__(self, lengths: Any) -> None:
        self.all, self.asked = np.array(lengths), np.zeros(len(lengths), dtype=int)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.asked[rows] += 1
        return self.all[rows]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 600), min_size=4, max_size=300),
    rows=st.integers(1, 12),
    window=st.integers(1, 120),
    world=st.integers(1, 3),
    drop_last=st.booleans(),
    seed=st.integers(0, 9),
)
def test_by_rows_every_row_comes_once(
    lengths: list[int], rows: int, window: int, world: int, drop_last: bool, seed: int
) -> None:
    batches = WindowBatches(
        len(lengths), Known(lengths), rows, window=window, world=world, drop_last=drop_last, seed=seed
    )
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches)
        seen = [row for batch in found for row in batch]
        left_over = len(lengths) % (rows * world if drop_last else world)
        assert len(set(seen)) == len(seen) == len(lengths) - left_over
        if drop_last:
            assert {len(batch) for batch in found} <= {rows * world}
        assert all(len(batch) <= rows * world and len(batch) % world == 0 for batch in found)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 600), min_size=4, max_size=300),
    tokens=st.integers(1, 3000),
    window=st.integers(1, 120),
    world=st.integers(1, 3),
)
def test_by_tokens_no_batch_exceeds_its_budget_and_the_number_is_kept_to(
    lengths: list[int], tokens: int, window: int, world: int
) -> None:
    """Also for windows so small that chance makes them differ."""
    batches = WindowBatches(len(lengths), Known(lengths), tokens=tokens, window=window, world=world)
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        found = list(batches)
        seen = [row for batch in found for row in batch]
        assert len(seen) == len(set(seen))
        assert len(found) == len(batches)
        for batch in found:
            assert batch
            assert len(batch) % world == 0
            assert len(batch) == world or sum(lengths[row] for row in batch) <= tokens * world


@pytest.mark.parametrize("kind", ["one language", "two languages", "a few long ones"])
@pytest.mark.parametrize("world", [1, 2])
def test_by_tokens_every_row_comes_once_at_real_sizes(kind: str, world: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(4, 0.5, 50_000).astype(int).clip(5, 512)
    if kind == "two languages":
        lengths[::2] *= 4
    if kind == "a few long ones":
        lengths[rng.choice(len(lengths), 500, replace=False)] = 5_000
    batches = WindowBatches(len(lengths), Known(lengths), tokens=4096, window=8192, world=world)
    assert len(batches._sizes) == 6
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    # What the announced number costs against one that looks at all rows first; most where few rows make many batches.
    cost = {"one language": 1.08, "two languages": 1.15, "a few long ones": 1.4}[kind]
    assert len(batches) < cost * len(LengthBatches(lengths, tokens=4096, world=world))


def test_rows_that_meet_are_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(20, 256, 8192)
    batches = [lengths[batch] for batch in WindowBatches(8192, Known(lengths), 32, window=2048)]
    waste = 1 - sum(b.sum() for b in batches) / sum(len(b) * b.max() for b in batches)
    assert waste < 0.08  # at random it is 0.45
    spreads = [batch.max() / batch.min() for batch in batches]
    assert np.median(spreads) < CLASS_RATIO**2


@pytest.mark.parametrize("size", [{"rows": 4}, {"tokens": 700}, {"rows": 4, "drop_last": True}])
@pytest.mark.parametrize("world", [1, 2])
def test_one_window_has_the_batches_of_all_rows(size: dict[str, Any], world: int) -> None:
    lengths = np.random.default_rng(0).integers(20, 256, 103)
    one = WindowBatches(103, Known(lengths), **size, window=100, world=world, seed=7)
    all_rows = LengthBatches(lengths, **size, world=world, seed=7)
    for epoch in (0, 3):
        one.set_epoch(epoch)
        all_rows.set_epoch(epoch)
        assert list(one) == list(all_rows)


@pytest.mark.parametrize("size", [{"rows": 8}, {"tokens": 1000}])
def test_only_the_window_at_hand_must_be_known(size: dict[str, int]) -> None:
    known = Known(np.random.default_rng(0).integers(20, 256, 4000))
    told: list[np.ndarray] = []
    batches = WindowBatches(4000, known, **size, window=500, soon=told.append)
    iterator = iter(batches)
    next(iterator)
    assert (known.asked > 0).sum() == batches.window <= 504
    assert len(told) == 1  # the next one, so that it can be made ready
    known.asked[:] = 0
    for _ in range(int(batches._ends[0])):
        next(iterator)
    assert set(np.flatnonzero(known.asked)) == set(told[0].tolist())
    assert len(told) == 2


def test_a_batch_is_the_same_whatever_was_asked_before() -> None:
    known = Known(np.random.default_rng(0).integers(20, 256, 2000))
    whole = list(WindowBatches(2000, known, 8, window=300, seed=3))
    again = WindowBatches(2000, known, 8, window=300, seed=3)
    for number in (200, 3, 249, 0, 100):
        assert again.batch(number) == whole[number]


def test_order_follows_the_seed_and_the_epoch() -> None:
    known = Known(np.random.default_rng(0).integers(20, 256, 2000))

    def batches(seed: int, epoch: int) -> list[list[int]]:
        made = WindowBatches(2000, known, 8, window=500, seed=seed)
        made.set_epoch(epoch)
        return list(made)

    assert batches(1, 2) == batches(1, 2)
    assert batches(1, 2) != batches(1, 3)
    assert batches(1, 2) != batches(2, 2)
    first, second = ({frozenset(b) for b in batches(0, epoch)} for epoch in (0, 1))
    assert len(first & second) < 0.02 * len(first)  # rows meet other rows


def test_what_does_not_fit_the_announced_number_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """Lengths that grow while one looks: no sample can foresee it."""
    asked: list[int] = []

    def growing(rows: np.ndarray) -> np.ndarray:
        asked.append(1)
        return np.full(len(rows), 10 if len(asked) < 3 else 90)

    batches = WindowBatches(400, growing, tokens=100, window=100)
    found = list(batches)
    assert len(found) == len(batches)
    assert all(len(batch) == 1 for batch in found[-int(batches._ends[0]) :])
    assert "are left out of this epoch" in caplog.text


def test_bad_arguments() -> None:
    known = Known([1, 2])
    with pytest.raises(ValueError, match="window must be a whole number, at least 1; got 0"):
        WindowBatches(2, known, 1, window=0)
    with pytest.raises(ValueError, match="either the rows or the tokens"):
        list(WindowBatches(2, known, 1, 1, window=5))
    with pytest.raises(ValueError, match="count must be a whole number, at least 1; got 0"):
        WindowBatches(0, known, 1, window=5)
