"""Taking the loss of a batch apart into the losses of single examples.

Each example's loss is read off the loss's own criterion, unreduced, or where there is none, by running the loss for
one example at a time. That this adds up is measured on every batch: the gradient of the batch value with respect to
the scores must be a weighted sum of the gradients of single examples, each of which depends on its own scores alone.
Near a minimum, as where a student begins as a copy of its teacher, gradients are rounding, and say nothing. They are
then taken at scores that are far apart, too: these say how large they usually are, and so what rounding is. Where
a loss is constant they are rounding wherever one looks. So before a loss is refused, its scores move by a few
roundings: what a gradient then gains or loses at random is rounding.

An example may have no gradient anywhere: its query has no documents, or a single one that the loss gives a constant.
Its weight is what is left of the value of the batch; the loss of an example without scores is 0. So is that of one
for which the loss is a mean over nothing, which some losses make NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from cmp_rerank.losses.replay import Replay

#: Above this share of the gradient left unexplained, a loss is said not to decompose (rounding leaves about 1e-6).
TOLERANCE = 1e-3
#: A smaller share of the value of a batch is rounding.
ROUNDING = 1e-5
#: Roundings that add up in a gradient.
STEPS = 8
#: How far scores move to see what is rounding in a gradient, in roundings of the scores, and
REACH = 64
#: how often they do.
DRAWS = 8
#: An example's gradient that is a smaller share of what it is elsewhere is looked at there.
NEAR = 1e-2


@dataclass(frozen=True)
class Decomposition:
    """How the batch value of a loss splits into examples: dS/dscores = sum_i weight_i dl_i/dscores.

    Attributes:
        method: "unreduced" (the loss's criterion, unreduced) or "one by one".
        weights: (examples,) weight_i; 1/examples for a plain mean.
        residual: the share of the gradient that this leaves unexplained.
    """

    method: str
    weights: Tensor
    residual: float

    def losses(self, replay: Replay, scores: Tensor) -> Tensor:
        """The loss of each example for scores of shape (pairs, labels): (examples,).

        Raises:
            ValueError: if the loss of an example is not finite.
        """
        losses = _losses(replay, scores, self.method)
        if losses is None:
            raise ValueError(f"{type(replay.loss).__name__} changed its reduction between two runs of one batch.")
        if bool(losses.isfinite().all()):
            return losses
        with torch.enable_grad():
            at = scores.detach().requires_grad_()
            again = _losses(replay, at, self.method)
            assert again is not None
            nothing = _of_nothing(again, _per_example(replay, _gradient(again.sum(), at) ** 2))
        return _checked(replay, scores, losses.masked_fill(nothing, 0.0))


def decompose(replay: Replay, scores: Tensor, prefer: str = "unreduced") -> Decomposition:
    """Find how the loss splits into examples, by measuring gradients with respect to the scores.

    Args:
        replay: the loss on a batch.
        scores: (pairs, labels), where to measure; no gradient flows into them.
        prefer: the method to try first (that of the last batch, say).

    Raises:
        ValueError: if neither method explains the gradient of the loss, or the loss of an example is not finite.
    """
    residuals: dict[str, str] = {}
    for method in sorted(("unreduced", "one by one"), key=lambda name: name != prefer):
        attempt = _measure(replay, scores, method)
        if attempt is not None and attempt.residual <= TOLERANCE:
            return attempt
        residuals[method] = "not possible" if attempt is None else f"{attempt.residual:.2g}"
    for method in (name for name, residual in residuals.items() if residual == "inf"):
        if (losses := _losses(replay, scores, method)) is not None:
            _checked(replay, scores, losses)
    raise ValueError(
        f"{type(replay.loss).__name__} does not decompose into losses of single examples, so its ablation steps "
        f"cannot be compared per example (share of its gradient left unexplained: {residuals}, at most {TOLERANCE} "
        "is allowed). Use a loss that is a sum or mean over examples, or give it a criterion module with a "
        "`reduction` attribute that can be set to 'none'."
    )


def defined(replay: Replay, scores: Tensor, value: Tensor) -> Tensor:
    """The value of a batch, also where the loss itself gives NaN for examples with nothing to learn.

    Args:
        replay: the loss on a batch.
        scores: (pairs, labels), of which
        value: is what the loss gives.

    Returns:
        The value; where it is NaN and the scores are not, the weighted sum over the examples that have a loss.

    Raises:
        ValueError: if it is NaN for another reason; the message names the query, where there is one.
    """
    if bool(value.isfinite()) or not bool(scores.isfinite().all()):
        return value
    try:
        split = decompose(replay, scores.detach())
        return (split.weights * split.losses(replay, scores)).sum()
    except ValueError as error:
        raise ValueError(f"{type(replay.loss).__name__} gives {value.item()} for a batch. {error}") from error


def _losses(replay: Replay, scores: Tensor, method: str) -> Tensor | None:
    return replay.per_example(scores) if method == "unreduced" else replay.one_by_one(scores)


def _of_nothing(losses: Tensor, power: Tensor) -> Tensor:
    """(examples,) which losses are means over nothing: NaN, although no score has a part in them.

    LambdaLoss and RankNetLoss have them before sentence-transformers 6.2, of a query whose documents have equal
    labels; later versions give 0.
    """
    return losses.isnan() & (power == 0)


def _checked(replay: Replay, scores: Tensor, losses: Tensor) -> Tensor:
    """The losses of examples; a ValueError that names the query unless they are finite."""
    for i in (~losses.isfinite()).nonzero().flatten().tolist()[:1]:
        own, query = scores[replay.owner == i], str(replay.columns[0][i])
        labels = None if replay.labels is None else replay.labels[i].tolist()
        raise ValueError(
            f"{type(replay.loss).__name__} must give finite numbers; got {losses[i].item()} for the query "
            f"{query!r:.80} (row {i} of the batch), with the labels {labels!r:.80} and scores from "
            f"{own.min().item():.3g} to {own.max().item():.3g}: check labels, learning rate and half precision."
        )
    return losses


def _per_example(replay: Replay, products: Tensor) -> Tensor:
    """Sums over the scores of each example: (pairs, labels) to (examples,)."""
    sums = torch.zeros(replay.examples, device=products.device, dtype=products.dtype)
    return sums.index_add(0, replay.owner, products.sum(dim=1))


def _measure(replay: Replay, scores: Tensor, method: str) -> Decomposition | None:
    at = scores.detach().to(torch.promote_types(scores.dtype, torch.float32))
    here = _around(replay, at, method)
    if here is None:
        return None
    residual = here.residual(_EXACT)
    if residual <= TOLERANCE and not here.at.silent(_EXACT).any():
        return Decomposition(method, here.at.weights, residual)
    # Some gradients are 0, or no more than rounding: an example is saturated, a student has its teacher's scores, or
    # a list has no comparable pair. Where scores are far apart they show what they are, and how large they may be.
    elsewhere = _around(replay, _spread(at), method)
    if elsewhere is None:
        return Decomposition(method, here.at.weights, residual)
    found = _compared(method, here, elsewhere)
    if found.residual <= TOLERANCE:
        return found
    return _compared(method, here.with_noise(replay, method), elsewhere.with_noise(replay, method))


def _compared(method: str, here: _Around, elsewhere: _Around) -> Decomposition:
    """What the gradients at some scores say, by the size that they have elsewhere."""
    sizes = _Sizes.of([*here.places, *elsewhere.places])
    residual = max(here.residual(sizes), elsewhere.residual(sizes))
    weights = torch.where(here.at.own >= NEAR * elsewhere.at.own, here.at.weights, elsewhere.at.weights)
    silent = torch.stack([place.silent(sizes) for place in (*here.places, *elsewhere.places)]).all(dim=0)
    weights = weights.masked_fill(silent, 0.0)
    constant = silent & (here.at.losses != 0)
    if constant.any():
        weights = torch.where(constant, _weight_by_value(here.at, weights, constant), weights)
    return Decomposition(method, weights, residual)


def _spread(scores: Tensor) -> Tensor:
    """Random scores in the order of those that are given: what a loss takes from their order stays."""
    drawn = 2 * torch.randn(scores.numel(), generator=torch.Generator().manual_seed(0)).sort().values
    order = scores.flatten().argsort(stable=True)
    return torch.empty_like(scores).flatten().index_copy(0, order, drawn.to(scores)).view_as(scores)


class _Sizes(NamedTuple):
    """The greatest norms of gradients at some places: what is a small part of them is rounding.

    Attributes:
        whole: of the loss of a batch.
        mixed: of its examples' losses, by distinct factors.
        own: of one example's loss.
    """

    whole: float
    mixed: float
    own: float

    @classmethod
    def of(cls, places: Sequence[_Gradients]) -> _Sizes:
        """The greatest of several places."""
        return cls(
            max(place.whole for place in places),
            max(place.mixed for place in places),
            max(float(place.own.max()) for place in places),
        )


#: Nothing is rounding.
_EXACT = _Sizes(0.0, 0.0, 0.0)


class _Taken(NamedTuple):
    """A loss and its gradients at some scores.

    Attributes:
        total: the loss of the batch.
        losses: (examples,) the losses of the examples.
        own: (pairs, labels) the gradient of their sum.
        mixed: the same, by `factors`.
        whole: the gradient of the batch.
        factors: (examples,) distinct numbers.
    """

    total: Tensor
    losses: Tensor
    own: Tensor
    mixed: Tensor
    whole: Tensor
    factors: Tensor


class _Noise(NamedTuple):
    """How much of the norms of gradients came and went as scores moved by a few roundings.

    Attributes:
        own: (examples,) of the gradients of the examples, or 0 where nobody looked.
        mixed: of the gradient of the examples by distinct factors.
        whole: of the gradient of the batch.
    """

    own: Tensor | float = 0.0
    mixed: float = 0.0
    whole: float = 0.0


@dataclass(frozen=True)
class _Gradients:
    """A loss at some scores, and what its gradient says of its examples.

    Attributes:
        scores: (pairs, labels) the scores.
        total: the loss of the batch.
        losses: (examples,) the losses of the examples.
        weights: (examples,) what the gradients of the examples must be weighted with to be that of the batch.
        own: (examples,) the norms of the gradients of the examples.
        whole: the norm of the gradient of the batch, of which the weighted examples leave
        unexplained: so much.
        mixed: the norm of the gradient of the examples by distinct factors, of which
        entangled: so much is not by their own scores.
        rounding: the share of a gradient's usual size that is rounding. Scores are rounded, too, and a gradient
            changes with them.
        noise: what was seen to be rounding.
    """

    scores: Tensor
    total: Tensor
    losses: Tensor
    weights: Tensor
    own: Tensor
    whole: float
    unexplained: float
    mixed: float
    entangled: float
    rounding: float
    noise: _Noise = _Noise()

    def floor(self, sizes: _Sizes) -> Tensor:
        """(examples,) how large the gradient of an example may be, and still be rounding."""
        return torch.full_like(self.own, self.rounding * sizes.own).maximum(torch.as_tensor(self.noise.own))

    def silent(self, sizes: _Sizes) -> Tensor:
        """(examples,) which examples have no gradient, or nothing but rounding."""
        return self.own <= self.floor(sizes)

    def residual(self, sizes: _Sizes) -> float:
        """The share of the gradient that is left unexplained, where some of it may be rounding."""
        return max(
            _share(self.unexplained, self.whole, max(self.rounding * sizes.whole, self.noise.whole)),
            _share(self.entangled, self.mixed, max(self.rounding * sizes.mixed, self.noise.mixed)),
        )


class _Around(NamedTuple):
    """A loss at some scores, and where all of them have moved and kept their order."""

    at: _Gradients
    moved: _Gradients

    @property
    def places(self) -> tuple[_Gradients, _Gradients]:
        """Both."""
        return self.at, self.moved

    def residual(self, sizes: _Sizes) -> float:
        """The share of the gradient, or of the weights, that is left unexplained."""
        # An example with a single score fits any gradient with some weight. A weight that is one (a share of what the
        # loss averages over) stays when all scores move.
        heard = ~(self.at.silent(sizes) | self.moved.silent(sizes))
        weights = self.at.weights[heard]
        slack = sum(place.floor(sizes)[heard] / place.own[heard] for place in self.places) * weights.abs()
        change = ((self.moved.weights[heard] - weights).abs() - slack).clamp(min=0.0)
        found = _share(change.norm().item(), weights.norm().item(), 0.0)
        return max(found, *(place.residual(sizes) for place in self.places))

    def with_noise(self, replay: Replay, method: str) -> _Around:
        """The same, where it was seen what is rounding."""
        return _Around(*(replace(place, noise=_noise(replay, place.scores, method)) for place in self.places))


def _around(replay: Replay, at: Tensor, method: str) -> _Around | None:
    found = [_gradients(replay, scores, method) for scores in (at, 1.1 * at + 0.5)]
    return None if found[0] is None or found[1] is None else _Around(found[0], found[1])


def _gradients(replay: Replay, at: Tensor, method: str) -> _Gradients | None:
    """What gradients at some scores say; None where the method fails."""
    taken = _take(replay, at, method)
    if taken is None:
        return None
    own, whole, owner = taken.own, taken.whole, replay.owner
    power = _per_example(replay, own * own)
    weights = _per_example(replay, whole * own) / power.masked_fill(power == 0, 1.0)
    return _Gradients(
        at,
        taken.total,
        taken.losses.masked_fill(_of_nothing(taken.losses, power), 0.0),
        weights,
        power.sqrt(),
        whole=whole.norm().item(),
        unexplained=(whole - weights[owner, None] * own).norm().item(),
        mixed=taken.mixed.norm().item(),
        entangled=(taken.mixed - taken.factors[owner, None] * own).norm().item(),
        rounding=STEPS * torch.finfo(at.dtype).eps * (1 + at.abs().max().item()),
    )


def _take(replay: Replay, at: Tensor, method: str) -> _Taken | None:
    """Take gradients at some scores; None where the method fails."""
    with torch.enable_grad():
        scores = at.clone().requires_grad_()
        try:
            losses = _losses(replay, scores, method)
        except (RuntimeError, ValueError):
            return None
        if losses is None:
            return None
        total = replay.value(scores)
        # Distinct factors show whether an example's loss depends on scores of another example.
        factors = torch.linspace(0.5, 1.5, replay.examples, device=at.device, dtype=losses.dtype)
        own, mixed, whole = (_gradient(value, scores) for value in (losses.sum(), (factors * losses).sum(), total))
        return _Taken(total.detach(), losses.detach(), own, mixed, whole, factors)


def _noise(replay: Replay, at: Tensor, method: str) -> _Noise:
    """What is rounding in gradients: what is left of g(s + d) - 2 g(s) + g(s - d) for moves of a few roundings.

    A gradient that says something follows the scores there, in a straight line.
    """
    generator = torch.Generator().manual_seed(0)
    reach = REACH * torch.finfo(at.dtype).eps * (1 + at.abs())
    seen = []
    for _ in range(DRAWS):
        move = reach * (2 * torch.rand(at.shape, generator=generator) - 1).to(at)
        taken = [_take(replay, scores, method) for scores in (at - move, at, at + move)]
        if any(each is None for each in taken):
            return _Noise()
        own, mixed, whole = (
            before - 2 * here + after
            for before, here, after in zip(*((t.own, t.mixed, t.whole) for t in taken if t), strict=True)
        )
        seen.append((_per_example(replay, own * own).sqrt(), mixed.norm().item(), whole.norm().item()))
    owns, mixes, wholes = zip(*seen, strict=True)
    each = STEPS * torch.stack(owns).amax(dim=0)
    # The gradients of the examples are also what the others are compared with.
    rest = each.norm().item()
    return _Noise(each, STEPS * max(mixes) + rest, STEPS * max(wholes) + rest)


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


def _share(difference: float, whole: float, rounding: float) -> float:
    """A difference as a share of the whole, in which rounding counts little; infinite where one is NaN."""
    size = whole + rounding / TOLERANCE
    share = difference / size if size > 0 else float(difference > 0)
    return math.inf if math.isnan(difference) or math.isnan(share) else share
