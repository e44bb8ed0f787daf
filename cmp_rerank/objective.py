"""The comparative objective: the task losses of a model and of its ablations in, one number per example out.

For one example let ``l(0)`` be the task loss of the full model, and ``l(1), ..., l(c)`` its losses while more
and more of it, or of its input, is ablated. A model that makes good use of what it has does no worse than any
of its ablations, the *comparison principle*: ``l(0) <= l(1) <= ... <= l(c)``.

`comparative_loss` makes a training objective of that order, and `comparative_weights` is its gradient in
closed form. `hinge_regularized_loss` and `listwise_comparative_loss` are variants. The divergences of
Intra-Distillation and R-Drop close the file: they want passes to agree where this wants them ordered.

Conventions:

- ``losses`` has shape ``(batch, 1 + steps)``: the full model in column 0, then the steps from the mildest
  ablation to the strongest. More leading dimensions are allowed: ``(..., 1 + steps)`` gives ``(...)``.
- Half precision (bfloat16, float16) is computed, and returned, in float32; float64 stays float64.
- Tensors of another kind or rank, empty ones, and NaN or infinity in them are a ValueError.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Baseline: TypeAlias = Literal["zero", "full", "best"] | float
Reduction: TypeAlias = Literal["mean", "sum"]
BASELINES = ("zero", "full", "best")
REDUCTIONS = ("mean", "sum")
_LARGEST = torch.finfo(torch.float32).max
_CLASSES = "classes (for a single logit z use torch.stack([torch.zeros_like(z), z], dim=-1))"


# The comparative loss -----------------------------------------------------------------------------------


def comparative_loss(losses: Tensor, baseline: Baseline = "zero", reduction: Reduction = "mean") -> Tensor:
    """Sum, or average, the hinges of all ordered pairs of steps, with a dummy step in last place.

    The dummy's loss ``l(c+1)`` is the *baseline*, a constant through which no gradient flows::

        L = sum over 0 <= i < j <= c+1 of max(0, l(i) - l(j))

    Pairs with the dummy are the plain task losses, measured from the baseline; pairs of real steps are the
    comparison. No step is detached: a pair in the wrong order lowers l(i) and raises l(j).

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first. Without steps there is one pair: the
            full model and the baseline.
        baseline: ``"zero"``, so that every positive loss is minimised for itself, too; ``"full"``, the full
            model's own loss, for when the full model overfits: it is then trained only where an ablation does
            better; ``"best"``, the lowest loss of all steps; or a number: a loss below it is low enough.
        reduction: ``"mean"`` over the (c+2)(c+1)/2 pairs, or ``"sum"``, the form in the paper.

    Returns:
        One loss per example, shape (batch,), never negative.

    Raises:
        ValueError: If the losses, the baseline or the reduction make no sense; the message says what was got.

    Source: arXiv 2301.03765.

    Example:
        >>> losses = torch.tensor([[0.5, 0.3, 0.9]])  # the first ablation does better than the full model

        The pair (0, 1) gives 0.5 - 0.3 = 0.2, the pairs (0, 2) and (1, 2) are in order, and the three pairs
        with the dummy give the losses themselves: 0.2 + 0.5 + 0.3 + 0.9 = 1.9, over 6 pairs.

        >>> comparative_loss(losses, reduction="sum")
        tensor([1.9000])
        >>> comparative_loss(losses)
        tensor([0.3167])

        With the full model's 0.5 as the baseline, only the last step's 0.9 - 0.5 is added to the 0.2.

        >>> comparative_loss(losses, baseline="full", reduction="sum")
        tensor([0.6000])
    """
    check_reduction(reduction)
    return _hinge(_with_dummy(_checked(losses), baseline), reduction)


def comparative_weights(losses: Tensor, baseline: Baseline = "zero", reduction: Reduction = "mean") -> Tensor:
    """Give the gradient of `comparative_loss` with respect to each task loss, in closed form.

    The comparative loss is piecewise linear, so its gradient is a matter of counting::

        w(i) = #{j > i : l(i) > l(j)} - #{j < i : l(j) > l(i)}

    with the dummy among the ``j > i``, and divided by the number of pairs for ``"mean"``. A pair of equal
    losses counts as ordered: it has weight 0, here as in the autograd of `comparative_loss`.
    A step of weight 0 needs no backward pass. With the zero baseline and positive losses w(0) is at least 1
    before the division: the full model is always trained.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first.
        baseline: As for `comparative_loss`.
        reduction: As for `comparative_loss`.

    Returns:
        d comparative_loss(losses).sum() / d losses, the shape of ``losses``, without a graph.

    Raises:
        ValueError: As for `comparative_loss`.

    Example:
        The full model is above step 1 and the dummy: 2. Step 1 is above the dummy, and below the full model,
        where it should not be: 1 - 1 = 0. Step 2 is above the dummy: 1.

        >>> comparative_weights(torch.tensor([[0.5, 0.3, 0.9]]), reduction="sum")
        tensor([[2., 0., 1.]])
    """
    check_reduction(reduction)
    gaps = _gaps(_with_dummy(_checked(losses), baseline))  # (..., n, n), n = 1 + steps + 1
    out_of_order = (gaps > 0).to(gaps.dtype)
    weights = out_of_order.sum(dim=-1) - out_of_order.sum(dim=-2)  # (..., n)
    return weights[..., :-1] / _divisor(gaps.shape[-1], reduction)


def violations(losses: Tensor) -> Tensor:
    """Tell which examples violate the comparison principle: l(i) > l(j) for some i < j. Equal losses do not.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first.

    Returns:
        Booleans, shape (batch,).

    Raises:
        ValueError: If the losses make no sense; the message says what was got.

    Example:
        >>> violations(torch.tensor([[0.1, 0.1, 0.4], [0.1, 0.5, 0.4]]))
        tensor([False,  True])
    """
    losses = _checked(losses)
    return (losses[..., :-1] > losses[..., 1:]).any(dim=-1)  # all is in order if all neighbours are


# Variants -----------------------------------------------------------------------------------------------


def hinge_regularized_loss(losses: Tensor, weight: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    """Average the task losses of all steps, and add the hinges of all ordered pairs, without a dummy::

        L = (1 / (c+1)) sum over i of l(i)  +  weight * sum over 0 <= i < j <= c of max(0, l(i) - l(j))

    `comparative_loss` balances task and comparison by the number of pairs, this by ``weight``. Where no loss
    is negative they meet: ``comparative_loss(losses)`` is ``2 / (c+2)`` times this with ``weight=c / 2``.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first. Without steps this is the task loss.
        weight: Weight of the hinges, >= 0. At 0 this is plain training on all ablations alike.
        reduction: ``"mean"`` of the hinges over their (c+1)c/2 pairs, or ``"sum"``. The task losses are
            averaged either way.

    Returns:
        One loss per example, shape (batch,).

    Raises:
        ValueError: If an argument makes no sense; the message says what was got.

    Source: LoL (arXiv 2204.11545), where the steps are revisions of a query with less and less feedback.

    Example:
        The task losses have mean 0.6. One pair of three is out of order, by 0.3: 0.6 + 0.3 / 3.

        >>> hinge_regularized_loss(torch.tensor([[0.6, 0.3, 0.9]]))
        tensor([0.7000])
    """
    check_reduction(reduction)
    _check_number("weight", weight)
    losses = _checked(losses)
    return losses.mean(dim=-1) + float(weight) * _hinge(losses, reduction)


def listwise_comparative_loss(losses: Tensor, temperature: float = 1.0, baseline: Baseline | None = "zero") -> Tensor:
    """Give the negative log-likelihood of the right order of the steps in a Plackett-Luce model (ListMLE).

    With scores ``s(i) = -l(i) / temperature`` and the dummy of `comparative_loss` in last place::

        L = sum over i of [ log( sum over j >= i of exp(s(j)) ) - s(i) ]

    It is smooth where `comparative_loss` has kinks, and pulls steps apart even when they are in order.
    ``temperature * L`` tends to the sum of ``l(i) - min over j >= i of l(j)`` as the temperature goes to 0.

    Args:
        losses: Task losses, shape (batch, 1 + steps), full model first.
        temperature: Softness of the order, in the unit of the losses, > 0.
        baseline: As for `comparative_loss`; ``None`` leaves the dummy out. Then only differences between
            steps count and nothing lowers the losses themselves, so add a task loss.

    Returns:
        One loss per example, shape (batch,), never negative.

    Raises:
        ValueError: If an argument makes no sense; the message says what was got.

    Source: ListMLE is from Xia et al., ICML 2008; over ablation steps, from the code of arXiv 2301.03765.

    Example:
        exp(s) is 1/2 for the full model, 1/3 for the step, 1 for the dummy. The full model comes first with
        probability (1/2) / (1/2 + 1/3 + 1) = 3/11, the step next with (1/3) / (1/3 + 1) = 1/4: log(44/3).

        >>> listwise_comparative_loss(torch.tensor([[2.0, 3.0]]).log())
        tensor([2.6856])
    """
    _check_number("temperature", temperature, strict=True)
    losses = _checked(losses)
    scores = -(losses if baseline is None else _with_dummy(losses, baseline)) / float(temperature)  # (..., n)
    n = scores.shape[-1]
    placed = torch.ones(n, n, dtype=torch.bool, device=scores.device).tril(diagonal=-1)  # [i, j]: j before i
    rivals = scores.unsqueeze(-2).masked_fill(placed, -math.inf)  # (..., n, n)
    return (rivals.logsumexp(dim=-1) - scores).sum(dim=-1)


# Relatives: passes that should agree --------------------------------------------------------------------


def intra_distillation_divergence(logits: Tensor) -> Tensor:
    """Measure how far the class distributions of K passes with different dropout are from their mean.

    With ``p_k = softmax(logits_k)`` and ``m`` the mean of the p_k::

        X = (1/K) sum over k, classes of (p_k - m) (log p_k - log m)

    Intra-Distillation minimises ``mean of the task losses + alpha * X``. For a single logit z per example
    pass ``torch.stack([torch.zeros_like(z), z], dim=-1)``, or use `intra_distillation_variance`.

    Args:
        logits: Shape (K, batch, classes) or (K, ..., classes), at least two passes and two classes.

    Returns:
        One divergence per example, shape (batch,), never negative, 0 where all passes agree.

    Raises:
        ValueError: If the logits make no sense; the message says what was got.

    Source: arXiv 2205.11416.

    Example:
        (3/4, 1/4) and (1/4, 3/4), with mean (1/2, 1/2): X = (1/4) log(3/2) + (1/4) log(2) = log(3) / 4.

        >>> logits = torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]]).log()  # (K, batch, classes) = (2, 1, 2)
        >>> intra_distillation_divergence(logits)
        tensor([0.2747])
    """
    logits = _checked(logits, "logits", "(passes, batch, classes)", least_dim=3)
    _check_two(logits, "logits", "passes", dim=0)
    _check_two(logits, "logits", _CLASSES, dim=-1)
    log_p = logits.log_softmax(dim=-1)  # (K, ..., classes)
    log_m = log_p.logsumexp(dim=0) - math.log(logits.shape[0])  # (..., classes)
    return _symmetric_kl(log_p, log_m).mean(dim=0)


def intra_distillation_variance(predictions: Tensor) -> Tensor:
    """Give the regression form of Intra-Distillation, X = (1/K) sum over k of (y_k - mean of y)^2.

    Args:
        predictions: Shape (K, batch) or (K, ...), at least two passes.

    Returns:
        The variance over the passes, shape (batch,), in the square of the unit of the predictions.

    Raises:
        ValueError: If the predictions make no sense; the message says what was got.

    Source: arXiv 2205.11416.

    Example:
        >>> intra_distillation_variance(torch.tensor([[1.0], [2.0], [6.0]]))  # (4 + 1 + 9) / 3
        tensor([4.6667])
    """
    predictions = _checked(predictions, "predictions", "(passes, batch)", least_dim=2)
    _check_two(predictions, "predictions", "passes", dim=0)
    return predictions.var(dim=0, correction=0)


def adaptive_alpha(step: int, total: int, alpha: float, p: float, q: float) -> float:
    """Give the weight of the intra-distillation term at a training step, rising from 0 to ``alpha``::

        alpha(t) = alpha * (p t / N)^g,  g = log(alpha) / log(q / p),  while t < N/p, if alpha > 1
        alpha(t) = alpha                                               otherwise

    It passes 1 at t = N/q and reaches ``alpha`` at t = N/p, which for p < 1 is after the end of training.

    Args:
        step: The training step t, >= 0.
        total: The number of training steps N, > 0.
        alpha: The final weight, >= 0.
        p: Sets the step N/p from which on the weight is ``alpha``, > 0.
        q: Sets the step N/q at which the weight is 1, > p.

    Returns:
        The weight at that step.

    Raises:
        ValueError: If an argument is not a finite number in its range.

    Source: arXiv 2205.11416, there written p^g alpha t^g / N^g with g = log_{p/q}(1/alpha).

    Example:
        >>> [round(adaptive_alpha(t, total=100, alpha=5, p=5, q=10), 2) for t in (0, 5, 10, 15, 20, 100)]
        [0.0, 0.2, 1.0, 2.56, 5.0, 5.0]
    """
    _check_number("step", step)
    _check_number("total", total, strict=True)
    _check_number("alpha", alpha)
    _check_number("p", p, strict=True)
    _check_number("q", q, minimum=p, strict=True)
    if alpha <= 1 or p * step >= total:
        return float(alpha)
    return float(alpha * (p * step / total) ** (math.log(alpha) / math.log(q / p)))


def r_drop_divergence(logits_1: Tensor, logits_2: Tensor) -> Tensor:
    """Measure how far the class distributions of two passes with different dropout are from each other.

    With ``p_k = softmax(logits_k)``::

        D = (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2 = (1/2) sum over classes of (p_1 - p_2) (log p_1 - log p_2)

    R-Drop minimises ``task_1 + task_2 + a * D``. For a single logit see `intra_distillation_divergence`.

    Args:
        logits_1: Logits of the first pass, shape (batch, classes) or (..., classes), at least two classes.
        logits_2: Logits of the second pass, the same shape.

    Returns:
        One divergence per example, shape (batch,), never negative, 0 where the passes agree.

    Raises:
        ValueError: If the logits make no sense; the message says what was got.

    Source: arXiv 2106.14448.

    Example:
        For (3/4, 1/4) and (1/4, 3/4) both Kullback-Leibler divergences are log(3) / 2.

        >>> r_drop_divergence(torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log())
        tensor([0.5493])
    """
    logits_1 = _checked(logits_1, "logits_1", "(batch, classes)", least_dim=2)
    logits_2 = _checked(logits_2, "logits_2", "(batch, classes)", least_dim=2)
    _check_two(logits_1, "logits_1", _CLASSES, dim=-1)
    if logits_1.shape != logits_2.shape:
        raise ValueError(
            "logits_1 and logits_2 must be two passes over one batch, with equal shapes; "
            f"got {tuple(logits_1.shape)} and {tuple(logits_2.shape)}"
        )
    return _symmetric_kl(logits_1.log_softmax(dim=-1), logits_2.log_softmax(dim=-1)) / 2


# What they are made of ----------------------------------------------------------------------------------


def _with_dummy(losses: Tensor, baseline: Baseline) -> Tensor:
    """Append the dummy step: (..., 1 + steps) -> (..., 1 + steps + 1)."""
    check_baseline(baseline)
    constant = losses.detach()
    if baseline == "full":
        dummy = constant[..., :1]
    elif baseline == "best":
        dummy = constant.amin(dim=-1, keepdim=True)
    else:
        dummy = torch.full_like(constant[..., :1], 0.0 if baseline == "zero" else float(baseline))
    return torch.cat([losses, dummy], dim=-1)


def _gaps(values: Tensor) -> Tensor:
    """Differences of ordered pairs: (..., n) -> (..., n, n), l(i) - l(j) at [i, j] for i < j, else 0."""
    return (values.unsqueeze(-1) - values.unsqueeze(-2)).triu(diagonal=1)


def _hinge(values: Tensor, reduction: Reduction) -> Tensor:
    """Sum or mean over the ordered pairs of how far they are out of order: (..., n) -> (...)."""
    # relu, not clamp(min=0): its derivative at 0 is 0, so a pair of equal losses has weight 0.
    return _gaps(values).relu().sum(dim=(-2, -1)) / _divisor(values.shape[-1], reduction)


def _divisor(n: int, reduction: Reduction) -> int:
    """What the sum over the ordered pairs of n values is divided by. Without a pair the sum, 0, stays."""
    return max(1, n * (n - 1) // 2) if reduction == "mean" else 1


def _symmetric_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p) over the last dimension. No term is negative, since exp keeps the order."""
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1)


# What they refuse ---------------------------------------------------------------------------------------


def check_baseline(baseline: object) -> None:
    """Raise a ValueError unless `comparative_loss` knows the baseline.

    >>> check_baseline("first")
    Traceback (most recent call last):
    ValueError: baseline must be 'zero', 'full', 'best' or a finite number; got 'first'
    """
    if not (baseline in BASELINES if isinstance(baseline, str) else _is_finite(baseline)):
        choices = ", ".join(map(repr, BASELINES))
        raise ValueError(f"baseline must be {choices} or a finite number; got {baseline!r}")


def check_reduction(reduction: object) -> None:
    """Raise a ValueError unless `comparative_loss` knows the reduction."""
    if not (isinstance(reduction, str) and reduction in REDUCTIONS):
        raise ValueError(f"reduction must be {' or '.join(map(repr, REDUCTIONS))}; got {reduction!r}")


def _is_finite(value: object) -> bool:
    # Finite in float32; a comparison with NaN is False.
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= _LARGEST  # type: ignore[operator]


def _check_number(name: str, value: float, minimum: float = 0, strict: bool = False) -> None:
    if not _is_finite(value) or value < minimum or (strict and value == minimum):
        raise ValueError(f"{name} must be a finite number {'>' if strict else '>='} {minimum}; got {value!r}")


def _checked(values: Tensor, name: str = "losses", layout: str = "(batch, 1 + steps)", least_dim: int = 2) -> Tensor:
    """Refuse values without a meaning, and give the others in the precision to compute in."""
    if not isinstance(values, Tensor):
        raise ValueError(f"{name} must be a tensor of shape {layout}; got {type(values).__name__}")
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating-point, see Tensor.float(); got {values.dtype}")
    # Losses of one dimension may be a batch, whose examples would be compared with each other, unnoticed.
    if values.dim() < least_dim or values.numel() == 0:
        raise ValueError(f"{name} must have shape {layout} and not be empty; got {tuple(values.shape)}")
    finite = values.isfinite()
    if not finite.all():
        index = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be finite; got {values[tuple(index)].item()} at index {index} of {layout}, "
            f"the first of {int((~finite).sum())}: check the learning rate, the labels and half precision"
        )
    return values if values.dtype == torch.float64 else values.float()


def _check_two(values: Tensor, name: str, what: str, dim: int) -> None:
    if values.shape[dim] < 2:
        raise ValueError(f"{name} must hold at least 2 {what}; got shape {tuple(values.shape)}")
