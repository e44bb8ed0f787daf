"""One cell of the study: train one arm from the common start, and measure it on validation or test."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import nn

from cmp_rerank import GivenSupport
from cmp_rerank.guard.interpolation import copy_of, put

from . import readers
from .arms import ARMS, Arm
from .bert import Models, tokenised
from .cells import Cell
from .loop import train
from .measuring import Values, decode, ordering_scores, values_of
from .tasks import TASKS, Row, Task, load, training_rows

# The common start ---------------------------------------------------------------------------------------


def start_folder(task: Task, cache: Path) -> Path:
    return cache / f"{task.start_of or task.name}-start"


def open_start(task: Task, cache: Path, dropout: float, device: str) -> Any:
    """The start in 32 bits, with the model's own dropout at a rate: a CrossEncoder, or a reader."""
    folder = str(start_folder(task, cache))
    return readers.opened(folder, device, dropout) if task.reads else opened(folder, task, device, dropout)


def opened(path: str, task: Task, device: str, dropout: float) -> CrossEncoder:
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return CrossEncoder(
        path, num_labels=1, max_length=task.max_length, activation_fn=nn.Identity(), device=device,
        config_kwargs=rates, model_kwargs={"dtype": torch.float32},
    )  # fmt: skip


# A run --------------------------------------------------------------------------------------------------

_LOADED: dict[Any, Any] = {}

#: How far models of the part "halfway" are moved back to the start (WiSE-FT, arXiv 2109.01903).
BACK = 0.5


def run_cell(cell: Cell, cache: Path, device: str) -> dict[str, Any]:
    """Train and measure; all random choices derive from the cell's seed."""
    task, arm = TASKS[cell.task], ARMS[cell.arm]
    if cell.task not in _LOADED:
        _LOADED[cell.task] = load(cell.task, cache)
    parts = _LOADED[cell.task]
    rows = training_rows(task, parts["train"], cell.size, cell.seed)
    torch.manual_seed(cell.seed)
    model = open_start(task, cache, arm.dropout, device)
    start = copy_of(model.model) if cell.part == "halfway" else None
    wall, cpu = time.perf_counter(), time.process_time()
    log = fit(
        model, task, arm, rows, rate=cell.rate, epochs=task.sizes[cell.size] * arm.epochs, seed=cell.seed,
        validation=parts["validation"],
    )  # fmt: skip
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    if start is not None:
        put(model.model, [(copy_of(model.model), 1 - BACK), (start, BACK)])
    return {
        **asdict(cell),
        **measured(model, task, parts, cell.asked, device),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "passes": arm.passes * task.sizes[cell.size] * arm.epochs,
        "rows": hashlib.sha256(repr([row["query"] for row in rows]).encode()).hexdigest()[:12],
        "log": log,
    }


def fit(
    model: Any, task: Task, arm: Arm, rows: Sequence[Row], *, rate: float, epochs: int, seed: int,
    validation: Sequence[Row] = (), scheduler: str = "linear",
) -> dict[str, Any]:  # fmt: skip
    """Train a model by its trainer; its log by tenths of the training."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, ListNetLoss

    from cmp_rerank import ComparativeLoss, RerankerTrainer, RerankerTrainingArguments

    if task.reads:
        return readers.fit(
            model, task, arm, rows, rate=rate, epochs=epochs, seed=seed, validation=validation, scheduler=scheduler
        )

    def value() -> float:
        values = measure(model, task, validation, "validation", str(model.device))
        return float(np.mean(decode(values, task)))

    if task.listwise:
        columns = {"query": [r["query"] for r in rows], "docs": [r["docs"] for r in rows]}
        # ListNet's target is the softmax of the labels: 10 makes it the relevant document alone.
        data = Dataset.from_dict(columns | {"labels": [[10.0 * label for label in r["labels"]] for r in rows]})
        loss: nn.Module = ListNetLoss(model, mini_batch_size=-1)
    else:
        columns = {"query": [r["query"] for r in rows], "passage": [r["docs"][0] for r in rows]}
        data = Dataset.from_dict(columns | {"label": [r["labels"][0] for r in rows]})
        loss = BinaryCrossEntropyLoss(model)
    ablations = arm.ablations(support_of(rows))
    if ablations:
        objective = arm.objective() if arm.objective is not None else None
        if task.listwise and hasattr(objective, "distribution"):
            from dataclasses import replace

            objective = replace(objective, distribution="list")
        loss = ComparativeLoss(model, loss, ablations, objective=objective, seed=seed, compare_share=arm.share)

    def build(arguments: dict[str, Any], callbacks: list[Any]) -> Any:
        return RerankerTrainer(
            model=model, args=RerankerTrainingArguments(**arguments), train_dataset=data, loss=loss,
            callbacks=callbacks,
        )  # fmt: skip

    return train(build, model, task, arm, len(rows), value, rate=rate, epochs=epochs, seed=seed, scheduler=scheduler)


def support_of(rows: Sequence[Row]) -> GivenSupport | None:
    """The support of labels that rows give, if any."""
    known = {(row["query"], row["docs"][0]): row["support"] for row in rows if "support" in row}
    return GivenSupport(known) if known else None


# Measuring ----------------------------------------------------------------------------------------------


def measured(model: Any, task: Task, parts: dict[str, list[Row]], part: str, device: str) -> dict[str, Any]:
    """What a row says of a model: the values on a part, and beside test those that the guard decides on."""
    values = measure(model, task, parts[part], part, device)
    found: dict[str, Any] = {"mean": float(np.mean(decode(values, task))), "values": values}
    if part == "test":
        found["guard"] = measure(model, task, parts["guard"], "guard", device)
    return found


def measure(model: Any, task: Task, rows: Sequence[Row], part: str, device: str) -> Values:
    """The value of each row, see `values_of`."""
    if task.reads:
        return readers.measure(model, task, rows)
    return values_of(_scores(model, rows, (task.name, part, len(rows)), task), rows, task)


def _scores(model: CrossEncoder, rows: Sequence[Row], key: Any, task: Task) -> np.ndarray:
    """Logits of all pairs, in the rows' order; the tokens of a part are kept for the next run."""
    if key not in _LOADED:
        _LOADED[key] = tokenised(model, rows, task.max_length)
    (scores,) = ordering_scores(Models(model, 1), _LOADED[key])
    if not np.isfinite(scores).all():
        raise ValueError("the model gives scores that are not finite; its training has diverged")
    return scores
