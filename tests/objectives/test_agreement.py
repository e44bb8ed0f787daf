"""R-Drop and Intra-Distillation as objectives: against slow loops, at their limits, and with bad input."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_oracles import random_losses
from torch import Tensor

from cmp_rerank import objectives
from cmp_rerank.objective import adaptive_alpha
from cmp_rerank.objectives import (
    IntraDistillation,
    MeanOfSteps,
    Objective,
    Outputs,
    RDrop,
    ScheduledObjective,
    TrainingProgress,
    WeightedByLoss,
    check_objective,
)

EXAMPLE = torch.tensor([0, 2, 1, 0, 1, 2, 0])  # lists of 3, 2 and 2 passages, in no order
LIST_LIKE = ("list", "margins")


def random_scores(passes: int, width: int = 1, rows: int = len(EXAMPLE), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, passes, width, dtype=torch.float64, generator=generator)


# The oracle: plain numbers, one pass at a time ------------------------------------------------------------


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def bernoulli(z: float) -> list[float]:
    return [1 / (1 + math.exp(z)), 1 / (1 + math.exp(-z))]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def symmetric(passes: list[list[float]]) -> float:
    """R-Drop's divergence of two distributions."""
    p, q = passes
    return (kl(p, q) + kl(q, p)) / 2


def to_the_mean(passes: list[list[float]]) -> float:
    """Intra-Distillation's divergence of K distributions."""
    mean = [sum(column) / len(passes) for column in zip(*passes, strict=True)]
    return sum(kl(p, mean) + kl(mean, p) for p in passes) / len(passes)


def variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def apart(scores: list[list[list[float]]], distribution: str, divergence: Any) -> float:
    """How far apart the passes over one example are; its scores are (rows, passes, width)."""
    passes = range(len(scores[0]))
    if distribution == "list":
        return divergence([softmax([row[k][0] for row in scores]) for k in passes])
    if distribution == "margins":
        pairs = list(itertools.combinations(scores, 2))
        return sum(variance([a[k][0] - b[k][0] for k in passes]) for a, b in pairs) / max(1, len(pairs))
    found = []
    for row in scores:
        labels = range(len(row[0]))
        if distribution == "values":
            found.append(sum(variance([row[k][label] for k in passes]) for label in labels) / len(labels))
        elif distribution == "bernoulli":
            found.append(sum(divergence([bernoulli(row[k][label]) for k in passes]) for label in labels))
        else:
            found.append(divergence([bernoulli(p[0]) if len(p) == 1 else softmax(p) for p in row]))
    return sum(found) / len(found)


def loop(objective: Any, losses: Tensor, scores: Tensor, example: Tensor) -> list[float]:
    divergence = symmetric if isinstance(objective, RDrop) else to_the_mean
    values = []
    for number, task in enumerate(losses.tolist()):
        own = [row for row, owner in zip(scores.tolist(), example.tolist(), strict=True) if owner == number]
        values.append(sum(task) / len(task) + objective.alpha * apart(own, objective.distribution, divergence))
    return values


CASES = [
    *(pytest.param(RDrop(2.5, kind), width, id=f"r-drop-{kind}-{width}")
      for kind, width in (("labels", 1), ("labels", 3), ("bernoulli", 1), ("bernoulli", 3), ("list", 1))),
    *(pytest.param(IntraDistillation(2.5, passes, distribution=kind), width, id=f"intra-{kind}-{width}-{passes}")
      for kind, width in (("labels", 1), ("labels", 3), ("bernoulli", 3), ("list", 1), ("values", 1), ("values", 2),
                          ("margins", 1))
      for passes in (2, 3)),
]  # fmt: skip
each = pytest.mark.parametrize(("objective", "width"), CASES)


def passes_of(objective: Any) -> int:
    return getattr(objective, "passes", 2)


@each
def test_value_and_gradient_equal_a_slow_loop(objective: Any, width: int) -> None:
    losses = random_losses(3, passes_of(objective)).requires_grad_()
    scores = random_scores(passes_of(objective), width).requires_grad_()
    values = objective(losses, Outputs(scores, EXAMPLE))
    assert values.tolist() == pytest.approx(loop(objective, losses, scores, EXAMPLE), rel=1e-12)
    of_losses, of_scores = torch.autograd.grad(values.sum(), [losses, scores])
    torch.testing.assert_close(of_losses, torch.full_like(losses, 1 / passes_of(objective)))
    h, numerical = 1e-6, torch.zeros_like(scores)
    for place in range(scores.numel()):
        shift = torch.zeros(scores.numel(), dtype=torch.float64).index_fill(0, torch.tensor(place), h).view_as(scores)
        up, down = (sum(loop(objective, losses, scores + sign * shift, EXAMPLE)) for sign in (1, -1))
        numerical.view(-1)[place] = (up - down) / (2 * h)
    torch.testing.assert_close(of_scores, numerical, rtol=1e-5, atol=1e-7)
    assert of_scores.abs().max() > 0.01


@each
def test_gradcheck(objective: Any, width: int) -> None:
    losses = random_losses(3, passes_of(objective)).requires_grad_()
    scores = random_scores(passes_of(objective), width).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: objective(x, Outputs(y, EXAMPLE)), (losses, scores))


@each
def test_limits(objective: Any, width: int) -> None:
    """Weight 0 and passes that agree: the mean of the passes."""
    losses = random_losses(3, passes_of(objective))
    scores = random_scores(passes_of(objective), width)
    without = type(objective)(0.0, **({"passes": objective.passes} if hasattr(objective, "passes") else {}))
    assert torch.equal(without(losses, Outputs(scores, EXAMPLE)), MeanOfSteps()(losses))
    equal = scores[:, :1].expand_as(scores)
    torch.testing.assert_close(objective(losses, Outputs(equal, EXAMPLE)), MeanOfSteps()(losses))
    assert (objective(losses, Outputs(scores, EXAMPLE)) > MeanOfSteps()(losses)).all()


@each
def test_invariances(objective: Any, width: int) -> None:
    """The order of passes and rows does not matter, nor a constant on all scores of a pass where it says nothing."""
    losses = random_losses(3, passes_of(objective))
    scores = random_scores(passes_of(objective), width)
    expected = objective(losses, Outputs(scores, EXAMPLE))
    torch.testing.assert_close(objective(losses.flip(1), Outputs(scores.flip(1), EXAMPLE)), expected)
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    torch.testing.assert_close(objective(losses, Outputs(scores[order], EXAMPLE[order])), expected)
    shifted = scores + torch.linspace(-3, 5, passes_of(objective), dtype=torch.float64)[:, None]
    same = objective(losses, Outputs(shifted, EXAMPLE))
    if objective.distribution in LIST_LIKE or (objective.distribution == "labels" and width > 1):
        torch.testing.assert_close(same, expected)
    else:
        assert (same - expected).abs().max() > 0.1


@each
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda sizes: max(sizes) > 1),
    seed=st.integers(0, 99),
)
def test_ragged_lists_are_as_each_alone(objective: Any, width: int, sizes: list[int], seed: int) -> None:
    """An example's value does not depend on the others, nor so on how much its list is padded."""
    example = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    scores = random_scores(passes_of(objective), width, len(example), seed)
    losses = random_losses(len(sizes), passes_of(objective), seed)
    together = objective(losses, Outputs(scores, example))
    assert together.tolist() == pytest.approx(loop(objective, losses, scores, example), rel=1e-9, abs=1e-12)
    for number, size in enumerate(sizes):
        if size > 1 or objective.distribution not in LIST_LIKE:
            own = Outputs(scores[example == number], torch.zeros(size, dtype=torch.int64))
            torch.testing.assert_close(objective(losses[number : number + 1], own)[0], together[number])


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(objective: Any, width: int, dtype: torch.dtype) -> None:
    limit = 6e4 if objective.distribution not in ("values", "margins") else 100  # squares of 6e4 are still float32
    scores = (random_scores(passes_of(objective), width).sign() * limit).to(dtype).requires_grad_()
    losses = random_losses(3, passes_of(objective)).to(dtype)
    values = objective(losses, Outputs(scores, EXAMPLE))
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    values.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    gentle = random_scores(passes_of(objective), width).to(dtype)
    torch.testing.assert_close(
        objective(losses, Outputs(gentle, EXAMPLE)), objective(losses.float(), Outputs(gentle.float(), EXAMPLE))
    )


@pytest.mark.parametrize("objective", [RDrop(1.5), IntraDistillation(1.5, 2)])
def test_tokens_that_a_pass_lacks_take_no_part(objective: Any) -> None:
    """As of a reader whose second pass is cropped: the distributions are over the tokens that both passes have."""
    scores = random_scores(2, 6, rows=3)
    kept = torch.ones(3, 2, 6, dtype=torch.bool)
    kept[0, 1, 4:] = kept[1, :, 5] = False
    scores = scores.masked_fill(~kept, 1e4).requires_grad_()  # what stands there means nothing
    losses = random_losses(3, 2)
    values = objective(losses, Outputs(scores, torch.arange(3), kept))
    divergence = symmetric if isinstance(objective, RDrop) else to_the_mean
    expected = []
    for number, width in enumerate((4, 5, 6)):
        distributions = [softmax(row[:width]) for row in scores[number].tolist()]
        expected.append(float(losses[number].mean()) + 1.5 * divergence(distributions))
    assert values.tolist() == pytest.approx(expected)
    values.sum().backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad != 0, kept.all(dim=1, keepdim=True).expand_as(kept))


def test_a_list_of_one_among_others_agrees_with_itself() -> None:
    example = torch.tensor([0, 0, 1])
    for objective in (RDrop(3.0, "list"), IntraDistillation(3.0, 2, distribution="margins")):
        losses, scores = random_losses(2, 2), random_scores(2, rows=3).requires_grad_()
        values = objective(losses, Outputs(scores, example))
        torch.testing.assert_close(values[1], losses[1].mean())
        assert values[0] > losses[0].mean()
        (gradient,) = torch.autograd.grad(values.sum(), scores)
        assert gradient.isfinite().all()
        assert (gradient[2] == 0).all()


def test_r_drop_is_the_paper_s_sum_with_twice_the_weight() -> None:
    losses, scores = random_losses(3, 2), random_scores(2)
    divergence = (RDrop(1.0)(losses, Outputs(scores, EXAMPLE)) - losses.mean(1))[:, None]
    torch.testing.assert_close(
        2 * RDrop(0.5)(losses, Outputs(scores, EXAMPLE)), losses.sum(1) + 1.0 * divergence[:, 0]
    )


def test_two_passes_of_intra_distillation_are_close_to_r_drop_where_passes_are_close() -> None:
    """To second order KL(p||m) + KL(m||p) is a quarter of KL(p||q) + KL(q||p)."""
    base = random_scores(1)
    scores = torch.cat([base, base + 1e-3 * random_scores(1, seed=1)], dim=1)
    losses = torch.zeros(3, 2, dtype=torch.float64)
    intra, rdrop = (o(losses, Outputs(scores, EXAMPLE)) for o in (IntraDistillation(1.0, 2), RDrop(1.0)))
    torch.testing.assert_close(intra, rdrop / 2, rtol=1e-3, atol=0)


# The weight over the course of training -------------------------------------------------------------------


def test_adaptive_alpha() -> None:
    objective = IntraDistillation(5.0, 2, p=5, q=10, distribution="list")
    for step in range(0, 101, 5):
        now = objective.at(TrainingProgress(step, total=100))
        assert now == IntraDistillation(adaptive_alpha(step, 100, 5.0, 5, 10), 2, distribution="list")
        assert now.at(TrainingProgress(0, total=100)) == now  # it is of that moment
    constant = IntraDistillation(5.0)
    assert constant.at(TrainingProgress(3)) is constant
    assert RDrop().at(TrainingProgress(3)) == RDrop()
    with pytest.raises(ValueError, match="needs the number of training steps; got none"):
        objective.at(TrainingProgress(3))


def test_with_fewer_passes_it_is_that_of_the_passes_that_are_there() -> None:
    losses, scores = random_losses(3, 3), random_scores(3)
    for distribution in ("labels", "bernoulli", "list", "values", "margins"):
        three, two = (IntraDistillation(2.0, passes, distribution=distribution) for passes in (3, 2))  # type: ignore[arg-type]
        left = losses[:, :2], Outputs(scores[:, :2], EXAMPLE)
        torch.testing.assert_close(three(*left), two(*left))
        alone = losses[:, :1], Outputs(scores[:, :1], EXAMPLE)
        torch.testing.assert_close(three(*alone), losses[:, 0])
    torch.testing.assert_close(RDrop(2.0)(*alone), losses[:, 0])


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RDrop(-1), "alpha must be a finite number >= 0; got -1"),
        (lambda: RDrop(math.nan), "alpha must be a finite number >= 0; got nan"),
        (lambda: RDrop("1"), "alpha must be a finite number >= 0; got '1'"),  # type: ignore[arg-type]
        (lambda: RDrop(1.0, "tokens"), "distribution must be 'labels', 'bernoulli' or 'list'; got 'tokens'"),  # type: ignore[arg-type]
        (lambda: RDrop(1.0, "values"), "distribution must be 'labels', 'bernoulli' or 'list'; got 'values'"),  # type: ignore[arg-type]
        (lambda: IntraDistillation(-0.5), "alpha must be a finite number >= 0; got -0.5"),
        (lambda: IntraDistillation(passes=1), "passes must be a whole number, at least 2; got 1"),
        (lambda: IntraDistillation(passes=True), "passes must be a whole number, at least 2; got True"),
        (lambda: IntraDistillation(passes=2.0), "passes must be a whole number, at least 2; got 2.0"),  # type: ignore[arg-type]
        (lambda: IntraDistillation(p=5), "give both or none of them; got p=5 and q=None"),
        (lambda: IntraDistillation(p=0, q=1), "p must be a finite number > 0; got 0"),
        (lambda: IntraDistillation(p=5, q=5), "q must be a finite number > 5; got 5"),
        (lambda: IntraDistillation(distribution="mean"), "'values' or 'margins'; got 'mean'"),  # type: ignore[arg-type]
    ],
)
def test_bad_options(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def outputs(passes: int = 2, width: int = 1, **changed: Any) -> Outputs:
    return Outputs(**({"scores": random_scores(passes, width), "example": EXAMPLE} | changed))


LOSSES = random_losses(3, 2)
ALONE = {"scores": random_scores(2, rows=3), "example": torch.arange(3)}
KEPT = {"scores": random_scores(2, 4), "kept": torch.ones(7, 2, 4, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RDrop()(LOSSES), "needs the scores behind the losses: call it with Outputs; got None"),
        (lambda: RDrop()(LOSSES[:, :1], outputs(2)), "must be of 1 passes, as the losses; got shape (7, 2, 1)"),
        (lambda: RDrop()(random_losses(3, 3), outputs(3)), "compares 2 passes; got losses of shape (3, 3)"),
        (lambda: RDrop()(random_losses(3, 3), outputs(3)), "[IndependentCopies(steps=1)]"),
        (
            lambda: IntraDistillation()(random_losses(3, 4), outputs(4)),
            "compares 3 passes; got losses of shape (3, 4)",
        ),
        (lambda: IntraDistillation()(random_losses(3, 4), outputs(4)), "[IndependentCopies(steps=2)]"),
        (lambda: RDrop().check_steps(2), "compares 2 passes; got ablations with 2 steps, which make 3 passes"),
        (lambda: IntraDistillation().check_steps(1), "3 passes; got ablations with 1 steps, which make 2 passes"),
        (lambda: WeightedByLoss(RDrop()).check_steps(2), "compares 2 passes"),
        (lambda: ScheduledObjective(RDrop(), {"alpha": len}).check_steps(2), "compares 2 passes"),  # type: ignore[dict-item]
        (lambda: RDrop()(LOSSES, outputs(3)), "The scores must be of 2 passes, as the losses; got shape (7, 3, 1)"),
        (lambda: RDrop()(LOSSES, outputs(scores=outputs().scores * math.nan)), "scores must be finite; got nan at"),
        (lambda: RDrop()(LOSSES * math.inf, outputs()), "losses must be finite; got inf at index [0, 0]"),
        (lambda: RDrop(1.0, "list")(LOSSES, outputs(2, 3)), "needs one score for each passage; got 3 labels"),
        (
            lambda: RDrop(1.0, "list")(LOSSES, outputs(**ALONE)),
            "got one passage for each example. Use a listwise loss",
        ),
        (lambda: IntraDistillation(1.0, 2, distribution="margins")(LOSSES, outputs(**ALONE)), "one passage for each"),
        (lambda: RDrop(1.0, "bernoulli")(LOSSES, outputs(**KEPT)), 'scores of tokens, as of a reader: use "labels"'),
        (lambda: RDrop(1.0, "list")(LOSSES, outputs(**KEPT)), 'scores of tokens, as of a reader: use "labels"'),
        (
            lambda: IntraDistillation(1.0, 2, distribution="values")(LOSSES, outputs(**KEPT)),
            'scores of tokens, as of a reader: use "labels"',
        ),
        (
            lambda: RDrop(1.0, "list")(LOSSES, outputs(example=EXAMPLE + 1)),
            "example must index 3 rows of losses; got 3",
        ),
    ],
)
def test_bad_passes(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("objective", [RDrop(0.5, "list"), IntraDistillation(2, 4, 5.0, 6.5, "margins")])
def test_reprs_parse_back_and_diagnostics_tell_of_losses(objective: Objective) -> None:
    assert eval(repr(objective), vars(objectives)) == objective
    assert check_objective(objective) is objective
    assert set(objective.diagnostics(random_losses())) == {"violation_rate", "beaten_rate"}
