"""Tokenising outside of the training step: in data loader workers, from a store where there is one."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from torch import Tensor, nn

from cmp_rerank.ablations import Example, Plan
from cmp_rerank.ablations.base import derived_seed
from cmp_rerank.hooks.random_state import RandomState
from cmp_rerank.losses import ComparativeLoss
from cmp_rerank.losses.comparative import relevance
from cmp_rerank.losses.prepared import Prepared
from cmp_rerank.losses.replay import Pair, Replay, addressed, holds_another_model, replaced_forward
from cmp_rerank.models.pairs import Truncation, tokenise

logger = logging.getLogger(__name__)

#: Where a batch carries what was prepared for it.
PREPARED = "__prepared__"
#: Where a row carries the tokens of its own pairs.
TOKENS = "__tokens__"
#: Where a row carries what the model's window cut of it, and of other rows.
CUT = "__cut__"
#: What is in a batch beside its text columns.
BESIDE = ("label", "prompt", "task", "dataset_name", PREPARED)

#: Where a loss finds its model in a worker.
_CPU = torch.device("cpu")

#: The tokens of the pairs of each row; None for a row of which they are not known.
Tokens = Sequence[Sequence[Example] | None]


def task_loss(loss: nn.Module) -> nn.Module:
    """The loss that asks the model for scores: the one inside of a `ComparativeLoss`, or the loss itself."""
    return loss.loss if isinstance(loss, ComparativeLoss) else loss


def loss_of(loss: nn.Module | dict[str, nn.Module], dataset: str | None) -> nn.Module:
    """The loss of a dataset: the only one, or where there is one for each dataset, that of its name.

    Raises:
        ValueError: if there is none of that name.
    """
    if not isinstance(loss, dict):
        return loss
    if dataset is None or dataset not in loss:
        got = "a dataset without a name" if dataset is None else f"the name {dataset!r}"
        raise ValueError(
            f"Each dataset has its own loss here, by its name, one of {', '.join(map(repr, loss))}; got {got}. Give "
            "a DatasetDict({name: dataset})."
        )
    return loss[dataset]


class Preparer:
    """Finds the pairs that a loss will ask for, and tokenises them.

    The loss itself is asked: it runs once on the batch with a stand-in for its model. So this works for any loss
    that `ComparativeLoss` can wrap, random negatives included: they are drawn from a seed of the batch's texts.

    Args:
        model: the cross-encoder.
        loss: the loss, or one for each name of a dataset.
        seed: what random negatives derive from, together with the texts.
        warned: the names of losses of which the log has said already that they cannot be prepared.
    """

    def __init__(
        self,
        model: CrossEncoder,
        loss: nn.Module | dict[str, nn.Module],
        seed: int = 0,
        warned: set[str] | None = None,
    ) -> None:
        self.model = model
        self.loss = loss
        self.seed = seed
        #: What the model's window cut of the pairs that `own_pairs` tokenised.
        self.truncation = Truncation()
        self._twins: dict[int, nn.Module] = {}
        self._warned: set[str] = set() if warned is None else warned
        for each in loss.values() if isinstance(loss, dict) else [loss]:
            try:  # here, since a worker cannot copy from an accelerator
                self._twin(each)
            except Exception as error:
                self._warn(each, error)

    def __call__(self, batch: dict[str, Any], tokens: Tokens = ()) -> Prepared | None:
        """Prepare a collated batch; None where that is not possible, and the loss does all of its work itself.

        Args:
            batch: columns.
            tokens: what `own_pairs` gave for its rows, as far as it is known.
        """
        columns = [value for name, value in batch.items() if name not in BESIDE]
        extra: dict[str, Any] = {name: batch[name] for name in ("prompt", "task") if name in batch}
        loss = self._loss(batch)
        labels = batch.get("label")
        try:
            texts = addressed(columns)
            twin = self._twin(loss)
            with self._random_state(texts).restored():
                recording = Replay(twin, self.model, texts, labels, device=_CPU, **extra).recording
            plan = _plan(loss)
            relevant = self._relevant(plan, recording.pairs, texts, labels)
            known: dict[Any, Example] = {}
            if any(tokens) and _given(recording.preprocess) == _given(extra):
                own = _own_pairs(texts)
                flags = iter(self._relevant(plan, [pair for row in own for pair in row], texts, labels))
                for pairs, examples_of_row in zip(own, tokens, strict=True):
                    keys = [_key(pair, plan, next(flags)) for pair in pairs]
                    known |= dict(zip(keys, examples_of_row or (), strict=False))
            examples, truncation = self._examples(recording.pairs, plan, relevant, recording.preprocess, known)
        except Exception as error:  # whatever a loss does with what is not its model
            self._warn(loss, error)
            return None
        calls = tuple(tuple((q.address, d.address) for q, d in call) for call in recording.calls)
        return Prepared(calls, recording.random_state, recording.preprocess, examples, truncation)

    def own_pairs(self, batch: dict[str, Any]) -> Iterator[list[Example]]:
        """For each row of a collated batch, its first column paired with all texts of its others, tokenised."""
        loss = self._loss(batch)
        texts = addressed([value for name, value in batch.items() if name not in BESIDE])
        preprocess: dict[str, Any] = {name: batch[name] for name in ("prompt", "task") if name in batch}
        plan = _plan(loss)
        rows = _own_pairs(texts)
        pairs = [pair for row in rows for pair in row]
        relevant = self._relevant(plan, pairs, texts, batch.get("label"))
        examples = iter(
            tokenise(self.model, pairs, plan, relevant=relevant, truncation=self.truncation, **preprocess)
        )
        for row in rows:
            yield [next(examples) for _ in row]

    def _examples(
        self,
        pairs: Sequence[Pair],
        plan: Plan,
        relevant: Sequence[bool],
        preprocess: dict[str, Any],
        known: dict[Any, Example],
    ) -> tuple[list[Example], Truncation]:
        """Examples of pairs, tokenised unless they are known."""
        found = [known.get(_key(pair, plan, flag)) for pair, flag in zip(pairs, relevant, strict=True)]
        missing = [i for i, example in enumerate(found) if example is None]
        truncation = Truncation()
        made = tokenise(
            self.model,
            [pairs[i] for i in missing],
            plan,
            relevant=[relevant[i] for i in missing],
            truncation=truncation,
            **preprocess,
        )
        for i, example in zip(missing, made, strict=True):
            found[i] = example
        return [example for example in found if example is not None], truncation

    def _loss(self, batch: dict[str, Any]) -> nn.Module:
        return loss_of(self.loss, batch.get("dataset_name"))

    def _twin(self, loss: nn.Module) -> nn.Module:
        """The loss that asks for scores, without its model, on the CPU: workers must not touch an accelerator.

        Raises:
            ValueError: if a forward was replaced on the object, or the loss has another model: what it does is to be
                done once, by the trainer.
        """
        if replaced_forward(loss):
            raise ValueError("its forward was replaced on the object")
        loss = task_loss(loss)
        if holds_another_model(loss):
            raise ValueError("it has another model")
        if self.model.device.type == "cpu":
            return loss
        if id(loss) not in self._twins:
            models: dict[int, Any] = {
                id(module): nn.Module()
                for owner in loss.modules()
                for name, module in owner.named_children()
                if name == "model"
            }
            self._twins[id(loss)] = copy.deepcopy(loss, models).cpu()
        return self._twins[id(loss)]

    def _random_state(self, texts: Sequence[Sequence[Any]]) -> RandomState:
        return RandomState.seeded(derived_seed(f"{self.seed}\0{texts}"))

    def _relevant(self, plan: Plan, pairs: Sequence[Pair], texts: Sequence[Sequence[Any]], labels: Any) -> list[bool]:
        return [True] * len(pairs) if plan.preparing is None else relevance(pairs, texts, labels)

    def _warn(self, loss: nn.Module, error: Exception) -> None:
        name = type(loss).__name__
        if name not in self._warned:
            self._warned.add(name)
            logger.warning(
                "A batch of %s could not be prepared outside of the training step (%s: %s): it tokenises there.",
                name,
                type(error).__name__,
                error,
            )


def _own_pairs(texts: Sequence[Sequence[Any]]) -> list[list[Pair]]:
    """For each row, its first column paired with all texts of its others."""
    rows: list[list[Pair]] = [[] for _ in texts[0]]
    for column in texts[1:]:
        for pairs, query, value in zip(rows, texts[0], column, strict=True):
            pairs += [(query, passage) for passage in (value if isinstance(value, list) else [value])]
    return rows


def _key(pair: Pair, plan: Plan, relevant: bool) -> tuple[str, str, bool]:
    """A pair and all that its tokens depend on, within a batch."""
    return str(pair[0]), str(pair[1]), plan.preparing is not None and relevant


def _given(preprocess: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in preprocess.items() if value is not None}


def _no_numbers(labels: Any) -> bool:
    return labels is None or isinstance(labels, str) or (isinstance(labels, list) and any(map(_no_numbers, labels)))


def _plan(loss: nn.Module) -> Plan:
    return loss.plan if isinstance(loss, ComparativeLoss) else Plan([])


@dataclass
class RerankerCollator(CrossEncoderDataCollator):
    """The collator of `CrossEncoderTrainer`, which also tokenises."""

    preparer: Preparer | None = field(default=None, repr=False)

    def columns(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """The columns of rows of the dataset, with the prompt and the name of the dataset, without tokens."""
        for column in [name for name in self.valid_label_columns if name in features[0]][:1]:
            for labels in (row[column] for row in features):
                if _no_numbers(labels):
                    raise ValueError(
                        f"labels must be numbers; got {labels!r:.80} in the column {column!r}; leave it out, "
                        "or give float('nan') to a loss with ignore_label=float('nan')"
                    )
        batch: dict[str, Any] = super().__call__(features)
        return batch

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch of rows of the dataset."""
        tokens = [row.get(TOKENS) for row in features]
        batch = self.columns(
            [{name: value for name, value in row.items() if name not in (TOKENS, CUT)} for row in features]
        )
        if self.preparer is not None:
            batch[PREPARED] = prepared = self.preparer(batch, tokens)
            for row in features:
                if prepared is not None and CUT in row:
                    prepared.truncation.add_counts(row[CUT])
        return batch
