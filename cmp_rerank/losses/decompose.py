"""Taking the loss of a batch apart into the losses of single examples.

Each example's loss is read off the loss's own criterion, unreduced, or where there is none, by running the loss for
one example at a time. That this adds up is measured on every batch: the gradient of the batch value with respect to
the scores must be a weighted sum of the gradients of single examples, each of which depends on its own scores alone.

An example may have no gradient anywhere: its query has no documents, or a single one that the loss gives a constant.
Its weight is what is left of the value of the batch; the loss of an example without scores is 0, and so is one that
is a mean of nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmp_rerank.losses.replay import Replay

#: Above this share of the gradient left unexplained, a loss is said not to decompose (rounding leaves about 1e-6).
TOLERANCE = 1e-3
#: A smaller share of the value of a batch is rounding.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Decomposition:
    """How the batch value of a loss splits into examples: dS/dscores = sum_i weight_i dl_i/dscores.

    Attributes:
        method: "unreduced" (the loss's criterion, unreduced) or "one by one".
        weights: (examples,) weight_i; 1/examples for a plain mean.
        residual: the share of the gradient that this leaves unexplained.
        nothing: (examples,) whose loss is a mean of nothing, see `_Gradients`.
    """

    method: str
    weights: Tensor
    residual: float
    nothing: Tensor

    def losses(self, replay: Replay, scores: Tensor) -> Tensor:
        """The loss of each example for scores of shape (pairs, labels): (examples,)."""
        losses = replay.one_by_one(scores) if self.method == "one by one" else replay.per_example(scores)
        if losses is None:
            raise ValueError(f"{type(replay.loss).__name__} changed its reduction between two runs of one batch.")
        return losses.masked_fill(self.nothing, 0.0)


def decompose(replay: Replay, scores: Tensor, prefer: str = "unreduced") -> Decomposition:
    """Find how the loss splits into examples, by measuring gradients with respect to the scores.

    Args:
        replay: the loss on a batch.
        scores: (pairs, labels), where to measure; no gradient flows into them.
        prefer: the method to try first (that of the last batch, say).

    Raises:
        ValueError: if neither method explains the gradient of the loss.
    """
    residuals = {}
    for method in sorted(("unreduced", "one by one"), key=lambda name: name != prefer):
        attempt = _measure(replay, scores, method)
        if attempt is not None and attempt.residual <= TOLERANCE:
            return attempt
        residuals[method] = "not possible" if attempt is None else f"{attempt.residual:.2g}"
    raise ValueError(
        f"{type(replay.loss).__name__} does not decompose into losses of single examples, so its ablation steps "
        f"cannot be compared per example (share of its gradient left unexplained: {residuals}, at most {TOLERANCE} "
        "is allowed). Use a loss that is a sum or mean over examples, or give it a criterion module with a "
        "`reduction` attribute that can be set to 'none'."
    )


def _measure(replay: Replay, scores: Tensor, method: str) -> Decomposition | None:
    here = _gradients(replay, scores.detach(), method)
    # An example with a single score fits any gradient with some weight. A weight that is one (a share of what the
    # loss averages over) stays when all scores move and keep their order.
    moved = _gradients(replay, 1.1 * scores.detach() + 0.5, method)
    if here is None or moved is None:
        return None
    weights, without_gradient = here.weights, here.without_gradient
    both = ~(without_gradient | moved.without_gradient)
    residual = max(here.residual, _relative((moved.weights - weights)[both], weights[both]))
    if without_gradient.any() and residual <= TOLERANCE:
        # An example without a gradient here (saturated, or none of its pairs is comparable) shows its weight at
        # random scores, if it has one.
        generator = torch.Generator().manual_seed(0)
        elsewhere = _gradients(replay, torch.randn(scores.shape, generator=generator).to(scores), method)
        if elsewhere is not None:
            weights = torch.where(without_gradient, elsewhere.weights, weights)
            constant = without_gradient & moved.without_gradient & elsewhere.without_gradient & (here.losses != 0)
            weights = torch.where(constant, _weight_by_value(here, weights, constant), weights)
    return Decomposition(method, weights, residual, here.nothing)


@dataclass(frozen=True)
class _Gradients:
    """A loss at some scores, and what its gradient says of its examples.

    Attributes:
        total: the loss of the batch.
        losses: (examples,) the losses of the examples.
        weights: (examples,) what the gradients of the examples must be weighted with to be that of the batch.
        residual: the share of the gradient that this leaves unexplained.
        without_gradient: (examples,) which examples have none.
        nothing: (examples,) whose loss is not a number and has no gradient: a mean over no pair, as LambdaLoss and
            RankNetLoss had it before sentence-transformers 6.2. It counts 0, as it does since.
    """

    total: Tensor
    losses: Tensor
    weights: Tensor
    residual: float
    without_gradient: Tensor
    nothing: Tensor


def _gradients(replay: Replay, at: Tensor, method: str) -> _Gradients | None:
    """Take gradients at some scores; None where the method fails."""
    with torch.enable_grad():
        scores = at.clone().requires_grad_()
        try:
            losses = replay.per_example(scores) if method == "unreduced" else replay.one_by_one(scores)
        except (RuntimeError, ValueError):
            return None
        if losses is None:
            return None
        total = replay.value(scores)
        # Distinct factors show whether an example's loss depends on scores of another example.
        factors = torch.linspace(0.5, 1.5, replay.examples, device=at.device, dtype=losses.dtype)
        own = _gradient(losses.sum(), scores)
        mixed = _gradient((factors * losses).sum(), scores)
        whole = _gradient(total, scores)
    owner = replay.owner
    entangled = _relative(mixed - factors[owner, None] * own, mixed)

    def per_example(products: Tensor) -> Tensor:
        return torch.zeros(replay.examples, device=at.device, dtype=at.dtype).index_add(0, owner, products.sum(dim=1))

    power = per_example(own * own)
    without_gradient = power == 0
    weights = per_example(whole * own) / power.masked_fill(without_gradient, 1.0)
    unexplained = _relative(whole - weights[owner, None] * own, whole)
    nothing = without_gradient & losses.detach().isnan()
    losses = losses.detach().masked_fill(nothing, 0.0)
    return _Gradients(total.detach(), losses, weights, max(entangled, unexplained), without_gradient, nothing)


def _weight_by_value(found: _Gradients, weights: Tensor, constant: Tensor) -> Tensor:
    """The weight of examples with a loss that no score changes: gradients say nothing of them, the value does.

    One weight for all of them, such that they make up for what the others leave of the value of the batch.
    """
    losses = found.losses.to(weights.dtype)
    left = found.total - (weights * losses)[~constant].sum()
    weight = left / losses[constant].sum()
    rounding = left.abs() <= ROUNDING * found.total.abs()
    return weight.masked_fill(rounding | ~weight.isfinite(), 0.0)  # not finite where a loss of no scores is NaN


def _gradient(value: Tensor, scores: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(scores)
    (gradient,) = torch.autograd.grad(value, scores, retain_graph=True, allow_unused=True)
    return torch.zeros_like(scores) if gradient is None else gradient


def _relative(difference: Tensor, whole: Tensor) -> float:
    size = whole.norm().item()
    return difference.norm().item() / size if size > 0 else float(difference.norm().item() > 0)
