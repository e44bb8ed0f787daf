"""Counter-based nested dropout masks: which unit is dropped is a hash, not a draw from a generator.

A unit is kept at drop depth k when ``hash(example seed, site, original token position, unit)`` is at
least the threshold of the rate p_k. Three things follow without any bookkeeping. A unit that is dropped at
depth k is dropped at every greater depth, since only the threshold moves. The mask of an example is the same
wherever its row stands and however the batch is padded, cropped, chunked, recomputed or sharded, since
nothing but the example enters. And no generator state is kept, saved or restored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: consecutive counters land far apart


def drop_rate(p: float, depth: int) -> float:
    """Rate at which units are dropped at a depth: ``p_k = 1 - (1 - p) ** k`` (arXiv 2301.03765, CmpDrop).

    >>> [round(drop_rate(0.1, depth), 3) for depth in range(4)]
    [0.0, 0.1, 0.19, 0.271]
    """
    return 1.0 - (1.0 - p) ** depth


def _mix(h: Tensor) -> Tensor:
    """The finalizer of MurmurHash3 (32 bits), on int64 tensors that hold unsigned 32-bit values."""
    h = h & _MASK32
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _MASK32
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _MASK32
    return h ^ (h >> 16)


def _as_int32(h: Tensor) -> Tensor:
    return torch.where(h >= 2**31, h - 2**32, h).to(torch.int32)


def row_keys(seeds: Tensor, positions: Tensor, site: int) -> tuple[Tensor, Tensor]:
    """Two 32-bit keys for every token of every row: one to be xor-ed with the unit's, one odd multiplier.

    Args:
        seeds: (B,) int64, one per row; rows of one example share a seed.
        positions: (B, T) int64, each token's position in its uncropped example (anything where padded).
        site: which writer of the residual stream, counted over the model.

    Returns:
        Two int32 tensors of shape (B, T).
    """
    low, high = seeds & _MASK32, (seeds >> 32) & _MASK32
    seed = _mix(_mix(low + _GOLDEN * (site + 1)) + high)  # (B,)
    key = _mix(_mix(positions * _GOLDEN + 1) + seed[:, None])  # (B, T)
    multiplier = _mix(key ^ 0x5BD1E995) | 1  # odd, so that multiplying loses nothing
    return _as_int32(key), _as_int32(multiplier)


def unit_keys(units: int, site: int, device: torch.device | str | None = None) -> Tensor:
    """A 32-bit key for every hidden unit of a site, int32 of shape (units,)."""
    counter = torch.arange(units, dtype=torch.int64, device=device)
    return _as_int32(_mix(_mix(counter * _GOLDEN + 0x27D4EB2F) + _GOLDEN * (site + 1)))


def thresholds(rates: Tensor) -> Tensor:
    """Rates in [0, 1) as int32 thresholds: a uniform 32-bit integer, read as signed, is below with that rate."""
    return ((rates.double() * 2**32).round() - 2**31).clamp(max=2**31 - 1).to(torch.int32)


def dropped(rows: tuple[Tensor, Tensor], units: Tensor, threshold: Tensor) -> Tensor:
    """Which units are dropped, bool of shape (B, T, H).

    The full-size work is one xor, one multiplication and one comparison of 32-bit integers: both keys are
    mixed beforehand, so that the product's high bits, which decide, depend on all of both.

    Args:
        rows: the keys of `row_keys`, (B, T) each.
        units: the keys of `unit_keys`, (H,).
        threshold: int32 thresholds of the rows' rates, (B,).

    Example:
        >>> seeds, positions = torch.tensor([1, 2]), torch.arange(5).repeat(2, 1)
        >>> keys = row_keys(seeds, positions, site=0), unit_keys(64, site=0)
        >>> shallow = dropped(*keys, thresholds(torch.tensor([0.1, 0.1])))
        >>> deep = dropped(*keys, thresholds(torch.tensor([0.19, 0.19])))
        >>> bool((deep | ~shallow).all()), bool((deep & ~shallow).any())  # nested, and strictly so
        (True, True)
    """
    key, multiplier = rows
    h = key[..., None] ^ units  # (B, T, H)
    h *= multiplier[..., None]
    return h < threshold[:, None, None]


class _NestedDropout(torch.autograd.Function):
    """Multiply by the mask; the backward pass hashes again instead of keeping the mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, key: Tensor, multiplier: Tensor, units: Tensor, rates: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(key, multiplier, units, rates)
        return _apply(x, key, multiplier, units, rates)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        return _apply(grad, *ctx.saved_tensors), None, None, None, None


def _apply(x: Tensor, key: Tensor, multiplier: Tensor, units: Tensor, rates: Tensor) -> Tensor:
    drop = dropped((key, multiplier), units, thresholds(rates))
    return x.masked_fill(drop, 0.0).mul_((1.0 / (1.0 - rates)).to(x.dtype)[:, None, None])


def nested_dropout(x: Tensor, seeds: Tensor, positions: Tensor, site: int, rates: Tensor) -> Tensor:
    """Drop units of ``x`` by hash and scale the survivors by 1 / (1 - rate), so that the mean is kept.

    Args:
        x: hidden states, (B, T, H).
        seeds: (B,) int64 example seeds.
        positions: (B, T) int64 original token positions.
        site: which writer of the residual stream, counted over the model.
        rates: (B,) float, the rate of each row, 0 for a row of the full model (`drop_rate`).

    Returns:
        A tensor like ``x``. A row with rate 0 comes back with the very same values.

    Raises:
        ValueError: if a shape does not fit.

    Example:
        >>> x = torch.ones(2, 3, 1000)
        >>> seeds, positions = torch.tensor([7, 8]), torch.arange(3).repeat(2, 1)
        >>> y = nested_dropout(x, seeds, positions, site=0, rates=torch.tensor([0.0, 0.1]))
        >>> bool((y[0] == 1).all()), round((y[1] == 0).float().mean().item(), 2)
        (True, 0.1)
    """
    if x.ndim != 3 or positions.shape != x.shape[:2] or seeds.shape != x.shape[:1] or rates.shape != x.shape[:1]:
        raise ValueError(
            f"x must be (batch, tokens, units) with positions (batch, tokens), seeds and rates (batch,); got x "
            f"{tuple(x.shape)}, positions {tuple(positions.shape)}, seeds {tuple(seeds.shape)}, rates {tuple(rates.shape)}."
        )
    key, multiplier = row_keys(seeds, positions, site)
    return _NestedDropout.apply(x, key, multiplier, unit_keys(x.shape[2], site, x.device), rates)  # type: ignore[no-any-return]
