"""Counter-based masks against a slow loop, and against chance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmp_rerank.hooks.masks import Rows, drop_rate, dropped, nested_dropout, thresholds, unit_keys

U32 = 2**32


def mix(h: int) -> int:
    h %= U32
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) % U32
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) % U32
    return h ^ (h >> 16)


def slow_dropped(seed: int, position: int, site: int, unit: int, rate: float) -> bool:
    """The hash in Python's own integers, one unit at a time."""
    golden = 0x9E3779B9
    row = mix(mix(position * golden + 1) + mix(mix((seed % U32) + golden) + ((seed >> 32) % U32)))
    column = mix(mix(unit * golden + 0x27D4EB2F) + golden * (site + 1))
    multiplier = mix(row ^ 0x5BD1E995) | 1
    product = ((row ^ column) * multiplier) % U32
    signed = product - U32 if product >= 2**31 else product
    return signed < round(rate * U32) - 2**31


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**62 - 1),
    positions=st.lists(st.integers(0, 100_000), min_size=1, max_size=4),
    site=st.integers(0, 200),
    rate=st.floats(0, 0.95),
)
def test_hash_against_a_slow_loop(seed: int, positions: list[int], site: int, rate: float) -> None:
    rows = Rows.of(torch.tensor([seed]), torch.tensor([positions]), [rate])
    fast = dropped(rows, unit_keys(9, site))
    slow = [[slow_dropped(seed, t, site, u, rate) for u in range(9)] for t in positions]
    assert fast[0].tolist() == slow


def rows_of(seeds: list[int], tokens: int, rate: float) -> Rows:
    return Rows.of(torch.tensor(seeds), torch.arange(tokens).repeat(len(seeds), 1), [rate] * len(seeds))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**62 - 1), p=st.floats(0.01, 0.6), depth=st.integers(0, 6), units=st.integers(1, 40))
def test_nested_at_every_depth(seed: int, p: float, depth: int, units: int) -> None:
    keys = unit_keys(units, site=3)
    shallow = dropped(rows_of([seed], 11, drop_rate(p, depth)), keys)
    deep = dropped(rows_of([seed], 11, drop_rate(p, depth + 1)), keys)
    assert bool((deep | ~shallow).all())
    if depth == 0:
        assert not shallow.any()


def test_rates_lie_within_binomial_bounds() -> None:
    for p in (0.01, 0.1, 0.5):
        for depth in (1, 2, 3):
            rate = drop_rate(p, depth)
            mask = dropped(rows_of(list(range(16)), 128, rate), unit_keys(384, site=1))
            n = mask.numel()
            assert abs(mask.float().mean().item() - rate) < 4.5 * math.sqrt(rate * (1 - rate) / n)
    assert drop_rate(0.3, 3) == pytest.approx(1 - 0.7**3)


def correlations(masks: Tensor, rate: float) -> Tensor:
    """Of all pairs of rows of (rows, n) masks, times sqrt(n): standard normal if they are independent."""
    z = (masks.float() - rate) / math.sqrt(rate * (1 - rate))
    product = z @ z.T / math.sqrt(z.shape[1])
    above = torch.triu(torch.ones_like(product), diagonal=1).bool()
    return product[above]


def look_independent(values: Tensor) -> None:
    """Mean 0, deviation 1, and no pair stands out more than chance allows."""
    n = len(values)
    assert abs(values.mean().item()) < 4.5 / math.sqrt(n)
    # pairs are not independent of each other, so the deviation is allowed more than 1 / sqrt(2n)
    assert abs(values.std().item() - 1) < 4.5 / math.sqrt(2 * n) + 0.01
    # the largest of n normal values is about sqrt(2 ln n); sums of rare events have longer tails
    assert values.abs().max().item() < math.sqrt(2 * math.log(n)) + 2.5


RATE = 0.1


def test_masks_of_examples_are_uncorrelated() -> None:
    # neighbouring seeds, seeds that differ in one bit (low or high word), and any others
    seeds = [*range(100), *(1 << bit for bit in range(7, 62)), *(i * 0x1234567 + 2**61 for i in range(1, 100))]
    masks = dropped(rows_of(seeds, 64, RATE), unit_keys(64, site=0)).flatten(1)
    look_independent(correlations(masks, RATE))


def test_masks_of_sites_are_uncorrelated() -> None:
    rows = rows_of([5, 6, 7, 8], 64, RATE)
    masks = torch.stack([dropped(rows, unit_keys(64, site)).flatten() for site in range(96)])
    look_independent(correlations(masks, RATE))


def test_masks_of_positions_and_of_units_are_uncorrelated() -> None:
    masks = dropped(rows_of([1, 2, 3, 4, 5, 6, 7, 8], 256, RATE), unit_keys(512, site=2))  # (8, 256, 512)
    look_independent(correlations(masks.transpose(0, 1).flatten(1), RATE))
    look_independent(correlations(masks.permute(2, 0, 1).flatten(1), RATE))


def test_masks_of_training_steps_are_uncorrelated() -> None:
    """Seeds of one example at successive steps, as the losses make them."""
    from cmp_rerank.models.pairs import example_seed

    seeds = [example_seed("what do pandas eat", "Pandas eat bamboo.", f"0 {(step, 0)}") for step in range(200)]
    masks = dropped(rows_of(seeds, 64, RATE), unit_keys(64, site=0)).flatten(1)
    look_independent(correlations(masks, RATE))


def test_the_statistics_see_a_weak_hash() -> None:
    """The canary: masks of which every tenth unit is shared are found out."""
    masks = torch.stack([dropped(rows_of([seed], 64, RATE), unit_keys(64, site=0)).flatten() for seed in range(100)])
    masks[:, ::10] = masks[0, ::10].clone()
    with pytest.raises(AssertionError):
        look_independent(correlations(masks, RATE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("units", [1, 4, 12])
def test_dropout_and_its_gradient_against_multiplying(dtype: torch.dtype, units: int) -> None:
    torch.manual_seed(0)
    rows = Rows.of(torch.tensor([3, 3, 4]), torch.tensor([[0, 1], [4, 1], [0, 1]]), [0.0, 0.4, 0.7])
    x = torch.randn(3, 2, 12).to(dtype).requires_grad_()
    keys = unit_keys(units, site=5)
    scale = torch.tensor([1, 1 / 0.6, 1 / 0.3]).to(dtype)[:, None, None]
    expected = (~dropped(rows, keys)).repeat_interleave(12 // units, dim=2) * scale
    y = nested_dropout(x, rows, keys)
    assert y.dtype == dtype
    assert torch.equal(y, x * expected)
    assert torch.equal(y[0], x[0])
    grad = torch.randn(3, 2, 12).to(dtype)
    (actual,) = torch.autograd.grad(y, x, grad)
    assert torch.equal(actual, grad * expected)
    assert 0 < (y == 0).sum() < y.numel()


def test_gradcheck_and_any_memory_layout() -> None:
    rows = Rows.of(torch.tensor([1, 2]), torch.arange(3).repeat(2, 1), [0.5, 0.2])
    keys = unit_keys(4, site=0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: nested_dropout(x, rows, keys), (x,))
    turned = x.detach().transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    assert torch.equal(nested_dropout(turned, rows, keys), nested_dropout(x, rows, keys))


def test_what_is_dropped_is_0_even_where_it_was_no_number() -> None:
    rows = rows_of([1], 1, 0.5)
    keys = unit_keys(64, site=0)
    y = nested_dropout(torch.full((1, 1, 64), float("inf")), rows, keys)
    assert torch.equal(y == 0, dropped(rows, keys))


def test_the_mean_is_kept() -> None:
    x = torch.ones(4, 64, 512)
    y = nested_dropout(x, rows_of([1, 2, 3, 4], 64, 0.3), unit_keys(512, site=0))
    assert abs(y.mean().item() - 1) < 4.5 * math.sqrt(0.3 / 0.7 / y.numel())


def test_thresholds_reach_both_ends() -> None:
    assert thresholds(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)).tolist() == [-(2**31), 0, 2**31 - 1]


def test_bad_shapes() -> None:
    rows = rows_of([1, 2], 3, 0.1)
    with pytest.raises(ValueError, match=r"2 rows of 3 tokens; got \(2, 4, 8\)"):
        nested_dropout(torch.ones(2, 4, 8), rows, unit_keys(8, 0))
    with pytest.raises(ValueError, match=r"got \(1, 3, 8\)"):
        nested_dropout(torch.ones(1, 3, 8), rows, unit_keys(8, 0))
    with pytest.raises(ValueError, match="8 hidden units cannot be divided among 3"):
        nested_dropout(torch.ones(2, 3, 8), rows, unit_keys(3, 0))
    with pytest.raises(ValueError, match=r"seeds must be \(rows,\)"):
        Rows.of(torch.tensor([1, 2]), torch.zeros(3, 4, dtype=torch.long), [0.1, 0.1])
