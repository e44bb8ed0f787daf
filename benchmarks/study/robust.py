"""How much a trained reranker loses with units dropped, layers removed, and in 8 bits."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from cmp_rerank.ablations import CmpDrop, Plan, View
from cmp_rerank.engine import Scorer
from cmp_rerank.models.cross_encoder import pair_adapter
from cmp_rerank.models.pairs import Truncation, tokenise
from cmp_rerank.reranking.precision import in_precision

from .arms import ARMS
from .cells import Cell
from .measuring import Values, decode, values_of
from .steps import train
from .tasks import TASKS, Row, Task, load, sample
from .together import examples_of
from .training import open_start

#: At which units are dropped; what is dropped at one rate stays dropped at the next.
DROP_RATES = (0.1, 0.2, 0.3, 0.5)

#: Rows of test, drawn once, and pairs that are scored at once.
ROWS, BATCH = 500, 32


def run_robust(cell: Cell, cache: Path, device: str) -> dict[str, Any]:
    """Train a cell, with products in bfloat16, and measure the model whole and damaged."""
    task, arm = replace(TASKS[cell.task], exact=()), ARMS[cell.arm]
    model = open_start(task, cache, 0.0, device)
    begin = time.process_time()
    epochs = task.sizes[cell.size] * arm.epochs
    models, (log,) = train(model, task, arm, [examples_of(cell, cache)], [cell], epochs)
    seconds = time.process_time() - begin
    models.copy_to(model)
    values = damaged(model, task, sample(load(cell.task, cache)["test"], ROWS))
    whole = float(np.mean(decode(values["whole"], task)))
    return {**asdict(cell), "mean": whole, "cpu_seconds": round(seconds, 2), "log": log, "robust": values}


def damaged(model: CrossEncoder, task: Task, rows: Sequence[Row]) -> dict[str, Values]:
    """The values of rows by what is done to the model: "whole", "drop 0.1", "2 layers" of 3, "int8"."""
    scores = dict(zip(("whole", *(f"drop {rate}" for rate in DROP_RATES)), _dropped(model, rows), strict=True))
    pairs = _pairs(rows)
    for count in range(len(model.model.base_model.encoder.layer) - 1, 0, -1):
        cut = copy.deepcopy(model)
        cut.model.base_model.encoder.layer = cut.model.base_model.encoder.layer[:count]
        scores[f"{count} layer{'s' * (count > 1)}"] = cut.predict(pairs, batch_size=BATCH)
    scores["int8"] = in_precision(model, "int8").predict(pairs, batch_size=BATCH)
    return {name: values_of(each, rows, task) for name, each in scores.items()}


def _pairs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(row["query"], doc) for row in rows for doc in row["docs"]]


def _dropped(model: CrossEncoder, rows: Sequence[Row]) -> np.ndarray:
    """Scores (1 + rates, pairs) of the model whole, and at each rate."""
    drop = CmpDrop()
    plan = Plan([drop])
    levels = [0.0, *map(drop.level_of, DROP_RATES)]
    examples = tokenise(model, _pairs(rows), plan, draw="robust", truncation=Truncation())
    scorer = Scorer(pair_adapter(model), plan.on_model)
    scores = np.zeros((len(levels), len(examples)), dtype=np.float32)
    order = sorted(range(len(examples)), key=lambda pair: len(examples[pair]))
    model.eval()
    for begin in range(0, len(order), BATCH):
        chosen = order[begin : begin + BATCH]
        own = [examples[pair] for pair in chosen]
        views = [[View(np.arange(len(example)), (level,)) for level in levels] for example in own]
        with torch.inference_mode():
            scores[:, chosen] = scorer(model, own, views)[..., 0].T.numpy()
    return scores
