"""A `CrossEncoderTrainer` that tokenises once, pads little, and continues when memory runs out."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import broadcast_object_list
from sentence_transformers import CrossEncoder
from sentence_transformers.base import trainer as base_trainer
from sentence_transformers.base.data_collator import DEFAULT_LABEL_COLUMNS
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator
from sentence_transformers.util import fullname
from torch import Tensor, nn
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from cmp_rerank.ablations import Ablation
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.memory import free
from cmp_rerank.ir.arguments import kind
from cmp_rerank.losses import ComparativeLoss
from cmp_rerank.losses.comparative import check_labels
from cmp_rerank.losses.core import reaching
from cmp_rerank.losses.decompose import defined
from cmp_rerank.losses.log import LossLog
from cmp_rerank.losses.replay import PairsByScoresError, Replay, addressed
from cmp_rerank.models.cross_encoder import cross_encoder, pair_adapter
from cmp_rerank.models.pairs import Truncation
from cmp_rerank.objectives.descriptions import by_name_only
from cmp_rerank.training import collator, token_part
from cmp_rerank.training.ahead import (
    WINDOW,
    Ahead,
    GivenBatches,
    Numbers,
    Rows,
    TokenisedBatches,
    TokenisedRows,
    pairs_per_row,
)
from cmp_rerank.training.checkpoints import TimedCheckpoints
from cmp_rerank.training.collator import PREPARED, Preparer, RerankerCollator, loss_of, task_loss
from cmp_rerank.training.complete import CompleteCheckpoints
from cmp_rerank.training.retry import retry_on_oom
from cmp_rerank.training.row_tokens import RowTokeniser
from cmp_rerank.training.stream import StreamedBatches
from cmp_rerank.training.token_store import TokenStore
from cmp_rerank.training.windows import WindowBatches

logger = logging.getLogger(__name__)

#: Names of columns with queries.
_QUERIES = ("query", "question", "anchor")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class RerankerTrainer(CompleteCheckpoints, CrossEncoderTrainer):
    """Train a cross-encoder, with any loss of sentence-transformers or a `ComparativeLoss` around one.

    A drop-in replacement of ``CrossEncoderTrainer``: same arguments, same results up to the order of the data and
    rounding. What differs is when things are done:

    - Training data is tokenised once, a window of rows before its first step, and the next windows while training
      runs, see `cmp_rerank.training.ahead` (pairs that only come up in a batch, like in-batch negatives, when the
      batch is collated, in the data loader workers where there are any).
    - The rows of a batch have similar lengths, see `WindowBatches`; and the pairs of a batch, whatever the loss,
      run in length-sorted chunks, see `cmp_rerank.engine.Scorer`.
    - When memory runs out, chunks are halved, activations recomputed instead of kept, and the step is repeated.
    - Checkpoints are synced to the disk and marked; ``train(resume_from_checkpoint=True)`` takes the last one that
      was saved whole, see `CompleteCheckpoints`.

    A loss that cannot be taken apart from its model, or chooses its pairs by their scores (the log says which and
    why), is run as it is.

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

    Example:
        ::

            from datasets import Dataset
            from sentence_transformers import CrossEncoder
            from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
            from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, RerankerTrainer, RerankerTrainingArguments

            model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")
            data = Dataset.from_dict({"query": ["who eats"], "passage": ["Pandas eat. Bees do not."], "label": [1.0]})
            trainer = RerankerTrainer(
                model=model,
                args=RerankerTrainingArguments("tuned", tokens_per_batch=4096, num_train_epochs=1),
                train_dataset=data,
                loss=ComparativeLoss(model, BinaryCrossEntropyLoss(model), [CmpCrop(), CmpDrop()]),
            )
            trainer.train()
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
        streams = train_dataset is not None and not has_length(train_dataset)
        super().__init__(
            model=model,
            args=args,
            # The base class refuses streams, since accelerate cannot hand texts from process to process. Here each
            # process reads the stream itself.
            train_dataset=None if streams else train_dataset,
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
        if streams:
            self.train_dataset = self._checked_stream(train_dataset)
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
        self._course = _Course()
        self.add_callback(self._course)
        self._ahead: Ahead | None = None
        self._made_of: list[Any] = []  # what its tokens are of
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._dataset: str | None = None  # that of the batch at hand, where there are several
        self._training_data = False  # whether it is their loader that is being made
        self._warned: set[str] = set()
        self._as_they_are: set[int] = set()  # losses that are run without what was prepared

    # Data ---------------------------------------------------------------------------------------------------

    def validate_column_names(self, dataset: Any, dataset_name: str | None = None) -> None:
        """Refuse reserved names, and warn of a query that is not in the first column of texts."""
        super().validate_column_names(dataset, dataset_name=dataset_name)
        if isinstance(dataset, dict):
            return
        texts = [name for name in dataset.column_names if name not in DEFAULT_LABEL_COLUMNS]
        later = [name for name in texts[1:] if name in _QUERIES]
        if later and texts[0] not in _QUERIES:
            logger.warning(
                "The first column of texts is taken for the query, whatever its name: got %r, and %r after it. "
                "Dataset.select_columns puts columns in order.",
                texts[0],
                later[0],
            )

    def get_train_dataloader(self) -> DataLoader:
        """The training data, tokenised ahead."""
        preparer = self._attach()
        if preparer is None or self.train_dataset is None:
            return super().get_train_dataloader()
        tokeniser = RowTokeniser(preparer, self.data_collator)
        if not has_length(self.train_dataset):
            return self._streamed(tokeniser)
        named = dict(self.train_dataset) if isinstance(self.train_dataset, dict) else {"": self.train_dataset}
        for name, data in named.items():
            if not len(data):
                raise ValueError(f"A training dataset must have rows; got none{f' in {name!r}' if name else ''}.")
        rows = Rows(list(named.values()))
        fingerprint = self._fingerprint(preparer, named)
        # The ablations themselves, too: of a function their descriptions have the name only.
        made_of = [*map(id, rows.datasets), fingerprint, *map(self._preparing, named)]
        if self._ahead is None or made_of != self._made_of:
            store, workers = TokenStore(self._token_folder(*fingerprint)), self._workers(len(rows) > WINDOW)
            turn = self.args.process_index / self.args.world_size
            self._ahead = Ahead(rows, store, tokeniser, workers, turn, self._count)
            self._course.ahead, self._made_of = self._ahead, made_of
        self._ahead.tokenise_by(tokeniser)
        plans = self._plans(list(named.values()))
        if plans is None:  # batches that the caller has chosen
            base: Any = super().get_train_dataloader()
            if not isinstance(base, DataLoaderShard):  # on accelerators that accelerate wraps once more
                return base
            given = GivenBatches(self._ahead, base.batch_sampler, self._window(rows, 0), lambda: self._progress(base))
            prepared = _rebuilt(base, TokenisedRows(rows, self._ahead.store), given)
        else:
            prepared = self._prepared(self._ahead, plans)
        self._train_dataloader = prepared
        return prepared

    def _prepared(self, ahead: Ahead, plans: list[WindowBatches]) -> DataLoader:
        """The loader of batches of similar length."""
        mixed: BatchSampler = Numbers(plans[0])
        if isinstance(self.train_dataset, dict):
            generator = torch.Generator()
            generator.manual_seed(self.args.seed)
            mixed = self.get_multi_dataset_batch_sampler(
                ConcatDataset(ahead.rows.datasets), [Numbers(plan) for plan in plans], generator, self.args.seed
            )
        batches = TokenisedBatches(
            ahead, plans, mixed, world=self.args.world_size, process=self.args.process_index,
            progress=lambda: self._progress(mixed),
        )  # fmt: skip
        loader: DataLoader[Any] = DataLoader(
            TokenisedRows(ahead.rows, ahead.store),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        self.accelerator.even_batches = False  # as the base class has it; batches have other numbers of rows each
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _checked_stream(self, stream: Any) -> Any:
        if self.args.max_steps <= 0:
            raise ValueError(
                f"max_steps must be above 0 for a stream, whose length is not known; got {self.args.max_steps}."
            )
        if hasattr(stream, "__next__"):
            raise ValueError(
                "A stream must begin anew each time that it is iterated, as IterableDataset.from_generator(function) "
                f"does; got {kind(stream)}, which can be read once."
            )
        if isinstance(self.loss, dict):
            raise ValueError("A stream is one dataset, and has one loss; got a dictionary of losses.")
        if getattr(stream, "column_names", None):
            self.validate_column_names(stream, dataset_name="train")
        return stream

    def _streamed(self, tokeniser: RowTokeniser) -> DataLoader:
        """The loader of a stream."""
        if self.args.batch_sampler != BatchSamplers.BATCH_SAMPLER:
            logger.warning("A stream has no batch sampler: %s is not used.", self.args.batch_sampler)
        tokens = getattr(self.args, "tokens_per_batch", None)
        batches = StreamedBatches(
            self.train_dataset,
            tokeniser,
            None if tokens else self.args.train_batch_size,
            tokens,
            window=WINDOW,
            by_length=getattr(self.args, "length_bucketing", True),
            world=self.args.world_size,
            process=self.args.process_index,
            drop_last=self._drop_last and not tokens,
            seed=self.args.seed,
        )
        # More than one worker would read the stream in parts, and mix them by their speed.
        self._train_dataloader = DataLoaderShard(
            batches,
            device=self.accelerator.device,
            batch_size=None,
            collate_fn=self.data_collator,
            num_workers=min(1, self.args.dataloader_num_workers or self._workers(True)),
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self._train_dataloader

    def _workers(self, larger: bool) -> int:
        """Processes that tokenise ahead: none for data that is no larger than a window."""
        given: int | None = getattr(self.args, "tokenise_workers", None)
        if not larger:
            return 0
        # Elsewhere each process would import the caller's script, which must be written for that.
        return given if given is not None else int(multiprocessing.get_start_method() == "fork")

    def _progress(self, batches: Any) -> tuple[int, int]:
        """Where a resumed training goes on: the epoch, and how many of its batches are done. Asked for once."""
        step, self._course.step = self._course.step, 0
        if self.args.ignore_data_skip:
            return 0, 0
        accumulated = self.args.gradient_accumulation_steps
        epoch, done = divmod(step, max(1, -(-len(batches) // accumulated)))
        return epoch, done * accumulated

    def _window(self, rows: Rows, first: int) -> int:
        """Rows of a window, of a dataset that begins with row ``first``."""
        sample = np.arange(first, min(first + 64, rows.ends[rows.dataset_of(first)]))
        return max(1, WINDOW // pairs_per_row(rows, sample))

    def _count(self, counts: Truncation, dataset: int) -> None:
        """What the window cut of a dataset, by its number, is told to its loss."""
        loss = self._loss_of(list(self.train_dataset)[dataset] if isinstance(self.loss, dict) else None)
        if isinstance(loss, ComparativeLoss):
            loss.truncation.add_counts(counts)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The evaluation data, tokenised as it is collated."""
        self._attach()
        return super().get_eval_dataloader(eval_dataset)

    def _attach(self) -> Preparer | None:
        """Give the collator what it needs to tokenise."""
        if not isinstance(self.data_collator, RerankerCollator):
            return None  # the caller's own
        preparer = Preparer(cross_encoder(self.model), self.loss, self.args.seed, self._warned)
        self.data_collator.preparer = preparer
        return preparer

    def _token_folder(self, fingerprint: str, lasting: bool) -> Path:
        """Where tokens are kept: in the cache, or in a temporary folder."""
        cache = getattr(self.args, "token_cache", None)
        if cache is not None and not lasting:
            logger.warning("Nothing is kept in %s: a segmenter or scorer has no description of its contents.", cache)
        elif cache is not None:
            folder = Path(cache) / fingerprint
            try:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
                return folder
            except OSError as error:
                logger.warning("Nothing is kept in %s, which cannot be written to (%s).", cache, error)
        self._temporary = tempfile.TemporaryDirectory(prefix="tokens-")
        return Path(self._temporary.name)

    def _fingerprint(self, preparer: Preparer, named: dict[str, Any]) -> tuple[str, bool]:
        """Stands for all that the tokens depend on; and whether it does in the next run, too.

        It does not where an object is described by its address only, or a function by its name: the next run may have
        another object there, and another function of that name.
        """
        preparing = [repr(self._preparing(name)) for name in named]
        model, tokenizer = preparer.model, preparer.model.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        settings = [
            # In their order, by which rows are numbered, each with what the plan of its loss does to texts.
            [
                (name, data._fingerprint, len(data), ablation)
                for (name, data), ablation in zip(named.items(), preparing, strict=True)
            ],
            [*map(fullname, (pair_adapter(model), model, model[0]))],
            repr(tokenizer) if backend is None else _without_state(backend),
            [tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side],
            [getattr(tokenizer, "chat_template", None), repr(getattr(model[0], "processing_kwargs", None))],
            getattr(model, "max_seq_length", None),
            [self.args.prompts, self.args.router_mapping, repr(model.prompts)],
            [sentence_transformers.__version__, transformers.__version__, _own_code()],
        ]
        text = json.dumps(settings, default=repr)
        lasting = not _ADDRESS.search(text) and not any(map(by_name_only, preparing))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), lasting

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
        if not self._training_data or self._ahead is None:
            return super().get_batch_sampler(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        ahead = self._ahead
        which = [*map(id, ahead.rows.datasets)].index(id(dataset))
        first = ahead.rows.ends[which] - len(dataset)
        tokens = getattr(self.args, "tokens_per_batch", None)
        return WindowBatches(
            len(dataset),
            lambda rows: ahead.lengths(rows + first),
            None if tokens else batch_size,
            tokens,
            window=self._window(ahead.rows, first),
            world=self.args.world_size,
            drop_last=drop_last and not tokens,
            seed=seed,
            soon=lambda rows: ahead.begin(rows + first),
        )

    @property
    def _drop_last(self) -> bool:
        """As the user has set it: sentence-transformers sets it in several processes, where our batches are even."""
        wanted: bool = self.args.dataloader_drop_last
        return wanted and (self.args.world_size == 1 or getattr(self.args, "given_drop_last", True))

    def _plans(self, datasets: list[Any]) -> list[WindowBatches] | None:
        """The batches of each dataset; None where they are not batches of similar length."""
        if self.args.batch_sampler != BatchSamplers.BATCH_SAMPLER or not getattr(self.args, "length_bucketing", True):
            return None
        self._training_data = True
        try:
            samplers = [
                self.get_batch_sampler(
                    dataset,
                    self.args.train_batch_size,
                    self._drop_last,
                    self.data_collator.valid_label_columns,
                    torch.Generator().manual_seed(self.args.seed),
                    self.args.seed,
                )
                for dataset in datasets
            ]
        finally:
            self._training_data = False
        plans = [sampler for sampler in samplers if isinstance(sampler, WindowBatches)]
        return plans if len(plans) == len(samplers) else None

    # Steps --------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch; its pairs are tokenised already."""
        prepared = inputs.pop(PREPARED, None)
        self._dataset = dataset_name = inputs.get("dataset_name")
        if model.training:
            check_labels(type(task_loss(self._loss_of(dataset_name))), inputs.get("label"))
        if prepared is None or id(self._loss_of(dataset_name)) in self._as_they_are:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self._loss_of(dataset_name)
        as_given = dict(inputs)
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
        try:
            value = replay.returned(scores[:, 0])
        except PairsByScoresError:
            self._as_they_are.add(id(loss))
            logger.warning(
                "%s chooses pairs by their scores: it is run as it is, and tokenises by itself.", type(loss).__name__
            )
            return super().compute_loss(model, as_given, return_outputs, num_items_in_batch)
        if isinstance(value, dict):
            self.track_loss_components(value)
            value = torch.stack(list(value.values())).sum()
        value = reaching(defined(replay, scores[:, 0], value), scores)
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

    def _preparing(self, dataset: str) -> Ablation | None:
        """What prepares the texts of a dataset, beside its tokenizer."""
        loss = self._loss_of(dataset)
        ablation = loss.plan.preparing if isinstance(loss, ComparativeLoss) else None
        return None if ablation is None else ablation.prepared_by

    def _loss_of(self, dataset: str | None) -> nn.Module:
        """The loss of a dataset by its name."""
        return loss_of(self.loss, dataset)

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


class _Course(TrainerCallback):
    """Notes the step from which a training goes on, until someone has asked for it; ends what works ahead of it."""

    step = 0
    ahead: Ahead | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Steps that a checkpoint has."""
        self.step = state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """No process stays."""
        if self.ahead is not None:
            self.ahead.stop()


def _rebuilt(loader: DataLoaderShard, dataset: TokenisedRows, batches: GivenBatches) -> DataLoaderShard:
    """The same loader, of other rows."""
    return DataLoaderShard(
        dataset,
        device=loader.device,
        _non_blocking=loader._non_blocking,
        rng_types=loader.rng_types,
        synchronized_generator=loader.synchronized_generator,
        batch_sampler=batches,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        persistent_workers=loader.persistent_workers,
        prefetch_factor=loader.prefetch_factor,
    )


def _without_state(backend: Any) -> dict[str, Any]:
    """What a tokenizer is, without what its last call has left in it."""
    found: dict[str, Any] = json.loads(backend.to_str())
    return {name: value for name, value in found.items() if name not in ("truncation", "padding")}


def _own_code() -> str:
    """Stands for the code that tokens come from: what another version of it made is not what this one makes."""
    package = Path(token_part.__file__).parents[1]
    folders = (package / name for name in ("ablations", "models", "text"))
    sources = [
        *(path for folder in folders for path in sorted(folder.glob("*.py"))),
        *map(Path, (collator.__file__, token_part.__file__)),
    ]
    digest = hashlib.blake2b(digest_size=16)
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()
