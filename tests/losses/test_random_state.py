"""A training step draws as often as its loss and its passes do, however often the loss is run on their scores."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import PASSAGES, QUERIES
from torch import Tensor, nn

from cmp_rerank import CmpCrop, ComparativeLoss

LABELS = torch.tensor([1.0, 0.0, 1.0, 1.0])


class Noisy(nn.Module):
    """A squared error with targets that are moved at random, by numbers of torch, Python and NumPy."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model
        self.runs = 0
        self.fails_from = 1_000_000
        self.drawn: set[tuple[float, float]] = set()

    def forward(self, inputs: list[list[str]], labels: Tensor) -> Tensor:
        self.runs += 1
        noise = (torch.rand(1).item(), random.random() + np.random.random())  # noqa: NPY002
        self.drawn.add(noise)
        if self.runs >= self.fails_from:
            raise TypeError("the loss fails")
        scores = self.model(self.model.preprocess(list(zip(*inputs, strict=True))))["scores"].view(-1)
        return ((scores - labels - noise[0] + noise[1]) ** 2).mean()  # type: ignore[no-any-return]


class Draws:
    """Counts the passes of a model, each of which draws a number from both generators."""

    def __init__(self, model: CrossEncoder) -> None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # the only draws are those below
        self.passes = 0
        model[0].register_forward_pre_hook(self.draw)

    def draw(self, *_: Any) -> None:
        self.passes += 1
        torch.rand(1)
        random.random()


def states_after(draws: int) -> tuple[Tensor, Any]:
    torch.manual_seed(5)
    random.seed(5)
    for _ in range(draws):
        torch.rand(1)
        random.random()
    return torch.get_rng_state(), random.getstate()


@pytest.mark.parametrize("fails_from", [1_000_000, 2, 3, 4])
def test_the_random_state_is_put_back_after_every_run(fails_from: int, tiny_model: CrossEncoder) -> None:
    """Also where the loss raises in one of them."""
    inner = Noisy(tiny_model.train())
    loss = ComparativeLoss(tiny_model, inner, [CmpCrop(steps=2)], strategy="stacked")
    passes = Draws(tiny_model)
    inner.fails_from = fails_from
    states_after(0)
    if fails_from < 1_000_000:
        with pytest.raises(TypeError, match="the loss fails"):
            loss([QUERIES, PASSAGES], LABELS)
        assert inner.runs == fails_from
    else:
        loss([QUERIES, PASSAGES], LABELS)
        assert inner.runs > 4
    found = torch.get_rng_state(), random.getstate()
    # The first run of the loss, which finds out what it scores, and the passes that score it.
    assert passes.passes >= 1
    expected = states_after(1 + passes.passes)
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert len(inner.drawn) == 1  # and all its runs drew the same


def test_the_models_own_dropout_goes_on(tiny_model: CrossEncoder) -> None:
    """After a step with crops alone, the next one has other dropout masks."""
    for module in tiny_model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    plain = upstream.MSELoss(tiny_model.train())  # which draws nothing itself
    loss = ComparativeLoss(tiny_model, plain, [CmpCrop()], strategy="stacked")
    values = []
    for _ in range(2):
        loss.comparison.drawn = (-1, 0)  # the same views
        values.append(loss([QUERIES, PASSAGES], LABELS).item())
    assert values[0] != values[1]
