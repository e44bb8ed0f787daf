"""The guard as a callback of the trainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cmp_rerank.evaluation.measures import Measure
from cmp_rerank.guard.contestants import contestants, has_new_head
from cmp_rerank.guard.guarding import decide, one_measure
from cmp_rerank.guard.interpolation import copy_of, restored
from cmp_rerank.guard.mix import Mix
from cmp_rerank.guard.options import DEFAULTS, GuardOptions
from cmp_rerank.guard.save import check_free, save
from cmp_rerank.guard.split import Split
from cmp_rerank.guard.verdict import Verdict
from cmp_rerank.ir import Qrels, Run
from cmp_rerank.ir.arguments import Progress, kind
from cmp_rerank.ir.as_texts import as_texts

logger = logging.getLogger(__name__)


class GuardCallback(TrainerCallback):
    """Guards the model that a trainer trains: when training ends, it has the weights that the guard chose.

    The weights of the start are copied (to memory of the CPU), and compared with those at the end of training as
    :func:`cmp_rerank.guard.guard` does. With ``load_best_model_at_end=True`` the end is the best checkpoint. When a
    resumed training begins, the model has the weights of the checkpoint already: to know the start, the callback must
    be one of the ``callbacks`` that the trainer is made with.

    The model is a cross-encoder and nothing more: the share of the score is in ``mix`` and in ``verdict``, and with
    ``out`` in ``guard.json``. Where the first stage alone is chosen, the model has the weights of the start.

    With several processes each of them does the same, and only the first one writes. Weights that are divided between
    processes (FSDP, DeepSpeed) are refused: use :func:`cmp_rerank.guard.guard` on the checkpoint after training.

    Args:
        queries: As for :func:`cmp_rerank.guard.guard`, and so are the following ones.
        corpus: Document id -> text.
        qrels: Judgments of the validation split.
        first_stage: The candidates of the validation queries.
        measure: One measure.
        options: What is tried, and how large a gain must be.
        test: Queries to test the choice on.
        out: Folder for what is handed over; new or empty.
        each_evaluation: Whether the guard also gives its verdict at each evaluation of the trainer. This is logged
            and kept in ``history``. Weights change at the end only: the optimizer goes on from its own.
        progress: Called with the number of pairs that are done and of all pairs.

    Attributes:
        verdict: The verdict at the end of training, or None before.
        mix: The share of the score that goes with the chosen weights, or None before.
        history: (step, verdict) of each evaluation.

    Raises:
        ValueError: An argument of another shape, also of queries, corpus, qrels and first stage.

    Example:
        ::

            guarding = GuardCallback(queries, corpus, qrels, bm25.search(queries, 100), out="tuned/guarded")
            trainer = CrossEncoderTrainer(model=model, args=args, train_dataset=data, loss=loss, callbacks=[guarding])
            trainer.train()
            print(guarding.verdict)
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        qrels: Qrels | str | os.PathLike[str],
        first_stage: Run | str | os.PathLike[str],
        *,
        measure: str | Measure = "nDCG@10",
        options: GuardOptions = DEFAULTS,
        test: Split | None = None,
        out: str | os.PathLike[str] | None = None,
        each_evaluation: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.validation, self.corpus = Split(queries, qrels, first_stage), as_texts("corpus", corpus)
        self.measure, self.options = measure, options
        self.test, self.out, self.each_evaluation, self.progress = test, out, each_evaluation, progress
        # Hours of training should not end with an error that could be told before.
        one_measure(measure)
        for split in (self.validation, test):
            if split is not None:
                split.read(self.corpus)
        if out is not None:
            check_free(out)
        self.verdict: Verdict | None = None
        self.mix: Mix | None = None
        self.history: list[tuple[int, Verdict]] = []
        self._start: dict[str, torch.Tensor] = {}
        self._new_head = False

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Copy the weights of the start: a resumed training puts those of its checkpoint in their place."""
        if isinstance(model, CrossEncoder):
            self._copy_start(model)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Copy the weights of the start, unless training is resumed."""
        if args.fsdp or args.deepspeed:
            raise ValueError(
                "the guard needs the model as a whole; got weights that are divided between processes (FSDP or "
                "DeepSpeed); guard the checkpoint after training with cmp_rerank.guard.guard"
            )
        model = self._cross_encoder(model)
        if state.global_step == 0:
            self._copy_start(model)
        elif not self._start:
            raise ValueError(
                "the guard needs the weights of the start; got a training that is resumed at step "
                f"{state.global_step}, with a callback that came after the trainer was made; give it as one of the "
                "trainer's callbacks"
            )

    def _copy_start(self, model: CrossEncoder) -> None:
        self._new_head = has_new_head(model)
        self._start = {name: tensor.cpu() for name, tensor in copy_of(model).items()}

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Give a verdict on the weights so far."""
        if self.each_evaluation and self._start:
            self.history.append((state.global_step, self._guard(model, last=False)))
            if state.is_world_process_zero:
                logger.info("step %d: %s", state.global_step, self.history[-1][1].sentence)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Choose, and leave the chosen weights in the model."""
        self.verdict = self._guard(model, last=True, writes=state.is_world_process_zero)
        self._start = {}
        if state.is_world_process_zero:
            logger.info("%s", self.verdict)

    def _guard(self, model: Any, *, last: bool, writes: bool = False) -> Verdict:
        model = self._cross_encoder(model)
        with restored(model) as own:
            found = contestants(model, [own], self.options, start_weights=self._start, new_head=self._new_head)
            verdict, chosen = decide(
                found,
                self.validation,
                self.corpus,
                self.measure,
                self.options,
                test=self.test if last else None,
                progress=self.progress,
            )
            if last and writes and self.out is not None:
                save(self.out, found.model(chosen.blend), chosen.mix, verdict)
        if last:
            self.mix = chosen.mix
            found.model(chosen.blend)
        return verdict

    def _cross_encoder(self, model: Any) -> CrossEncoder:
        if not isinstance(model, CrossEncoder):
            raise ValueError(
                f"the guard needs the trainer's CrossEncoder, whole; got {kind(model)}; guard the checkpoint after "
                "training with cmp_rerank.guard.guard"
            )
        return model
