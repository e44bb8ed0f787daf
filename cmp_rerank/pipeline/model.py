"""The model that a training starts from, and its loss."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import transformers
from sentence_transformers import CrossEncoder
from torch import nn

from cmp_rerank.ir.checkpoints import loading_checkpoint
from cmp_rerank.ir.lines import PathLike
from cmp_rerank.losses import ComparativeLoss
from cmp_rerank.models.long_document_settings import read_settings
from cmp_rerank.pipeline.components import ABLATION, LOSS, OBJECTIVE, build
from cmp_rerank.pipeline.config import Config, Model
from cmp_rerank.pipeline.folder import digest_of
from cmp_rerank.reranking.loading import check_window, open_checkpoint, read_checkpoint
from cmp_rerank.training.resume import weights_digest


def start_model(model: Model, seed: int, device: str | None = None) -> CrossEncoder:
    """Load the model, as a LongDocumentReranker where it was saved as one.

    An encoder gets a new head, the same for the same seed.

    Args:
        model: the section of the configuration.
        seed: of the new head.
        device: where to; None: what the section says, or else where there is one.

    Raises:
        ValueError: there is no such model, it is none that scores pairs, or its window is beyond its positions.
    """
    read_checkpoint(model.name)
    options = dict(model.options) if device is None else {**model.options, "device": device}
    transformers.set_seed(seed)
    try:
        with loading_checkpoint(model.name):
            loaded = open_checkpoint(model.name, max_length=model.max_length, **options)
    except ValueError as error:
        raise ValueError(
            "model.name must be a folder or a name on the hub of a cross-encoder or an encoder; got "
            f"{model.name!r}: {error}"
        ) from error
    if loaded.num_labels != 1:
        raise ValueError(
            f"model.name must be of a model that gives one score for a pair; got {model.name!r}, which gives "
            f"{loaded.num_labels}; choose another, or take its encoder"
        )
    check_window(loaded, model.max_length, "model.max_length")
    return loaded


def tuned_model(model: Model, folder: Path) -> CrossEncoder:
    """Load what a training of this model has come to, with the same arguments, such as those for code of its own.

    Args:
        model: the section of the configuration.
        folder: of the checkpoint.
    """
    return open_checkpoint(folder, max_length=model.max_length, **model.options)


def model_digest(name: PathLike) -> str:
    """Stands for what a checkpoint scores with: its weights, and how it divides documents, where it does.

    Args:
        name: a folder, or a name on the hub.

    Raises:
        ValueError: there are no weights.
    """
    weights, settings = weights_digest(os.fspath(name)), read_settings(name)
    return digest_of([weights, settings]) if settings else weights


def loss_of(model: CrossEncoder, config: Config, seed: int, support: Any = None) -> nn.Module:
    """The loss of a configuration, comparative where it has ablations.

    Args:
        model: the model to be trained.
        config: loss, ablations and objective.
        seed: of the ablations.
        support: what supports the positives, where the data knows it; for ablations that ask for support, and whose
            configuration gives none.

    Raises:
        ValueError: an option is out of its range.
    """
    loss: nn.Module = build(LOSS, config.loss, model=model)
    if not config.ablations:
        return loss
    known = {} if support is None else {"support": support}
    ablations = [build(ABLATION, each, offered=known) for each in config.ablations]
    objective = None if config.objective is None else build(OBJECTIVE, config.objective)
    return ComparativeLoss(model, loss, ablations, objective=objective, seed=seed)
