"""Training steps of many models at once: what surrounds a batch of each, and what the package does with it.

What is studied comes from the package: the batches, the draws, the crops, the masks of CmpDrop, the loss of readers,
and the objectives. What is written here once more is what surrounds it: ListNet and binary cross-entropy, AdamW; and
in `bert` the encoder. A test compares the weights with those of the trainers, arm by arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from cmp_rerank.ablations import Example, Plan, View
from cmp_rerank.ablations.drop import CmpDrop
from cmp_rerank.hooks.masks import Rows, unit_keys
from cmp_rerank.losses.core import sampled
from cmp_rerank.models.span_reader import kept_tokens, span_losses
from cmp_rerank.objectives import Outputs
from cmp_rerank.training.sampler import LengthBatches

from .arms import Arm
from .bert import Batch, Models, PairTokens, batch_of, products
from .cells import Cell
from .examples import Examples, of_pairs, of_windows
from .measuring import decode, measure
from .tasks import Row, Task


class AdamW:
    """AdamW with a learning rate for each model, and gradients of each model clipped, as transformers does it."""

    def __init__(self, weights: dict[str, Tensor], rates: Sequence[float], decay: float) -> None:
        self.weights, self.rates = weights, rates
        # The weights of each model, in the storage of all.
        self.own = [
            {name: nn.Parameter(weight.detach()[model]) for name, weight in weights.items()}
            for model in range(len(rates))
        ]
        groups: list[dict[str, Any]] = []
        for own in self.own:
            plain = [weight for name, weight in own.items() if "bias" in name or "LayerNorm" in name]
            decayed = [weight for name, weight in own.items() if not ("bias" in name or "LayerNorm" in name)]
            groups += [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
        # The fused one reads and writes memory a third as often as one operation after the other does.
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)

    def update(self, shares: Sequence[float]) -> None:
        """One step, at a share of each model's learning rate; at 0 its weights stay as they are."""
        for model, own in enumerate(self.own):
            for name, weight in own.items():
                gradient = self.weights[name].grad
                weight.grad = torch.zeros_like(weight) if gradient is None else gradient[model]
            nn.utils.clip_grad_norm_(own.values(), 1.0, foreach=True)
            for group in self.optimizer.param_groups[2 * model : 2 * model + 2]:
                group["lr"] = self.rates[model] * shares[model]
        self.optimizer.step()
        for weight in self.weights.values():
            weight.grad = None


def train(
    model: Any, task: Task, arm: Arm, data: Sequence[Examples], cells: Sequence[Cell], epochs: int,
    validation: Any = None, constant: bool = False, half: bool | None = None,
) -> tuple[Models, list[dict[str, Any]]]:  # fmt: skip
    """Train a model for each cell, all of one arm; with ``validation`` the best epoch of each is kept.

    The learning rate falls after the warm-up, unless it is to be ``constant``. Products are in bfloat16 if ``half``;
    None: as the task says.

    Returns:
        The models, and for each a log by tenths of the training.
    """
    half = task.half(cells[0].size) if half is None else half
    models = Models(model, len(cells), arm.dropout)
    models.keep_words(np.unique(np.concatenate([[0], *(each.tokens() for each in data)])))  # 0 is that of padding
    torch.manual_seed(cells[0].seed)  # of the models' own dropout
    courses = [_Course.of(own, cell, task, epochs) for own, cell in zip(data, cells, strict=True)]
    optimizer = AdamW(models.weights, [cell.rate for cell in cells], arm.decay)
    passes = Passes(arm, models)
    objective = _objective(arm, task)
    log = _Log([len(course) for course in courses], objective)
    best = _Best(models) if validation is not None else None
    average = _Average(models) if arm.averaged else None
    start = cells[0].part == "start"  # a cell is one of many, and has no bar of its own
    for step in tqdm(range(max(map(len, courses))), f"{task.name}: start", disable=not start):
        drawn: dict[int, Drawn] = {}  # cells of one seed, with other rates, draw the same
        for own, cell, course in zip(data, cells, courses, strict=True):
            if cell.seed not in drawn:
                drawn[cell.seed] = Drawn.of(own, course.rows(step), f"{cell.seed} {(step, 0)}", passes)
        batches = [drawn[cell.seed] for cell in cells]
        with products(models, "high", half):
            log.add(*step_of(models, passes, objective, task, batches), [bool(len(own.rows)) for own in batches])
        optimizer.update([course.share(step, constant) for course in courses])
        if average is not None:
            average.add([max(0, step + 1 - len(c) // 2) if step < len(c) else 0 for c in courses])
        ended = [step < len(c) and (step + 1) % (len(c) // epochs) == 0 for c in courses]
        if best is not None and any(ended):
            measured = measure(models, validation, task)
            values = [-1.0 if one is None else decode(one, task).mean() for one in measured]
            best.see([(step + 1) / (len(c) // epochs) for c in courses], values, ended)
    if average is not None:
        average.put()
    logs = log.entries()
    if best is not None:
        for entry, chosen_epoch in zip(logs, best.put(), strict=True):
            entry["best_epoch"] = chosen_epoch
    models.put_words()
    return models, logs


@dataclass(frozen=True)
class _Course:
    """The batches of one model, epoch after epoch. Readers differ in how many, since a row may have two windows."""

    batches: list[list[int]]

    @classmethod
    def of(cls, data: Examples, cell: Cell, task: Task, epochs: int) -> _Course:
        sampler = LengthBatches(data.lengths(), task.batch, seed=cell.seed)
        batches = []
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            batches += list(sampler)
        return cls(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def rows(self, step: int) -> list[int]:
        """The rows of a step; none where there are no steps left."""
        return self.batches[step] if step < len(self) else []

    def share(self, step: int, constant: bool) -> float:
        """The share of the learning rate in a step."""
        warmup = max(1, len(self) // 10)
        if step >= len(self):
            return 0.0
        later = 1.0 if constant else (len(self) - step) / max(1, len(self) - warmup)
        return step / warmup if step < warmup else later


def train_start(model: Any, task: Task, rows: Sequence[Row]) -> None:
    """Train a common start, as `starts.make_start` does by a trainer; on a CPU in 32 bits.

    So it depends less on the processor, and can rather be made again where more cells are to be run.
    """
    data = of_windows(model, Plan([]), rows, task) if task.reads else of_pairs(model, Plan([]), rows)
    cell = Cell(task.name, len(rows), "plain", task.start_rate, 0, "start")
    arm = Arm(dropout=task.start_dropout)
    models, _ = train(model, task, arm, [data], [cell], task.start[1], constant=task.start_constant, half=False)
    models.copy_to(model)


def step_of(
    models: Models, passes: Passes, objective: Any, task: Task, drawn: Sequence[Drawn]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Forward and backward passes of one batch of each model; the gradients are left in the weights.

    Returns:
        The value (E,) of each model; the task losses of each part (rows of all models, passes); and whose each of
        these rows is, (rows,), -1 where it is not compared, on the CPU.
    """
    scores = passes.scores(models, drawn)  # of all models' examples, (examples, passes, ...)
    # A model that has diverged is left alone: no other one depends on it.
    scores = scores.where(scores.abs() < 1e30, scores.new_zeros(()))
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
        # What an objective makes of an example may depend on its batch, which is that of one model.
        if given is None:
            values = torch.cat(
                [_values(objective, own, None, passes.share) for own in losses.split(sizes) if len(own)]
            )
        else:
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
        full = outputs
        if outputs is not None:
            kept = None if outputs.kept is None else as_in_full(outputs.kept)
            full = replace(outputs, scores=as_in_full(outputs.scores), kept=kept)
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
    if not arm.ablations() or arm.instead:
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
        if passes.instead:
            ablated = sampled(row.tolist(), examples, passes.instead)
            views = [[own[-1] if each else own[0]] for own, each in zip(views, ablated, strict=True)]
        return cls(examples, views, row, rows, data.labels[numbers], compared)


class Passes:
    """The passes of an arm through the models: each has a view of every example."""

    def __init__(self, arm: Arm, models: Models) -> None:
        self.share, self.instead, self.reads = arm.share, arm.instead, models.reads
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
        """The views of examples; without crops those of a reranker need no tokens."""
        if self.crops:
            return [self.plan.views(example) for example in examples]
        if self.reads:
            return [[replace(view, tokens=np.arange(len(example))) for view in self._same] for example in examples]
        return [self._same] * len(examples)

    def scores(self, models: Models, drawn: Sequence[Drawn]) -> Tensor:
        """What the models give for their examples, model after model, example after example, (examples, passes).

        All passes go side by side. Of readers start, then end logits at the tokens' places in the whole window,
        (examples, passes, 2 * longest).
        """
        items = [
            [(example, view) for example, views in zip(own.examples, own.views, strict=True) for view in views]
            for own in drawn
        ]
        lengths = [np.array([len(view) if self.crops else len(each) for each, view in own]) for own in items]
        orders = [np.argsort(-own, kind="stable") for own in lengths]
        ordered = [[own[i] for i in order] for own, order in zip(items, orders, strict=True)]
        batch = batch_of([[self._tokens(*item) for item in own] for own in ordered], models.device)
        seeds, rates = self._draws(ordered, batch.ids.shape[1])
        longest = max(len(example) for own in drawn for example in own.examples)
        found = []
        for part, rows in batch.parts(models.budget):
            drop: list[Rows | None] = []
            if self.drop is not None:
                masks = Rows.of(
                    torch.from_numpy(seeds[:, part].ravel()).to(models.device), rows.positions.flatten(0, 1),
                    torch.from_numpy(rates[:, part].ravel()),
                )  # fmt: skip
                drop = [masks if site else None for site in self.sites]
            given = models.scores(rows, drop, self.keys, training=True)
            found.append(_placed(given, rows, longest) if models.reads else given)
        scores = torch.cat(found, dim=1).flatten(0, 1)
        places = [model * batch.ids.shape[1] + np.argsort(order) for model, order in enumerate(orders)]
        chosen = scores[torch.from_numpy(np.concatenate(places)).to(models.device)]
        return chosen.unflatten(0, (-1, 1 if self.instead else len(self._same)))

    def _tokens(self, example: Example, view: View) -> PairTokens:
        if not self.crops:
            return example.features["input_ids"], example.features["token_type_ids"], None
        return view.feature(example, "input_ids"), view.feature(example, "token_type_ids"), view.tokens

    def _draws(self, ordered: Sequence[Sequence[tuple[Example, View]]], pairs: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each place the seed of its masks, and its rate, (models, pairs)."""
        seeds, rates = np.zeros((len(ordered), pairs), dtype=np.int64), np.zeros((len(ordered), pairs))
        if self.drop is not None:
            for model, own in enumerate(ordered):
                for place, (example, view) in enumerate(own):
                    if level := sum(view.levels):
                        seeds[model, place] = example.seed_of(view.copy)
                        rates[model, place] = self.drop.rate(level)
        return seeds, rates


def _placed(logits: Tensor, batch: Batch, longest: int) -> Tensor:
    """Logits (E, R, T, 2) at the tokens' places in the whole window: starts, then ends, (E, R, 2 * longest)."""
    # Padding goes to a place of its own behind the last one, which is cut off.
    where = batch.positions.masked_fill(~batch.there, longest)[..., None].expand_as(logits)
    placed = logits.new_zeros(*logits.shape[:2], longest + 1, 2).scatter(2, where, logits)[:, :, :longest]
    return placed.transpose(2, 3).flatten(2)


class _Log:
    """Means of what was seen, by tenths of the training; read at the end, so that no step waits for it."""

    def __init__(self, steps: Sequence[int], objective: Any) -> None:
        self.steps, self.objective = steps, objective
        self.seen: list[tuple[Tensor, list[Tensor], list[Tensor], list[bool]]] = []

    def add(self, values: Tensor, losses: list[Tensor], models: list[Tensor], active: list[bool]) -> None:
        """Add a step, see `step_of`, and which models had a batch."""
        self.seen.append((values, losses, models, active))

    def entries(self) -> list[dict[str, Any]]:
        """For each model lists of means; None where none of the steps has a rate."""
        values = torch.stack([each for each, *_ in self.seen]).tolist()
        flat = torch.cat([loss for _, losses, *_ in self.seen for loss in losses]).cpu()
        steps: list[list[dict[str, float]]] = [[] for _ in self.steps]
        begin = 0
        for value, (_, _, models, active) in zip(values, self.seen, strict=True):
            model = torch.cat(models)
            loss = flat[begin : begin + len(model)]
            begin += len(model)
            for number in np.flatnonzero(active).tolist():
                own = loss[model == number]
                rates = self.objective.diagnostics(own) if self.objective is not None and len(own) else {}
                steps[number].append({"loss": value[number]} | {name: float(rate) for name, rate in rates.items()})

        def mean(values: list[float]) -> float | None:
            return round(float(np.mean(values)), 4) if values else None

        found = []
        for seen in steps:
            every = max(1, len(seen) // 10)
            tenths = [seen[begin : begin + every] for begin in range(0, len(seen) - every + 1, every)]
            names = dict.fromkeys(name for step in seen for name in step)
            found.append({name: [mean([s[name] for s in tenth if name in s]) for tenth in tenths] for name in names})
        return found


class _Average:
    """The running mean of each model's weights."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.held = {name: torch.zeros_like(weight) for name, weight in models.weights.items()}

    @torch.no_grad()
    def add(self, counts: Sequence[int]) -> None:
        """Add the weights of each model as the so many-th of its mean; those of 0 are not added."""
        share = torch.tensor([1 / count if count else 0.0 for count in counts]).to(self.models.device)
        for name, held in self.held.items():
            held.add_((self.models.weights[name] - held) * share.view(-1, *[1] * (held.ndim - 1)))

    @torch.no_grad()
    def put(self) -> None:
        """Replace the weights by their mean."""
        for name, held in self.held.items():
            self.models.weights[name].copy_(held)


class _Best:
    """The weights of the epoch that was best for each model."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.values = [-1.0] * models.count
        self.epochs = [0.0] * models.count
        self.held = {name: weight.detach().clone() for name, weight in models.weights.items()}

    def see(self, epochs: Sequence[float], values: Sequence[float], ended: Sequence[bool]) -> None:
        """Look at those models whose epoch has ended."""
        for model, value in enumerate(values):
            if ended[model] and value > self.values[model]:
                self.values[model], self.epochs[model] = float(value), epochs[model]
                for name, weight in self.models.weights.items():
                    self.held[name][model] = weight.detach()[model]

    @torch.no_grad()
    def put(self) -> list[float]:
        """Put the best weights back; which epochs they are of."""
        for name, weight in self.models.weights.items():
            weight.copy_(self.held[name])
        return self.epochs
