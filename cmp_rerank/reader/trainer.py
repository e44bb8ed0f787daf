"""A `transformers.Trainer` for readers and sequence classifiers that are trained comparatively."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer

from cmp_rerank.ablations import Plan
from cmp_rerank.ablations.views import Ablation, View
from cmp_rerank.engine import Scorer, Strategy
from cmp_rerank.models.examples import example_seed
from cmp_rerank.objective import (
    Baseline,
    Reduction,
    check_baseline,
    check_reduction,
    comparative_loss,
    comparative_weights,
    violations,
)
from cmp_rerank.reader.adapters import ClassificationAdapter, Padding, SpanAdapter, plain_scores, unwrapped
from cmp_rerank.reader.collator import EXAMPLES, SEGMENT, SPAN_LABELS, SUPPORT, ReaderCollator
from cmp_rerank.reader.loss import Compared, classification_losses, kept_tokens, problem_type, span_losses
from cmp_rerank.reader.windows import Window
from cmp_rerank.training.retry import until_it_fits
from cmp_rerank.training.sampler import Dealt, LengthBatches


class ComparativeReaderTrainer(Trainer):
    """Train a reader or a sequence classifier next to ablated copies of itself, and rank their task losses.

    A ``transformers.Trainer``: its arguments, callbacks, evaluation, checkpoints and resume are its own. In training,
    each example is scored in full and once for each ablation step, and
    `cmp_rerank.objective.comparative_loss` compares the task losses of one example; of a reader the losses of the
    start and of the end each on their own, which are then averaged. In evaluation the value is the model's own loss.
    The trained model is an ordinary checkpoint.

    Task losses by step and the rates of violations and of zero weights go to the log, and to `diagnostics`.

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
        *others: As for ``Trainer``.
        ablations: The steps, in order; see `Plan`. An empty list trains as ``Trainer`` does.
        baseline: See `ComparativeLoss`.
        reduction: See `ComparativeLoss`.
        strategy: How the steps are run; see `cmp_rerank.engine.Scorer`.
        activation_bytes: How many bytes of activations ``strategy="auto"`` may keep; see there.
        tokens_per_batch: The size of a batch for one device, in tokens; ``per_device_train_batch_size`` is then not
            used.
        tokens_per_chunk: How many tokens, padding included, one forward pass of comparative training may hold.
        **kwargs: As for ``Trainer``.

    Raises:
        ValueError: If an argument is out of its range, the model is of neither kind, or crops are asked for and the
            training data has no segments.

    References:
        - Cross-Model Comparative Loss for Enhancing Neuronal Utility in Language Understanding,
          https://arxiv.org/abs/2301.03765

    Example:
        ::

            windows = make_windows(tokenizer, questions, crop=CmpCrop())
            trainer = ComparativeReaderTrainer(
                model, TrainingArguments("reader"), train_dataset=windows, processing_class=tokenizer,
                ablations=[CmpCrop(), CmpDrop()],
            )
            trainer.train()
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        *others: Any,
        ablations: Sequence[Ablation] = (),
        baseline: Baseline = "zero",
        reduction: Reduction = "mean",
        strategy: Strategy = "auto",
        tokens_per_batch: int | None = None,
        tokens_per_chunk: int | None = None,
        activation_bytes: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_baseline(baseline)
        check_reduction(reduction)
        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch must be at least 1, got {tokens_per_batch}.")
        self.plan = Plan(ablations)
        if len(self.plan) and data_collator is not None:
            raise ValueError("Comparative training makes its batches itself: leave data_collator out.")
        super().__init__(model, args, data_collator, *others, **kwargs)
        parameters = inspect.signature(_base(self.model).forward).parameters
        #: Whether the task is to find spans, not to classify.
        self.spans = set(SPAN_LABELS) <= set(parameters)
        if not self.spans and "labels" not in parameters:
            raise ValueError(
                f"{type(_base(self.model)).__name__} is no reader and no sequence classifier: its forward takes "
                "neither start_positions nor labels. Load it by AutoModelForQuestionAnswering or "
                "AutoModelForSequenceClassification."
            )
        labels = getattr(_base(self.model).config, "num_labels", 2)
        if self.spans and labels != 2:
            raise ValueError(
                f"A reader gives two logits for each token, start and end, and this model has num_labels={labels} "
                "as rerankers have. Load it by AutoModelForQuestionAnswering.from_pretrained(..., num_labels=2)."
            )
        self.baseline: Baseline = baseline
        self.reduction: Reduction = reduction
        self.tokens_per_batch = tokens_per_batch
        left = not self.spans and getattr(self.processing_class, "padding_side", "right") == "left"
        padding = Padding.of(self.model, self.processing_class, left)
        adapter = SpanAdapter(padding) if self.spans else ClassificationAdapter(padding)
        self.scorer = Scorer(self.plan.drop, tokens_per_chunk, strategy, adapter, activation_bytes=activation_bytes)
        self._plain = Scorer(None, tokens_per_chunk, adapter=adapter)
        #: Of the last training batch: task losses by step, and the rates of violations and of zero weights.
        self.diagnostics: dict[str, Tensor] = {}
        self._tracked: dict[str, Tensor] = {}
        #: Training step of the last batch that was drawn for, and which of its batches it was.
        self.drawn = (-1, 0)
        if data_collator is None:
            self.data_collator = ReaderCollator(padding, self.spans)
        if len(self.plan):
            if self.compute_loss_func is not None:
                raise ValueError("compute_loss_func gives one number for a batch: its examples cannot be compared.")
            # What this class returns in training is the mean of a batch, whatever the model's own loss accepts.
            self.model_accepts_loss_kwargs = False
            self._check_segments()

    def _check_segments(self) -> None:
        data = self.train_dataset
        if self.plan.crop is None or not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
            return
        rows = (data[i] for i in range(min(len(data), 1000)))
        if len(data) and not any(self.data_collator.example(row).croppable for row in rows):
            raise ValueError(
                "CmpCrop would crop nothing: no row of the training data has segments. Give the crop to "
                "make_windows(..., crop=...), too, or a column 'segment' to rows of your own."
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
            batch_sampler=Dealt(batches, world),
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
        draw = self._draw()
        drawn = [replace(example, seed=example_seed(str(example.seed), "", draw)) for example in examples]
        views = [self.plan.views(example) for example in drawn]
        scores = self.scorer(model, drawn, views)
        compared = self._compared(scores, views, inputs)
        self._diagnose([Compared(each.losses.detach(), each.weights) for each in compared])
        values = [
            (weights * comparative_loss(losses, baseline=self.baseline, reduction=self.reduction)).sum()
            for losses, weights in compared
        ]
        loss = torch.stack(values).mean()
        return (loss, self._outputs(scores[:, 0])) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; of comparative training repeated if memory runs out in it."""
        base = super().training_step
        if not len(self.plan):
            return base(model, inputs, num_items_in_batch)
        return until_it_fits(
            lambda: base(model, dict(inputs), num_items_in_batch), self, model, [self.scorer], [self]
        )

    def _compared(self, scores: Tensor, views: Sequence[Sequence[View]], inputs: dict[str, Any]) -> list[Compared]:
        names = SPAN_LABELS if self.spans else ("labels",)
        missing = [name for name in names if inputs.get(name) is None]
        if missing:
            raise ValueError(f"The training data has no {missing[0]}.")
        if self.spans:
            kept = kept_tokens(views, scores.shape[-1] // 2)
            return span_losses(scores, kept, inputs["start_positions"], inputs["end_positions"])
        labels, config = inputs["labels"], _base(self.model).config
        smoothing = self.args.label_smoothing_factor if self.label_smoother is not None else 0.0
        return classification_losses(scores, labels, problem_type(config, labels), smoothing)

    def _outputs(self, scores: Tensor) -> dict[str, Tensor]:
        if not self.spans:
            return {"logits": scores}
        starts, ends = scores.chunk(2, dim=-1)
        return {"start_logits": starts, "end_logits": ends}

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
        collator = self.data_collator
        if not isinstance(collator, ReaderCollator):
            collator = ReaderCollator(self._plain.adapter.padding, self.spans)  # type: ignore[attr-defined]
        examples = [collator.example(data[i]) for i in range(len(data))]
        order = sorted(range(len(examples)), key=lambda i: len(examples[i]), reverse=True)
        mine = order[self.args.process_index :: self.args.world_size]
        found = plain_scores(self._plain, unwrapped(self.model), examples, mine)
        if self.args.world_size > 1:
            found = gather_object(found)
        by_row = dict(found)
        rows = [by_row[i] for i in range(len(examples))]
        if not self.spans:
            return rows
        both = [SpanAdapter.halves(row, len(example)) for row, example in zip(rows, examples, strict=True)]
        return [[starts for starts, _ in both], [ends for _, ends in both]]

    # What is told -------------------------------------------------------------------------------------------

    def _draw(self) -> str:
        """Seed, training step and batch within the step: the same after a resume, and on every process."""
        step, batch = self.drawn
        now = self.state.global_step
        self.drawn = (now, batch + 1 if step == now else 0)
        return f"{self.args.seed} {self.drawn}"

    def _diagnose(self, compared: Sequence[Compared]) -> None:
        task = torch.stack([weights @ losses for losses, weights in compared]).mean(dim=0)
        names = ["task_loss_full", *(f"task_loss_step_{k}" for k in range(1, len(task)))]
        self.diagnostics = dict(zip(names, task.unbind(), strict=True))
        losses = torch.cat([each.losses[each.weights > 0] for each in compared])
        wrong, idle = task.new_zeros(2)
        if len(losses):  # not where all labels are to be ignored
            pulls = comparative_weights(losses, baseline=self.baseline, reduction=self.reduction)
            wrong = violations(losses).to(task.dtype).mean()
            idle = (pulls == 0).to(task.dtype).mean()
        self.diagnostics |= {"violation_rate": wrong, "zero_weight_rate": idle}
        for name, value in (*self.diagnostics.items(), ("batches", torch.ones_like(task[0]))):
            self._tracked[name] = self._tracked.get(name, torch.zeros_like(value)) + value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and in training add the means of the diagnostics over the batches since the last time."""
        if "loss" in logs and self._tracked:
            totals = torch.stack(list(self._tracked.values()))
            totals = self.accelerator.reduce(totals, reduction="sum")
            *sums, batches = totals.tolist()
            logs = logs | {name: value / batches for name, value in zip(self._tracked, sums, strict=False)}
            self._tracked = {}
        super().log(logs, start_time)


def _base(model: Any) -> Any:
    """The model itself, without wrappers and adapters."""
    inner = unwrapped(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def _lengths(dataset: Any) -> list[int]:
    """Tokens of each row."""
    if not hasattr(dataset, "__len__"):
        raise ValueError("Batches of similar length need a dataset whose length is known, got a stream.")
    if "input_ids" in (getattr(dataset, "column_names", None) or ()):
        return [len(ids) for ids in dataset["input_ids"]]
    rows = (dataset[i] for i in range(len(dataset)))
    return [len(row) if isinstance(row, Window) else len(row["input_ids"]) for row in rows]
