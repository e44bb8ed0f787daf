from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from objective_oracles import BASELINES, dummy, fast, gradient, loss_rows, oracle_listwise, random_losses, tied_losses

from cmp_rerank.objectives.listwise import Listwise, listwise_comparative_loss


@pytest.mark.parametrize("baseline", [None, *BASELINES])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4])
@pytest.mark.parametrize("columns", [1, 2, 4])
def test_listwise_equals_the_product_of_choices(baseline, temperature, columns):
    losses = random_losses(columns=columns)
    expected = [oracle_listwise(row, temperature, baseline) for row in losses.tolist()]
    assert listwise_comparative_loss(losses, temperature, baseline).tolist() == pytest.approx(expected)


def test_listwise_worked_arithmetic():
    losses = torch.tensor([[2.0, 3.0]], dtype=torch.float64).log()
    assert listwise_comparative_loss(losses).item() == pytest.approx(math.log(44 / 3))
    # Without the dummy: (1/2) / (1/2 + 1/3) = 3/5. At temperature 1/2 the exp(s) are 1/4 and 1/9: 9/13.
    assert listwise_comparative_loss(losses, baseline=None).item() == pytest.approx(math.log(5 / 3))
    assert listwise_comparative_loss(losses, 0.5, baseline=None).item() == pytest.approx(math.log(13 / 9))


@pytest.mark.parametrize("baseline", [None, "zero", 0.35])
def test_listwise_gradcheck(baseline):
    losses = random_losses(batch=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: listwise_comparative_loss(x, 0.5, baseline), losses)


def test_listwise_baseline_is_a_constant_and_none_leaves_only_differences():
    losses = random_losses()
    torch.testing.assert_close(
        listwise_comparative_loss(losses + 3, baseline=None), listwise_comparative_loss(losses, baseline=None)
    )
    free = gradient(lambda x: listwise_comparative_loss(x, baseline=None), losses)
    torch.testing.assert_close(free.sum(dim=1), torch.zeros(len(losses), dtype=torch.float64))
    for baseline in ("zero", "full", "best"):
        held = gradient(lambda x, b=baseline: listwise_comparative_loss(x, baseline=b), losses)
        assert (held.sum(dim=1) > 0.1).all()  # lowers the losses themselves


def test_listwise_is_lowest_in_the_right_order_and_rises_with_each_swap():
    ordered = torch.tensor([[0.1, 0.4, 0.8]], dtype=torch.float64)
    orders = [[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0]]
    values = [listwise_comparative_loss(ordered[:, order], baseline=None).item() for order in orders]
    assert all(a < b for a, b in pairwise(values))


@fast
@given(loss_rows())
def test_listwise_tends_to_the_distance_from_the_best_later_step(losses):
    cold = listwise_comparative_loss(losses, temperature=1e-6, baseline="zero") * 1e-6
    expected = []
    for row in losses.tolist():
        steps = [*row, 0.0]
        expected.append(sum(steps[i] - min(steps[i:]) for i in range(len(steps))))
    assert cold.tolist() == pytest.approx(expected, abs=1e-4)


def test_listwise_stays_finite_far_out():
    losses = torch.tensor([[1e4, 0.0, 2e4]], requires_grad=True)
    loss = listwise_comparative_loss(losses, temperature=1e-2)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert losses.grad is not None
    assert losses.grad.isfinite().all()


# As an object --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [random_losses, tied_losses])
@pytest.mark.parametrize("baseline", [None, *BASELINES])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4])
def test_listwise_is_the_function(make, baseline, temperature):
    losses = make()
    objective = Listwise(temperature, baseline)
    assert torch.equal(objective(losses), listwise_comparative_loss(losses, temperature, baseline))
    expected = [oracle_listwise(row, temperature, baseline) for row in losses.tolist()]
    assert objective(losses).tolist() == pytest.approx(expected)
    # The gradient, written out: each step i gains its share of every choice at which it was still to be drawn.
    expected = [listwise_weights(row, temperature, baseline) for row in losses.tolist()]
    torch.testing.assert_close(objective.weights(losses), torch.tensor(expected, dtype=torch.float64))


def listwise_weights(row: list[float], temperature: float, baseline) -> list[float]:
    steps = row if baseline is None else [*row, dummy(row, baseline)]
    weights = []
    for i in range(len(row)):
        weight = 1.0
        for place in range(i + 1):
            rivals = sum(math.exp(-later / temperature) for later in steps[place:])
            weight -= math.exp(-steps[i] / temperature) / rivals
        weights.append(weight / temperature)
    return weights


@pytest.mark.parametrize("baseline", [None, "zero", 0.35])
def test_listwise_object_gradcheck(baseline):
    assert torch.autograd.gradcheck(Listwise(0.5, baseline), random_losses(batch=8).requires_grad_())


def test_listwise_defaults():
    assert repr(Listwise()) == "Listwise(temperature=1.0, baseline='zero')"
    losses = random_losses()
    assert not torch.equal(Listwise()(losses), Listwise(2.0)(losses))
    assert not torch.equal(Listwise()(losses), Listwise(baseline="full")(losses))


def test_listwise_has_zero_weights_only_where_a_choice_is_certain():
    rates = Listwise().diagnostics(torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]]))
    assert {name: rate.item() for name, rate in rates.items()} == {
        "violation_rate": 0, "beaten_rate": 0, "zero_weight_rate": 0
    }  # fmt: skip
    # Without steps and without the dummy there is nothing to choose from.
    assert Listwise(baseline=None).diagnostics(torch.tensor([[0.1]]))["zero_weight_rate"] == 1


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, "1", None, True])
def test_listwise_refuses_a_bad_temperature_when_it_is_made(temperature):
    with pytest.raises(ValueError, match="temperature must be a finite number > 0; got "):
        Listwise(temperature)


@pytest.mark.parametrize("baseline", ["first", math.nan, True])
def test_listwise_refuses_a_bad_baseline_when_it_is_made(baseline):
    with pytest.raises(ValueError, match="baseline must be "):
        Listwise(baseline=baseline)
