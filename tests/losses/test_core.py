"""Draws are named by seed, training step and batch, so that they are the same after a resume; odd objectives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import PASSAGES, QUERIES

from cmp_rerank import ComparativeLoss
from cmp_rerank.ablations import CmpDrop, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.losses.core import Comparison
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.objectives import PairwiseHinge


def comparison(seed: int = 0) -> Comparison:
    plan = Plan([CmpDrop()])
    return Comparison(plan, PairwiseHinge(), Scorer(CrossEncoderAdapter(), plan.on_model), seed)


def test_every_batch_of_every_step_has_a_draw_of_its_own() -> None:
    one = comparison()
    steps = [0, 0, 1, 1, 2]  # two batches to a step, as with accumulated gradients
    draws = [one.draw(step) for step in steps]
    assert len(set(draws)) == len(steps)
    assert not set(draws) & {comparison(seed=1).draw(step) for step in steps}


def test_a_resumed_training_draws_what_the_whole_one_did() -> None:
    whole, resumed = comparison(), comparison()
    draws = [whole.draw(step) for step in (0, 0, 1, 1, 2, 2)]
    assert [resumed.draw(step) for step in (1, 1, 2, 2)] == draws[2:]


def test_batches_of_an_interrupted_step_do_not_count_in_the_training_that_resumes() -> None:
    one = comparison()
    first, second = object(), object()
    draws = [one.draw(step, training=first) for step in (0, 1, 2, 2)]
    assert [one.draw(step, training=second) for step in (2, 2)] == draws[2:]


def test_without_a_trainer_each_batch_is_a_step() -> None:
    one, given = comparison(), comparison()
    assert [one.draw(None) for _ in range(3)] == [given.draw(step) for step in range(3)]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda losses: losses, "must give one value per example"),
        (lambda losses: losses.mean(), "must give one value per example"),
        (lambda losses: losses.mean(dim=1) + float("nan"), "must be finite; .* gave \\[nan, nan, nan, nan\\]"),
        (lambda losses: losses.mean(dim=1) / (losses[:, 0] * 0), "must be finite"),
    ],
)
def test_what_an_objective_gives_is_checked(objective: Any, message: str, tiny_model: CrossEncoder) -> None:
    tiny_model.train()
    loss = ComparativeLoss(tiny_model, BinaryCrossEntropyLoss(tiny_model), [CmpDrop()], objective=objective)
    with pytest.raises(ValueError, match=message):
        loss([QUERIES, PASSAGES], torch.tensor([1.0, 0.0, 1.0, 0.0]))
