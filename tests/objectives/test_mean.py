from __future__ import annotations

import pytest
import torch
from hypothesis import given
from objective_oracles import fast, gradient, loss_rows, random_losses

from cmp_rerank.objectives import MeanOfSteps, Objective, PairwiseHinge


@fast
@given(loss_rows())
def test_the_mean_of_steps_equals_a_loop(losses):
    objective = MeanOfSteps()
    expected = [sum(row) / len(row) for row in losses.tolist()]
    assert objective(losses).tolist() == pytest.approx(expected)
    weights = torch.full_like(losses, 1 / losses.shape[1])
    torch.testing.assert_close(objective.weights(losses), weights)
    torch.testing.assert_close(gradient(objective, losses), weights)
    torch.testing.assert_close(Objective.weights(objective, losses), weights)


@fast
@given(loss_rows())
def test_no_step_is_without_weight(losses):
    assert MeanOfSteps().diagnostics(losses)["zero_weight_rate"] == 0


def test_the_order_of_the_steps_does_not_matter():
    losses = random_losses()
    torch.testing.assert_close(MeanOfSteps()(losses.flip(1)), MeanOfSteps()(losses))
    assert not torch.allclose(PairwiseHinge()(losses.flip(1)), PairwiseHinge()(losses))


def test_without_steps_it_is_the_task_loss():
    losses = random_losses(columns=1)
    assert torch.equal(MeanOfSteps()(losses), losses[:, 0])


@fast
@given(loss_rows(least=0.0))
def test_where_the_order_holds_the_comparative_loss_is_a_multiple_of_it(losses):
    ordered = losses.sort(dim=1).values
    steps = losses.shape[1] - 1
    torch.testing.assert_close(PairwiseHinge()(ordered), MeanOfSteps()(ordered) * 2 / (steps + 2))


def test_gradcheck():
    assert torch.autograd.gradcheck(MeanOfSteps(), random_losses(batch=4).requires_grad_())
