"""A `transformers.Trainer` for readers, sequence classifiers and their like that are trained comparatively."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import TrainerCallback, TrainingArguments

from cmp_rerank.ablations import Ablation, Example, Plan
from cmp_rerank.engine import Scorer, Strategy
from cmp_rerank.engine.inference import whole_scores
from cmp_rerank.hooks.wrappers import base_model, unwrapped
from cmp_rerank.losses.core import Comparison, chosen_objective
from cmp_rerank.losses.log import Means
from cmp_rerank.models.classifier import ClassifierAdapter
from cmp_rerank.models.pairs import example_seed
from cmp_rerank.models.span_reader import SpanReaderAdapter
from cmp_rerank.models.token_rows import SEGMENT, SUPPORT, TokenRowsAdapter
from cmp_rerank.objectives import Baseline, Objective, Reduction
from cmp_rerank.text.checks import check_whole
from cmp_rerank.training.card import write_card
from cmp_rerank.training.complete import CompleteCheckpoints
from cmp_rerank.training.example_collator import EXAMPLES, ExampleCollator
from cmp_rerank.training.retry import retry_on_oom
from cmp_rerank.training.sampler import DistributedBatchSampler, LengthBatches

#: Kinds of models, the first that fits.
ADAPTERS: tuple[type[TokenRowsAdapter], ...] = (SpanReaderAdapter, ClassifierAdapter)
#: A schedule of crops may leave an example whole in one draw, and not in the next.
_DRAWS = 8


class ComparativeTrainer(CompleteCheckpoints):
    """Train a reader or a sequence classifier next to ablated copies of itself, and rank their task losses.

    A ``transformers.Trainer``: its arguments, callbacks, evaluation and checkpoints are its own; it resumes from what
    was saved whole, see `CompleteCheckpoints`. In training, each example is scored in full and once for each ablation
    step, and the objective compares the task losses of one example; of a reader the losses of the start and of the
    end each on their own, which are then averaged. In evaluation the value is the model's own loss. The trained model
    is an ordinary checkpoint.

    Task losses by step and the rates of violations and of zero weights go to the log, and to `diagnostics`. What is
    saved has a model card, ``README.md``, that says which ablations and objective it was trained with.

    Datasets are what `make_windows` returns, or rows that were tokenised elsewhere: ``input_ids`` and what else the
    model takes, with ``start_positions`` and ``end_positions`` or ``labels``. Such rows can be cropped if they have a
    column ``segment`` (for each token the number of its segment, -1 for what is never cropped), and ``support`` (a
    list of segments that stay). They are padded by the batch.

    With ``tokens_per_batch``, or ``train_sampling_strategy="group_by_length"`` among the arguments, the rows of a
    batch have similar lengths, see `LengthBatches`.

    Args:
        model: A model of transformers whose forward takes ``start_positions`` (a reader) or ``labels`` and gives one
            row of logits for each text (a sequence classifier).
        args: As for ``Trainer``.
        data_collator: As for ``Trainer``, for plain training only: comparative training has its own.
        train_dataset: See above.
        eval_dataset: As for ``Trainer``.
        processing_class: The tokenizer; it says how rows are padded.
        model_init: As for ``Trainer``.
        compute_loss_func: As for ``Trainer``, for plain training only.
        compute_metrics: As for ``Trainer``.
        callbacks: As for ``Trainer``.
        optimizers: As for ``Trainer``.
        optimizer_cls_and_kwargs: As for ``Trainer``.
        preprocess_logits_for_metrics: As for ``Trainer``.
        ablations: The steps, in order, or a single one; see `Plan`. An empty list trains as ``Trainer`` does.
        baseline: See `ComparativeLoss`.
        reduction: See `ComparativeLoss`.
        objective: See `ComparativeLoss`.
        compare_share: See `ComparativeLoss`.
        adapter: Knows the kind of model. Default: by the signature of the model's forward, a reader or a classifier.
        strategy: How the steps are run; see `cmp_rerank.engine.Scorer`.
        activation_bytes: How many bytes of activations ``strategy="auto"`` may keep; see there.
        tokens_per_batch: The size of a batch for one device, in tokens; ``per_device_train_batch_size`` is then not
            used.
        tokens_per_chunk: How many tokens, padding included, one forward pass of comparative training may hold.

    Raises:
        ValueError: If an argument is out of its range, the model is of neither kind, or crops are asked for and the
            training data has no segments, or none that a crop may take away.

    References:
        - Cross-Model Comparative Loss for Enhancing Neuronal Utility in Language Understanding,
          https://arxiv.org/abs/2301.03765

    Example:
        ::

            windows = make_windows(tokenizer, questions, segmenter=Sentences())
            trainer = ComparativeTrainer(
                model, TrainingArguments("reader"), train_dataset=windows, processing_class=tokenizer,
                ablations=[CmpCrop(), CmpDrop()],
            )
            trainer.train()
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        ablations: Sequence[Ablation] | Ablation = (),
        baseline: Baseline | None = None,
        reduction: Reduction | None = None,
        objective: Objective | None = None,
        compare_share: float = 1.0,
        adapter: TokenRowsAdapter | None = None,
        strategy: Strategy | None = None,
        tokens_per_batch: int | None = None,
        tokens_per_chunk: int | None = None,
        activation_bytes: int | None = None,
    ) -> None:
        chosen = chosen_objective(objective, baseline, reduction)
        if tokens_per_batch is not None:
            tokens_per_batch = check_whole("tokens_per_batch", tokens_per_batch)
        self.plan = Plan(ablations)
        if len(self.plan) and data_collator is not None:
            raise ValueError("Comparative training makes its batches itself: leave data_collator out.")
        super().__init__(
            model,
            args,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            compute_loss_func,
            compute_metrics,
            callbacks,
            optimizers,
            optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics,
        )
        #: Knows the kind of model.
        self.adapter = adapter or token_rows_adapter(self.model, self.processing_class)
        self.tokens_per_batch = tokens_per_batch
        scorer = Scorer(
            self.adapter,
            self.plan.on_model,
            tokens_per_chunk=tokens_per_chunk,
            strategy=strategy,
            activation_bytes=activation_bytes,
        )
        #: Scores the views and compares them.
        self.comparison = Comparison(self.plan, chosen, scorer, self.args.seed, compare_share)
        self._scorer = Scorer(self.adapter, tokens_per_chunk=tokens_per_chunk)
        self._means = Means()
        if data_collator is None:
            self.data_collator = ExampleCollator(self.adapter)
        if len(self.plan):
            if self.compute_loss_func is not None:
                raise ValueError("compute_loss_func gives one number for a batch: its examples cannot be compared.")
            # What this class returns in training is the mean of a batch, whatever the model's own loss accepts.
            self.model_accepts_loss_kwargs = False
            self._check_segments()

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """Of the last training batch: task losses by step, and the rates of violations and of zero weights."""
        return self.comparison.diagnostics

    def _check_segments(self) -> None:
        data, crop = self.train_dataset, self.plan.preparing
        if crop is None or not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or not len(data):
            return
        rows = (data[i] for i in range(min(len(data), 1000)))
        if not any(self.adapter.example(row).croppable for row in rows):
            raise ValueError(
                f"{type(crop).__name__} would take nothing away: no row of the training data has "
                "segments. Give a segmenter to make_windows(..., segmenter=...), or a column 'segment' to rows of "
                "your own."
            )
        steps = self.plan.steps.count(crop)
        if not any(_loses(self.adapter.example(data[i]), crop, steps) for i in range(len(data))):
            raise ValueError(
                f"{type(crop).__name__} would take nothing away: all segments stay in each of the {len(data)} rows "
                "of the training data. Most often a row has one segment only: give shorter segments, or several "
                "passages to a window, as make_windows(..., pack=True) does."
            )

    # Data ---------------------------------------------------------------------------------------------------

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._signature_columns is not None and SEGMENT not in self._signature_columns:
            self._signature_columns += [SEGMENT, SUPPORT]

    def get_train_dataloader(self) -> DataLoader:
        """The training data; in batches of similar length if these are asked for."""
        grouped = getattr(self.args, "train_sampling_strategy", None) == "group_by_length"
        if self.train_dataset is None or not (grouped or self.tokens_per_batch):
            return super().get_train_dataloader()
        dataset: Any = self.train_dataset
        world = self.args.world_size
        batches = LengthBatches(
            _lengths(dataset),
            None if self.tokens_per_batch else self._train_batch_size,
            self.tokens_per_batch,
            world=world,
            drop_last=self.args.dataloader_drop_last and not self.tokens_per_batch,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )
        collator: Any = self.data_collator
        if hasattr(dataset, "column_names"):
            dataset = self._remove_unused_columns(dataset, description="Training")
        else:
            collator = self._get_collator_with_removed_columns(collator, description="Training")
        loader: DataLoader = DataLoader(
            dataset,
            batch_sampler=DistributedBatchSampler(batches, world),
            collate_fn=collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        # Batches have other numbers of rows each, the same on all processes: there is nothing to make even.
        before, self.accelerator.even_batches = self.accelerator.even_batches, False
        try:
            prepared: DataLoader = self.accelerator.prepare(loader)
        finally:
            self.accelerator.even_batches = before
        return prepared

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler | None:
        """In order, whatever the sampling in training: predictions belong to the windows they are asked for.

        ``Trainer`` would group evaluation by length as well, and give predictions back in that order.
        """
        if eval_dataset is None or not hasattr(eval_dataset, "__len__") or self.args.world_size > 1:
            return None
        return SequentialSampler(eval_dataset)

    # Steps --------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The comparative loss of a batch; in evaluation, or without ablations, what ``Trainer`` returns."""
        inputs = dict(inputs)
        examples = inputs.pop(EXAMPLES, None)
        if not len(self.plan) or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if examples is None:
            raise ValueError("A training batch has no examples: comparative training needs its own data collator.")
        draw = self.comparison.draw(self.state.global_step, self.state.max_steps, self.state)
        drawn = [replace(example, seed=example_seed(str(example.seed), "", draw)) for example in examples]
        labels = {name: inputs[name] for name in self.adapter.label_names if inputs.get(name) is not None}
        missing = [name for name in self.adapter.label_names if name not in labels]
        if missing:
            raise ValueError(f"The training data has no {missing[0]}.")
        options = self._smoothing()
        loss, scores = self.comparison(
            model,
            drawn,
            lambda scores, views: self.adapter.split(self.model, scores, views, labels, **options),
        )
        self._means.add(self.diagnostics)
        return (loss, self.adapter.outputs(scores[:, 0])) if return_outputs else loss

    def _smoothing(self) -> dict[str, float]:
        """Label smoothing for the adapter, where there is any."""
        if self.label_smoother is None:
            return {}
        smoothing = self.args.label_smoothing_factor
        taken = signature(self.adapter.split).parameters.values()
        if not any(each.name == "smoothing" or each.kind is each.VAR_KEYWORD for each in taken):
            raise ValueError(
                f"label_smoothing_factor must be 0 for {type(self.adapter).__name__}, whose split has no argument "
                f"smoothing; got {smoothing}."
            )
        return {"smoothing": smoothing}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; of comparative training repeated if memory runs out in it."""
        base = super().training_step
        if not len(self.plan):
            return base(model, inputs, num_items_in_batch)
        return retry_on_oom(
            lambda: base(model, dict(inputs), num_items_in_batch),
            self,
            model,
            [self.comparison.scorer],
            [self.comparison],
        )

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """As ``Trainer`` does it, on the model's own inputs."""
        inputs = {name: value for name, value in inputs.items() if name != EXAMPLES}
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def logits(self, data: Any) -> Any:
        """Score windows or rows with the model as it is, sorted by length; on all processes, where there are several.

        Args:
            data: A list or dataset of them.

        Returns:
            Of a reader, two lists: start logits and end logits of each window, float32 of shape (T,), without
            padding. Of a classifier, one list with logits of shape (labels,).
        """
        examples = [self.adapter.example(data[i]) for i in range(len(data))]
        order = sorted(range(len(examples)), key=lambda i: len(examples[i]), reverse=True)
        mine = order[self.args.process_index :: self.args.world_size]
        found = whole_scores(self._scorer, unwrapped(self.model), examples, mine)
        if self.args.world_size > 1:
            found = gather_object(found)
        by_row = dict(found)
        rows = [self.adapter.trimmed(by_row[i], example) for i, example in enumerate(examples)]
        if not rows or not isinstance(rows[0], tuple):
            return rows
        return [list(column) for column in zip(*rows, strict=True)]

    # What is saved ------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As ``Trainer`` does it, with a model card; without ablations there is nothing to say."""
        super()._save(output_dir, state_dict)
        if len(self.plan) and self.args.should_save:
            write_card(output_dir or str(self.args.output_dir), self, self.comparison)

    # The log ------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and in training add the means of the diagnostics over the batches since the last time."""
        if "loss" in logs:
            logs = logs | self._means.take(together=True)
        super().log(logs, start_time)


def token_rows_adapter(model: Any, tokenizer: Any = None) -> TokenRowsAdapter:
    """The adapter of a model of transformers, by the signature of its forward.

    Raises:
        ValueError: If the model is no reader and no sequence classifier.
    """
    for kind in ADAPTERS:
        if kind.fits(model):
            return kind.of(model, tokenizer)
    raise ValueError(
        f"{type(base_model(model)).__name__} is no reader and no sequence classifier: its forward takes "
        "neither start_positions nor labels. Load it by AutoModelForQuestionAnswering or "
        "AutoModelForSequenceClassification."
    )


def _loses(example: Example, ablation: Ablation, steps: int) -> bool:
    """Whether an ablation takes anything away from an example, in one of some draws."""
    if ablation.on_model:
        return True
    for draw in range(_DRAWS):
        drawn = replace(example, seed=example_seed(str(example.seed), "", str(draw)))
        views = ablation.views(drawn, steps)
        if views is None or not all(view.reads_same(drawn.full()) for view in views):
            return True
    return False


def _lengths(dataset: Any) -> list[int]:
    """Tokens of each row."""
    if not hasattr(dataset, "__len__"):
        raise ValueError("Batches of similar length need a dataset whose length is known; got a stream.")
    if "input_ids" in (getattr(dataset, "column_names", None) or ()):
        return [len(ids) for ids in dataset["input_ids"]]
    rows = (dataset[i] for i in range(len(dataset)))
    return [len(row["input_ids"]) if isinstance(row, Mapping) else len(row) for row in rows]
