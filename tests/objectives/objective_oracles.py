"""Slow and obvious oracles of the objectives, on lists of Python floats, and losses to try them on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

BASELINES = ["zero", "full", "best", 0.35, -1.0]
REDUCTIONS = ["mean", "sum"]
every_baseline = pytest.mark.parametrize("baseline", BASELINES)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def dummy(row: list[float], baseline) -> float:
    return {"zero": 0.0, "full": row[0], "best": min(row)}.get(baseline, baseline)


def oracle_loss(row: list[float], baseline, reduction: str) -> float:
    steps = [*row, dummy(row, baseline)]
    total, pairs = 0.0, 0
    for j in range(len(steps)):
        for i in range(j):
            total += max(0.0, steps[i] - steps[j])
            pairs += 1
    return total / pairs if reduction == "mean" else total


def oracle_weights(row: list[float], baseline, reduction: str) -> list[float]:
    steps = [*row, dummy(row, baseline)]
    pairs = len(steps) * (len(steps) - 1) / 2
    weights = []
    for i in range(len(row)):
        weight = 0
        for j in range(len(steps)):
            if j > i and steps[i] > steps[j]:
                weight += 1
            if j < i and steps[j] > steps[i]:
                weight -= 1
        weights.append(weight / pairs if reduction == "mean" else weight)
    return weights


def oracle_listwise(row: list[float], temperature: float, baseline) -> float:
    steps = row if baseline is None else [*row, dummy(row, baseline)]
    likelihood = 1.0
    for i in range(len(steps)):
        rivals = sum(math.exp(-later / temperature) for later in steps[i:])
        likelihood *= math.exp(-steps[i] / temperature) / rivals
    return -math.log(likelihood)


def random_losses(batch: int = 64, columns: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(batch, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tied_losses(batch: int = 64, columns: int = 4, seed: int = 0) -> Tensor:
    """Losses from {0, 0.35, 0.7}: many ties, also with the baselines 0 and 0.35."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (batch, columns), generator=generator).double() * 0.35


def gradient(function, losses: Tensor) -> Tensor:
    losses = losses.clone().requires_grad_()
    return torch.autograd.grad(function(losses).sum(), losses)[0]


@st.composite
def loss_rows(draw, least: float = -4.0, most: float = 4.0) -> Tensor:
    """Float64 losses on a grid of eighths, so that ties are frequent and sums exact."""
    batch, columns = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    eighths = st.integers(int(least * 8), int(most * 8))
    rows = draw(st.lists(st.lists(eighths, min_size=columns, max_size=columns), min_size=batch, max_size=batch))
    return torch.tensor(rows, dtype=torch.float64) / 8


any_baseline = st.sampled_from(["zero", "full", "best", 0.5, -1.0, 2])
any_reduction = st.sampled_from(REDUCTIONS)
fast = settings(max_examples=100, deadline=None, derandomize=True)


def away_from_kinks(losses: Tensor, constants: list[float], margin: float = 1e-3) -> Tensor:
    points = torch.cat([losses, torch.tensor(constants, dtype=losses.dtype).expand(len(losses), -1)], dim=1)
    distance = points.sort(dim=1).values.diff(dim=1).min(dim=1).values
    kept = losses[distance > margin]
    assert len(kept) > 20
    return kept
