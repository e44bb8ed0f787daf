from __future__ import annotations

import math

import pytest
import torch
from objective_oracles import gradient, random_losses

from cmp_rerank import objective
from cmp_rerank.objective import (
    beaten,
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


# Bad input -----------------------------------------------------------------------------------------------

of_losses = pytest.mark.parametrize(
    "function",
    [comparative_loss, comparative_weights, violations, beaten, hinge_regularized_loss, listwise_comparative_loss],
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
