"""Batches of similar length: every row once, in the budget, balanced, other batches in each epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.training.sampler import CLASS_RATIO, DistributedBatchSampler, LengthBatches

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=300)


@settings(max_examples=80, deadline=None)
@given(
    lengths=LENGTHS,
    tokens=st.integers(1, 4000),
    rows=st.integers(1, 40),
    world=st.integers(1, 4),
    seed=st.integers(0, 9),
)
@pytest.mark.parametrize("by", ["tokens", "rows"])
def test_every_row_once_and_the_same_number_of_batches_in_each_epoch(
    by: str, lengths: list[int], tokens: int, rows: int, world: int, seed: int
) -> None:
    size = {"tokens": tokens} if by == "tokens" else {"rows": rows}
    batches = LengthBatches(lengths, **size, world=world, seed=seed)  # type: ignore[arg-type]
    counts = set()
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        epoch_batches = list(batches)
        counts.add(len(epoch_batches))
        rows_seen = [row for batch in epoch_batches for row in batch]
        assert len(rows_seen) == len(set(rows_seen)) == len(lengths) - len(lengths) % world
        for batch in epoch_batches:
            assert len(batch) % world == 0
            if by == "rows":
                assert len(batch) <= rows * world
            elif len(batch) > world:
                # Rounding lengths up may only make a batch smaller than it could be.
                assert sum(lengths[row] for row in batch) <= tokens * world
    assert counts == {len(batches)}


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, rows=st.integers(1, 20), world=st.integers(1, 3))
def test_with_drop_last_all_batches_are_full(lengths: list[int], rows: int, world: int) -> None:
    batches = LengthBatches(lengths, rows=rows, world=world, drop_last=True)
    assert [len(batch) for batch in batches] == [rows * world] * (len(lengths) // (rows * world))


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, world=st.integers(2, 4), by=st.sampled_from(["tokens", "rows"]))
def test_processes_differ_by_no_more_than_rows_of_one_batch_do(lengths: list[int], world: int, by: str) -> None:
    size = {"tokens": 2500} if by == "tokens" else {"rows": 8}
    for batch in LengthBatches(lengths, **size, world=world):  # type: ignore[arg-type]
        held = np.array([lengths[row] for row in batch]).reshape(world, -1)
        assert np.ptp(held.sum(axis=1)) <= held.max() - held.min()


def test_each_step_is_balanced() -> None:
    """Not only over an epoch: the slowest process of each step makes the others wait."""
    lengths = np.random.default_rng(0).integers(20, 512, 4000)
    for size in ({"tokens": 4096}, {"rows": 16}):
        batches = LengthBatches(lengths, **size, world=4)  # type: ignore[arg-type]
        spreads = []
        for batch in batches:
            held = lengths[np.array(batch)].reshape(4, -1).sum(axis=1)
            spreads.append(np.ptp(held) / held.mean())
        assert max(spreads) < 0.05


def test_padding_of_a_batch_is_small() -> None:
    lengths = np.random.default_rng(0).integers(20, 256, 4000)
    batches = [lengths[np.array(b)] for b in LengthBatches(lengths, rows=32)]
    waste = 1 - sum(b.sum() for b in batches) / sum(len(b) * b.max() for b in batches)
    assert waste < 0.03
    at_random = np.random.default_rng(1).permutation(lengths).reshape(-1, 32)
    assert 1 - at_random.sum() / (at_random.max(axis=1) * 32).sum() > 0.4  # what bucketing saves


def test_order_is_seeded_and_changes_with_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(20, 256, 500)

    def batches(seed: int, epoch: int) -> list[list[int]]:
        sampler = LengthBatches(lengths, rows=8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 2) == batches(1, 2)
    assert batches(1, 2) != batches(1, 3)
    assert batches(1, 2) != batches(2, 2)
    # Rows meet other rows: few batches have the same members twice.
    one, two = ({frozenset(b) for b in batches(0, epoch)} for epoch in (0, 1))
    assert len(one & two) < 0.1 * len(one)
    # Batches come in random order, not from short to long.
    means = [float(lengths[np.array(b)].mean()) for b in batches(0, 0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_left_out_rows_change() -> None:
    lengths = np.random.default_rng(0).integers(20, 256, 103)
    sampler = LengthBatches(lengths, rows=10, drop_last=True)
    left_out = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        left_out.append(set(range(103)) - {row for batch in sampler for row in batch})
    assert [len(rows) for rows in left_out] == [3, 3, 3]
    assert left_out[0] != left_out[1]


@pytest.mark.parametrize("size", [{"rows": 4}, {"tokens": 40}, {"rows": 4, "drop_last": True}])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_no_row_is_left_out_for_good(size: dict[str, int], world: int) -> None:
    """Not even the only one of its length, the shortest or the longest."""
    lengths = [10] * 103 + [1, 500, 30]
    sampler = LengthBatches(lengths, **size, world=world)  # type: ignore[arg-type]
    seen: set[int] = set()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        seen |= {row for batch in sampler for row in batch}
    assert seen == set(range(106))


def test_dealt_gives_each_process_its_part() -> None:
    class Fixed(LengthBatches):
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([[1, 2, 3, 4], [5, 6]])

    dealt = DistributedBatchSampler(Fixed([1] * 6, rows=2, world=2), 2)
    assert list(dealt) == [[1, 2], [3, 4], [5], [6]]
    dealt.set_epoch(4)
    assert dealt.sampler.epoch == 4


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="either the rows or the tokens"):
        LengthBatches([1])
    with pytest.raises(ValueError, match="either the rows or the tokens"):
        LengthBatches([1], rows=1, tokens=1)
    with pytest.raises(ValueError, match="tokens must be a whole number, at least 1; got 0"):
        LengthBatches([1], tokens=0)
    with pytest.raises(ValueError, match="at least 1 token"):
        LengthBatches([3, 0], rows=1)
    with pytest.raises(ValueError, match="at least 1 token"):
        LengthBatches([], rows=1)
    assert CLASS_RATIO > 1
