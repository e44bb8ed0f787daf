"""Running a cross-encoder loss on given scores, and taking its batch value apart into one value per example.

A loss of sentence-transformers tokenises, calls the model and reduces to one number, all in its ``forward``. To
compare ablated copies of the model, each example's own loss is needed for scores that were computed elsewhere.
So the loss runs with a stand-in for its model: a first run records which pairs it asks for, later runs are
served scores for exactly these pairs. No loss is known by name here; whether the values per example really add
up to the loss's own gradient is measured on every batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

Address = tuple[int, int, int]  # column, row, place in the row's list (-1 where the column holds plain texts)
#: Above this share of the gradient left unexplained, a loss is said not to decompose (rounding leaves about 1e-6).
TOLERANCE = 1e-3


class AddressedText(str):
    """A text that remembers where in the batch it stood, so that equal texts stay apart."""

    address: Address

    def __new__(cls, text: str, address: Address) -> AddressedText:
        """Address a text."""
        self = super().__new__(cls, text)
        self.address = address
        return self


Pair = tuple[AddressedText, AddressedText]


@dataclass(frozen=True)
class Recording:
    """The pairs that a loss asked its model for, call by call, and the random state it started from."""

    calls: tuple[tuple[Pair, ...], ...]
    random_state: Any
    preprocess: dict[str, Any]

    @property
    def pairs(self) -> list[Pair]:
        """All pairs, in the order of the calls."""
        return [pair for call in self.calls for pair in call]


def addressed(columns: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The text columns of a batch with every text addressed.

    Raises:
        ValueError: for anything else than texts or lists of texts, for an empty passage (a text that is not in the
            first column), and for columns of different lengths.
    """
    if not columns or not columns[0]:
        raise ValueError("The batch is empty: there is nothing to compute a loss of.")
    if len({len(column) for column in columns}) != 1:
        raise ValueError(
            f"The columns must have one row per example, got {[len(column) for column in columns]} rows."
        )

    def address(text: Any, where: Address) -> AddressedText:
        if not isinstance(text, str):
            raise ValueError(
                f"ComparativeLoss needs texts, got {type(text).__name__} in column {where[0]}, row {where[1]}."
            )
        if where[0] > 0 and not text.strip():
            raise ValueError(f"The passage in column {where[0]}, row {where[1]} is empty: drop such examples.")
        return AddressedText(text, where)

    return [
        [
            address(value, (c, r, -1))
            if isinstance(value, str) or not isinstance(value, (list, tuple))
            else [address(text, (c, r, place)) for place, text in enumerate(value)]
            for r, value in enumerate(column)
        ]
        for c, column in enumerate(columns)
    ]


class _StandIn(nn.Module):
    """Takes the model's place in a loss: `preprocess` notes the pairs, `forward` serves their scores."""

    def __init__(self, model: nn.Module, serve: Callable[[list[Pair], dict[str, Any]], Tensor]) -> None:
        super().__init__()
        object.__setattr__(self, "_model", model)  # not a child: the stand-in owns nothing
        self._serve = serve

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "_model"), name)

    def preprocess(self, pairs: Sequence[Pair], **kwargs: Any) -> dict[str, Any]:
        return {"pairs": [tuple(pair) for pair in pairs], "kwargs": kwargs}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return features | {"scores": self._serve(features["pairs"], features["kwargs"])}


class Replay:
    """A loss on one batch, for scores of your own.

    Args:
        loss: a cross-encoder loss; its models are replaced while it runs and put back afterwards.
        model: the cross-encoder, whose number of labels the scores have.
        columns: the text columns, addressed (see `addressed`).
        labels: as the trainer hands them to the loss: a tensor, a list of tensors or None.
        recording: what the loss asks for, where it is known already. Default: the loss is run to find out.
        **extra: handed to the loss as they are (``prompt``, ``task``).

    Raises:
        ValueError: if the labels do not fit the columns, or the loss never asks the model for a pair.
    """

    def __init__(
        self,
        loss: nn.Module,
        model: CrossEncoder,
        columns: list[list[Any]],
        labels: Tensor | list[Tensor] | None,
        *,
        recording: Recording | None = None,
        **extra: Any,
    ) -> None:
        if labels is not None and len(labels) != len(columns[0]):
            raise ValueError(f"Got {len(labels)} labels for {len(columns[0])} rows: each row needs its own.")
        self.loss = loss
        self.model = model
        self.columns = columns
        self.labels = labels
        self.extra = extra
        self.recording = self._record() if recording is None else recording
        self.examples = len(columns[0])
        #: For each pair, the example it belongs to: that of its query.
        self.owner = torch.tensor([query.address[1] for query, _ in self.recording.pairs], device=model.device)
        self._where = {(q.address, d.address): i for i, (q, d) in enumerate(self.recording.pairs)}

    def _record(self) -> Recording:
        calls: list[tuple[Pair, ...]] = []
        kwargs: dict[str, Any] = {}
        state = _random_state()

        def note(pairs: list[Pair], given: dict[str, Any]) -> Tensor:
            for pair in pairs:
                if not all(isinstance(text, AddressedText) for text in pair):
                    raise ValueError(
                        f"{type(self.loss).__name__} changes its texts before it scores them, so that their "
                        "examples cannot be told. Put the change into the dataset or the model's prompt."
                    )
            calls.append(tuple(pairs))
            kwargs.update(given)
            return torch.zeros(len(pairs), self.model.num_labels, device=self.model.device, requires_grad=True)

        self._run(self.columns, self.labels, note)
        if not calls:
            raise ValueError(f"{type(self.loss).__name__} never asks its model for a score.")
        return Recording(tuple(calls), state, kwargs)

    def value(self, scores: Tensor) -> Tensor:
        """The loss of the whole batch, as the loss itself reduces it, for scores of shape (pairs, labels)."""
        return _total(self.returned(scores))

    def returned(self, scores: Tensor) -> Tensor | dict[str, Tensor]:
        """What the loss itself returns for the whole batch, for scores of shape (pairs, labels)."""
        with _restored(self.recording.random_state):
            return self._run(self.columns, self.labels, self._serve_whole(scores))  # type: ignore[no-any-return]

    def per_example(self, scores: Tensor) -> Tensor | None:
        """The whole batch once, unreduced: (examples,), or None where the loss's own criterion cannot do that."""
        with ExitStack() as stack:
            stack.enter_context(_restored(self.recording.random_state))
            criteria = [m for m in _own_modules(self.loss) if getattr(m, "reduction", None) in ("mean", "sum")]
            for criterion in criteria:
                stack.callback(setattr, criterion, "reduction", criterion.reduction)
                criterion.reduction = "none"  # type: ignore[assignment]
            if not criteria:
                return None
            try:
                losses = _total(self._run(self.columns, self.labels, self._serve_whole(scores)))
            except (RuntimeError, ValueError):  # a loss that cannot work on the unreduced value
                return None
        if losses.ndim == 0 or len(losses) != self.examples:
            return None
        return losses.reshape(self.examples, -1).mean(dim=1)

    def one_by_one(self, scores: Tensor) -> Tensor:
        """Each example as a batch of its own: (examples,)."""
        served: list[int] = []

        def serve(pairs: list[Pair], _: dict[str, Any]) -> Tensor:
            missing = [pair for pair in pairs if (pair[0].address, pair[1].address) not in self._where]
            if missing:
                raise ValueError(
                    f"{type(self.loss).__name__} scores other pairs for an example alone than in a batch."
                )
            rows = [self._where[query.address, passage.address] for query, passage in pairs]
            served.extend(rows)
            return scores[rows]

        losses = []
        for i in range(self.examples):
            labels = None if self.labels is None else self.labels[i : i + 1]
            with _restored(self.recording.random_state):
                losses.append(_total(self._run([column[i : i + 1] for column in self.columns], labels, serve)))
        return torch.stack(losses)

    def _serve_whole(self, scores: Tensor) -> Callable[[list[Pair], dict[str, Any]], Tensor]:
        at = 0
        upcoming = iter(self.recording.calls)

        def serve(pairs: list[Pair], _: dict[str, Any]) -> Tensor:
            nonlocal at
            recorded = next(upcoming, ())
            if [(q.address, d.address) for q, d in pairs] != [(q.address, d.address) for q, d in recorded]:
                raise ValueError(
                    f"{type(self.loss).__name__} chooses the pairs that it scores by their scores: the steps of an "
                    "ablation would be compared on different pairs. Choose them in the dataset instead."
                )
            at += len(pairs)
            return scores[at - len(pairs) : at]

        return serve

    def _run(self, columns: list[list[Any]], labels: Any, serve: Callable[..., Tensor]) -> Any:
        stand_in = _StandIn(self.model, serve)
        with ExitStack() as stack:
            for module in _own_modules(self.loss):
                if isinstance(module._modules.get("model"), nn.Module):
                    stack.callback(module._modules.__setitem__, "model", module._modules["model"])
                    module._modules["model"] = stand_in
            forward = _plain_forward(self.loss)
            # Fresh lists: a loss may extend the ones that it is given.
            inputs = [[list(v) if isinstance(v, list) else v for v in column] for column in columns]
            return forward(self.loss, inputs, labels, **self.extra)


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
        """The loss of each example for scores of shape (pairs, labels): (examples,)."""
        if self.method == "one by one":
            return replay.one_by_one(scores)
        losses = replay.per_example(scores)
        if losses is None:
            raise ValueError(f"{type(replay.loss).__name__} changed its reduction between two runs of one batch.")
        return losses


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
    here = _project(replay, scores.detach(), method)
    # An example with a single score fits any gradient with some weight. A weight that is one (a share of what the
    # loss averages over) stays when all scores move and keep their order.
    moved = _project(replay, 1.1 * scores.detach() + 0.5, method)
    if here is None or moved is None:
        return None
    weights, residual, silent = here
    both = ~(silent | moved[2])
    residual = max(residual, _relative((moved[0] - weights)[both], weights[both]))
    if silent.any() and residual <= TOLERANCE:
        # An example without a gradient here (saturated, or none of its pairs is comparable) shows its weight at
        # random scores, if it has one.
        generator = torch.Generator().manual_seed(0)
        elsewhere = _project(replay, torch.randn(scores.shape, generator=generator).to(scores), method)
        if elsewhere is not None:
            weights = torch.where(silent, elsewhere[0], weights)
    return Decomposition(method, weights, residual)


def _project(replay: Replay, at: Tensor, method: str) -> tuple[Tensor, float, Tensor] | None:
    """Weights (examples,), the residual, and which examples have no gradient; None where the method fails."""
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
    silent = power == 0
    weights = per_example(whole * own) / power.masked_fill(silent, 1.0)
    unexplained = _relative(whole - weights[owner, None] * own, whole)
    return weights, max(entangled, unexplained), silent


def _gradient(value: Tensor, scores: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(scores)
    (gradient,) = torch.autograd.grad(value, scores, retain_graph=True, allow_unused=True)
    return torch.zeros_like(scores) if gradient is None else gradient


def _relative(difference: Tensor, whole: Tensor) -> float:
    size = whole.norm().item()
    return difference.norm().item() / size if size > 0 else float(difference.norm().item() > 0)


def _own_modules(loss: nn.Module) -> Iterator[nn.Module]:
    """The modules of a loss, without those of the model in it."""
    yield loss
    for name, child in loss.named_children():
        if name != "model":
            yield from _own_modules(child)


def _plain_forward(loss: nn.Module) -> Callable[..., Any]:
    """The forward of a loss; of one that caches gradients, that of its plain parent.

    Such a loss calls the model again from a hook in the backward pass, which a stand-in cannot serve. Its parent
    class is the same loss without the cache.
    """
    for cls in type(loss).__mro__:
        if "forward" in vars(cls) and not getattr(cls, "uses_gradient_cache", False):
            return vars(cls)["forward"]  # type: ignore[no-any-return]
    raise ValueError(f"{type(loss).__name__} caches gradients and has no plain parent class: wrap its uncached form.")


def _total(loss: Any) -> Tensor:
    """The trainer sums what a loss returns as a dictionary."""
    if isinstance(loss, dict):
        return torch.stack(list(loss.values())).sum(dim=0)
    return loss  # type: ignore[no-any-return]


def _random_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return random.getstate(), torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Any, ...]) -> None:
    python, cpu, cuda = state
    random.setstate(python)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)


@contextmanager
def _restored(state: tuple[Any, ...]) -> Iterator[None]:
    """Run from a recorded random state, so that random negatives are the same ones; then go on as before."""
    before = _random_state()
    _set_random_state(state)
    try:
        yield
    finally:
        _set_random_state(before)
