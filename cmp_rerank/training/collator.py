"""Tokenising outside of the training step: in data loader workers, from a store where there is one."""

from __future__ import annotations

import copy
import hashlib
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
from cmp_rerank.losses.replay import Pair, Replay, addressed, replaced_forward
from cmp_rerank.models.pairs import Truncation, tokenise
from cmp_rerank.training.token_store import TokenStore

logger = logging.getLogger(__name__)

#: Where a batch carries what was prepared for it.
PREPARED = "__prepared__"
#: What is in a batch beside its text columns.
BESIDE = ("label", "prompt", "task", "dataset_name", PREPARED)


def task_loss(loss: nn.Module) -> nn.Module:
    """The loss that asks the model for scores: the one inside of a `ComparativeLoss`, or the loss itself."""
    return loss.loss if isinstance(loss, ComparativeLoss) else loss


class Preparer:
    """Finds the pairs that a loss will ask for, and tokenises them.

    The loss itself is asked: it runs once on the batch with a stand-in for its model. So this works for any loss
    that `ComparativeLoss` can wrap, random negatives included: they are drawn from a seed of the batch's texts.

    Args:
        model: the cross-encoder.
        loss: the loss, or one for each name of a dataset.
        store: pairs that are tokenised already.
        seed: what random negatives derive from, together with the texts.
        warned: the names of losses of which the log has said already that they cannot be prepared.
    """

    def __init__(
        self,
        model: CrossEncoder,
        loss: nn.Module | dict[str, nn.Module],
        store: TokenStore | None = None,
        seed: int = 0,
        warned: set[str] | None = None,
    ) -> None:
        self.model = model
        self.loss = loss
        self.store = store
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

    def __call__(self, batch: dict[str, Any]) -> Prepared | None:
        """Prepare a collated batch; None where that is not possible, and the loss does all of its work itself."""
        columns = [value for name, value in batch.items() if name not in BESIDE]
        extra = {name: batch[name] for name in ("prompt", "task") if name in batch}
        loss = self._loss(batch)
        labels = batch.get("label")
        try:
            texts = addressed(columns)
            twin = self._twin(loss)
            with self._random_state(texts).restored():
                recording = Replay(twin, _OnCpu(self.model), texts, labels, **extra).recording  # type: ignore[arg-type]
            plan = _plan(loss)
            relevant = self._relevant(plan, recording.pairs, texts, labels)
            examples, truncation = self.examples(recording.pairs, plan, relevant, recording.preprocess)
        except Exception as error:  # whatever a loss does with what is not its model
            self._warn(loss, error)
            return None
        calls = tuple(tuple((q.address, d.address) for q, d in call) for call in recording.calls)
        return Prepared(calls, recording.random_state, recording.preprocess, examples, truncation)

    def own_pairs(self, batch: dict[str, Any]) -> Iterator[tuple[list[tuple[int, Example]], int]]:
        """For each row of a collated batch, its first column paired with all texts of its others, tokenised.

        Yields:
            The pairs of a row, each with its key, and how many tokens they have together.
        """
        loss = self._loss(batch)
        texts = addressed([value for name, value in batch.items() if name not in BESIDE])
        preprocess: dict[str, Any] = {name: batch[name] for name in ("prompt", "task") if name in batch}
        plan = _plan(loss)
        rows: list[list[Pair]] = [[] for _ in texts[0]]
        for column in texts[1:]:
            for pairs_of_row, query, value in zip(rows, texts[0], column, strict=True):
                passages = value if isinstance(value, list) else [value]
                pairs_of_row += [(query, passage) for passage in passages]
        pairs = [pair for row in rows for pair in row]
        relevant = self._relevant(plan, pairs, texts, batch.get("label"))
        keys = [pair_key(pair, plan, flag, preprocess) for pair, flag in zip(pairs, relevant, strict=True)]
        examples = tokenise(self.model, pairs, plan, relevant=relevant, truncation=self.truncation, **preprocess)
        items = iter(zip(keys, examples, strict=True))
        for row in rows:
            mine = [next(items) for _ in row]
            yield mine, sum(len(example) for _, example in mine)

    def examples(
        self, pairs: Sequence[Pair], plan: Plan, relevant: Sequence[bool], preprocess: dict[str, Any]
    ) -> tuple[list[Example], Truncation]:
        """Examples of pairs, from the store where they are in it."""
        found: list[Example | None] = [None] * len(pairs)
        if self.store is not None:
            keys = [pair_key(pair, plan, flag, preprocess) for pair, flag in zip(pairs, relevant, strict=True)]
            found = [self.store.get(key) for key in keys]
        missing = [i for i, known in enumerate(found) if known is None]
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
        return self.loss[batch["dataset_name"]] if isinstance(self.loss, dict) else self.loss

    def _twin(self, loss: nn.Module) -> nn.Module:
        """The loss that asks for scores, without its model, on the CPU: workers must not touch an accelerator.

        Raises:
            ValueError: if a forward was replaced on the object: what it does is to be done once, by the trainer.
        """
        if replaced_forward(loss):
            raise ValueError("its forward was replaced on the object")
        loss = task_loss(loss)
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


class _OnCpu:
    """A model as a loss sees it in a worker: on the CPU."""

    device = torch.device("cpu")

    def __init__(self, model: CrossEncoder) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_model"], name)


def pair_key(pair: Pair, plan: Plan, relevant: bool, preprocess: dict[str, Any]) -> int:
    """64 bits that stand for a pair and all that its tokens depend on."""
    query, passage = pair
    settings = sorted((name, value) for name, value in preprocess.items() if value is not None)
    prepared = None if plan.preparing is None else (repr(plan.preparing), relevant)
    text = f"{prepared}\0{settings}\0{len(query)}\0{query}{passage}"
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _holds_none(labels: Any) -> bool:
    return labels is None or (isinstance(labels, list) and any(map(_holds_none, labels)))


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
                if _holds_none(labels):
                    raise ValueError(
                        f"labels must be numbers; got {labels!r:.80} in the column {column!r}; leave it out, "
                        "or give float('nan') to a loss with ignore_label=float('nan')"
                    )
        batch: dict[str, Any] = super().__call__(features)
        return batch

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch of rows of the dataset."""
        batch = self.columns(features)
        if self.preparer is not None:
            batch[PREPARED] = self.preparer(batch)
        return batch
