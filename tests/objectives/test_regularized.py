from __future__ import annotations

import pytest
import torch
from hypothesis import given
from objective_oracles import away_from_kinks, every_reduction, fast, gradient, loss_rows, random_losses, tied_losses

from cmp_rerank.objectives.hinge import comparative_loss
from cmp_rerank.objectives.mean import MeanOfSteps
from cmp_rerank.objectives.regularized import HingeRegularized, hinge_regularized_loss


@every_reduction
@pytest.mark.parametrize("columns", [1, 2, 3, 5])
@pytest.mark.parametrize("weight", [0, 0.3, 2.0])
def test_hinge_regularized_loss_equals_a_loop(reduction, columns, weight):
    losses = random_losses(columns=columns)
    expected = []
    for row in losses.tolist():
        hinges = [max(0.0, row[i] - row[j]) for j in range(columns) for i in range(j)]
        regularizer = sum(hinges) / (max(1, len(hinges)) if reduction == "mean" else 1)
        expected.append(sum(row) / columns + weight * regularizer)
    assert hinge_regularized_loss(losses, weight, reduction).tolist() == pytest.approx(expected)


def test_hinge_regularized_loss_gradcheck_and_both_terms_alone():
    losses = away_from_kinks(random_losses(batch=40), constants=[])
    assert torch.autograd.gradcheck(lambda x: hinge_regularized_loss(x, 0.7), losses.clone().requires_grad_())
    assert torch.equal(hinge_regularized_loss(losses, weight=0.0), losses.mean(dim=1))
    twice = hinge_regularized_loss(losses, weight=2.0) - losses.mean(dim=1)
    once = hinge_regularized_loss(losses, weight=1.0) - losses.mean(dim=1)
    torch.testing.assert_close(twice, 2 * once)
    assert once.max() > 0


@fast
@given(loss_rows(least=0.0))
def test_comparative_loss_is_a_hinge_regularized_loss_where_no_loss_is_negative(losses):
    c = losses.shape[1] - 1
    torch.testing.assert_close(comparative_loss(losses), 2 / (c + 2) * hinge_regularized_loss(losses, weight=c / 2))


# As an object --------------------------------------------------------------------------------------------


@every_reduction
@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("weight", [0, 0.3, 2.0])
@pytest.mark.parametrize("make", [random_losses, tied_losses])
def test_hinge_regularized_is_the_function(reduction, columns, weight, make):
    losses = make(columns=columns)
    objective = HingeRegularized(weight, reduction)
    assert torch.equal(objective(losses), hinge_regularized_loss(losses, weight, reduction))
    expected, gradients = [], []
    for row in losses.tolist():
        total, pairs, slopes = 0.0, 0, [0.0] * columns
        for j in range(columns):
            for i in range(j):
                pairs += 1
                if row[i] > row[j]:
                    total += row[i] - row[j]
                    slopes[i] += 1
                    slopes[j] -= 1
        scale = weight / (max(1, pairs) if reduction == "mean" else 1)
        expected.append(sum(row) / columns + scale * total)
        gradients.append([1 / columns + scale * slope for slope in slopes])
    assert objective(losses).tolist() == pytest.approx(expected)
    torch.testing.assert_close(objective.weights(losses), torch.tensor(gradients, dtype=torch.float64))


def test_hinge_regularized_object_gradcheck():
    losses = away_from_kinks(random_losses(batch=40), constants=[])
    assert torch.autograd.gradcheck(HingeRegularized(0.7, "sum"), losses.requires_grad_())


def test_hinge_regularized_without_weight_is_the_mean_of_steps():
    losses = random_losses()
    assert torch.equal(HingeRegularized(weight=0)(losses), MeanOfSteps()(losses))
    torch.testing.assert_close(HingeRegularized(weight=0).weights(losses), MeanOfSteps().weights(losses))


def test_hinge_regularized_defaults():
    assert HingeRegularized() == HingeRegularized(1.0, "mean")
    assert repr(HingeRegularized()) == "HingeRegularized(weight=1.0, reduction='mean', task='mean', detached=False)"


def test_hinge_regularized_zero_weight_rate_by_hand():
    # One pair of one step, out of order: the weights are 1/2 + w and 1/2 - w.
    losses = torch.tensor([[0.9, 0.3]])
    for weight, rate in [(0.0, 0), (0.5, 0.5), (1.0, 0)]:
        assert HingeRegularized(weight).diagnostics(losses)["zero_weight_rate"].item() == rate


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), "1", None])
def test_hinge_regularized_refuses_a_bad_weight_when_it_is_made(weight):
    with pytest.raises(ValueError, match="weight must be a finite number >= 0; got "):
        HingeRegularized(weight)


@pytest.mark.parametrize("reduction", ["none", None])
def test_hinge_regularized_refuses_an_unknown_reduction_when_it_is_made(reduction):
    with pytest.raises(ValueError, match=r"reduction must be 'mean' or 'sum'; got "):
        HingeRegularized(reduction=reduction)


def oracle_kind(row: list[float], weight: float, reduction: str, task: str) -> float:
    pairs = [(i, j) for i in range(len(row)) for j in range(i + 1, len(row))]
    hinges = sum(max(0.0, row[i] - row[j]) for i, j in pairs)
    first = sum(row) / len(row) if task == "mean" else row[0]
    return first + weight * (hinges / max(1, len(pairs)) if reduction == "mean" else hinges)


def oracle_gradient(row: list[float], weight: float, reduction: str, task: str, detached: bool) -> list[float]:
    pairs = [(i, j) for i in range(len(row)) for j in range(i + 1, len(row))]
    found = [1 / len(row) if task == "mean" else float(i == 0) for i in range(len(row))]
    for i, j in pairs:
        if row[i] > row[j]:
            share = weight / (len(pairs) if reduction == "mean" else 1)
            found[i] += share
            found[j] -= 0 if detached else share
    return found


@pytest.mark.parametrize("task", ["mean", "full"])
@pytest.mark.parametrize("detached", [False, True])
@every_reduction
@pytest.mark.parametrize("make", [random_losses, tied_losses])
def test_task_losses_of_all_steps_or_of_the_full_model_with_and_without_detaching(task, detached, reduction, make):
    objective, losses = HingeRegularized(0.7, reduction, task, detached), make()
    expected = [oracle_kind(row, 0.7, reduction, task) for row in losses.tolist()]
    assert objective(losses).tolist() == pytest.approx(expected)
    gradients = [oracle_gradient(row, 0.7, reduction, task, detached) for row in losses.tolist()]
    torch.testing.assert_close(gradient(objective, losses), torch.tensor(gradients, dtype=torch.float64))
    torch.testing.assert_close(objective.weights(losses), torch.tensor(gradients, dtype=torch.float64))


def test_the_full_model_alone():
    in_order = torch.tensor([[0.1, 0.2, 0.3]])
    assert HingeRegularized(task="full").weights(in_order).tolist() == [[1.0, 0.0, 0.0]]
    assert HingeRegularized(0.0, task="full")(random_losses()).equal(random_losses()[:, 0])
    assert (HingeRegularized(5.0, task="full", detached=True).weights(random_losses()) >= 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "best"}, "task must be 'mean' or 'full'; got 'best'"),
        ({"detached": 1}, "detached must be True or False; got 1"),
    ],
)
def test_bad_kinds(options, message):
    for call in (HingeRegularized, lambda **options: hinge_regularized_loss(random_losses(), **options)):
        with pytest.raises(ValueError, match=message):
            call(**options)
