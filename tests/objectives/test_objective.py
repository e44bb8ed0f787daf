from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from cmp_rerank import objective
from cmp_rerank.objective import (
    adaptive_alpha,
    check_baseline,
    check_reduction,
    comparative_loss,
    comparative_weights,
    hinge_regularized_loss,
    intra_distillation_divergence,
    intra_distillation_variance,
    listwise_comparative_loss,
    r_drop_divergence,
    violations,
)

BASELINES = ["zero", "full", "best", 0.35, -1.0]
REDUCTIONS = ["mean", "sum"]
every_baseline = pytest.mark.parametrize("baseline", BASELINES)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


# Slow and obvious oracles, on lists of Python floats -----------------------------------------------------


def dummy(row: list[float], baseline) -> float:
    return {"zero": 0.0, "full": row[0], "best": min(row)}.get(baseline, baseline)


def oracle_loss(row: list[float], baseline, reduction: str) -> float:
    steps = [*row, dummy(row, baseline)]
    total, pairs = 0.0, 0
    for j in range(len(steps)):
        for i in range(j):
            total += max(0.0, steps[i] - steps[j])
            pairs += 1
    return total / pairs if reduction == "mean" else total


def oracle_weights(row: list[float], baseline, reduction: str) -> list[float]:
    steps = [*row, dummy(row, baseline)]
    pairs = len(steps) * (len(steps) - 1) / 2
    weights = []
    for i in range(len(row)):
        weight = 0
        for j in range(len(steps)):
            if j > i and steps[i] > steps[j]:
                weight += 1
            if j < i and steps[j] > steps[i]:
                weight -= 1
        weights.append(weight / pairs if reduction == "mean" else weight)
    return weights


def oracle_listwise(row: list[float], temperature: float, baseline) -> float:
    steps = row if baseline is None else [*row, dummy(row, baseline)]
    likelihood = 1.0
    for i in range(len(steps)):
        rivals = sum(math.exp(-later / temperature) for later in steps[i:])
        likelihood *= math.exp(-steps[i] / temperature) / rivals
    return -math.log(likelihood)


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def random_losses(batch: int = 64, columns: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(batch, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tied_losses(batch: int = 64, columns: int = 4, seed: int = 0) -> Tensor:
    """Losses from {0, 0.35, 0.7}: many ties, also with the baselines 0 and 0.35."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (batch, columns), generator=generator).double() * 0.35


def gradient(function, losses: Tensor) -> Tensor:
    losses = losses.clone().requires_grad_()
    return torch.autograd.grad(function(losses).sum(), losses)[0]


@st.composite
def loss_rows(draw, least: float = -4.0, most: float = 4.0) -> Tensor:
    """Float64 losses on a grid of eighths, so that ties are frequent and sums exact."""
    batch, columns = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    eighths = st.integers(int(least * 8), int(most * 8))
    rows = draw(st.lists(st.lists(eighths, min_size=columns, max_size=columns), min_size=batch, max_size=batch))
    return torch.tensor(rows, dtype=torch.float64) / 8


any_baseline = st.sampled_from(["zero", "full", "best", 0.5, -1.0, 2])
any_reduction = st.sampled_from(REDUCTIONS)
fast = settings(max_examples=100, deadline=None, derandomize=True)


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


def away_from_kinks(losses: Tensor, constants: list[float], margin: float = 1e-3) -> Tensor:
    points = torch.cat([losses, torch.tensor(constants, dtype=losses.dtype).expand(len(losses), -1)], dim=1)
    distance = points.sort(dim=1).values.diff(dim=1).min(dim=1).values
    kept = losses[distance > margin]
    assert len(kept) > 20
    return kept


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
    for function in (comparative_loss, comparative_weights, violations, hinge_regularized_loss):
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


def test_violations_by_hand():
    losses = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [2.0, 1.0, 3.0], [1.0, 3.0, 2.0], [2.0, 3.0, 1.0]])
    assert violations(losses).tolist() == [False, False, True, True, True]
    assert violations(torch.tensor([[1.0]])).tolist() == [False]
    assert violations(losses).dtype == torch.bool


# Variants ------------------------------------------------------------------------------------------------


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


# Precision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    # 256 + 1 is not a bfloat16, 2048 + 1 not a float16: a sum in half precision would lose the small losses.
    losses = torch.tensor([[2048.0, 2050.0, 2052.0]]).to(dtype)
    exact = losses.double()
    for function in (
        comparative_loss,
        comparative_weights,
        hinge_regularized_loss,
        listwise_comparative_loss,
        intra_distillation_variance,
    ):
        result = function(losses) if function is not intra_distillation_variance else function(losses.T)
        truth = function(exact) if function is not intra_distillation_variance else function(exact.T)
        assert result.dtype == torch.float32, function
        torch.testing.assert_close(result.double(), truth, rtol=1e-6, atol=1e-6)
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert intra_distillation_divergence(logits).dtype == torch.float32
    assert r_drop_divergence(logits[0], logits[1]).dtype == torch.float32


def test_half_precision_receives_the_weights_as_its_gradient():
    losses = torch.tensor([[0.5, 0.25, 1.0]], dtype=torch.bfloat16)
    grad = gradient(lambda x: comparative_loss(x, reduction="sum"), losses)
    assert grad.dtype == torch.bfloat16
    assert grad.tolist() == [[2.0, 0.0, 1.0]]


def test_double_precision_stays():
    losses = random_losses()
    for function in (comparative_loss, comparative_weights, hinge_regularized_loss, listwise_comparative_loss):
        assert function(losses).dtype == torch.float64
        assert function(losses.float()).dtype == torch.float32


# Relatives -----------------------------------------------------------------------------------------------


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


# Bad input -----------------------------------------------------------------------------------------------

of_losses = pytest.mark.parametrize(
    "function",
    [comparative_loss, comparative_weights, violations, hinge_regularized_loss, listwise_comparative_loss],
)


@of_losses
@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([[1.0, 2.0]], r"losses must be a tensor of shape \(batch, 1 \+ steps\); got list"),
        (torch.tensor([[1, 2]]), r"floating-point.*\.float\(\); got torch.int64"),
        (torch.tensor([[True]]), r"got torch.bool"),
        (torch.tensor(1.0), r"shape \(batch, 1 \+ steps\) and not be empty; got \(\)"),
        (torch.tensor([1.0, 2.0]), r"shape \(batch, 1 \+ steps\) and not be empty; got \(2,\)"),
        (torch.zeros(0, 3), r"not be empty; got \(0, 3\)"),
        (torch.zeros(3, 0), r"not be empty; got \(3, 0\)"),
        (torch.tensor([[1.0, 2.0], [3.0, math.nan]]), r"got nan at index \[1, 1\] of \(batch, 1 \+ steps\)"),
        (torch.tensor([[1.0, math.inf], [math.nan, 2.0]]), r"got inf at index \[0, 1\].*the first of 2"),
        (torch.tensor([[1.0], [2.0], [-math.inf]]), r"got -inf at index \[2, 0\].*the first of 1"),
        (torch.tensor([[[1.0, math.nan]]]), r"got nan at index \[0, 0, 1\]"),
        (torch.tensor([[1.0, math.inf]], dtype=torch.bfloat16), r"got inf at index \[0, 1\]"),
    ],
)
def test_bad_losses(function, losses, message):
    with pytest.raises(ValueError, match=message):
        function(losses)


@pytest.mark.parametrize("function", [comparative_loss, comparative_weights, listwise_comparative_loss])
@pytest.mark.parametrize(
    "baseline", ["first", "Zero", "", math.nan, math.inf, 1e300, 10**400, True, [0.0], torch.tensor(0.0), object()]
)
def test_unknown_baseline(function, baseline):
    with pytest.raises(
        ValueError, match=r"baseline must be 'zero', 'full', 'best' or a finite number; got "
    ) as error:
        function(random_losses(), baseline=baseline)
    assert repr(baseline) in str(error.value)


@pytest.mark.parametrize("function", [comparative_loss, comparative_weights])
def test_no_baseline_at_all_is_for_the_listwise_loss_only(function):
    with pytest.raises(ValueError, match=r"baseline must be .*; got None"):
        function(random_losses(), baseline=None)


@pytest.mark.parametrize("function", [comparative_loss, comparative_weights, hinge_regularized_loss])
@pytest.mark.parametrize("reduction", ["none", "Mean", None, 1, ["mean"]])
def test_unknown_reduction(function, reduction):
    with pytest.raises(ValueError, match=r"reduction must be 'mean' or 'sum'; got ") as error:
        function(random_losses(), reduction=reduction)
    assert repr(reduction) in str(error.value)


def test_the_checks_pass_what_is_known():
    for baseline in [*objective.BASELINES, 0, 0.5, -3]:
        check_baseline(baseline)
    for reduction in objective.REDUCTIONS:
        check_reduction(reduction)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan, math.inf, "1", None])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match="temperature must be a finite number > 0; got ") as error:
        listwise_comparative_loss(random_losses(), temperature=temperature)
    assert repr(temperature) in str(error.value)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, "1"])
def test_bad_weight(weight):
    with pytest.raises(ValueError, match="weight must be a finite number >= 0; got "):
        hinge_regularized_loss(random_losses(), weight=weight)


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
