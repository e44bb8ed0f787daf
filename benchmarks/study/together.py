"""Many cells in one training: the models of several seeds and learning rates as one model with one more dimension.

A GPU is far from busy with one small model. Here E models, each with weights of its own, go through every step side
by side: each weight is a tensor (E, ...), and a step takes one batch of each. What is studied comes from the package:
the batches, the draws, the masks of CmpDrop, and the objectives. What is written here once more is what surrounds it:
the encoder (BERT with one score), ListNet and binary cross-entropy, AdamW. A test compares the weights with those of
`RerankerTrainer`, arm by arm.

An arm with the model's own dropout draws other random numbers than the trainer; all else is equal up to rounding.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cmp_rerank.ablations import Example, Plan
from cmp_rerank.ablations.base import derived_seed
from cmp_rerank.ablations.crop import CmpCrop
from cmp_rerank.ablations.drop import CmpDrop
from cmp_rerank.hooks.masks import Rows, unit_keys
from cmp_rerank.losses.core import sampled
from cmp_rerank.models.pairs import example_seed
from cmp_rerank.objectives import Outputs
from cmp_rerank.training.sampler import LengthBatches

from .arms import ARMS, Arm
from .bert import Batch, Models, Tokens, batch_of, tokenised
from .tasks import TASKS, Row, Task, load, training_rows
from .training import Cell, Values, decode, open_start, values_of

#: Tokens in one pass of all models, padding and ablated copies included.
BUDGET = {"cpu": 20_000, "cuda": 200_000}


def results_together(
    cells: Sequence[Cell], size: int, cache: Path, device: str, until: float
) -> Iterator[dict[str, Any]]:
    """Train the cells of an arm together, at most so many at once; none begins after the time ``until``."""
    ordered = sorted(cells, key=lambda cell: (cell.part, list(ARMS).index(cell.arm)))
    for _, same in groupby(ordered, key=lambda cell: (cell.part, cell.arm)):
        several = list(same)
        for begin in range(0, len(several), size):
            if time.time() < until:
                yield from run_cells(several[begin : begin + size], cache, device)


def run_cells(cells: Sequence[Cell], cache: Path, device: str) -> list[dict[str, Any]]:
    """Train and measure cells of one task, size, arm and part; a row for each, as `training.run_cell` gives it."""
    first = cells[0]
    task, arm = TASKS[first.task], ARMS[first.arm]
    parts = load(first.task, cache)
    epochs = task.sizes[first.size] * arm.epochs
    model = open_start(task, cache, 0.0, device)
    rows = [training_rows(parts["train"], cell.size, cell.seed, task.noise) for cell in cells]
    begin = time.perf_counter()
    validation = tokenised(model, parts["validation"], task.max_length) if arm.keep_best else None
    models, logs = train(model, task, arm, rows, cells, epochs, validation)
    seconds = (time.perf_counter() - begin) / len(cells)
    values = measure(models, tokenised(model, parts[first.part], task.max_length), task)
    guarded = first.part == "test"
    seen = measure(models, tokenised(model, parts["guard"], task.max_length), task) if guarded else values
    found = []
    for cell, own, value, also, log in zip(cells, rows, values, seen, logs, strict=True):
        row = {
            **asdict(cell),
            "seconds": round(seconds, 2),
            "together": len(cells),
            "passes": arm.passes * epochs,
            "rows": hashlib.sha256(repr([row["query"] for row in own]).encode()).hexdigest()[:12],
            "log": log,
        }
        if value is None or also is None:
            row["failed"] = "the scores are not finite: the training has diverged"
        else:
            row |= {"mean": float(np.mean(decode(value, task))), "values": value}
            row |= {"guard": also} if guarded else {}
        found.append(row)
    return found


# Training ---------------------------------------------------------------------------------------------


class AdamW:
    """AdamW with a learning rate for each model, and gradients of each model clipped, as transformers does it."""

    def __init__(self, weights: dict[str, Tensor], rates: Sequence[float], decay: float) -> None:
        self.weights, self.decay, self.step = weights, decay, 0
        first = next(iter(weights.values()))
        self.rates = torch.tensor(rates, dtype=torch.float64, device=first.device)
        self.first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.second = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, share: float) -> None:
        """One step at a share of the learning rates."""
        self.step += 1
        squares = sum(weight.grad.flatten(1).square().sum(1) for weight in self.weights.values())  # type: ignore[union-attr]
        clip = (1.0 / (squares.sqrt() + 1e-6)).clamp(max=1.0)  # type: ignore[union-attr]
        corrections = 1 - 0.9**self.step, 1 - 0.999**self.step
        rates = (self.rates * share).float()
        for name, weight in self.weights.items():
            shape = (-1, *[1] * (weight.ndim - 1))
            rate = rates.view(shape)
            gradient = weight.grad * clip.view(shape)
            if not ("bias" in name or "LayerNorm" in name):
                weight.mul_(1 - rate * self.decay)
            self.first[name].lerp_(gradient, 0.1)
            self.second[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = (self.second[name] / corrections[1]).sqrt_().add_(1e-8)
            weight.addcdiv_(self.first[name] * (-rate / corrections[0]), scale)
            weight.grad = None


def train(
    model: Any, task: Task, arm: Arm, rows: Sequence[Sequence[Row]], cells: Sequence[Cell], epochs: int,
    validation: Tokens | None = None,
) -> tuple[Models, list[dict[str, Any]]]:  # fmt: skip
    """Train a model for each cell, all of one arm; with ``validation`` the best epoch of each is kept.

    Returns:
        The models, and for each a log by tenths of the training.
    """
    models = Models(model, len(cells), arm.dropout)
    torch.manual_seed(cells[0].seed)  # of the models' own dropout
    data = [tokenised(model, own, task.max_length) for own in rows]
    steps_of_epoch = -(-len(rows[0]) // task.batch)
    steps = steps_of_epoch * epochs
    warmup = max(1, steps // 10)
    samplers = [
        LengthBatches(own.lengths(), task.batch, seed=cell.seed) for own, cell in zip(data, cells, strict=True)
    ]
    optimizer = AdamW(models.weights, [cell.rate for cell in cells], arm.decay)
    arms = _Views(arm, models)
    objective = _objective(arm, task)
    log = _Log(len(cells), steps)
    best = _Best(models) if validation is not None else None
    average: dict[str, Tensor] = {}
    step = 0
    for epoch in range(epochs):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for chosen in zip(*samplers, strict=True):
            step_of(models, arms, objective, task, data, chosen, [f"{cell.seed} {(step, 0)}" for cell in cells], log)
            share = step / warmup if step < warmup else (steps - step) / max(1, steps - warmup)
            optimizer.update(max(0.0, share))
            step += 1
            if arm.averaged and step > steps // 2:
                for name, weight in models.weights.items():
                    held = average.setdefault(name, torch.zeros_like(weight))
                    held += (weight.detach() - held) / (step - steps // 2)
        if best is not None and validation is not None:
            measured = measure(models, validation, task)
            best.see(epoch + 1.0, [-1.0 if one is None else decode(one, task).mean() for one in measured])
    with torch.no_grad():
        for name, held in average.items():
            models.weights[name].copy_(held)
    logs = log.entries()
    if best is not None:
        for entry, chosen_epoch in zip(logs, best.put(), strict=True):
            entry["best_epoch"] = chosen_epoch
    return models, logs


def step_of(
    models: Models, views: _Views, objective: Any, task: Task, data: Sequence[Tokens],
    chosen: Sequence[Sequence[int]], draws: Sequence[str], log: _Log,
) -> None:  # fmt: skip
    """Forward and backward passes of one batch of each model; the gradients are left in the weights."""
    pairs = [[pair for row in own for pair in tokens.pairs(row)] for tokens, own in zip(data, chosen, strict=True)]
    # Places in the order of the rows, the longest pairs first.
    orders = [
        sorted(range(len(own)), key=lambda place, ids=tokens.ids, own=own: -len(ids[own[place]]))
        for tokens, own in zip(data, pairs, strict=True)
    ]
    batch = batch_of(
        [(of, [own[place] for place in order]) for of, own, order in zip(data, pairs, orders, strict=True)],
        models.device,
    )
    # The loss of one model depends on no other, so that chunks are of models; each is a sum over them.
    tokens = batch.ids[0].numel() * len(views.levels)
    size = max(1, BUDGET[models.device.split(":")[0]] // tokens)
    if size < models.count:
        raise ValueError(f"{models.count} models are too many for one pass; give --together {size}")
    seeds = np.zeros(batch.ids.shape[:2], dtype=np.int64)
    for model, (own, draw, order) in enumerate(zip(chosen, draws, orders, strict=True)):
        rows = [(data[model].rows[row]["query"], doc) for row in own for doc in data[model].rows[row]["docs"]]
        seeds[model, : len(rows)] = [example_seed(*rows[place], draw) for place in order]
    scores = torch.stack(views.scores(models, batch, seeds), dim=-1)  # (E, R, 1 + steps)
    values, losses = [], []
    for model, own in enumerate(chosen):
        found = [data[model].rows[row] for row in own]
        sizes = [len(row["docs"]) for row in found]
        labels = torch.tensor([label for row in found for label in row["labels"]], device=models.device)
        back = np.argsort(orders[model])  # to the order of the rows
        mine = scores[model, torch.from_numpy(back).to(models.device)]
        example = torch.repeat_interleave(torch.arange(len(own)), torch.tensor(sizes))

        def value_of(mine: Tensor, labels: Tensor = labels, sizes: Any = sizes, example: Tensor = example) -> Any:
            loss = _listnet(mine, labels, sizes) if task.listwise else _entropy(mine, labels)  # (rows, 1 + steps)
            if objective is None:
                return loss, loss[:, 0]
            outputs = Outputs(mine[..., None], example.to(mine.device)) if objective.needs_outputs else None
            return loss, objective(loss, outputs)

        if views.share < 1:
            in_full = mine[:, :1].expand_as(mine)
            drawn = views.compared(example.tolist(), seeds[model, back])
            loss, value = value_of(torch.where(drawn.to(mine.device)[:, None], mine, in_full))
            # As `Comparison` has it: what comparing changes is divided by the share.
            unchanged = value_of(in_full)[1]
            value = unchanged + (value - unchanged) / views.share
            loss = loss[(loss != loss[:, :1]).any(dim=1)]  # the rates are of those that are compared
        else:
            loss, value = value_of(mine)
        values.append(value.mean())
        losses.append(loss.detach())
    total = torch.stack(values)
    total.sum().backward()
    log.add(total.detach(), losses, objective)


def _listnet(scores: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """ListNet for each query and step: the labels' softmax, times 10, against that of the scores."""
    found = [
        -(10.0 * label).softmax(0) @ score.log_softmax(0)
        for score, label in zip(scores.split(list(sizes)), labels.split(list(sizes)), strict=True)
    ]
    return torch.stack(found)


def _entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy for each pair and step."""
    return F.binary_cross_entropy_with_logits(scores, labels[:, None].expand_as(scores), reduction="none")


def _objective(arm: Arm, task: Task) -> Any:
    if not arm.ablations():
        return None
    from cmp_rerank.objectives import PairwiseHinge

    objective = arm.objective() if arm.objective is not None else PairwiseHinge()
    if task.listwise and hasattr(objective, "distribution"):
        objective = replace(objective, distribution="list")
    return objective


class _Views:
    """The views of an arm: for each pass whose copy a pair is, and at which level of CmpDrop."""

    def __init__(self, arm: Arm, models: Models) -> None:
        ablations = arm.ablations()
        self.share = arm.share
        self.levels: list[tuple[int, float]] = [(0, 0.0)]
        self.drop: CmpDrop | None = None
        if ablations:
            plan = Plan(ablations)
            views = plan.views(Example({"input_ids": np.zeros(1, dtype=np.int64)}, segment=np.array([-1])))
            found = [getattr(kind, "ablation", kind) for kind in plan.kinds]
            if any(isinstance(kind, CmpCrop) for kind in found):
                raise ValueError("arms that crop are trained one by one; leave --together out")
            self.levels = [(view.copy, sum(view.levels)) for view in views]
            self.drop = next((kind for kind in found if isinstance(kind, CmpDrop)), None)
        layers, width = models.config.num_hidden_layers, models.config.hidden_size
        chosen = [] if self.drop is None else self.drop.select(layers)
        self.sites = [site // 2 in chosen for site in range(2 * layers)]
        self.keys = [unit_keys(width, site, models.device) for site in range(2 * layers)]

    def compared(self, owner: Sequence[int], seeds: np.ndarray) -> Tensor:
        """Whether each pair of a model is of an example that is compared; ``owner`` has the example of each."""
        tokens = {"input_ids": np.zeros(1, dtype=np.int64)}
        examples = [Example(tokens, np.array([-1]), seed=int(seed)) for seed in seeds[: len(owner)]]
        return torch.tensor(sampled(owner, examples, self.share))

    def scores(self, models: Models, batch: Batch, seeds: np.ndarray) -> list[Tensor]:
        """The scores (E, R) of each pass, where every model has its longest pairs first."""
        parts = [self._scores(models, part, seeds[:, own]) for own, part in batch.parts(models.budget)]
        return [torch.cat(one, dim=1) for one in zip(*parts, strict=True)]

    def _scores(self, models: Models, batch: Batch, seeds: np.ndarray) -> list[Tensor]:
        count, pairs, tokens = batch.ids.shape
        positions = torch.arange(tokens, device=models.device).expand(count * pairs, tokens)
        found = []
        for copy, level in self.levels:
            drop: list[Rows | None] = []
            if level and self.drop is not None:
                own = [derived_seed(f"{seed} {copy}") if copy else seed for seed in seeds.ravel().tolist()]
                rows = Rows.of(
                    torch.tensor(own, device=models.device), positions, [self.drop.rate(level)] * (count * pairs)
                )
                drop = [rows if site else None for site in self.sites]
            found.append(models.scores(batch, drop, self.keys, training=True))
        return found


class _Log:
    """Means of what was seen, by tenths of the training."""

    def __init__(self, count: int, steps: int) -> None:
        self.every = max(1, steps // 10)
        self.count = count
        self.seen: list[list[dict[str, float]]] = [[] for _ in range(count)]

    def add(self, values: Tensor, losses: Sequence[Tensor], objective: Any) -> None:
        """Add a step."""
        for model, (value, loss) in enumerate(zip(values.tolist(), losses, strict=True)):
            found = {} if objective is None or not len(loss) else objective.diagnostics(loss)
            self.seen[model].append({"loss": value} | {name: float(rate) for name, rate in found.items()})

    def entries(self) -> list[dict[str, Any]]:
        """For each model lists of means; None where none of the steps has a rate."""

        def mean(values: list[float]) -> float | None:
            return round(float(np.mean(values)), 4) if values else None

        return [
            {
                name: [
                    mean([step[name] for step in seen[begin : begin + self.every] if name in step])
                    for begin in range(0, len(seen) - self.every + 1, self.every)
                ]
                for name in dict.fromkeys(name for step in seen for name in step)
            }
            for seen in self.seen
        ]


class _Best:
    """The weights of the epoch that was best for each model."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.values = [-1.0] * models.count
        self.epochs = [0.0] * models.count
        self.held = {name: weight.detach().clone() for name, weight in models.weights.items()}

    def see(self, epoch: float, values: Sequence[float]) -> None:
        """Look at the models after an epoch."""
        for model, value in enumerate(values):
            if value > self.values[model]:
                self.values[model], self.epochs[model] = float(value), epoch
                for name, weight in self.models.weights.items():
                    self.held[name][model] = weight.detach()[model]

    @torch.no_grad()
    def put(self) -> list[float]:
        """Put the best weights back; which epochs they are of."""
        for name, weight in self.models.weights.items():
            weight.copy_(self.held[name])
        return self.epochs


# Measuring ----------------------------------------------------------------------------------------------


def measure(models: Models, tokens: Tokens, task: Task) -> list[Values | None]:
    """For each model the values of all rows, as `training.measure` writes them; None for one that has diverged."""
    scores = models.all_scores(tokens)
    return [values_of(own, tokens.rows, task) if np.isfinite(own).all() else None for own in scores]
