"""Comparative loss around any cross-encoder loss of sentence-transformers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.trainer import BaseTrainer
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.util import fullname
from torch import Tensor, nn

from cmp_rerank.ablations import Ablation, Plan
from cmp_rerank.engine import Scorer, Strategy
from cmp_rerank.ir.arguments import kind
from cmp_rerank.losses.core import CITATION, Comparison, chosen_objective
from cmp_rerank.losses.decompose import decompose
from cmp_rerank.losses.log import LossLog
from cmp_rerank.losses.prepared import Prepared
from cmp_rerank.losses.replay import Pair, Replay, StandIn, addressed
from cmp_rerank.models.base import ExampleLosses
from cmp_rerank.models.cross_encoder import cross_encoder, pair_adapter
from cmp_rerank.models.pairs import Truncation, tokenise
from cmp_rerank.objectives import Baseline, Objective, Outputs, Reduction

logger = logging.getLogger(__name__)


class ComparativeLoss(nn.Module):
    """Train the full model next to ablated copies of itself, and rank their task losses.

    A loss modifier, in the manner of ``MatryoshkaLoss``: it wraps the loss that a ``CrossEncoderTrainer`` would
    use anyway. In training, every (query, passage) pair is scored in full and once for each ablation step.
    The wrapped loss is computed for each of them, per example: a pair for pointwise losses, a query for listwise
    and in-batch ones. The objective compares them. In evaluation the value is that of the wrapped loss.
    The trained model is an ordinary checkpoint and costs nothing extra to run.

    How the wrapped loss splits into examples is measured on every batch, not assumed: its gradient must be a
    weighted sum of the gradients of single examples. The same weights then weigh the compared examples.

    Per-step task losses and the rates of violations and of zero weights go to the log of the trainer, and to
    `diagnostics`; they do not enter the loss. With a loss for each of several datasets, their names in the log begin
    with that of the dataset: ``{dataset}_task_loss_full``.

    Args:
        model: the CrossEncoder to be trained.
        loss: the task loss, built on the same model.
        ablations: the steps, in order, or a single one; see `Plan`. An empty list gives the wrapped loss, unchanged.
        baseline: short for ``objective=PairwiseHinge(baseline, reduction)``: the dummy step's loss, "zero" (the
            default; every step also gets its plain task loss), "full" (the full model's loss; where the full model
            overfits), "best", or a number.
        reduction: the same: "mean" over the pairs of steps (the default; with c steps in order it is 2 / (c + 2) of
            the mean task loss) or "sum" (as in the paper).
        objective: what is made of the task losses of an example's steps: an object of `cmp_rerank.objectives`, or one
            of its shape. Default: `PairwiseHinge`, the comparative loss.
        seed: what all random choices derive from, together with the training step and the texts.
        compare_share: the share of the examples that is compared, drawn by the seed; the others are scored in full
            only. The expected loss and gradient are those of comparing all, with more variance; see `Comparison`.
        tokens_per_chunk: how many tokens, padding included, one forward pass may hold; see `Scorer`. Default: what
            the trainer's arguments say, see `RerankerTrainingArguments`; so, too, for the next two.
        strategy: how the steps are run: what is kept, recomputed or shared. All give equal gradients; see `Scorer`.
        unpadded: whether the encoder's layers run without padding, where the model allows it; see `Scorer`.
        activation_bytes: how many bytes of activations ``strategy="auto"`` may keep; see `Scorer`. Default: what is
            free.

    Raises:
        ValueError: if an argument is out of its range, or the loss belongs to another model.

    References:
        - Cross-Model Comparative Loss for Enhancing Neuronal Utility in Language Understanding,
          https://arxiv.org/abs/2301.03765

    Example:
        ::

            from sentence_transformers import CrossEncoder
            from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
            from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss

            model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")
            loss = ComparativeLoss(model, BinaryCrossEntropyLoss(model), [CmpCrop(), CmpDrop()])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        ablations: Sequence[Ablation] | Ablation,
        baseline: Baseline | None = None,
        reduction: Reduction | None = None,
        *,
        objective: Objective | None = None,
        seed: int = 0,
        compare_share: float = 1.0,
        tokens_per_chunk: int | None = None,
        strategy: Strategy | None = None,
        unpadded: bool | None = None,
        activation_bytes: int | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(model, loss)
        inner = cross_encoder(model)
        self.model = model
        self.loss = loss
        plan = Plan(ablations)
        scorer = Scorer(
            pair_adapter(inner),
            plan.on_model,
            tokens_per_chunk=tokens_per_chunk,
            strategy=strategy,
            unpadded=unpadded,
            activation_bytes=activation_bytes,
        )
        #: Scores the views and compares them.
        self.comparison = Comparison(
            plan, chosen_objective(objective, baseline, reduction), scorer, seed, compare_share
        )
        #: What the model's window has cut of the passages so far.
        self.truncation = Truncation()
        self._method = "unreduced"
        self._reported = False

    @property
    def plan(self) -> Plan:
        """The ablation steps."""
        return self.comparison.plan

    @property
    def objective(self) -> Objective:
        """What is made of the task losses of an example's steps."""
        return self.comparison.objective

    @property
    def scorer(self) -> Scorer:
        """Runs the model."""
        return self.comparison.scorer

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """Of the last training batch: task losses by step, and the rates of violations and of zero weights."""
        return self.comparison.diagnostics

    def forward(
        self,
        inputs: list[list[Any]],
        labels: Tensor | list[Tensor] | None = None,
        prompt: str | None = None,
        task: str | None = None,
        *,
        prepared: Prepared | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: the text columns, as the wrapped loss wants them.
            labels: as the wrapped loss wants them.
            prompt: put before the texts by the model.
            task: handed to the model's preprocessing.
            prepared: what was found out about the batch outside of the training step, see `RerankerTrainer`.

        Returns:
            A scalar. In evaluation, or without ablations, what the wrapped loss returns.

        Raises:
            ValueError: if the batch is empty, a passage is empty, the labels do not fit the columns or the loss, or
                the wrapped loss does not decompose into examples.
        """
        extra: dict[str, Any] = {
            name: value for name, value in (("prompt", prompt), ("task", task)) if value is not None
        }
        if not len(self.plan) or not cross_encoder(self.model).training:
            return self.loss(inputs, labels, **extra)  # type: ignore[no-any-return]
        if isinstance(self.model, StandIn):
            raise ValueError("A ComparativeLoss within another loss runs the model itself.")
        check_labels(type(self.loss), labels)
        columns = addressed(inputs)
        recording = None if prepared is None else prepared.recording(columns)
        inner = cross_encoder(self.model)
        replay = Replay(self.loss, inner, columns, labels, recording=recording, **extra)
        pairs = replay.recording.pairs
        trainer, dataset = calling_trainer()
        state = None if trainer is None else trainer.state
        draw = self.comparison.draw(*(state.global_step, state.max_steps, state) if state else (None,))
        if prepared is not None:
            self.truncation.add_counts(prepared.truncation)
            examples = prepared.drawn(pairs, draw)
        else:
            examples = tokenise(
                inner,
                pairs,
                self.plan,
                relevant=relevance(pairs, inputs, labels),
                draw=draw,
                truncation=self.truncation,
                **replay.recording.preprocess,
            )
        self._report_truncation()
        loss, _ = self.comparison(
            self.model, examples, lambda scores, views: [self._split(replay, scores)], replay.owner.tolist()
        )
        if trainer is not None:
            LossLog.of(trainer).add(self.diagnostics, dataset)
        return loss

    def _split(self, replay: Replay, scores: Tensor) -> ExampleLosses:
        """The wrapped loss of each example in each view."""
        steps = scores.unbind(dim=1)  # 1 + steps of (pairs, labels)
        split = decompose(replay, steps[0], prefer=self._method)
        self._method = split.method
        losses = torch.stack([split.losses(replay, step) for step in steps], dim=1)  # (examples, 1 + steps)
        return ExampleLosses(losses, split.weights, lambda: Outputs(scores, replay.owner))

    def _report_truncation(self) -> None:
        if self.truncation.cut and not self._reported:
            self._reported = True
            logger.warning(
                "%s so far. Reported once; `loss.truncation` keeps counting.",
                self.truncation,
            )

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of this loss."""
        inner: dict[str, Any] = getattr(self.loss, "get_config_dict", dict)()
        return {"loss": fullname(self.loss), "loss_config": inner, **self.comparison.settings()}

    @property
    def citation(self) -> str:
        """BibTeX of the paper, for the model card."""
        return CITATION


def _check_arguments(model: Any, loss: Any) -> None:
    if isinstance(loss, CrossEncoder) and isinstance(model, nn.Module) and not isinstance(model, CrossEncoder):
        raise ValueError(
            f"model and loss are swapped: got {type(model).__name__} for the model and {type(loss).__name__} for the "
            "loss. Write ComparativeLoss(model, loss, ablations)."
        )
    if not isinstance(model, nn.Module):
        hint = f"Load it: CrossEncoder({model!r})." if isinstance(model, str) else "Pass the model to be trained."
        raise ValueError(f"model must be a CrossEncoder; got {kind(model)}. {hint}")
    if not isinstance(loss, nn.Module):
        hint = f" Write {loss.__name__}(model)." if isinstance(loss, type) else ""
        raise ValueError(f"loss must be a loss object such as BinaryCrossEntropyLoss(model); got {kind(loss)}.{hint}")
    if isinstance(loss, ComparativeLoss):
        raise ValueError("loss is a ComparativeLoss already: give all ablations to one of them.")
    if getattr(loss, "model", None) is not model:
        raise ValueError(f"{type(loss).__name__} was built on another model: build it on the one to be trained.")


def check_labels(loss: Any, labels: Any) -> None:
    """Refuse labels that binary cross-entropy has no minimum for: with a label of 2, scores would rise for ever.

    Args:
        loss: the class of any loss; one with a forward of its own makes of its labels what it likes.
        labels: those of a training batch, or of all rows.

    Raises:
        ValueError: With the first such label.
    """
    if getattr(loss, "forward", None) is not BinaryCrossEntropyLoss.forward or not isinstance(labels, Tensor):
        return
    if not bool(((labels >= 0) & (labels <= 1)).all()):
        wrong = next(label for label in labels.flatten().tolist() if not 0 <= label <= 1)
        raise ValueError(
            f"{loss.__name__} needs labels from 0 to 1; got {wrong:g}; divide grades by the highest one "
            "(labels='scaled' in mining), or take a loss for such labels: MSELoss for the scores of a teacher, "
            "LambdaLoss for grades, in lists"
        )


def calling_trainer() -> tuple[BaseTrainer | None, str | None]:
    """The trainer that this call comes from, and the name of the dataset of its batch; None where there is none.

    The trainers of sentence-transformers give a loss no handle on themselves, and sum what it returns into the loss.
    The training step and the log are needed here, so the trainer is looked up among the callers. Its method
    ``compute_loss`` knows the name of the dataset, where there are several.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, BaseTrainer):
            return caller, frame.f_locals.get("dataset_name")
        frame = frame.f_back
    return None, None


def relevance(
    pairs: Sequence[Pair], columns: Sequence[Sequence[Any]], labels: Tensor | list[Tensor] | None
) -> list[bool]:
    """Which pairs have a relevant passage, so that a crop keeps what supports their label.

    With a label for each passage, in a list or in columns (0 and more: grades, classes of two, probabilities), those
    above 0. Where a passage has several labels, the first counts. Labels of passages that the loss does not ask for
    do not. Labels below 0 or not for each passage (a teacher's logits or margins) say nothing of relevance. Then a
    passage of its query's first column is relevant, one of a later column or of another row is not, and with one
    passage column all are.
    """
    in_lists = any(_is_list(column) for column in columns[1:])
    if in_lists and isinstance(labels, list):
        first = [_first_labels(label) for label in labels]
        asked = [first[d.address[1]][d.address[2]] for _, d in pairs]
        graded = all(label >= 0 for label in asked)
        return [not graded or label > 0 for label in asked]
    if not in_lists and len(columns) > 2 and labels is not None and all(label.dim() for label in labels):
        first = [_first_labels(label) for label in labels]
        if all(len(row) == len(columns) - 1 for row in first):
            asked = [first[d.address[1]][d.address[0] - 1] for _, d in pairs]
            if all(label >= 0 for label in asked):
                return [
                    label > 0 and d.address[1] == q.address[1] for (q, d), label in zip(pairs, asked, strict=True)
                ]
    if len(columns) == 2 and isinstance(labels, Tensor) and labels.numel() == len(columns[0]):
        flat = labels.reshape(-1)
        graded = bool((flat >= 0).all())
        return [not graded or bool(flat[d.address[1]] > 0) for _, d in pairs]
    return [d.address[0] == 1 and d.address[1] == q.address[1] for q, d in pairs]


def _first_labels(label: Tensor) -> list[float]:
    """The first label of each passage of a row, of which there are one or several for each."""
    return label.unsqueeze(-1).flatten(1)[:, 0].tolist()  # type: ignore[no-any-return]


def _is_list(column: Sequence[Any]) -> bool:
    return bool(column) and not isinstance(column[0], str)
