"""A `CrossEncoderTrainer` that tokenises once, pads little, and continues when memory runs out."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from accelerate.utils import broadcast_object_list
from sentence_transformers import CrossEncoder
from sentence_transformers.base import trainer as base_trainer
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader
from transformers import TrainerCallback

from cmp_rerank.engine import Scorer
from cmp_rerank.engine.memory import free
from cmp_rerank.losses import ComparativeLoss
from cmp_rerank.losses.core import reaching
from cmp_rerank.losses.log import LossLog
from cmp_rerank.losses.replay import Replay, addressed
from cmp_rerank.models.cross_encoder import cross_encoder, pair_adapter
from cmp_rerank.models.pairs import Truncation
from cmp_rerank.training import token_store
from cmp_rerank.training.checkpoints import TimedCheckpoints
from cmp_rerank.training.collator import PREPARED, Preparer, RerankerCollator, task_loss
from cmp_rerank.training.complete import CompleteCheckpoints
from cmp_rerank.training.retry import retry_on_oom
from cmp_rerank.training.sampler import DistributedBatchSampler, LengthBatches, with_company
from cmp_rerank.training.token_store import Item, TokenStore

logger = logging.getLogger(__name__)

_BLOCK = 512  # rows of a dataset that are tokenised together
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class RerankerTrainer(CompleteCheckpoints, CrossEncoderTrainer):
    """Train a cross-encoder, with any loss of sentence-transformers or a `ComparativeLoss` around one.

    A drop-in replacement of ``CrossEncoderTrainer``: same arguments, same results up to the order of the data and
    rounding. What differs is when things are done:

    - Training data is tokenised once, before the first step (pairs that only come up in a batch, like in-batch
      negatives, when the batch is collated, in the data loader workers where there are any).
    - The rows of a batch have similar lengths, see `LengthBatches`; and the pairs of a batch, whatever the loss,
      run in length-sorted chunks, see `cmp_rerank.engine.Scorer`.
    - When memory runs out, chunks are halved, activations recomputed instead of kept, and the step is repeated.
    - Checkpoints are synced to the disk and marked; ``train(resume_from_checkpoint=True)`` takes the last one that
      was saved whole, see `CompleteCheckpoints`.

    A loss that cannot be taken apart from its model (the log says which and why) is run as it is.

    Args:
        model: as for ``CrossEncoderTrainer``.
        args: as there; or a `RerankerTrainingArguments`, for its options.
        train_dataset: as there.
        eval_dataset: as there.
        loss: as there, or a `ComparativeLoss`.
        evaluator: as there.
        data_collator: as there. Default: one that tokenises.
        processing_class: as there.
        model_init: as there.
        compute_metrics: as there.
        callbacks: as there.
        optimizers: as there.
        optimizer_cls_and_kwargs: as there.
        preprocess_logits_for_metrics: as there.
    """

    data_collator_class = RerankerCollator

    def __init__(
        self,
        model: CrossEncoder | None = None,
        args: CrossEncoderTrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        loss: Any = None,
        evaluator: Any = None,
        data_collator: CrossEncoderDataCollator | None = None,
        processing_class: Any = None,
        model_init: Callable[[], CrossEncoder] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            loss=loss,
            evaluator=evaluator,
            data_collator=data_collator,
            processing_class=processing_class,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        tokens, unpadded = getattr(self.args, "tokens_per_chunk", None), getattr(self.args, "unpadded", False)
        adapter = pair_adapter(cross_encoder(self.model))
        self._scorer = Scorer(adapter, tokens_per_chunk=tokens, unpadded=unpadded)
        for each in self._comparative():
            strategy = getattr(self.args, "strategy", None)
            each.scorer.set_defaults(tokens_per_chunk=tokens, strategy=strategy, unpadded=unpadded)
        LossLog.of(self, together=True)
        minutes = getattr(self.args, "save_minutes", None)
        if minutes is not None:
            self.add_callback(TimedCheckpoints(minutes))
        self._store: TokenStore | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._lengths: dict[int, Any] = {}
        self._dataset: str | None = None  # that of the batch at hand, where there are several
        self._training_data = False  # whether it is their loader that is being made
        self._warned: set[str] = set()

    # Data ---------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """The training data, tokenised."""
        if self.train_dataset is not None:
            self._tokenise(self.train_dataset)
        self._training_data = True
        try:
            return super().get_train_dataloader()
        finally:
            self._training_data = False

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The evaluation data, tokenised as it is collated."""
        self._attach()
        return super().get_eval_dataloader(eval_dataset)

    def _attach(self) -> Preparer | None:
        """Give the collator what it needs to tokenise."""
        if not isinstance(self.data_collator, RerankerCollator):
            return None  # the caller's own
        preparer = Preparer(cross_encoder(self.model), self.loss, self._store, self.args.seed, self._warned)
        self.data_collator.preparer = preparer
        return preparer

    def _tokenise(self, dataset: Any) -> None:
        named = dict(dataset) if isinstance(dataset, dict) else {"": dataset}
        preparer = self._attach()
        if preparer is None or (self._store is not None and all(id(d) in self._lengths for d in named.values())):
            return
        cache = getattr(self.args, "token_cache", None)
        fingerprint = self._fingerprint(preparer, named)
        if cache is not None and fingerprint is None:
            logger.warning("Nothing is kept in %s: a segmenter or scorer has no description of its contents.", cache)
            cache = None
        if cache is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="tokens-")
        folder = Path(cache or self._temporary.name) / (fingerprint or "tokens")  # type: ignore[union-attr]
        start = time.perf_counter()
        # With a folder of their own the processes need not wait for each other.
        with self.args.main_process_first(desc="tokenise") if cache else nullcontext():
            if (folder / "meta.json").exists():
                tokens = TokenStore(folder)
            else:
                try:
                    tokens = TokenStore.write(
                        folder,
                        {name: self._rows(preparer, data) for name, data in named.items()},
                        lambda: {"truncation": asdict(preparer.truncation)},
                    )
                except ValueError as error:
                    logger.warning(
                        "The training data could not be tokenised in advance (%s). It is tokenised batch by batch, "
                        "and batches are not sorted by length.",
                        error,
                    )
                    return
                seconds = time.perf_counter() - start
                logger.info("Tokenised %d pairs in %.1f s, to %s", len(tokens), seconds, folder)
        self._store = preparer.store = tokens
        self._lengths = {id(data): tokens.lengths(name) for name, data in named.items()}
        for loss in self._comparative():
            loss.truncation.add_counts(Truncation(**tokens.meta["truncation"]))

    def _rows(self, preparer: Preparer, dataset: Any) -> Iterator[tuple[list[Item], int]]:
        for start in range(0, len(dataset), _BLOCK):
            block = dataset[start : start + _BLOCK]
            rows = [dict(zip(block, values, strict=True)) for values in zip(*block.values(), strict=True)]
            yield from preparer.own_pairs(self.data_collator.columns(rows))

    def _fingerprint(self, preparer: Preparer, named: dict[str, Any]) -> str | None:
        """Stands for all that the tokens depend on; None where an object is described by its address only."""
        tokenizer = preparer.model.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        settings = [
            sorted((name, data._fingerprint, len(data)) for name, data in named.items()),
            backend.to_str() if backend is not None else repr(tokenizer),
            [tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side],
            [getattr(tokenizer, "chat_template", None), repr(getattr(preparer.model[0], "processing_kwargs", None))],
            getattr(preparer.model, "max_seq_length", None),
            [repr(getattr(loss, "plan", None)) for loss in self._losses()],
            [self.args.prompts, self.args.router_mapping, repr(preparer.model.prompts)],
            [sentence_transformers.__version__, transformers.__version__, _own_code()],
        ]
        text = json.dumps(settings, default=repr)
        if _ADDRESS.search(text):  # the next run may have another object there
            return None
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def get_batch_sampler(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> BatchSampler | None:
        """Batches of similar length for training data, unless the caller has chosen a sampler."""
        lengths = self._lengths.get(id(dataset)) if self._training_data else None
        default = self.args.batch_sampler == BatchSamplers.BATCH_SAMPLER
        if lengths is None or not default or not getattr(self.args, "length_bucketing", True):
            return super().get_batch_sampler(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        tokens = getattr(self.args, "tokens_per_batch", None)
        world = self.args.world_size
        batches = LengthBatches(
            with_company(lengths), None if tokens else batch_size, tokens, world=world, drop_last=drop_last, seed=seed
        )
        return DistributedBatchSampler(batches, world)

    def get_multi_dataset_batch_sampler(
        self, dataset: Any, batch_samplers: list[Any], generator: torch.Generator | None = None, seed: int | None = 0
    ) -> BatchSampler:
        """Mix batches of several datasets; the processes of one step stay within one of them."""
        if not all(isinstance(sampler, DistributedBatchSampler) for sampler in batch_samplers):
            return super().get_multi_dataset_batch_sampler(dataset, batch_samplers, generator, seed)
        whole = [sampler.sampler for sampler in batch_samplers]
        mixed = super().get_multi_dataset_batch_sampler(dataset, whole, generator, seed)
        return DistributedBatchSampler(mixed, self.args.world_size)

    # Steps --------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch; its pairs are tokenised already."""
        prepared = inputs.pop(PREPARED, None)
        self._dataset = dataset_name = inputs.get("dataset_name")
        if prepared is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self.loss[dataset_name] if isinstance(self.loss, dict) else self.loss
        extra = {name: inputs.pop(name) for name in ("prompt", "task") if name in inputs}
        inputs.pop("dataset_name", None)
        columns, labels = self.collect_features(inputs)
        if isinstance(loss, ComparativeLoss) and model.training and len(loss.plan):
            if model == self.model_wrapped and loss.model != model:
                loss = self.override_model_in_loss(loss, model)
            compared = loss(columns, labels, prepared=prepared, **extra)
            return (compared, {}) if return_outputs else compared
        texts = addressed(columns)
        replay = Replay(
            task_loss(loss), cross_encoder(model), texts, labels, recording=prepared.recording(texts), **extra
        )
        scores = self._scorer(model, prepared.examples, [[example.full()] for example in prepared.examples])
        value = replay.returned(scores[:, 0])
        if isinstance(value, dict):
            self.track_loss_components(value)
            value = torch.stack(list(value.values())).sum()
        value = reaching(value, scores)
        return (value, {}) if return_outputs else value

    def track_loss_components(self, loss: dict[str, Tensor]) -> None:
        """Keep the parts of a loss for the log, in training by the name of the dataset."""
        if self.model.training:
            LossLog.of(self).add(loss, self._dataset)
        else:
            super().track_loss_components(loss)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; repeated, with smaller chunks, if memory runs out in it."""
        comparisons = [loss.comparison for loss in self._comparative()]
        scorers = [self._scorer, *(comparison.scorer for comparison in comparisons)]
        base = super().training_step
        return retry_on_oom(lambda: base(model, dict(inputs), num_items_in_batch), self, model, scorers, comparisons)

    def _losses(self) -> list[nn.Module]:
        return list(self.loss.values()) if isinstance(self.loss, dict) else [self.loss]

    def _comparative(self) -> list[ComparativeLoss]:
        return [loss for loss in self._losses() if isinstance(loss, ComparativeLoss)]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, with the memory of the training steps given back first."""
        free()
        result: dict[str, float] = super().evaluate(*args, **kwargs)
        return result

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Run the evaluator on the main process only; under FSDP on all, as every pass needs all of them."""
        evaluator: Any = self.evaluator  # type: ignore[has-type]
        # Trainers before sentence-transformers 6.2 run it on all; later ones see to this themselves.
        ours = evaluator is not None and not hasattr(base_trainer, "distributed_evaluation")
        if not ours or self.args.world_size == 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super().evaluation_loop(*args, **kwargs)

        def on_main_process(*arguments: Any, **options: Any) -> Any:
            found = evaluator(*arguments, **options) if self.is_world_process_zero() else None
            return broadcast_object_list([found])[0]

        self.evaluator = on_main_process
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self.evaluator = evaluator


def _own_code() -> str:
    """Stands for the code that tokens come from: what another version of it made is not what this one makes."""
    package = Path(token_store.__file__).parents[1]
    folders = (package / name for name in ("ablations", "models", "text"))
    sources = [*(path for folder in folders for path in sorted(folder.glob("*.py"))), Path(token_store.__file__)]
    digest = hashlib.blake2b(digest_size=16)
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()
