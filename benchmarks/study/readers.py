"""Readers in the study: their start, their training, and F1 of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .arms import Arm
from .loop import train
from .real import Row

if TYPE_CHECKING:
    from .tasks import Task

#: Tokens that two windows of a passage share.
STRIDE = 64


@dataclass
class ReaderModel:
    """A model with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.model.device


def opened(path: str, device: str, dropout: float) -> ReaderModel:
    """A checkpoint in 32 bits, with the model's own dropout at a rate."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.model_max_length = 512
    model = AutoModelForQuestionAnswering.from_pretrained(
        path, num_labels=2, dtype=torch.float32, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    return ReaderModel(model.to(device), tokenizer)


def fit(
    made: ReaderModel, task: Task, arm: Arm, rows: Sequence[Row], *, rate: float, epochs: int, seed: int,
    validation: Sequence[Row] = (), scheduler: str = "linear",
) -> dict[str, Any]:  # fmt: skip
    """Train a reader by `ComparativeTrainer`; its log by tenths of the training."""
    from transformers import TrainingArguments

    from cmp_rerank import CmpCrop
    from cmp_rerank.training import ComparativeTrainer

    ablations = arm.ablations()
    crops = any(isinstance(ablation, CmpCrop) for ablation in ablations)
    windows = training_windows(made, task, rows, crops)

    def build(arguments: dict[str, Any], callbacks: list[Any]) -> Any:
        return ComparativeTrainer(
            made.model, TrainingArguments(**arguments, train_sampling_strategy="group_by_length"),
            train_dataset=windows, processing_class=made.tokenizer, ablations=ablations,
            objective=arm.objective() if arm.objective is not None else None, compare_share=arm.share,
            callbacks=callbacks,
        )  # fmt: skip

    def value() -> float:
        return sum(measure(made, task, validation)) / len(validation)

    return train(
        build, made.model, task, arm, len(windows), value, rate=rate, epochs=epochs, seed=seed, scheduler=scheduler
    )


def training_windows(made: ReaderModel, task: Task, rows: Sequence[Row], crops: bool) -> Any:
    """The windows of rows; with segments where they are cropped."""
    from cmp_rerank.text.segmenters import Sentences

    return _options(task).windows(made.tokenizer, _questions(rows), Sentences() if crops else None)


def measure(made: ReaderModel, task: Task, rows: Sequence[Row]) -> list[float]:
    """F1 of the best answer to each question."""
    from cmp_rerank.reader import Reader

    questions = _questions(rows)
    made.model.eval()
    return _f1(questions, Reader(made.model, made.tokenizer, _options(task)).predict(questions))


@dataclass(frozen=True)
class Asked:
    """Rows as questions and windows, to be measured by several models."""

    task: Task
    questions: list[Any]
    windows: Any

    @classmethod
    def of(cls, made: ReaderModel, task: Task, rows: Sequence[Row]) -> Asked:
        """The windows of rows."""
        questions = _questions(rows)
        return cls(task, questions, _options(task).windows(made.tokenizer, questions))

    def values(self, starts: Sequence[Any], ends: Sequence[Any]) -> list[float]:
        """F1 of the best answer to each question, from the logits of each window."""
        from cmp_rerank.reader.answers import best_answers

        options = _options(self.task)
        return _f1(
            self.questions,
            best_answers(
                self.windows, self.questions, starts, ends, n_best=1, max_tokens=options.max_tokens,
                scale=options.scale,
            ),
        )  # fmt: skip


def _f1(questions: Sequence[Any], answers: Sequence[Any]) -> list[float]:
    from cmp_rerank.reader.answers import predictions
    from cmp_rerank.reader.measures import evaluate_answers

    found = evaluate_answers(questions, predictions(answers)).per_query["F1"]
    return [round(float(found[question.id]), 4) for question in questions]


def _options(task: Task) -> Any:
    from cmp_rerank.reader.reader import ReaderOptions

    return ReaderOptions(max_length=task.max_length, stride=STRIDE)


def _questions(rows: Sequence[Row]) -> list[Any]:
    from cmp_rerank.reader import GoldAnswer, Question

    return [
        Question(
            row["id"], row["query"], tuple(row["docs"]), (GoldAnswer(row["answer"], 0, row["begin"]),),
            texts=tuple(row["answers"]),
        )
        for row in rows
    ]  # fmt: skip
