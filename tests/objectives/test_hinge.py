from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_oracles import (
    BASELINES,
    any_baseline,
    any_reduction,
    away_from_kinks,
    every_baseline,
    every_reduction,
    fast,
    gradient,
    loss_rows,
    oracle_loss,
    oracle_weights,
    random_losses,
    tied_losses,
)

from cmp_rerank.objectives import Objective
from cmp_rerank.objectives.base import beaten
from cmp_rerank.objectives.hinge import PairwiseHinge, comparative_loss, comparative_weights, violations
from cmp_rerank.objectives.listwise import listwise_comparative_loss
from cmp_rerank.objectives.regularized import hinge_regularized_loss

# The comparative loss and its weights --------------------------------------------------------------------


@every_baseline
@every_reduction
@pytest.mark.parametrize("columns", [1, 2, 3, 5])
@pytest.mark.parametrize("make", [random_losses, tied_losses])
def test_loss_and_weights_equal_the_oracles(baseline, reduction, columns, make):
    losses = make(columns=columns)
    expected = [oracle_loss(row, baseline, reduction) for row in losses.tolist()]
    torch.testing.assert_close(
        comparative_loss(losses, baseline, reduction), torch.tensor(expected, dtype=torch.float64)
    )
    expected = [oracle_weights(row, baseline, reduction) for row in losses.tolist()]
    torch.testing.assert_close(
        comparative_weights(losses, baseline, reduction), torch.tensor(expected, dtype=torch.float64)
    )


@every_baseline
@every_reduction
@pytest.mark.parametrize("make", [random_losses, tied_losses])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_equal_autograd_also_at_ties(baseline, reduction, make, dtype):
    losses = make().to(dtype)
    weights = comparative_weights(losses, baseline, reduction)
    torch.testing.assert_close(
        weights, gradient(lambda x: comparative_loss(x, baseline, reduction), losses), rtol=0, atol=1e-7
    )
    # Guard: of each sign, so that the comparison is not one of zeros.
    assert weights.min() < 0 < weights.max()
    assert (weights == 0).any()
    assert not weights.requires_grad
    assert weights.shape == losses.shape


@pytest.mark.parametrize("baseline", ["zero", 0.35, -1.0])
@every_reduction
def test_gradcheck_away_from_kinks(baseline, reduction):
    losses = away_from_kinks(random_losses(batch=40, columns=4), constants=[0.0, 0.35, -1.0])
    assert torch.autograd.gradcheck(lambda x: comparative_loss(x, baseline, reduction), losses.requires_grad_())


@pytest.mark.parametrize("baseline", ["full", "best"])
def test_the_baseline_is_a_constant(baseline):
    # If a gradient flowed through the dummy, adding a constant to all losses would not change the loss, and the
    # weights would sum to 0. As it is, they sum to the number of steps above the dummy, divided by the pairs.
    losses = random_losses()
    reference = losses[:, :1] if baseline == "full" else losses.amin(dim=1, keepdim=True)
    above = (losses > reference).sum(dim=1).double()
    weights = gradient(lambda x: comparative_loss(x, baseline, "sum"), losses)
    torch.testing.assert_close(weights.sum(dim=1), above)
    assert above.max() > 0


def test_worked_arithmetic():
    losses = torch.tensor([[0.5, 0.3, 0.9]], dtype=torch.float64)
    # (0,1): 0.2, then the dummy's pairs.
    for baseline, total, weights in [
        ("zero", 0.2 + 0.5 + 0.3 + 0.9, [2, 0, 1]),
        ("full", 0.2 + 0.0 + 0.0 + 0.4, [1, -1, 1]),
        ("best", 0.2 + 0.2 + 0.0 + 0.6, [2, -1, 1]),
        (0.4, 0.2 + 0.1 + 0.0 + 0.5, [2, -1, 1]),
        (1.0, 0.2, [1, -1, 0]),
    ]:
        assert comparative_loss(losses, baseline, "sum").item() == pytest.approx(total)
        assert comparative_loss(losses, baseline, "mean").item() == pytest.approx(total / 6)
        assert comparative_weights(losses, baseline, "sum").tolist() == [weights]
        assert comparative_weights(losses, baseline).tolist() == [pytest.approx([w / 6 for w in weights])]


def test_without_steps_the_only_pair_is_full_model_and_baseline():
    losses = torch.tensor([[2.0], [0.25]])
    assert comparative_loss(losses).tolist() == [2.0, 0.25]
    assert comparative_loss(losses, 0.5).tolist() == [1.5, 0.0]
    assert comparative_loss(losses, "full").tolist() == [0.0, 0.0]
    assert comparative_weights(losses, 0.5).tolist() == [[1.0], [0.0]]


def test_defaults_are_the_zero_baseline_and_the_mean():
    losses = random_losses()
    assert torch.equal(comparative_loss(losses), comparative_loss(losses, baseline="zero", reduction="mean"))
    assert torch.equal(comparative_weights(losses), comparative_weights(losses, baseline="zero", reduction="mean"))
    assert not torch.equal(comparative_loss(losses), comparative_loss(losses, reduction="sum"))
    assert not torch.equal(comparative_loss(losses), comparative_loss(losses, baseline="full"))


def test_equal_losses_have_weight_zero_towards_each_other():
    losses = torch.full((1, 4), 0.7)
    assert comparative_weights(losses, "full").tolist() == [[0.0] * 4]
    assert comparative_weights(losses, "zero", "sum").tolist() == [[1.0] * 4]  # the dummy's pairs are left
    assert gradient(lambda x: comparative_loss(x, "full"), losses).tolist() == [[0.0] * 4]


def test_a_step_that_does_too_well_is_pushed_up():
    # One gradient step on the losses themselves: the violation shrinks from both sides.
    losses = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    moved = losses - 0.1 * gradient(lambda x: comparative_loss(x, "full"), losses)
    assert moved[0, 0] < 1.0
    assert moved[0, 1] > 0.2


def test_the_batch_is_independent_examples_in_any_leading_shape():
    losses = random_losses(batch=6, columns=3)
    folded = losses.view(2, 3, 3)
    for function in (comparative_loss, comparative_weights, violations, beaten, hinge_regularized_loss):
        together = function(losses)
        alone = torch.cat([function(row[None]) for row in losses])
        assert torch.equal(together, alone), function
        assert torch.equal(function(folded).flatten(0, 1), together), function
    together = listwise_comparative_loss(losses)
    torch.testing.assert_close(together, torch.cat([listwise_comparative_loss(row[None]) for row in losses]))
    torch.testing.assert_close(listwise_comparative_loss(folded).flatten(), together)


def test_the_input_is_not_changed():
    losses = random_losses().requires_grad_()
    before = losses.detach().clone()
    for baseline in BASELINES:
        comparative_loss(losses, baseline).sum().backward()
        comparative_weights(losses, baseline)
        listwise_comparative_loss(losses, 0.5, baseline)
    assert torch.equal(losses.detach(), before)


@fast
@given(loss_rows(), any_baseline, any_reduction, st.randoms(use_true_random=False))
def test_permuting_the_batch_permutes_the_result(losses, baseline, reduction, random):
    order = list(range(len(losses)))
    random.shuffle(order)
    assert torch.equal(
        comparative_loss(losses[order], baseline, reduction), comparative_loss(losses, baseline, reduction)[order]
    )


@fast
@given(loss_rows(), any_baseline, any_reduction)
def test_oracles_agree_on_any_losses(losses, baseline, reduction):
    expected = [oracle_loss(row, baseline, reduction) for row in losses.tolist()]
    assert comparative_loss(losses, baseline, reduction).tolist() == pytest.approx(expected)
    expected = [oracle_weights(row, baseline, reduction) for row in losses.tolist()]
    assert comparative_weights(losses, baseline, reduction).tolist() == [pytest.approx(row) for row in expected]
    weights = comparative_weights(losses, baseline, reduction)
    torch.testing.assert_close(weights, gradient(lambda x: comparative_loss(x, baseline, reduction), losses))


@fast
@given(loss_rows(least=0.0))
def test_losses_in_order_leave_the_task_losses_alone(losses):
    ordered = losses.sort(dim=1).values
    assert not violations(ordered).any()
    assert torch.equal(comparative_loss(ordered, reduction="sum"), ordered.sum(dim=1))
    # The mean keeps the scale up to a constant: 2 / (c + 2) times the mean task loss, c = columns - 1.
    torch.testing.assert_close(comparative_loss(ordered), ordered.mean(dim=1) * 2 / (losses.shape[1] + 1))


@fast
@given(loss_rows(least=0.125))
def test_the_full_model_is_always_trained_with_the_zero_baseline(losses):
    weights = comparative_weights(losses, reduction="sum")
    assert (weights[:, 0] >= 1).all()
    assert torch.equal(weights, weights.round())
    # Each step has one pair with the dummy; the pairs of real steps cancel in the sum.
    assert torch.equal(weights.sum(dim=1), torch.full_like(weights[:, 0], losses.shape[1]))
    # At most, step i is pushed up by each of the i steps before it, and always down by the dummy.
    assert (weights >= 1 - torch.arange(losses.shape[1])).all()


@fast
@given(loss_rows(), st.sampled_from([0.25, 0.5, 2.0, 8.0]), any_reduction)
def test_scaling_the_losses_scales_the_loss_and_keeps_the_weights(losses, scale, reduction):
    for baseline in ("zero", "full", "best"):
        scaled = comparative_loss(losses * scale, baseline, reduction)
        torch.testing.assert_close(scaled, comparative_loss(losses, baseline, reduction) * scale)
        assert torch.equal(
            comparative_weights(losses * scale, baseline, reduction), comparative_weights(losses, baseline, reduction)
        )


@fast
@given(loss_rows(), any_reduction)
def test_the_zero_baseline_loss_is_the_weighted_sum_of_the_task_losses(losses, reduction):
    weighted = (comparative_weights(losses, "zero", reduction) * losses).sum(dim=1)
    torch.testing.assert_close(comparative_loss(losses, "zero", reduction), weighted)


@fast
@given(loss_rows(), st.sampled_from([-2.0, 0.5, 3.0]), any_reduction)
def test_adding_a_constant_changes_nothing_where_the_baseline_moves_along(losses, constant, reduction):
    for baseline in ("full", "best"):
        before = comparative_loss(losses, baseline, reduction)
        torch.testing.assert_close(comparative_loss(losses + constant, baseline, reduction), before)
    torch.testing.assert_close(
        comparative_loss(losses + constant, 0.5 + constant, reduction), comparative_loss(losses, 0.5, reduction)
    )


# Violations ----------------------------------------------------------------------------------------------


@fast
@given(loss_rows())
def test_violations_are_pairs_in_the_wrong_order(losses):
    expected = [any(row[i] > row[j] for j in range(len(row)) for i in range(j)) for row in losses.tolist()]
    assert violations(losses).tolist() == expected
    # Seen from the loss: a hinge between real steps is left.
    hinges = hinge_regularized_loss(losses, weight=1.0) - losses.mean(dim=1)
    assert (hinges > 1e-12).tolist() == expected


@fast
@given(loss_rows())
def test_beaten_is_the_full_model_above_some_step(losses):
    assert beaten(losses).tolist() == [any(row[0] > other for other in row[1:]) for row in losses.tolist()]


def test_violations_by_hand():
    losses = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [2.0, 1.0, 3.0], [1.0, 3.0, 2.0], [2.0, 3.0, 1.0]])
    assert violations(losses).tolist() == [False, False, True, True, True]
    assert violations(torch.tensor([[1.0]])).tolist() == [False]
    assert violations(losses).dtype == torch.bool


# As an object --------------------------------------------------------------------------------------------


@fast
@given(loss_rows(), any_baseline, any_reduction)
def test_pairwise_hinge_is_the_comparative_loss(losses, baseline, reduction):
    objective = PairwiseHinge(baseline, reduction)
    assert torch.equal(objective(losses), comparative_loss(losses, baseline, reduction))
    assert torch.equal(objective.weights(losses), comparative_weights(losses, baseline, reduction))
    expected = [oracle_loss(row, baseline, reduction) for row in losses.tolist()]
    assert objective(losses).tolist() == pytest.approx(expected)
    expected = [oracle_weights(row, baseline, reduction) for row in losses.tolist()]
    torch.testing.assert_close(gradient(objective, losses), torch.tensor(expected, dtype=torch.float64))


@fast
@given(loss_rows(), any_baseline, any_reduction)
def test_weights_and_diagnostics_by_autograd_equal_the_closed_form(losses, baseline, reduction):
    objective = PairwiseHinge(baseline, reduction)
    torch.testing.assert_close(Objective.weights(objective, losses), objective.weights(losses))
    by_autograd = (Objective.weights(objective, losses) == 0).double().mean()
    assert objective.diagnostics(losses)["zero_weight_rate"] == by_autograd


@every_baseline
@every_reduction
@pytest.mark.parametrize("columns", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("make", [random_losses, tied_losses])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_weights_of_autograd_and_closed_form_are_the_same(baseline, reduction, columns, make, dtype):
    # Equal to the last bit: a weight of 1e-9 would cost a backward pass.
    objective = PairwiseHinge(baseline, reduction)
    losses = make(columns=columns).to(dtype)
    assert torch.equal(Objective.weights(objective, losses) == 0, objective.weights(losses) == 0)


def test_pairwise_hinge_defaults_to_the_zero_baseline_and_the_mean():
    assert PairwiseHinge() == PairwiseHinge("zero", "mean") == PairwiseHinge(baseline="zero", reduction="mean")
    assert repr(PairwiseHinge()) == "PairwiseHinge(baseline='zero', reduction='mean')"
    assert PairwiseHinge(0.5) != PairwiseHinge("full") != PairwiseHinge("full", "sum")


@pytest.mark.parametrize(
    ("baseline", "rate"),
    # In order, so that only the pairs with the dummy have a weight: which steps are above it?
    [("zero", 0), ("full", 1 / 3), ("best", 1 / 3), (0.25, 2 / 3), (1.0, 1)],
)
@every_reduction
def test_zero_weight_rate_depends_on_the_baseline(baseline, rate, reduction):
    rates = PairwiseHinge(baseline, reduction).diagnostics(torch.tensor([[0.1, 0.2, 0.3]]))
    assert rates["zero_weight_rate"].item() == pytest.approx(rate)
    assert rates["violation_rate"].item() == 0


def test_zero_weight_rate_by_hand():
    # Weights by hand as in the worked arithmetic: 2, 0, 1 for the zero baseline, 1, -1, 1 for the full model.
    losses = torch.tensor([[0.5, 0.3, 0.9]])
    assert PairwiseHinge().diagnostics(losses)["zero_weight_rate"].item() == pytest.approx(1 / 3)
    assert PairwiseHinge("full").diagnostics(losses)["zero_weight_rate"].item() == 0
    assert PairwiseHinge("full").diagnostics(losses)["violation_rate"].item() == 1


@pytest.mark.parametrize("baseline", ["zero", "full", "best", 0.35, -1.0])
@every_reduction
def test_pairwise_hinge_gradcheck(baseline, reduction):
    losses = away_from_kinks(random_losses(batch=40), constants=[0.0, 0.35, -1.0])
    objective = PairwiseHinge(baseline, reduction)
    if isinstance(baseline, str) and baseline != "zero":
        # The baseline is a constant, which finite differences of the losses would move: hold it at its value.
        columns = losses[:, :1] if baseline == "full" else losses.amin(dim=1, keepdim=True)
        for row, constant in zip(losses, columns.flatten().tolist(), strict=True):
            held = PairwiseHinge(constant, reduction)
            # At the step that is the baseline itself there is a kink, where the weight is that of a tie.
            others = row != constant
            torch.testing.assert_close(
                numerical_gradient(held, row)[others], objective.weights(row[None])[0][others], rtol=0, atol=1e-6
            )
    else:
        assert torch.autograd.gradcheck(objective, losses.requires_grad_())


def numerical_gradient(objective, row, h: float = 1e-6):
    shifts = torch.eye(len(row), dtype=row.dtype) * h
    return (objective(row + shifts) - objective(row - shifts)) / (2 * h)


@pytest.mark.parametrize("baseline", ["first", None, float("nan"), True, [0.0]])
def test_pairwise_hinge_refuses_an_unknown_baseline_when_it_is_made(baseline):
    with pytest.raises(ValueError, match=r"baseline must be 'zero', 'full', 'best' or a finite number; got "):
        PairwiseHinge(baseline)


@pytest.mark.parametrize("reduction", ["none", None, 1])
def test_pairwise_hinge_refuses_an_unknown_reduction_when_it_is_made(reduction):
    with pytest.raises(ValueError, match=r"reduction must be 'mean' or 'sum'; got "):
        PairwiseHinge(reduction=reduction)
