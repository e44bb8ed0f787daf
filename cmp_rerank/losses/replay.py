"""Running a cross-encoder loss on given scores.

A loss of sentence-transformers tokenises, calls the model and reduces to one number, all in its ``forward``. To
compare ablated copies of the model, each example's own loss is needed for scores that were computed elsewhere.
So the loss runs with a stand-in for its model: a first run records which pairs it asks for, later runs are
served scores for exactly these pairs. No loss is known by name here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.model import BaseModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from cmp_rerank.hooks.random_state import RandomState

#: Where a module has what runs around its forward.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
#: What is no part of a loss.
_MODELS = (BaseModel, PreTrainedModel)

Address = tuple[int, int, int]  # column, row, place in the row's list (-1 where the column holds plain texts)


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
    random_state: RandomState
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
            f"The columns must have one row per example; got {[len(column) for column in columns]} rows."
        )

    def address(text: Any, where: Address) -> AddressedText:
        if not isinstance(text, str):
            raise ValueError(
                f"Columns must hold texts; got {type(text).__name__} in column {where[0]} (beside labels), row "
                f"{where[1]}: take out what is no text (Dataset.remove_columns); a column of labels is named label, "
                "labels, score or scores."
            )
        if where[0] > 0 and not text.strip():
            raise ValueError(
                f"The passage in column {where[0]}, row {where[1]} is empty (query: {columns[0][where[1]]!r:.80}): "
                "drop such examples."
            )
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


class StandIn:
    """Takes the model's place in a loss: `preprocess` notes the pairs, `forward` serves their scores.

    It is a copy of the model, of a class derived from this one and the model's, and shares all else with it: a loss
    finds parameters, modules and the mode where it looks for them.
    """

    @staticmethod
    def of(
        model: nn.Module, serve: Callable[[list[Pair], dict[str, Any]], Tensor], device: torch.device
    ) -> nn.Module:
        """The stand-in of a model.

        Args:
            model: the model.
            serve: gives the scores of pairs, (pairs, labels).
            device: where they are.
        """
        of_model: Any = type(model)
        kind = _standing_in(of_model)
        # Not `kind.__new__`: that of a sharded model makes another model.
        made: nn.Module = object.__new__(kind)
        own = {name: value for name, value in vars(model).items() if name not in ("forward", "preprocess")}
        hooks = {name: OrderedDict() for name in _HOOKS if name in own}  # type: ignore[var-annotated]
        vars(made).update(own | hooks | {"_compiled_call_impl": None, "_serve": serve, "_served_on": device})
        return made

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return vars(self)["_served_on"]  # type: ignore[no-any-return]

    def preprocess(self, pairs: Sequence[Pair], **kwargs: Any) -> dict[str, Any]:
        """Features that say which pairs they are of."""
        return {"pairs": [tuple(pair) for pair in pairs], "kwargs": kwargs}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The scores of features."""
        return features | {"scores": vars(self)["_serve"](features["pairs"], features["kwargs"])}


@cache
def _standing_in(kind: type[nn.Module]) -> Any:
    return type(kind.__name__, (StandIn, kind), {"__module__": kind.__module__})


class Replay:
    """A loss on one batch, for scores of your own.

    Args:
        loss: a cross-encoder loss; its models are replaced while it runs and put back afterwards.
        model: the cross-encoder, whose number of labels the scores have.
        device: where the scores are. Default: where the model is.
        columns: the text columns, addressed (see `addressed`).
        labels: as the trainer hands them to the loss: a tensor, a list of tensors or None.
        recording: what the loss asks for, where it is known already. Default: the loss is run to find out.
        **extra: handed to the loss as they are (``prompt``, ``task``).

    Raises:
        ValueError: if the labels do not fit the columns, no row has a passage, or the loss never asks the model for
            a pair.
    """

    def __init__(
        self,
        loss: nn.Module,
        model: CrossEncoder,
        columns: list[list[Any]],
        labels: Tensor | list[Tensor] | None,
        *,
        recording: Recording | None = None,
        device: torch.device | None = None,
        **extra: Any,
    ) -> None:
        if labels is not None and len(labels) != len(columns[0]):
            raise ValueError(f"Got {len(labels)} labels for {len(columns[0])} rows: each row needs its own.")
        if len(columns) > 1 and not any(passages for column in columns[1:] for passages in column):
            raise ValueError(
                f"No row of the batch has a passage; got {len(columns[0])} rows with an empty list: drop such rows, "
                "or make batches larger."
            )
        self.loss = loss
        self.model = model
        self.device = model.device if device is None else device
        self.columns = columns
        self.labels = labels
        self.extra = extra
        self.recording = self._record() if recording is None else recording
        self.examples = len(columns[0])
        #: For each pair, the example it belongs to: that of its query.
        self.owner = torch.tensor([query.address[1] for query, _ in self.recording.pairs], device=self.device)
        #: Which examples have a pair: (examples,).
        self.scored = torch.zeros(self.examples, dtype=torch.bool, device=self.device)
        self.scored[self.owner] = True
        self._where = {(q.address, d.address): i for i, (q, d) in enumerate(self.recording.pairs)}

    def _record(self) -> Recording:
        calls: list[tuple[Pair, ...]] = []
        kwargs: dict[str, Any] = {}
        state = RandomState.now()

        def note(pairs: list[Pair], given: dict[str, Any]) -> Tensor:
            for pair in pairs:
                if not all(isinstance(text, AddressedText) for text in pair):
                    raise ValueError(
                        f"{type(self.loss).__name__} changes its texts before it scores them, so that their "
                        "examples are unknown. Put the change into the dataset or the model's prompt."
                    )
            calls.append(tuple(pairs))
            kwargs.update(given)
            return torch.zeros(len(pairs), self.model.num_labels, device=self.device, requires_grad=True)

        try:
            self._run(self.columns, self.labels, note)
        except (AttributeError, TypeError) as error:
            if self.labels is not None:
                raise
            raise ValueError(
                f"{type(self.loss).__name__} fails without labels ({error}): give them in a column named label, "
                "labels, score or scores."
            ) from error
        if not calls:
            raise ValueError(f"{type(self.loss).__name__} never asks its model for a score.")
        return Recording(tuple(calls), state, kwargs)

    def value(self, scores: Tensor) -> Tensor:
        """The loss of the whole batch, as the loss itself reduces it, for scores of shape (pairs, labels)."""
        with self.recording.random_state.restored():
            return _total(self._run(self.columns, self.labels, self._serve_whole(scores)))

    def returned(self, scores: Tensor) -> Tensor | dict[str, Tensor]:
        """What the loss itself returns for the whole batch, for scores of shape (pairs, labels).

        The loss is called as a trainer calls it, with its hooks.
        """
        with self.recording.random_state.restored():
            return self._run(self.columns, self.labels, self._serve_whole(scores), self.loss)  # type: ignore[no-any-return]

    def per_example(self, scores: Tensor) -> Tensor | None:
        """The whole batch once, unreduced: (examples,), or None where the loss's own criterion cannot do that.

        The loss of an example without a pair is 0, as in `one_by_one`.
        """
        with ExitStack() as stack:
            stack.enter_context(self.recording.random_state.restored())
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
        # What a loss makes of an example without scores, such as a query without documents, may be NaN.
        return losses.reshape(self.examples, -1).mean(dim=1).masked_fill(~self.scored, 0.0)

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
        for i, scored in enumerate(self.scored.tolist()):
            if not scored:  # nor would a loss run on no pair at all
                losses.append(scores.new_zeros(()))
                continue
            labels = None if self.labels is None else self.labels[i : i + 1]
            with self.recording.random_state.restored():
                losses.append(_total(self._run([column[i : i + 1] for column in self.columns], labels, serve)))
        return torch.stack(losses)

    def _serve_whole(self, scores: Tensor) -> Callable[[list[Pair], dict[str, Any]], Tensor]:
        at = 0
        upcoming = iter(self.recording.calls)

        def serve(pairs: list[Pair], _: dict[str, Any]) -> Tensor:
            nonlocal at
            recorded = next(upcoming, ())
            if [(q.address, d.address) for q, d in pairs] != [(q.address, d.address) for q, d in recorded]:
                raise PairsByScoresError(
                    f"{type(self.loss).__name__} chooses the pairs that it scores by their scores, or draws them by "
                    "a generator of its own: the steps of an ablation would be compared on different pairs. Choose "
                    "them in the dataset instead."
                )
            at += len(pairs)
            return scores[at - len(pairs) : at]

        return serve

    def _run(
        self,
        columns: list[list[Any]],
        labels: Any,
        serve: Callable[..., Tensor],
        call: Callable[..., Any] | None = None,
    ) -> Any:
        """Run the loss with a stand-in for its model, by ``call`` or by its forward."""
        stand_in = StandIn.of(self.model, serve, self.device)
        with ExitStack() as stack:
            for module in _own_modules(self.loss):
                if isinstance(module._modules.get("model"), nn.Module):
                    stack.callback(module._modules.__setitem__, "model", module._modules["model"])
                    module._modules["model"] = stand_in
            stack.enter_context(_without_gradient_cache(self.loss))
            # Fresh lists: a loss may extend the ones that it is given.
            inputs = [[list(v) if isinstance(v, list) else v for v in column] for column in columns]
            return (call or self.loss.forward)(inputs, labels, **self.extra)


class PairsByScoresError(ValueError):
    """A loss asks for other pairs when it is run again with scores: its pairs cannot be found out beforehand."""


def replaced_forward(loss: nn.Module) -> bool:
    """Whether the forward of a loss, or of a loss inside of it, was replaced on the object."""
    return any("forward" in vars(module) for module in _own_modules(loss))


def _own_modules(loss: nn.Module) -> Iterator[nn.Module]:
    """The modules of a loss, without those of the models in it."""
    yield loss
    for name, child in loss.named_children():
        if name != "model" and not isinstance(child, _MODELS):
            yield from _own_modules(child)


def holds_another_model(loss: nn.Module) -> bool:
    """Whether a loss has a model beside the one that is trained, such as a teacher."""
    children = (child for module in _own_modules(loss) for child in module.named_children())
    return any(name != "model" and isinstance(child, _MODELS) for name, child in children)


@contextmanager
def _without_gradient_cache(loss: nn.Module) -> Iterator[None]:
    """A loss that caches gradients has the forward of its plain parent inside.

    Such a loss calls the model again from a hook in the backward pass, which a stand-in cannot serve. Its parent
    class is the same loss without the cache.

    Raises:
        ValueError: if it has no such parent, or a forward of its own that the parent's would pass by.
    """
    if not getattr(loss, "uses_gradient_cache", False):
        yield
        return
    cached, *others = (cls for cls in type(loss).__mro__ if "forward" in vars(cls))
    plain = next(cls for cls in others if not getattr(cls, "uses_gradient_cache", False))
    if plain is nn.Module or "uses_gradient_cache" not in vars(cached) or replaced_forward(loss):
        raise ValueError(
            f"{type(loss).__name__} caches gradients, and no parent class is the same loss without the cache: use "
            "its uncached form."
        )
    loss.forward = MethodType(vars(plain)["forward"], loss)
    try:
        yield
    finally:
        del loss.forward


def _total(loss: Any) -> Tensor:
    """The trainer sums what a loss returns as a dictionary."""
    if isinstance(loss, dict):
        return torch.stack(list(loss.values())).sum(dim=0)
    return loss  # type: ignore[no-any-return]
