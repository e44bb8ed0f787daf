"""One training: from a start model and training data to a tuned model, with a line for each step on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.trainer_callback import ProgressCallback

from cmp_rerank.evaluation.evaluator import RunEvaluator
from cmp_rerank.ir import Progress
from cmp_rerank.pipeline.config import Config
from cmp_rerank.pipeline.model import loss_of, start_model, tuned_model
from cmp_rerank.pipeline.steps import Record
from cmp_rerank.reranking.scoring import NotFiniteError
from cmp_rerank.training import RerankerTrainer, RerankerTrainingArguments, resume
from cmp_rerank.training.complete import last_checkpoint
from cmp_rerank.training.own_dropout import training_without_dropout

logger = logging.getLogger(__name__)

#: What one process has set up a training for: beside the checkpoints, so that a resume is of the same training.
SETTINGS = "settings.json"


def tune(
    config: Config,
    seed: int,
    dataset: Any,
    evaluator: RunEvaluator | None,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    support: Any = None,
    progress: Progress,
) -> tuple[CrossEncoder, dict[str, Any]]:
    """Train, or go on from the last complete checkpoint in the folder.

    Args:
        config: what to train.
        seed: of the head, the order of the data and the ablations.
        dataset: rows as the loss takes them.
        evaluator: evaluates the start and then as often as ``training.eval_strategy`` says; None: nothing is.
        folder: of the checkpoints and of the files with a line for each step.
        settings: all that the training depends on; a resume with others is refused.
        support: what supports the positives; for `CmpCrop`.
        progress: called with the steps that are done and their number.

    Returns:
        The model: of the best evaluation with ``training.load_best_model_at_end``, or else of the last step; and how
        it was trained. A training that diverges, so that scores are not finite, ends there where the guard follows.

    Raises:
        ValueError: the checkpoints in the folder are of a training with other settings; or the training diverges, and
            no guard follows or there are several processes.
    """
    path = folder / SETTINGS
    checkpoint = last_checkpoint(folder) if is_same_training(path, settings) else None
    arguments = arguments_of(config, seed, folder, begins=checkpoint is None, evaluates=evaluator is not None)
    if arguments.process_index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        resume.check_settings(path, settings, resume=path.exists())
    model = start_model(config.model, seed, device=str(arguments.device))
    callbacks: list[Any] = [Record(folder, evaluator, progress)]
    if config.evaluation.patience is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=config.evaluation.patience))
    trainer = RerankerTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        loss=loss_of(model, config, seed, support),
        evaluator=evaluator,
        callbacks=callbacks,
    )
    for shown in (PrinterCallback, ProgressCallback):  # the log has what they print
        trainer.remove_callback(shown)
    begin = time.perf_counter()
    if checkpoint is not None:
        logger.info("resumed from %s", checkpoint)
    diverged = None
    try:
        with nullcontext() if config.model.dropout else training_without_dropout(trainer):
            trainer.train(None if checkpoint is None else str(checkpoint))
    except ValueError as error:
        # Without the guard such a model would be handed over. Of several processes each has an error of its own.
        if not config.guard.enabled or arguments.world_size > 1 or not _has_diverged(trainer, error):
            raise
        diverged = f"at step {trainer.state.global_step}: {error}"
        logger.warning("seed %d: the training has diverged and ends %s", seed, diverged)
        best = trainer.state.best_model_checkpoint
        if arguments.load_best_model_at_end and best is not None:
            model.load_state_dict(tuned_model(config.model, Path(best)).state_dict())
    return model, {
        "seed": seed,
        "steps": trainer.state.global_step,
        "seconds_since_start_or_resume": round(time.perf_counter() - begin, 3),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "best_step": trainer.state.best_global_step,
        "best": trainer.state.best_metric,
        "processes": arguments.world_size,
        "device": str(arguments.device),
        **({} if diverged is None else {"diverged": diverged}),
    }


def is_same_training(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a folder has checkpoints of the training with these settings, as far as its settings say.

    Of several processes, the first one removes those of a finished training with others, which some may still see.
    """
    try:
        return not (path.exists() and resume.changes(path, settings))
    except ValueError:
        return False


def _has_diverged(trainer: RerankerTrainer, error: ValueError) -> bool:
    """Whether an error of a training is of weights that it has ruined: they give no scores any more."""
    if not trainer.state.global_step:
        return False
    return (
        isinstance(error, NotFiniteError)
        or not np.isfinite(trainer.model.predict([("any", "text")], show_progress_bar=False)).all()
    )


def arguments_of(
    config: Config, seed: int, folder: Path, *, begins: bool = True, evaluates: bool = True
) -> RerankerTrainingArguments:
    """The training arguments of a configuration.

    Args:
        config: the section `training`, and what chooses the best checkpoint.
        seed: of the training.
        folder: of its checkpoints.
        begins: whether the training begins, so that its start is evaluated.
        evaluates: whether there is an evaluator.
    """
    # One folder for all processes and working directories: the path of the best checkpoint is kept in the others.
    defaults = {"disable_tqdm": True, "dataloader_pin_memory": torch.cuda.is_available()}
    values = {**defaults, **config.training, "output_dir": str(folder.resolve()), "seed": seed}
    if evaluates:
        values |= {"eval_on_start": begins and values["eval_strategy"] != "no"}
        values |= {"metric_for_best_model": f"eval_{config.evaluation.main}", "greater_is_better": True}
    else:
        values |= {"eval_strategy": "no", "load_best_model_at_end": False}
    # Patience counts on where it was.
    values |= {"restore_callback_states_from_checkpoint": config.evaluation.patience is not None}
    return RerankerTrainingArguments(**values)
