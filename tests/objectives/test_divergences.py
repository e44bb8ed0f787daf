from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from objective_oracles import random_losses
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from cmp_rerank.objectives import Objective, Outputs, check_objective
from cmp_rerank.objectives.divergences import (
    adaptive_alpha,
    intra_distillation_divergence,
    intra_distillation_variance,
    r_drop_divergence,
)


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def random_logits(passes: int = 3, batch: int = 5, classes: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(passes, batch, classes, dtype=torch.float64, generator=generator) * 2


@pytest.mark.parametrize("passes", [2, 3, 5])
def test_intra_distillation_divergence_equals_a_loop(passes):
    logits = random_logits(passes)
    expected = []
    for example in range(logits.shape[1]):
        p = [softmax(logits[k, example].tolist()) for k in range(passes)]
        m = [sum(p[k][c] for k in range(passes)) / passes for c in range(4)]
        terms = [(p[k][c] - m[c]) * math.log(p[k][c] / m[c]) for k in range(passes) for c in range(4)]
        expected.append(sum(terms) / passes)
    assert intra_distillation_divergence(logits).tolist() == pytest.approx(expected)
    folded = intra_distillation_divergence(logits.unsqueeze(1))  # (K, 1, batch, classes)
    torch.testing.assert_close(folded, intra_distillation_divergence(logits).unsqueeze(0))


def test_intra_distillation_divergence_is_kl_to_and_from_the_mean():
    logits = random_logits()
    mean = Categorical(probs=logits.softmax(-1).mean(0))
    both = [kl_divergence(Categorical(logits=x), mean) + kl_divergence(mean, Categorical(logits=x)) for x in logits]
    torch.testing.assert_close(intra_distillation_divergence(logits), torch.stack(both).mean(0))


def test_r_drop_divergence_is_the_mean_of_both_kl_divergences():
    first, second = random_logits(2)
    p, q = Categorical(logits=first), Categorical(logits=second)
    torch.testing.assert_close(r_drop_divergence(first, second), (kl_divergence(p, q) + kl_divergence(q, p)) / 2)
    assert torch.equal(r_drop_divergence(first, second), r_drop_divergence(second, first))


def test_divergences_are_zero_in_agreement_and_positive_otherwise():
    logits = random_logits(1).expand(3, -1, -1)
    assert r_drop_divergence(logits[0], logits[1] + 7).abs().max() < 1e-12  # a shift changes no probability
    assert intra_distillation_divergence(logits).max() < 1e-12
    assert intra_distillation_variance(logits[..., 0]).max() < 1e-12
    extreme = torch.tensor([[[200.0, -200.0]], [[-200.0, 200.0]]])
    assert intra_distillation_divergence(extreme).item() == pytest.approx(200)
    assert r_drop_divergence(extreme[0], extreme[1]).item() == pytest.approx(400)
    for seed in range(20):
        nearly = random_logits(1, seed=seed).float().expand(2, -1, -1) + 1e-5 * random_logits(2, seed=seed).float()
        assert (intra_distillation_divergence(nearly) >= 0).all()
        assert (r_drop_divergence(nearly[0], nearly[1]) >= 0).all()


def test_divergences_gradcheck():
    logits = random_logits(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(intra_distillation_divergence, logits)
    assert torch.autograd.gradcheck(lambda x: intra_distillation_variance(x[..., 0]), logits)
    assert torch.autograd.gradcheck(lambda x: r_drop_divergence(x[0], x[1]), logits)


def test_intra_distillation_variance_by_hand():
    predictions = torch.tensor([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]])
    assert intra_distillation_variance(predictions).tolist() == pytest.approx([14 / 3, 0.0])


def test_a_single_logit_as_two_classes():
    z = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)  # (K, batch)
    p = torch.sigmoid(z)[:, 0]
    expected = ((p[0] - p[1]) * (z[0, 0] - z[1, 0])) / 2  # log-odds of a Bernoulli variable are its logit
    logits = torch.stack([torch.zeros_like(z), z], dim=-1)
    torch.testing.assert_close(r_drop_divergence(logits[0], logits[1])[0], expected)


@pytest.mark.parametrize(("alpha", "p", "q"), [(5.0, 5.0, 10.0), (1.5, 2.0, 3.0), (30, 4, 16)])
def test_adaptive_alpha_equals_the_formula_of_the_paper(alpha, p, q):
    total = 1000
    g = math.log(1 / alpha) / math.log(p / q)
    for t in range(total + 1):
        value = adaptive_alpha(t, total, alpha, p, q)
        expected = alpha if t >= total / p else p**g * alpha * t**g / total**g
        assert value == pytest.approx(expected)
    assert adaptive_alpha(0, total, alpha, p, q) == 0
    assert adaptive_alpha(total / q, total, alpha, p, q) == pytest.approx(1)
    assert adaptive_alpha(total / p - 1e-6, total, alpha, p, q) == pytest.approx(alpha, rel=1e-6)
    values = [adaptive_alpha(t, total, alpha, p, q) for t in range(total + 1)]
    assert all(a <= b for a, b in pairwise(values))


@pytest.mark.parametrize("alpha", [0, 0.5, 1.0])
def test_adaptive_alpha_up_to_one_is_constant(alpha):
    assert {adaptive_alpha(t, 10, alpha, 5, 10) for t in range(11)} == {alpha}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step": -1}, "step must be a finite number >= 0; got -1"),
        ({"total": 0}, "total must be a finite number > 0; got 0"),
        ({"alpha": -1}, "alpha must be a finite number >= 0; got -1"),
        ({"alpha": math.nan}, "alpha must be a finite number >= 0; got nan"),
        ({"p": 0}, "p must be a finite number > 0; got 0"),
        ({"q": 5}, "q must be a finite number > 5; got 5"),
        ({"q": 3}, "q must be a finite number > 5; got 3"),
    ],
)
def test_bad_adaptive_alpha(changed, message):
    with pytest.raises(ValueError, match=message):
        adaptive_alpha(**{"step": 1, "total": 10, "alpha": 5, "p": 5, "q": 10, **changed})


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (intra_distillation_divergence, [torch.zeros(2, 3)], r"logits must have shape \(passes, batch, classes\)"),
        (intra_distillation_divergence, [torch.zeros(1, 3, 2)], r"at least 2 passes; got shape \(1, 3, 2\)"),
        (intra_distillation_divergence, [torch.zeros(2, 3, 1)], r"at least 2 classes .*torch.stack.*\(2, 3, 1\)"),
        (intra_distillation_divergence, [torch.zeros(2, 0, 3)], r"not be empty; got \(2, 0, 3\)"),
        (intra_distillation_divergence, [torch.full((2, 1, 2), -math.inf)], r"got -inf at index \[0, 0, 0\]"),
        (intra_distillation_variance, [torch.zeros(3)], r"predictions must have shape \(passes, batch\)"),
        (intra_distillation_variance, [torch.zeros(1, 3)], r"at least 2 passes; got shape \(1, 3\)"),
        (r_drop_divergence, [torch.zeros(2), torch.zeros(2)], r"logits_1 must have shape \(batch, classes\)"),
        (r_drop_divergence, [torch.zeros(2, 1), torch.zeros(2, 1)], r"logits_1 must hold at least 2 classes"),
        (r_drop_divergence, [torch.zeros(2, 3), torch.zeros(1, 3)], r"equal shapes; got \(2, 3\) and \(1, 3\)"),
        (r_drop_divergence, [torch.zeros(1, 2), torch.full((1, 2), math.nan)], r"logits_2 must be finite; got nan"),
    ],
)
def test_bad_passes(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


# Objectives of scores and losses -------------------------------------------------------------------------


@dataclass(frozen=True)
class RDrop(Objective):
    """The task losses of two passes, and how far their distributions over the labels are from each other."""

    weight: float = 1.0
    needs_outputs = True

    def __call__(self, losses, outputs=None):
        apart = r_drop_divergence(outputs.scores[:, 0], outputs.scores[:, 1])  # (rows,)
        return losses.sum(dim=1) + self.weight * outputs.mean_by_example(apart, len(losses))


@dataclass(frozen=True)
class ListRDrop(Objective):
    """The same over the list of a query: its passages are the classes."""

    weight: float = 1.0
    needs_outputs = True

    def __call__(self, losses, outputs=None):
        lists = [outputs.scores[outputs.example == query, :, 0] for query in range(len(losses))]  # (passages, 2) each
        apart = [r_drop_divergence(scores[None, :, 0], scores[None, :, 1]) for scores in lists]
        return losses.sum(dim=1) + self.weight * torch.cat(apart)


@dataclass(frozen=True)
class IntraDistillation(Objective):
    """The mean task loss of K passes, and how far their distributions are from the mean."""

    alpha: float = 1.0
    needs_outputs = True

    def __call__(self, losses, outputs=None):
        apart = intra_distillation_divergence(outputs.scores.transpose(0, 1))  # of (K, rows, classes): (rows,)
        return losses.mean(dim=1) + self.alpha * outputs.mean_by_example(apart, len(losses))


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def rdrop_loop(losses, scores, example, weight: float) -> list[float]:
    expected = []
    for number, row in enumerate(losses.tolist()):
        apart = []
        for own, owner in zip(scores.tolist(), example.tolist(), strict=True):
            if owner == number:
                p, q = softmax(own[0]), softmax(own[1])
                apart.append((kl(p, q) + kl(q, p)) / 2)
        expected.append(row[0] + row[1] + weight * sum(apart) / len(apart))
    return expected


def list_rdrop_loop(losses, scores, example, weight: float) -> list[float]:
    expected = []
    for number, row in enumerate(losses.tolist()):
        own = [each for each, owner in zip(scores.tolist(), example.tolist(), strict=True) if owner == number]
        p, q = softmax([first[0] for first, _ in own]), softmax([second[0] for _, second in own])
        expected.append(row[0] + row[1] + weight * (kl(p, q) + kl(q, p)) / 2)
    return expected


def intra_distillation_loop(losses, scores, example, weight: float) -> list[float]:
    expected = []
    for number, row in enumerate(losses.tolist()):
        apart = []
        for own, owner in zip(scores.tolist(), example.tolist(), strict=True):
            if owner == number:
                passes = [softmax(one) for one in own]
                mean = [sum(column) / len(passes) for column in zip(*passes, strict=True)]
                apart.append(sum(kl(p, mean) + kl(mean, p) for p in passes) / len(passes))
        expected.append(sum(row) / len(row) + weight * sum(apart) / len(apart))
    return expected


OF_OUTPUTS = [
    (RDrop, rdrop_loop, 2, 3),
    (ListRDrop, list_rdrop_loop, 2, 1),
    (IntraDistillation, intra_distillation_loop, 3, 4),
]
EXAMPLE = torch.tensor([0, 2, 1, 0, 1, 2, 0])  # lists of 3, 2 and 2 passages, in no order


@pytest.mark.parametrize(("kind", "loop", "passes", "width"), OF_OUTPUTS)
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_r_drop_and_intra_distillation_are_small_objectives(kind, loop, passes, width, weight):
    losses = random_losses(3, passes).requires_grad_()
    scores = random_logits(len(EXAMPLE), passes, width).requires_grad_()  # (rows, passes, width)
    objective = check_objective(kind(weight))
    value = objective(losses, Outputs(scores, EXAMPLE))
    assert value.tolist() == pytest.approx(loop(losses, scores, EXAMPLE, weight))
    of_losses, of_scores = torch.autograd.grad(value.sum(), [losses, scores])
    assert of_losses.unique().tolist() == pytest.approx([1.0 if kind is not IntraDistillation else 1 / passes])
    # The gradient through the scores, by the finite differences of the slow loop.
    h, numerical = 1e-6, torch.zeros_like(scores)
    for place in range(scores.numel()):
        shift = torch.zeros_like(scores).flatten().index_fill(0, torch.tensor(place), h).view_as(scores)
        up, down = (sum(loop(losses, scores + sign * shift, EXAMPLE, weight)) for sign in (1, -1))
        numerical.view(-1)[place] = (up - down) / (2 * h)
    torch.testing.assert_close(of_scores, numerical, rtol=1e-5, atol=1e-7)
    assert (of_scores.abs().max() > 0.01) == (weight > 0)


@pytest.mark.parametrize(("kind", "passes", "width"), [(kind, *sizes) for kind, _, *sizes in OF_OUTPUTS])
def test_objectives_of_outputs_gradcheck_and_diagnostics(kind, passes, width):
    losses = random_losses(3, passes).requires_grad_()
    scores = random_logits(len(EXAMPLE), passes, width).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: kind(0.5)(x, Outputs(y, EXAMPLE)), (losses, scores))
    assert set(kind().diagnostics(losses)) == {"violation_rate", "beaten_rate"}
    equal = scores.detach()[:, :1].expand(-1, passes, -1)
    task = losses.mean(dim=1) if kind is IntraDistillation else losses.sum(dim=1)
    torch.testing.assert_close(kind(7.0)(losses, Outputs(equal, EXAMPLE)), task)
