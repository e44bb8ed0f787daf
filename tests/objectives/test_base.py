from __future__ import annotations

import copy
import math
import pickle
from dataclasses import FrozenInstanceError, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_oracles import BASELINES, fast, gradient, loss_rows, random_losses, tied_losses
from torch import Tensor, nn

from cmp_rerank import objectives
from cmp_rerank.objectives import (
    FunctionObjective,
    HingeRegularized,
    Listwise,
    MeanOfSteps,
    Objective,
    Outputs,
    PairwiseHinge,
    RDrop,
    check_objective,
)
from cmp_rerank.objectives.base import beaten, idle_steps, violations

OBJECTIVES = [
    *(PairwiseHinge(baseline, reduction) for baseline in BASELINES for reduction in ("mean", "sum")),
    *(Listwise(temperature, baseline) for temperature in (0.3, 2) for baseline in (None, "zero", "full", -1.0)),
    *(HingeRegularized(weight, reduction) for weight in (0, 0.7) for reduction in ("mean", "sum")),
    MeanOfSteps(),
]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


# All objectives of the package ---------------------------------------------------------------------------


@every_objective
def test_the_repr_parses_back(objective):
    parsed = eval(repr(objective), vars(objectives))
    assert parsed == objective
    assert repr(parsed) == repr(objective)
    assert hash(parsed) == hash(objective)
    assert pickle.loads(pickle.dumps(objective)) == copy.deepcopy(objective) == objective
    assert check_objective(objective) is objective
    assert torch.equal(parsed(random_losses()), objective(random_losses()))


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), Fraction(1, 2)])
def test_the_repr_of_other_kinds_of_numbers_parses_back(number):
    assert repr(PairwiseHinge(number)) == "PairwiseHinge(baseline=0.5, reduction='mean')"
    assert repr(Listwise(number, number)) == "Listwise(temperature=0.5, baseline=0.5)"
    assert (
        repr(HingeRegularized(number))
        == "HingeRegularized(weight=0.5, reduction='mean', task='mean', detached=False)"
    )
    assert repr(PairwiseHinge(np.str_("full"), np.str_("sum"))) == "PairwiseHinge(baseline='full', reduction='sum')"


@every_objective
@pytest.mark.parametrize("make", [random_losses, tied_losses])
def test_weights_are_the_gradient(objective, make):
    losses = make()
    before = losses.clone().requires_grad_()
    weights = objective.weights(before)
    torch.testing.assert_close(weights, gradient(objective, losses))
    assert weights.abs().max() > 0
    assert not weights.requires_grad
    assert before.grad is None
    assert torch.equal(before.detach(), losses)


@every_objective
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(objective, dtype):
    # In half precision the sum of these would lose the differences between them.
    losses = torch.tensor([[2050.0, 2048.0, 2052.0]]).to(dtype)
    value, weights = objective(losses), objective.weights(losses)
    assert value.dtype == weights.dtype == torch.float32
    assert torch.equal(value, objective(losses.float()))
    assert torch.equal(weights, objective.weights(losses.float()))
    assert {rate.dtype for rate in objective.diagnostics(losses).values()} == {torch.float32}
    assert objective(losses.double()).dtype == objective.weights(losses.double()).dtype == torch.float64


@every_objective
def test_examples_are_independent_and_may_have_more_dimensions(objective):
    losses = random_losses(batch=6, columns=3)
    together = objective(losses)
    torch.testing.assert_close(together, torch.cat([objective(row[None]) for row in losses]))
    torch.testing.assert_close(objective(losses.view(2, 3, 3)).flatten(), together)
    torch.testing.assert_close(objective.weights(losses.view(2, 3, 3)).flatten(0, 1), objective.weights(losses))
    assert objective.diagnostics(losses.view(2, 3, 3)) == objective.diagnostics(losses)


@every_objective
def test_outputs_are_not_asked_for_and_not_looked_at(objective):
    losses = random_losses(batch=2, columns=2)
    outputs = Outputs(torch.full((2, 2, 1), math.nan), torch.arange(2))
    assert objective.needs_outputs is False
    assert torch.equal(objective(losses, outputs), objective(losses))


@every_objective
@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([[1.0, 2.0]], r"losses must be a tensor of shape \(batch, 1 \+ steps\); got list"),
        (torch.tensor([1.0, 2.0]), r"losses must have shape \(batch, 1 \+ steps\) and not be empty; got \(2,\)"),
        (torch.zeros(0, 3), r"not be empty; got \(0, 3\)"),
        (torch.tensor([[1, 2]]), r"losses must be floating-point"),
        (torch.tensor([[1.0, math.nan]]), r"losses must be finite; got nan at index \[0, 1\]"),
    ],
)
def test_bad_losses(objective, losses, message):
    for use in (objective, objective.weights, objective.diagnostics):
        with pytest.raises(ValueError, match=message):
            use(losses)


@every_objective
def test_options_cannot_be_changed_afterwards(objective):
    name = next(iter(vars(objective)), "anything")
    with pytest.raises(FrozenInstanceError):
        setattr(objective, name, 1)


# Diagnostics ---------------------------------------------------------------------------------------------


def assert_rates(
    found: dict[str, Tensor], violation_rate: float, zero_weight_rate: float | None, beaten_rate: float | None = None
) -> None:
    """Of one step, a violation is a full model that was beaten; of several, say how often that was."""
    beaten_rate = violation_rate if beaten_rate is None else beaten_rate
    expected = {
        "violation_rate": violation_rate, "beaten_rate": beaten_rate, "zero_weight_rate": zero_weight_rate
    }  # fmt: skip
    expected = {name: rate for name, rate in expected.items() if rate is not None}
    assert {name: rate.item() for name, rate in found.items()} == pytest.approx(expected)
    assert all(rate.dim() == 0 and not rate.requires_grad for rate in found.values())


@every_objective
@pytest.mark.parametrize("make", [random_losses, tied_losses])
def test_diagnostics_count_violations_and_zero_weights(objective, make):
    losses = make(batch=30)
    wrong = [any(row[i] > row[j] for j in range(len(row)) for i in range(j)) for row in losses.tolist()]
    lost = [any(row[0] > other for other in row[1:]) for row in losses.tolist()]
    assert 0 < sum(lost) < sum(wrong) < 30
    idle = [weight == 0 for row in objective.weights(losses).tolist() for weight in row]
    rates = objective.diagnostics(losses.clone().requires_grad_())
    assert_rates(rates, sum(wrong) / 30, sum(idle) / 120, sum(lost) / 30)


class Halved(Objective):
    """Half of the full model's loss, none of the others."""

    def __call__(self, losses, outputs=None):
        return losses[..., 0] / 2


def test_the_default_weights_are_had_by_autograd():
    losses = random_losses(batch=2, columns=3)
    with torch.no_grad():
        assert Halved().weights(losses).tolist() == [[0.5, 0.0, 0.0]] * 2
    with torch.inference_mode():
        inferred = losses.clone()
        assert Halved().weights(inferred).tolist() == [[0.5, 0.0, 0.0]] * 2
    assert_rates(Halved().diagnostics(torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]])), 1 / 3, 1 / 2)


class Constant(Objective):
    def __call__(self, losses, outputs=None):
        return losses.new_ones(len(losses))


def test_a_constant_has_no_weight():
    assert Constant().weights(torch.ones(2, 3)).tolist() == [[0.0] * 3] * 2
    assert_rates(Constant().diagnostics(torch.ones(2, 3)), 0, 1)


class Root(Objective):
    def __call__(self, losses, outputs=None):
        return (losses[:, 0] - losses[:, 1]).sqrt()


def test_a_gradient_that_is_not_finite_is_refused():
    assert Root().weights(torch.tensor([[5.0, 1.0]])).tolist() == [[0.25, -0.25]]
    with pytest.raises(ValueError, match=r"The gradient of .*Root.* must be finite; got \[\[inf, -inf\]\] for the"):
        Root().diagnostics(torch.tensor([[1.0, 1.0]]))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda losses: losses, r"one value per example, shape \(4,\); .* gave torch.float64 of shape \(4, 3\)"),
        (lambda losses: losses.sum(), r"one value per example, shape \(4,\); .* gave torch.float64 of shape \(\)"),
        (lambda losses: losses.sum(dim=1).tolist(), r"one value per example, shape \(4,\); .* gave list"),
    ],
)
def test_anything_but_one_value_per_example_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        FunctionObjective(function).weights(random_losses(4, 3))


@dataclass(frozen=True)
class WithScores(Objective):
    """The mean task loss, and the mean of all scores of an example."""

    needs_outputs = True

    def __call__(self, losses, outputs=None):
        return losses.mean(dim=1) + outputs.mean_by_example(outputs.scores.mean(dim=(1, 2)), len(losses))


class WithScoresAndWeights(WithScores):
    def weights(self, losses):
        return torch.tensor([[0.0, 1.0]]).expand(len(losses), -1)


def test_an_objective_that_needs_outputs_has_no_weights_of_the_losses_alone():
    losses = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    assert_rates(WithScores().diagnostics(losses), 0.5, None)
    with pytest.raises(ValueError, match=r"weights of WithScores\(\) cannot be had .* since it needs outputs"):
        WithScores().weights(losses)
    assert_rates(WithScoresAndWeights().diagnostics(losses), 0.5, 0.5)


# Outputs -------------------------------------------------------------------------------------------------


def test_an_objective_sees_the_scores_with_their_graph():
    scores = torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]], [[0.0], [1.0]]], requires_grad=True)  # three rows
    losses = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    value = WithScores()(losses, Outputs(scores, torch.tensor([1, 1, 0])))
    assert value.tolist() == [1.5 + 0.5, 3.5 + 4.0]
    value.sum().backward()
    assert scores.grad.flatten(1).tolist() == [[0.25, 0.25], [0.25, 0.25], [0.5, 0.5]]


@fast
@given(st.data(), st.integers(1, 4), st.integers(0, 6))
def test_mean_by_example_equals_a_loop(data, examples, rows):
    example = data.draw(st.lists(st.integers(0, examples - 1), min_size=rows, max_size=rows))
    values = data.draw(st.lists(st.integers(-8, 8), min_size=rows, max_size=rows))
    outputs = Outputs(torch.zeros(rows, 2, 1), torch.tensor(example, dtype=torch.int64))
    expected = []
    for number in range(examples):
        own = [value for value, owner in zip(values, example, strict=True) if owner == number]
        expected.append(sum(own) / len(own) if own else 0.0)
    found = outputs.mean_by_example(torch.tensor(values, dtype=torch.float64), examples)
    assert found.tolist() == pytest.approx(expected)


SCORES = torch.zeros(3, 2, 5)
ROWS = torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"scores": [[[0.0]]]},
            r"scores must be .*floating.* of shape \(rows, 1 \+ steps, width\); got list",
        ),
        ({"scores": SCORES[0]}, r"scores must .*; got torch.float32 of shape \(2, 5\)"),
        ({"scores": SCORES.long()}, r"scores must .*; got torch.int64 of shape \(3, 2, 5\)"),
        ({"example": [0, 0, 1]}, r"example must be an int64 tensor of shape \(rows,\) = \(3,\).*; got list"),
        ({"example": ROWS.int()}, r"example must .*; got torch.int32 of shape \(3,\)"),
        ({"example": ROWS[:2]}, r"example must .*; got torch.int64 of shape \(2,\)"),
        ({"example": ROWS[:, None]}, r"example must .*; got torch.int64 of shape \(3, 1\)"),
        ({"kept": SCORES}, r"kept must be None, or a bool tensor .* \(3, 2, 5\); got torch.float32"),
        ({"kept": SCORES[..., :1].bool()}, r"kept must .*; got torch.bool of shape \(3, 2, 1\)"),
        ({"kept": True}, r"kept must .*; got bool"),
    ],
)
def test_bad_outputs(changed, message):
    Outputs(SCORES, ROWS, SCORES.bool())
    with pytest.raises(ValueError, match=message):
        Outputs(**{"scores": SCORES, "example": ROWS, **changed})


@pytest.mark.parametrize(
    ("values", "examples", "message"),
    [
        (torch.zeros(2), 2, r"one floating-point number per row, shape \(3,\); got torch.float32 of shape \(2,\)"),
        (torch.zeros(3, 1), 2, r"got torch.float32 of shape \(3, 1\)"),
        (torch.zeros(3).long(), 2, r"got torch.int64"),
        ([0.0] * 3, 2, r"got list"),
        (torch.zeros(3), 1, r"example must index 1 rows of losses; got 1"),
    ],
)
def test_bad_means(values, examples, message):
    with pytest.raises(ValueError, match=message):
        Outputs(SCORES, ROWS).mean_by_example(values, examples)


def test_a_negative_example_is_refused():
    with pytest.raises(ValueError, match=r"example must index 2 rows of losses; got -1"):
        Outputs(SCORES, ROWS - 1).mean_by_example(torch.zeros(3), 2)


# What is accepted as an objective ------------------------------------------------------------------------


class Duck:
    """Not a subclass of Objective."""

    needs_outputs = False

    def __call__(self, losses, outputs=None):
        return losses.sum(dim=1)

    def diagnostics(self, losses):
        return {"quacks": losses.new_ones(())}


class Partial:
    """Has no diagnostics."""

    needs_outputs = True

    def __call__(self, losses, outputs):
        return losses.sum(dim=1) + outputs.scores.sum(dim=(1, 2))


class Sum(nn.Module):
    def forward(self, losses):
        return losses.sum(dim=1)


def test_any_object_of_the_right_shape_will_do():
    duck = Duck()
    assert check_objective(duck) is duck


@pytest.mark.parametrize("function", [lambda losses: losses.sum(dim=1), Sum(), lambda x, dim=1: x.sum(dim)])
def test_a_function_is_wrapped(function):
    objective = check_objective(function)
    losses = random_losses(batch=4, columns=3)
    assert isinstance(objective, FunctionObjective)
    assert objective.needs_outputs is False
    assert torch.equal(objective(losses, None), losses.sum(dim=1))
    assert torch.equal(objective(losses, Outputs(SCORES, ROWS)), losses.sum(dim=1))
    assert torch.equal(objective.weights(losses), torch.ones_like(losses))
    assert_rates(
        objective.diagnostics(losses),
        violations(losses).double().mean().item(),
        0,
        beaten(losses).double().mean().item(),
    )


def test_a_function_of_losses_and_outputs_is_wrapped():
    objective = check_objective(Partial())
    assert objective.needs_outputs is True
    losses = random_losses(batch=3, columns=2)
    assert torch.equal(objective(losses, Outputs(SCORES + 1, torch.arange(3))), losses.sum(dim=1) + 10)
    assert set(objective.diagnostics(losses)) == {"violation_rate", "beaten_rate"}


def test_the_repr_of_a_function_has_no_address():
    def mean_of_all(losses):
        return losses.mean(dim=1)

    assert repr(check_objective(mean_of_all)).endswith("mean_of_all)")
    assert "0x" not in repr(check_objective(mean_of_all))


class Puzzled(Duck):
    needs_outputs = "yes"


class OfLossesOnly(Duck):
    def __call__(self, losses):
        return losses.sum(dim=1)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (PairwiseHinge, r"must be an object, not a class; got the class PairwiseHinge: write PairwiseHinge\(\)"),
        (Duck, r"not a class; got the class Duck"),
        ("hinge", r"such as PairwiseHinge\(\) or a function of the losses; got 'hinge'"),
        (None, r"or a function of the losses; got None"),
        (torch.zeros(2), r"or a function of the losses; got tensor\("),
        (lambda: 0, r"must be callable with \(losses\); got .*, which takes \(\)"),
        (lambda losses, *, weight: losses, r"must be callable with \(losses\); got .*\(losses, \*, weight\)"),
        (OfLossesOnly(), r"must be callable with \(losses, outputs\); got .*, which takes \(losses\)"),
        (Puzzled(), r"needs_outputs of .* must be True or False; got 'yes'"),
    ],
)
def test_what_is_no_objective(objective, message):
    with pytest.raises(ValueError, match=message):
        check_objective(objective)


def test_a_task_loss_is_no_objective():
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    class TaskLoss(nn.Module):
        forward = BinaryCrossEntropyLoss.forward

    with pytest.raises(ValueError, match=r"must be callable with \(losses\); got TaskLoss\(\), which takes \(inputs"):
        check_objective(TaskLoss())


@fast
@given(loss_rows())
def test_violation_rate_does_not_depend_on_the_objective(losses):
    rates = {objective.diagnostics(losses)["violation_rate"].item() for objective in OBJECTIVES}
    assert rates == {violations(losses).double().mean().item()}


def test_idle_steps() -> None:
    """Steps without weight where all is in order; none where that is not known."""

    class Fails(Objective):
        def __call__(self, losses: Tensor, outputs: Any = None) -> Tensor:
            raise IndexError("a batch of one")

    class OnlyCalled:
        needs_outputs = False

        def __call__(self, losses: Tensor, outputs: Any = None) -> Tensor:
            return losses[:, 0]

    assert idle_steps(FunctionObjective(lambda losses: losses[:, 0] + losses[:, 2]), 3) == [1, 3]
    assert idle_steps(MeanOfSteps(), 2) == idle_steps(RDrop(), 1) == idle_steps(Fails(), 2) == []
    assert idle_steps(OnlyCalled(), 2) == []  # type: ignore[arg-type]
    assert idle_steps(FunctionObjective(lambda losses: losses[:, 0]), 0) == []
