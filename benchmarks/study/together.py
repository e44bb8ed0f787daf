"""Many cells in one training: the models of several seeds and learning rates as one model with one more dimension.

A GPU is far from busy with one small model. Here E models, each with weights of its own, go through every step side
by side: each weight is a tensor (E, ...), and a step takes one batch of each. What is studied comes from the package:
the batches, the draws, the crops, the masks of CmpDrop, the loss of readers, and the objectives. What is written here
once more is what surrounds it: the encoder (BERT), ListNet and binary cross-entropy, AdamW. A test compares the
weights with those of the trainers, arm by arm.

An arm with the model's own dropout draws other random numbers than the trainer; all else is equal up to rounding. On
a GPU products of training are in TF32, as is usual there; models are measured in 32 bits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cmp_rerank import GivenSupport
from cmp_rerank.ablations import Example, Plan, View
from cmp_rerank.ablations.drop import CmpDrop
from cmp_rerank.hooks.masks import Rows, unit_keys
from cmp_rerank.losses.core import sampled
from cmp_rerank.models.span_reader import kept_tokens, span_losses
from cmp_rerank.objectives import Outputs
from cmp_rerank.training.sampler import LengthBatches

from . import readers
from .arms import ARMS, Arm
from .bert import Batch, Models, PairTokens, Tokens, batch_of, tokenised
from .examples import Examples, of_pairs, of_windows
from .tasks import TASKS, Row, Task, load, training_rows
from .training import START_DROPOUT, Cell, Values, decode, open_start, values_of

#: Tokens times layers in one step of all models, ablated copies included: what the memory holds the states of.
BUDGET = {"cpu": 100_000, "cuda": 1_200_000}


def results_together(
    cells: Sequence[Cell], size: int, cache: Path, device: str, until: float
) -> Iterator[dict[str, Any]]:
    """Train the cells of an arm together, at most so many at once; none begins after the time ``until``."""
    ordered = sorted(cells, key=lambda cell: (cell.part, list(ARMS).index(cell.arm)))
    for _, same in groupby(ordered, key=lambda cell: (cell.part, cell.arm)):
        several = list(same)
        if time.time() > until:
            return
        for group in groups(several, size, cache, device):
            if time.time() < until:
                yield from run_cells(group, cache, device)


def groups(cells: Sequence[Cell], size: int, cache: Path, device: str) -> list[list[Cell]]:
    """Cells of one arm that can be trained together: with the same number of steps, and within the memory."""
    task, arm = TASKS[cells[0].task], ARMS[cells[0].arm]
    found: dict[int, list[Cell]] = {}
    most = 1
    for cell in cells:
        data = examples_of(cell, cache, device)
        lengths = data.lengths()
        batches = LengthBatches(lengths, task.batch, seed=cell.seed)
        most = max(most, *(sum(lengths[row] for row in batch) for batch in batches))
        found.setdefault(len(batches), []).append(cell)
    layers = task.layers * (1 + len(Plan(arm.ablations())))
    size = max(1, min(size, BUDGET[torch.device(device).type] // (most * layers)))
    return [own[begin : begin + size] for own in found.values() for begin in range(0, len(own), size)]


def run_cells(cells: Sequence[Cell], cache: Path, device: str) -> list[dict[str, Any]]:
    """Train and measure cells of one task, size, arm and part; a row for each, as `training.run_cell` gives it."""
    first = cells[0]
    task, arm = TASKS[first.task], ARMS[first.arm]
    epochs = task.sizes[first.size] * arm.epochs
    data = [examples_of(cell, cache, device) for cell in cells]
    model = open_start(task, cache, 0.0, device)
    begin = time.perf_counter()
    with _precision("high"):
        models, logs = train(
            model, task, arm, data, cells, epochs, asked(first.task, "validation", cache) if arm.keep_best else None
        )
    seconds = (time.perf_counter() - begin) / len(cells)
    values = measure(models, asked(first.task, first.part, cache), task)
    guarded = first.part == "test"
    seen = measure(models, asked(first.task, "guard", cache), task) if guarded else values
    found = []
    for cell, value, also, log in zip(cells, values, seen, logs, strict=True):
        drawn = [row["query"] for row in _rows_of(cell, cache)]
        row = {
            **asdict(cell),
            "seconds": round(seconds, 2),
            "together": len(cells),
            "passes": arm.passes * epochs,
            "rows": hashlib.sha256(repr(drawn).encode()).hexdigest()[:12],
            "log": log,
        }
        if value is None or also is None:
            row["failed"] = "the scores are not finite: the training has diverged"
        else:
            row |= {"mean": float(np.mean(decode(value, task))), "values": value}
            row |= {"guard": also} if guarded else {}
        found.append(row)
    return found


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# Rows, tokenised once for all arms ------------------------------------------------------------------------


_parts = lru_cache(maxsize=2)(load)


def _rows_of(cell: Cell, cache: Path) -> list[Row]:
    return training_rows(_parts(cell.task, cache)["train"], cell.size, cell.seed, TASKS[cell.task].noise)


@lru_cache(maxsize=1)
def _opened(task: str, cache: Path) -> Any:
    return open_start(TASKS[task], cache, 0.0, "cpu")


@lru_cache(maxsize=4)
def asked(task: str, part: str, cache: Path) -> Any:
    """The tokens of a part, to be measured: `Tokens`, or what a reader is `readers.Asked`."""
    rows, model = _parts(task, cache)[part], _opened(task, cache)
    if TASKS[task].reads:
        return readers.Asked.of(model, TASKS[task], rows)
    return tokenised(model, rows, TASKS[task].max_length)


def examples_of(cell: Cell, cache: Path, device: str = "cpu") -> Examples:
    """The training rows of a cell as examples."""
    arm = ARMS[cell.arm]
    crops = Plan(arm.ablations()).preparing is not None
    return _examples(cell.task, cell.size, cell.seed, cell.arm if crops else "", cache)


@lru_cache(maxsize=64)
def _examples(task: str, size: int, seed: int, crops: str, cache: Path) -> Examples:
    """Those of an arm that crops, or of all others."""
    rows = _rows_of(Cell(task, size, crops, 0.0, seed, "train"), cache)
    plan = plan_of(ARMS[crops], rows) if crops else Plan([])
    model = _opened(task, cache)
    return of_windows(model, plan, rows, TASKS[task]) if TASKS[task].reads else of_pairs(model, plan, rows)


def plan_of(arm: Arm, rows: Sequence[Row]) -> Plan:
    """The steps of an arm, with the support that rows give."""
    known = {(row["query"], row["docs"][0]): row["support"] for row in rows if "support" in row}
    return Plan(arm.ablations(GivenSupport(known) if known else None))


def operations(cell: Cell, cache: Path, width: int = 384) -> float:
    """Floating-point operations of a cell's training, about: of the layers' products, from the words of its rows."""
    task, arm = TASKS[cell.task], ARMS[cell.arm]
    pairs = [(row["query"], doc) for row in _rows_of(cell, cache) for doc in row["docs"]]
    tokens = sum(min(1.4 * len(f"{query} {doc}".split()) + 3, task.max_length) for query, doc in pairs)
    passes = arm.epochs * task.sizes[cell.size] * (1 + len(Plan(arm.ablations())))
    return 6.0 * tokens * passes * task.layers * 12 * width**2


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
    model: Any, task: Task, arm: Arm, data: Sequence[Examples], cells: Sequence[Cell], epochs: int,
    validation: Any = None, constant: bool = False,
) -> tuple[Models, list[dict[str, Any]]]:  # fmt: skip
    """Train a model for each cell, all of one arm; with ``validation`` the best epoch of each is kept.

    The learning rate falls after the warm-up, unless it is to be ``constant``.

    Returns:
        The models, and for each a log by tenths of the training.
    """
    models = Models(model, len(cells), arm.dropout)
    torch.manual_seed(cells[0].seed)  # of the models' own dropout
    samplers = [
        LengthBatches(own.lengths(), task.batch, seed=cell.seed) for own, cell in zip(data, cells, strict=True)
    ]
    steps = len(samplers[0]) * epochs
    warmup = max(1, steps // 10)
    optimizer = AdamW(models.weights, [cell.rate for cell in cells], arm.decay)
    passes = Passes(arm, models)
    objective = _objective(arm, task)
    log = _Log(len(cells), steps, objective)
    best = _Best(models) if validation is not None else None
    average: dict[str, Tensor] = {}
    step = 0
    for epoch in range(epochs):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for chosen in zip(*samplers, strict=True):
            drawn = [
                Drawn.of(own, rows, f"{cell.seed} {(step, 0)}", passes)
                for own, rows, cell in zip(data, chosen, cells, strict=True)
            ]
            log.add(*step_of(models, passes, objective, task, drawn))
            later = 1.0 if constant else (steps - step) / max(1, steps - warmup)
            share = step / warmup if step < warmup else later
            optimizer.update(max(0.0, share))
            step += 1
            if arm.averaged and step > steps // 2:
                for name, weight in models.weights.items():
                    held = average.setdefault(name, torch.zeros_like(weight))
                    held += (weight.detach() - held) / (step - steps // 2)
        if best is not None:
            with _precision("highest"):
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


def train_start(model: Any, task: Task, rows: Sequence[Row]) -> None:
    """Train a common start, as `training.make_start` does by a trainer."""
    data = of_windows(model, Plan([]), rows, task) if task.reads else of_pairs(model, Plan([]), rows)
    cell = Cell(task.name, len(rows), "plain", task.start_rate, 0, "start")
    with _precision("high"):
        arm = Arm(dropout=0.0 if task.reads else START_DROPOUT)
        models, _ = train(model, task, arm, [data], [cell], task.start[1], constant=True)
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            weight.copy_(models.weights[name][0])


def step_of(
    models: Models, passes: Passes, objective: Any, task: Task, drawn: Sequence[Drawn]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Forward and backward passes of one batch of each model; the gradients are left in the weights.

    Returns:
        The value (E,) of each model; the task losses of each part (rows of all models, passes); and which of these
        rows belong to which model, (rows,), -1 for those that are not compared.
    """
    scores = passes.scores(models, drawn)  # of all models' examples, (examples, passes, ...)
    # A model that has diverged is left alone: no other one depends on it.
    scores = scores.where(scores.isfinite(), scores.new_zeros(()))
    sizes = [len(own.rows) for own in drawn]
    of_model = np.repeat(np.arange(len(drawn)), sizes)
    # A row of a listwise loss is a query, else an example.
    before = np.cumsum([0, *sizes])
    row_of = np.concatenate([own.row + first for own, first in zip(drawn, before, strict=False)])
    labels = np.concatenate([own.labels for own in drawn])
    where = torch.from_numpy(row_of).to(models.device)
    if task.reads:
        kept = kept_tokens([own for each in drawn for own in each.views], scores.shape[-1] // 2)
        starts, ends = torch.from_numpy(labels).to(models.device).unbind(1)
        found = [(each.losses, each.outputs) for each in span_losses(scores, kept, starts, ends)]
    else:
        given = torch.from_numpy(labels[:, 0]).to(models.device, torch.float32)
        losses = _listnet(scores, given, where, sum(sizes)) if task.listwise else _entropy(scores, given)
        found = [(losses, lambda: Outputs(scores[..., None], where))]
    model = torch.from_numpy(of_model).to(models.device)
    weights = torch.from_numpy(1.0 / np.repeat(sizes, sizes)).to(models.device, torch.float32) / len(found)
    compared = np.concatenate([own.compared for own in drawn])
    total = scores.new_zeros(len(drawn))
    for losses, outputs in found:
        given = outputs() if getattr(objective, "needs_outputs", False) else None
        values = _values(objective, losses, given, passes.share)
        total = total.index_add(0, model, weights * values)
    total.sum().backward()
    mark = torch.from_numpy(np.where(compared, of_model, -1))
    return total.detach(), [losses.detach() for losses, _ in found], [mark] * len(found)


def _values(objective: Any, losses: Tensor, outputs: Outputs | None, share: float) -> Tensor:
    """What the objective makes of the task losses of each row, (rows,)."""
    if objective is None:
        return losses[:, 0]
    values: Tensor = objective(losses, outputs)
    if share < 1:

        def as_in_full(x: Tensor) -> Tensor:
            return x[:, :1].expand_as(x)

        # As `Comparison` has it: what comparing changes is divided by the share.
        full = outputs and replace(outputs, scores=as_in_full(outputs.scores))
        unchanged = objective(as_in_full(losses), full)
        values = unchanged + (values - unchanged) / share
    return values


def _listnet(scores: Tensor, labels: Tensor, row: Tensor, rows: int) -> Tensor:
    """ListNet for each query and pass, (rows, passes): the labels' softmax, times 10, against that of the scores."""
    lists, there = Outputs(scores[..., None], row).lists(rows)  # (rows, documents, passes, 1)
    wanted, _ = Outputs(labels[:, None, None], row).lists(rows)
    target = (10.0 * wanted[..., 0]).masked_fill(~there[..., None], -torch.inf).softmax(dim=1)  # (rows, documents, 1)
    found = lists[..., 0].masked_fill(~there[..., None], -1e30).log_softmax(dim=1)
    return -(target * found.masked_fill(~there[..., None], 0.0)).sum(dim=1)


def _entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy for each pair and pass."""
    return F.binary_cross_entropy_with_logits(scores, labels[:, None].expand_as(scores), reduction="none")


def _objective(arm: Arm, task: Task) -> Any:
    if not arm.ablations():
        return None
    from cmp_rerank.objectives import PairwiseHinge

    objective = arm.objective() if arm.objective is not None else PairwiseHinge()
    if task.listwise and hasattr(objective, "distribution"):
        objective = replace(objective, distribution="list")
    return objective


@dataclass(frozen=True)
class Drawn:
    """A batch of one model.

    Attributes:
        examples: With the seeds of this step.
        views: Of each example.
        row: (examples,) The row of the batch that each is of.
        rows: The numbers of the rows; of a pointwise loss and of windows each example is a row.
        labels: (examples, 1 or 2) See `Examples`.
        compared: (rows,) Whether the row's ablations are compared.
    """

    examples: list[Example]
    views: list[list[View]]
    row: np.ndarray
    rows: Sequence[int]
    labels: np.ndarray
    compared: np.ndarray

    @classmethod
    def of(cls, data: Examples, rows: Sequence[int], draw: str, passes: Passes) -> Drawn:
        """Draw for rows."""
        numbers = data.of(rows)
        examples = data.drawn(numbers, draw)
        sizes = [data.starts[row + 1] - data.starts[row] for row in rows]
        row = np.repeat(np.arange(len(rows)), sizes)
        views = passes.views(examples)
        compared = np.ones(len(rows), dtype=bool)
        if passes.share < 1:
            drawn = sampled(row.tolist(), examples, passes.share)
            views = [own if each else own[:1] * len(own) for own, each in zip(views, drawn, strict=True)]
            compared[row] = drawn
        return cls(examples, views, row, rows, data.labels[numbers], compared)


class Passes:
    """The passes of an arm through the models: each has a view of every example."""

    def __init__(self, arm: Arm, models: Models) -> None:
        self.share, self.reads = arm.share, models.reads
        self.plan = Plan(arm.ablations())
        self.crops = self.plan.preparing is not None
        # Without crops all examples have the same views, but for their tokens.
        self._same = self.plan.views(Example({"input_ids": np.zeros(1, dtype=np.int64)}, segment=np.array([-1])))
        kinds = [getattr(kind, "ablation", kind) for kind in self.plan.kinds]
        self.drop = next((kind for kind in kinds if isinstance(kind, CmpDrop)), None)
        layers, width = models.config.num_hidden_layers, models.config.hidden_size
        chosen = [] if self.drop is None else self.drop.select(layers)
        self.sites = [site // 2 in chosen for site in range(2 * layers)]
        self.keys = [unit_keys(width, site, models.device) for site in range(2 * layers)]

    def views(self, examples: Sequence[Example]) -> list[list[View]]:
        """The views of examples; the tokens of those of rerankers are not looked at without crops."""
        if self.crops:
            return [self.plan.views(example) for example in examples]
        if self.reads:
            return [[replace(view, tokens=np.arange(len(example))) for view in self._same] for example in examples]
        return [self._same] * len(examples)

    def scores(self, models: Models, drawn: Sequence[Drawn]) -> Tensor:
        """What the models give for their examples, model after model, example after example, (examples, passes).

        Of readers start, then end logits at the tokens' places in the whole window, (examples, passes, 2 * longest).
        """
        longest = max(len(example) for own in drawn for example in own.examples)
        found: list[Tensor] = []
        batch, places = None, torch.empty(0)
        for number in range(len(self._same)):
            if batch is None or self._reads_anew(drawn, number):
                batch, places, orders = self._batch(models, drawn, number)
            given = [
                self._scores(models, part, drawn, number, orders, own, longest)
                for own, part in batch.parts(models.budget)
            ]
            found.append(torch.cat(given, dim=1).flatten(0, 1)[places])
        return torch.stack(found, dim=1)

    def _reads_anew(self, drawn: Sequence[Drawn], number: int) -> bool:
        """Whether any example has other tokens than in the pass before."""
        return self.crops and not all(
            views[number].tokens is views[number - 1].tokens for own in drawn for views in own.views
        )

    def _batch(self, models: Models, drawn: Sequence[Drawn], number: int) -> tuple[Batch, Tensor, list[list[int]]]:
        """What the models read in a pass, the longest first; where each example stands; and the models' orders."""
        orders, several = [], []
        for own in drawn:
            lengths = [
                len(views[number]) if self.crops else len(example)
                for example, views in zip(own.examples, own.views, strict=True)
            ]
            order = sorted(range(len(lengths)), key=lambda i, lengths=lengths: -lengths[i])
            orders.append(order)
            several.append([self._tokens(own.examples[i], own.views[i][number]) for i in order])
        batch = batch_of(several, models.device)
        most = batch.ids.shape[1]
        places = [model * most + np.argsort(order) for model, order in enumerate(orders)]
        return batch, torch.from_numpy(np.concatenate(places)).to(models.device), orders

    def _tokens(self, example: Example, view: View) -> PairTokens:
        if not self.crops:
            return example.features["input_ids"], example.features["token_type_ids"], None
        return view.feature(example, "input_ids"), view.feature(example, "token_type_ids"), view.tokens

    def _scores(
        self, models: Models, batch: Batch, drawn: Sequence[Drawn], number: int, orders: Sequence[Sequence[int]],
        part: slice, longest: int,
    ) -> Tensor:  # fmt: skip
        """The scores (E, R) of a part of the places in a pass; of readers (E, R, 2 * longest)."""
        count, pairs = batch.ids.shape[:2]
        drop: list[Rows | None] = []
        if self.drop is not None and number:
            seeds = np.zeros((count, pairs), dtype=np.int64)
            rates = np.zeros((count, pairs))
            for model, (own, order) in enumerate(zip(drawn, orders, strict=True)):
                for place, i in enumerate(order[part]):
                    view = own.views[i][number]
                    level = sum(view.levels)
                    seeds[model, place] = own.examples[i].seed_of(view.copy)
                    rates[model, place] = self.drop.rate(level) if level else 0.0
            rows = Rows.of(
                torch.from_numpy(seeds.ravel()).to(models.device), batch.positions.flatten(0, 1),
                torch.from_numpy(rates.ravel()),
            )  # fmt: skip
            drop = [rows if site else None for site in self.sites]
        found = models.scores(batch, drop, self.keys, training=True)
        if not models.reads:
            return found
        # Padding goes to a place of its own behind the last one, which is cut off.
        where = batch.positions.masked_fill(~batch.there, longest)[..., None].expand_as(found)
        placed = found.new_zeros(count, pairs, longest + 1, 2).scatter(2, where, found)[:, :, :longest]
        return placed.transpose(2, 3).flatten(2)


class _Log:
    """Means of what was seen, by tenths of the training; read at the end, so that no step waits for it."""

    def __init__(self, count: int, steps: int, objective: Any) -> None:
        self.every = max(1, steps // 10)
        self.count, self.objective = count, objective
        self.seen: list[tuple[Tensor, list[Tensor], list[Tensor]]] = []

    def add(self, values: Tensor, losses: list[Tensor], models: list[Tensor]) -> None:
        """Add a step, see `step_of`."""
        self.seen.append((values, losses, models))

    def entries(self) -> list[dict[str, Any]]:
        """For each model lists of means; None where none of the steps has a rate."""
        steps: list[list[dict[str, float]]] = [[] for _ in range(self.count)]
        for values, losses, models in self.seen:
            loss, model = torch.cat(losses).cpu(), torch.cat(models)
            for number, value in enumerate(values.tolist()):
                own = loss[model == number]
                known = self.objective is not None and len(own) and bool(own.isfinite().all())
                rates = self.objective.diagnostics(own) if known else {}
                steps[number].append({"loss": value} | {name: float(rate) for name, rate in rates.items()})

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
            for seen in steps
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


def measure(models: Models, tokens: Any, task: Task) -> list[Values | None]:
    """For each model the values of all rows, as `training.measure` writes them; None for one that has diverged."""
    if isinstance(tokens, Tokens):
        scores = models.all_scores(tokens)
        return [values_of(own, tokens.rows, task) if np.isfinite(own).all() else None for own in scores]
    windows = [window.example.features for window in tokens.windows]
    logits = models.all_logits(Tokens([], [w["input_ids"] for w in windows], [w["token_type_ids"] for w in windows]))
    found: list[Values | None] = []
    for number in range(models.count):
        own = [each[number] for each in logits]
        finite = all(np.isfinite(each).all() for each in own)
        found.append(tokens.values([e[:, 0] for e in own], [e[:, 1] for e in own]) if finite else None)
    return found
