"""Counter-based nested dropout masks: which unit is dropped is a hash, not a draw from a generator.

A unit is kept at level k when ``hash(example seed, site, original token position, unit)`` is at
least the threshold of the rate p_k. Three things follow without any bookkeeping. A unit that is dropped at
level k is dropped at every greater level, since only the threshold moves. The mask of an example is the same
wherever its row stands and however the batch is padded, cropped, chunked, recomputed or sharded, since
nothing but the example enters. And no generator state is kept, saved or restored.

The hash is a product of two halves that are mixed beforehand: keys of the rows (`Rows`, once for a forward
pass) and keys of the units (`unit_keys`, once for a site). What is left to do at full size is one xor, one
multiplication and one comparison of 32-bit integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: consecutive counters land far apart


def drop_rate(p: float, level: float) -> float:
    """Rate at which units are dropped at a level: ``p_k = 1 - (1 - p) ** k`` (arXiv 2301.03765, CmpDrop).

    >>> [round(drop_rate(0.1, level), 3) for level in range(4)]
    [0.0, 0.1, 0.19, 0.271]
    """
    return 1.0 - (1.0 - p) ** level


def _mix(h: Tensor) -> Tensor:
    """The finalizer of MurmurHash3 (32 bits), on int64 tensors that hold unsigned 32-bit values."""
    h = h & _MASK32
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _MASK32
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _MASK32
    return h ^ (h >> 16)


def _as_int32(h: Tensor) -> Tensor:
    return torch.where(h >= 2**31, h - 2**32, h).to(torch.int32)


class Rows(NamedTuple):
    """What the masks of a batch's rows depend on, mixed once for all sites of a forward pass.

    Attributes:
        key: (B, T) int32, to be xor-ed with the keys of units; T is 1 where all tokens of a row share a mask.
        multiplier: (B, T) int32, odd.
        threshold: (B,) int32; a hash below it drops.
        scale: (B,) float32, what survivors are multiplied by.
    """

    key: Tensor
    multiplier: Tensor
    threshold: Tensor
    scale: Tensor

    @classmethod
    def of(cls, seeds: Tensor, positions: Tensor | None, rates: Sequence[float] | Tensor) -> Rows:
        """Mix the keys of rows.

        Args:
            seeds: (B,) int64, one per row; rows of one example share a seed.
            positions: (B, T) int64, each token's position in its uncropped example (anything where padded);
                None: one mask for all tokens of a row.
            rates: (B,) rates in [0, 1), 0 for a row of the full model (`drop_rate`).

        Raises:
            ValueError: if the numbers of rows differ.
        """
        rate = torch.as_tensor(rates, dtype=torch.float64, device=seeds.device)
        if positions is None:
            positions = torch.full((len(seeds), 1), -1, dtype=torch.int64, device=seeds.device)
        if seeds.ndim != 1 or positions.ndim != 2 or not len(seeds) == len(positions) == len(rate):
            raise ValueError(
                f"seeds must be (rows,), positions (rows, tokens) and rates (rows,); got {tuple(seeds.shape)}, "
                f"{tuple(positions.shape)} and {tuple(rate.shape)}."
            )
        low, high = seeds & _MASK32, (seeds >> 32) & _MASK32
        seed = _mix(_mix(low + _GOLDEN) + high)  # (B,)
        key = _mix(_mix(positions * _GOLDEN + 1) + seed[:, None])  # (B, T)
        multiplier = _mix(key ^ 0x5BD1E995) | 1  # odd, so that multiplying loses nothing
        return cls(_as_int32(key), _as_int32(multiplier), thresholds(rate), (1.0 / (1.0 - rate)).float())

    def padded(self, tokens: int) -> Rows:
        """With keys for padding on the right, up to ``tokens``: some models pad what they are given."""
        more = (0, tokens - self.key.shape[1])
        pad = torch.nn.functional.pad
        return self._replace(key=pad(self.key, more), multiplier=pad(self.multiplier, more, value=1))


def unit_keys(units: int, site: int, device: torch.device | str | None = None) -> Tensor:
    """A 32-bit key for every unit of a site, int32 of shape (units,).

    Args:
        units: how many units the site has.
        site: which site of the model, counted in the order of a forward pass.
        device: where the keys are to lie.
    """
    counter = torch.arange(units, dtype=torch.int64, device=device)
    return _as_int32(_mix(_mix(counter * _GOLDEN + 0x27D4EB2F) + _GOLDEN * (site + 1)))


def thresholds(rates: Tensor) -> Tensor:
    """Rates in [0, 1) as int32 thresholds: a uniform 32-bit integer, read as signed, is below with that rate."""
    return ((rates.double() * 2**32).round() - 2**31).clamp(max=2**31 - 1).to(torch.int32)


def dropped(rows: Rows, units: Tensor) -> Tensor:
    """Which units are dropped, bool of shape (B, T, U).

    Both keys are mixed beforehand, so that the product's high bits, which decide, depend on all of both.

    Args:
        rows: B rows with T tokens each.
        units: the keys of `unit_keys`, (U,).

    Example:
        >>> seeds, positions = torch.tensor([1, 2]), torch.arange(5).repeat(2, 1)
        >>> shallow = dropped(Rows.of(seeds, positions, [0.1, 0.1]), unit_keys(64, site=0))
        >>> deep = dropped(Rows.of(seeds, positions, [0.19, 0.19]), unit_keys(64, site=0))
        >>> bool((deep | ~shallow).all()), bool((deep & ~shallow).any())  # nested, and strictly so
        (True, True)
    """
    return _kept(rows, units) == 0


def _kept(rows: Rows, units: Tensor) -> Tensor:
    """All bits set where a unit is kept, none where it is dropped: int32 (B, T, U).

    In place and in integers, since that is what vectorises: filling or multiplying by a bool mask takes several
    times as long on a CPU.
    """
    h = rows.key[..., None] ^ units  # (B, T, U)
    h *= rows.multiplier[..., None]
    return h.ge_(rows.threshold[:, None, None]).neg_()


class _NestedDropout(torch.autograd.Function):
    """Multiply by the mask; the backward pass hashes again instead of keeping the mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, units: Tensor, *rows: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(units, *rows)
        return _apply(x, units, Rows(*rows))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        units, *rows = ctx.saved_tensors
        return _apply(grad, units, Rows(*rows)), None, None, None, None, None


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _apply(x: Tensor, units: Tensor, rows: Rows) -> Tensor:
    scale = rows.scale.to(x.dtype)[:, None, None]
    kept = _kept(rows, units).to(_BITS[x.element_size()])  # (B, T or 1, U); -1 keeps all bits when it is widened
    bits = x.view(kept.dtype)
    if kept.shape == x.shape:
        return kept.bitwise_and_(bits).view(x.dtype).mul_(scale)
    grouped = bits.unflatten(2, (len(units), -1)) & kept[..., None]  # (B, T, U, H / U)
    return grouped.flatten(2).view(x.dtype).mul_(scale)


def nested_dropout(x: Tensor, rows: Rows, units: Tensor) -> Tensor:
    """Drop units of ``x`` by hash and scale the survivors by 1 / (1 - rate), so that the mean is kept.

    Args:
        x: hidden states, (B, T, H).
        rows: its B rows, with T tokens each, or with one mask for all tokens (`Rows.of`).
        units: (U,) the keys of the site's units (`unit_keys`). U divides H: a unit is a run of H / U neighbours,
            such as an attention head; one unit is all of a token.

    Returns:
        A tensor like ``x``. A row with rate 0 comes back with the very same values.

    Raises:
        ValueError: if a shape does not fit.

    Example:
        >>> x = torch.ones(2, 3, 1000)
        >>> rows = Rows.of(torch.tensor([7, 8]), torch.arange(3).repeat(2, 1), rates=[0.0, 0.1])
        >>> y = nested_dropout(x, rows, unit_keys(1000, site=0))
        >>> bool((y[0] == 1).all()), round((y[1] == 0).float().mean().item(), 2)
        (True, 0.1)
        >>> by_head = nested_dropout(x, rows, unit_keys(4, site=0))  # runs of 250 are dropped together
        >>> by_head[1, 0].unflatten(0, (4, 250)).std(dim=1).tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    if x.ndim != 3 or x.shape[0] != rows.key.shape[0] or rows.key.shape[1] not in (1, x.shape[1]):
        raise ValueError(
            f"x must be (batch, tokens, units) for {rows.key.shape[0]} rows of {rows.key.shape[1]} tokens; got "
            f"{tuple(x.shape)}."
        )
    if x.shape[2] % len(units):
        raise ValueError(f"{x.shape[2]} hidden units cannot be divided among {len(units)} units to drop.")
    return _NestedDropout.apply(x, units, *rows)  # type: ignore[no-any-return]
