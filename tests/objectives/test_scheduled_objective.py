"""Schedules, objectives that follow them, and weights of examples."""

from __future__ import annotations

import copy
import math
import pickle
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_oracles import gradient, loss_rows, random_losses, tied_losses
from torch import Tensor

from cmp_rerank import objectives
from cmp_rerank.objectives import (
    CosineSchedule,
    HingeRegularized,
    IntraDistillation,
    LinearSchedule,
    Listwise,
    MeanOfSteps,
    Outputs,
    PairwiseHinge,
    RDrop,
    ScheduledObjective,
    TrainingProgress,
    WeightedByLoss,
    WeightedByViolation,
)
from cmp_rerank.objectives.base import at
from cmp_rerank.objectives.progress import value_at

fast = settings(max_examples=100, deadline=None, derandomize=True)
numbers = st.floats(-100, 100)


# Schedules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape"), [(LinearSchedule, lambda x: x), (CosineSchedule, lambda x: (1 - math.cos(math.pi * x)) / 2)]
)
@fast
@given(start=numbers, end=numbers, total=st.integers(1, 200), share=st.floats(0.01, 1.0))
def test_schedules_equal_their_formula(
    kind: Any, shape: Any, start: float, end: float, total: int, share: float
) -> None:
    schedule = kind(start, end, share)
    values = [schedule(TrainingProgress(step, total)) for step in range(total + 1)]
    for step, value in enumerate(values):
        x = min(1.0, step / (share * total))
        assert value == pytest.approx(start + (end - start) * shape(x), abs=1e-9)
    assert values[0] == start
    assert values[-1] == end
    rising = values == sorted(values) if end >= start else values == sorted(values, reverse=True)
    assert rising or max(values) - min(values) < 1e-9


def test_a_length_in_steps_needs_no_total() -> None:
    schedule = LinearSchedule(0.0, 1.0, until=4)
    assert [schedule(TrainingProgress(step)) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert schedule(TrainingProgress(1, total=1000)) == 0.25
    assert LinearSchedule(0.0, 1.0, until=1.0)(TrainingProgress(1, total=4)) == 0.25  # a share, and not one step
    assert LinearSchedule(0.0, 1.0, until=1)(TrainingProgress(1, total=4)) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearSchedule(math.nan, 1), "start must be a finite number; got nan"),
        (lambda: CosineSchedule(0, "1"), "end must be a finite number; got '1'"),  # type: ignore[arg-type]
        (lambda: LinearSchedule(0, 1, 0), "got 0."),
        (lambda: LinearSchedule(0, 1, 1.5), "until must be a share of training, a float in (0, 1], or a number of"),
        (lambda: LinearSchedule(0, 1, math.nan), "got nan."),
        (lambda: LinearSchedule(0, 1, True), "got True."),
        (lambda: LinearSchedule(0, 1)(TrainingProgress(3)), "needs the number of training steps; got none"),
        (lambda: TrainingProgress(-1), "step must be a whole number, at least 0; got -1"),
        (lambda: TrainingProgress(0, 0), "total must be a whole number, at least 1; got 0"),
        (lambda: TrainingProgress(0.5), "step must be a whole number, at least 0; got 0.5"),  # type: ignore[arg-type]
        (lambda: value_at(lambda progress: math.inf, TrainingProgress(2)), "must return a finite number; <function"),
        (lambda: value_at(lambda progress: None, TrainingProgress(2)), "returned None for TrainingProgress(step=2,"),  # type: ignore[arg-type, return-value]
    ],
)
def test_bad_schedules(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# Objectives that follow them ------------------------------------------------------------------------------


def test_a_scheduled_objective_is_the_one_with_the_value_of_that_step() -> None:
    scheduled = ScheduledObjective(HingeRegularized(reduction="sum"), {"weight": lambda progress: progress.step**2})
    losses = random_losses()
    for step in (0, 1, 3):
        now = scheduled.at(TrainingProgress(step, 10))
        assert now == HingeRegularized(step**2, "sum")
        assert torch.equal(now(losses), HingeRegularized(step**2, "sum")(losses))
    assert torch.equal(scheduled(losses), HingeRegularized(reduction="sum")(losses))


def test_several_options_and_what_is_inside() -> None:
    scheduled = ScheduledObjective(
        Listwise(), {"temperature": CosineSchedule(2.0, 0.5), "baseline": LinearSchedule(0.0, 1.0)}
    )
    assert scheduled.at(TrainingProgress(5, 10)) == Listwise(1.25, 0.5)
    nested = WeightedByLoss(ScheduledObjective(HingeRegularized(), {"weight": LinearSchedule(0.0, 1.0)}), 2.0)
    assert nested.at(TrainingProgress(5, 10)) == WeightedByLoss(HingeRegularized(0.5), 2.0)
    around = ScheduledObjective(WeightedByLoss(MeanOfSteps()), {"tilt": LinearSchedule(-1.0, 1.0)})
    assert around.at(TrainingProgress(5, 10)) == WeightedByLoss(MeanOfSteps(), 0.0)
    adaptive = WeightedByViolation(IntraDistillation(5.0, p=5, q=10))
    assert adaptive.at(TrainingProgress(10, 100)) == WeightedByViolation(IntraDistillation(1.0))
    both = ScheduledObjective(IntraDistillation(1.0, p=5, q=10), {"alpha": LinearSchedule(5.0, 5.0)})
    assert both.at(TrainingProgress(10, 100)) == IntraDistillation(1.0)
    assert both.needs_outputs
    assert not around.needs_outputs


def test_objectives_of_another_shape_stay_as_they_are() -> None:
    class Other:
        def __call__(self, losses: Tensor, outputs: Outputs | None = None) -> Tensor:
            return losses[:, 0]

        def diagnostics(self, losses: Tensor) -> dict[str, Tensor]:
            return {}

    other: Any = Other()
    assert at(other, TrainingProgress(0)) is other
    other.at = lambda progress: "nothing"
    with pytest.raises(ValueError, match="objective must be an object such as PairwiseHinge"):
        at(other, TrainingProgress(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ScheduledObjective(torch.mean, {"a": LinearSchedule(0, 1)}), "fields of a dataclass"),  # type: ignore[arg-type]
        (lambda: ScheduledObjective(MeanOfSteps, {"a": LinearSchedule(0, 1)}), "fields of a dataclass"),  # type: ignore[arg-type]
        (lambda: ScheduledObjective(RDrop(), {}), "schedules must say which options change"),
        (lambda: ScheduledObjective(RDrop(), LinearSchedule(0, 1)), "schedules must say which options change"),  # type: ignore[arg-type]
        (
            lambda: ScheduledObjective(RDrop(), {"weight": LinearSchedule(0, 1)}),
            "['alpha', 'distribution']; got a schedule for 'weight'",
        ),
        (
            lambda: ScheduledObjective(RDrop(), {"alpha": 1.0}),
            "The schedule of alpha must be LinearSchedule(start, end)",
        ),  # type: ignore[dict-item]
        (lambda: ScheduledObjective(RDrop(), {"alpha": LinearSchedule}), "The schedule of alpha must be"),  # type: ignore[dict-item]
        (
            lambda: ScheduledObjective(RDrop(), {"alpha": LinearSchedule(1.0, -1.0)}).at(TrainingProgress(3, 4)),
            "alpha must be a finite number >= 0; got -0.5",
        ),
        (lambda: WeightedByLoss(PairwiseHinge(), math.inf), "tilt must be a finite number, above 0 for hard"),
        (lambda: WeightedByLoss(PairwiseHinge), "objective must be an object, not a class"),  # type: ignore[arg-type]
        (
            lambda: WeightedByViolation(PairwiseHinge())(torch.full((2, 2), math.nan)),
            "losses must be finite; got nan",
        ),
    ],
)
def test_bad_options(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# Weights of examples --------------------------------------------------------------------------------------


def amount(kind: Any, row: list[float]) -> float:
    if kind is WeightedByLoss:
        return row[0]
    pairs = [(i, j) for i in range(len(row)) for j in range(i + 1, len(row))]
    return sum(max(0.0, row[i] - row[j]) for i, j in pairs) / max(1, len(pairs))


both = pytest.mark.parametrize("kind", [WeightedByLoss, WeightedByViolation])


@both
@fast
@given(losses=loss_rows(), tilt=st.sampled_from([-2.0, -0.5, 0, 1.0, 3.0]))
def test_weights_equal_a_loop(kind: Any, losses: Tensor, tilt: float) -> None:
    objective = kind(PairwiseHinge(), tilt)
    exponentials = [math.exp(tilt * amount(kind, row)) for row in losses.tolist()]
    expected = [len(exponentials) * each / sum(exponentials) for each in exponentials]
    assert objective.example_weights(losses).tolist() == pytest.approx(expected)
    assert objective.example_weights(losses).mean().item() == pytest.approx(1)
    values = PairwiseHinge()(losses).tolist()
    assert objective(losses).tolist() == pytest.approx([w * v for w, v in zip(expected, values, strict=True)])


@both
@pytest.mark.parametrize("make", [random_losses, tied_losses])
def test_no_gradient_flows_through_the_weights(kind: Any, make: Any) -> None:
    losses, objective = make(), kind(PairwiseHinge(), 2.0)
    expected = objective.example_weights(losses)[:, None] * PairwiseHinge().weights(losses)
    torch.testing.assert_close(gradient(objective, losses), expected)
    torch.testing.assert_close(objective.weights(losses), expected)


@both
def test_limits_and_invariances(kind: Any) -> None:
    losses = random_losses()
    torch.testing.assert_close(kind(Listwise(), 0.0)(losses), Listwise()(losses))
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(kind(Listwise())(losses[order]), kind(Listwise())(losses)[order])
    torch.testing.assert_close(
        kind(MeanOfSteps()).example_weights(losses + 9), kind(MeanOfSteps()).example_weights(losses)
    )
    assert torch.equal(kind(Listwise())(losses[:1]), Listwise()(losses[:1]))  # one example has weight 1
    hard = kind(MeanOfSteps(), 1e5).example_weights(losses)
    assert hard.max().item() == pytest.approx(len(losses))
    large = torch.tensor([[6e4, 0.0], [-6e4, 0.0]], dtype=torch.float16)
    for tilt in (5.0, 1e38, -1e38):
        assert kind(MeanOfSteps(), tilt)(large).isfinite().all()
    assert torch.equal(kind(MeanOfSteps()).example_weights(torch.tensor([[0.1, 0.4], [0.1, 0.4]])), torch.ones(2))


def test_the_easy_and_the_hard_first() -> None:
    losses = torch.tensor([[0.1, 0.2], [2.0, 3.0]])
    easy, hard = (WeightedByLoss(MeanOfSteps(), tilt).example_weights(losses) for tilt in (-1.0, 1.0))
    assert easy[0] > 1 > easy[1]
    assert hard[0] < 1 < hard[1]
    violated = torch.tensor([[5.0, 6.0], [0.5, 0.1]])  # the second is out of order, with a lower loss
    weights = WeightedByViolation(MeanOfSteps()).example_weights(violated)
    assert weights[0] < 1 < weights[1]


@both
def test_around_an_objective_of_outputs(kind: Any) -> None:
    example = torch.arange(3)
    scores = torch.randn(3, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses = random_losses(3, 2)
    objective = kind(RDrop(2.0), 1.5)
    assert objective.needs_outputs
    expected = objective.example_weights(losses) * RDrop(2.0)(losses, Outputs(scores, example))
    torch.testing.assert_close(objective(losses, Outputs(scores, example)), expected)
    assert torch.autograd.gradcheck(lambda x: objective(losses, Outputs(x, example)), scores.requires_grad_())


def test_a_plain_function_inside() -> None:
    losses = random_losses()
    objective = WeightedByLoss(lambda losses: losses.amax(dim=1), 1.0)  # type: ignore[arg-type]
    torch.testing.assert_close(objective(losses), objective.example_weights(losses) * losses.amax(dim=1))


@pytest.mark.parametrize(
    "objective",
    [
        WeightedByLoss(HingeRegularized(2.0), -1.0),
        ScheduledObjective(WeightedByViolation(RDrop()), {"tilt": CosineSchedule(0.0, 1.0, until=50)}),
    ],
)
def test_reprs_parse_back(objective: Any) -> None:
    parsed = eval(repr(objective), vars(objectives))
    assert parsed == objective
    assert hash(parsed) == hash(objective)
    assert pickle.loads(pickle.dumps(objective)) == copy.deepcopy(objective) == objective
