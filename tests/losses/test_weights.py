"""How a loss weighs its examples: value, gradients and diagnostics against a slow loop with weights by hand.

The other slow loops of this folder take the plain mean over examples. These losses do not: they average over
comparable pairs or over class weights, or they sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from slow_loop import gradients, same_gradients, slow_score
from tiny_models import OTHERS, PASSAGES, QUERIES, TEXTS, cross_encoder
from torch import Tensor, nn

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss
from cmp_rerank.ablations import Plan
from cmp_rerank.models.pairs import tokenise

# Lists of different lengths: with 3, 0, 1 and 0 pairs of unequal labels.
RAGGED = [
    [PASSAGES[0], OTHERS[0], OTHERS[1]],
    [PASSAGES[1]],
    [OTHERS[2], PASSAGES[2]],
    [OTHERS[3], OTHERS[2]],
]
RAGGED_LABELS = [
    torch.tensor([2.0, 0.0, 1.0]),
    torch.tensor([1.0]),
    torch.tensor([0.0, 1.0]),
    torch.tensor([0.0, 0.0]),
]
CLASSES = torch.tensor([0, 1, 2, 2])
BINARY = torch.tensor([1.0, 0.0, 1.0, 1.0])


class Served(nn.Module):
    """Stands for a model in a loss, and gives scores that were computed before, in order."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.num_labels = scores.shape[1]
        self.device = scores.device
        self.scores = scores
        self.at = 0

    def preprocess(self, pairs: Sequence[Any], **_: Any) -> dict[str, int]:
        return {"rows": len(pairs)}

    def forward(self, features: dict[str, int]) -> dict[str, Tensor]:
        self.at += features["rows"]
        return {"scores": self.scores[self.at - features["rows"] : self.at]}


@dataclass(frozen=True)
class Case:
    """A loss, a batch, and the weight of each example in the loss, worked out by hand."""

    loss: type
    options: dict[str, Any]
    columns: list[list[Any]]
    labels: Any
    weights: list[float]
    relevant: list[bool]  # of the pairs, column after column
    num_labels: int = 1
    double: bool = True  # whether the loss computes in double precision, given such scores
    comparative: dict[str, Any] = field(default_factory=dict)


def listwise(loss: type, **comparative: Any) -> Case:
    """The loss is a mean over the pairs of unequal labels of the batch."""
    relevant = [True, False, True, True, False, True, False, False]
    weights = [3 / 4, 0.0, 1 / 4, 0.0]
    return Case(
        loss,
        {},
        [QUERIES, RAGGED],
        RAGGED_LABELS,
        weights,
        relevant,
        double=False,
        comparative=comparative,
    )


def classes(weights: list[float], **options: Any) -> Case:
    options = {"weight": torch.tensor([1.0, 2.0, 5.0])} | options
    return Case(
        upstream.CrossEntropyLoss,
        options,
        [QUERIES, PASSAGES],
        CLASSES,
        weights,
        [False, True, True, True],
        num_labels=3,
        double=False,
    )


def pairs(loss: type, labels: Tensor, relevant: list[bool], **comparative: Any) -> Case:
    """The loss is a sum over pairs."""
    options = {"reduction": "sum"}
    return Case(loss, options, [QUERIES, PASSAGES], labels, [1.0] * 4, relevant, comparative=comparative)


def without_documents(loss: type, weights: list[float], labels: list[list[float]], **options: Any) -> Case:
    """The second query has no documents, the third has one."""
    lists = [[PASSAGES[0], OTHERS[0], OTHERS[1]], [], [OTHERS[2]], [OTHERS[3], PASSAGES[2]]]
    relevant = [label > 0 for each in labels for label in each]
    tensors = [torch.tensor(each) for each in labels]
    return Case(loss, options, [QUERIES, lists], tensors, weights, relevant, double=False)


GRADES = [[2.0, 0.0, 1.0], [], [1.0], [0.0, 3.0]]
CASES = {
    "ranknet": listwise(upstream.RankNetLoss),
    "ranknet, paper": listwise(upstream.RankNetLoss, reduction="sum"),
    "lambda": listwise(upstream.LambdaLoss),
    # A query without documents has a share in none of these, and one with a single document a loss of 0.
    "ranknet, no documents": without_documents(upstream.RankNetLoss, [3 / 4, 0.0, 0.0, 1 / 4], GRADES),
    "listnet, no documents": without_documents(upstream.ListNetLoss, [1 / 4, 0.0, 0.0, 1 / 4], GRADES),
    "list mle, no documents": without_documents(upstream.ListMLELoss, [1 / 4, 0.0, 0.0, 1 / 4], GRADES),
    "adr mse, no documents": without_documents(upstream.ADRMSELoss, [3 / 6, 0.0, 0.0, 2 / 6], GRADES),
    # A mean over all pairs of a query's documents, in any order; that of a document with itself is a constant.
    "lambda of nDCG 1": without_documents(
        upstream.LambdaLoss, [9 / 14, 0.0, 1 / 14, 4 / 14], GRADES, weighting_scheme=upstream.NDCGLoss1Scheme()
    ),
    "class weights": classes([1 / 13, 2 / 13, 5 / 13, 5 / 13]),
    "class weights, sum": classes([1.0, 2.0, 5.0, 5.0], reduction="sum"),
    "bce, sum": pairs(upstream.BinaryCrossEntropyLoss, BINARY, [True, False, True, True]),
    "mse, sum, full": pairs(upstream.MSELoss, BINARY, [True, False, True, True], baseline="full"),
    # Each example is the mean of two terms, on whose scale the baseline is.
    "two negatives, number": Case(
        upstream.MarginMSELoss,
        {},
        [QUERIES, PASSAGES, OTHERS, PASSAGES[::-1]],
        [torch.tensor([0.5, -1.5]), torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.5])],
        [0.25] * 4,
        [True] * 4 + [False] * 8,
        comparative={"baseline": 1.5},
    ),
    "two negatives, sum, number": Case(
        upstream.MarginMSELoss,
        {"reduction": "sum"},
        [QUERIES, PASSAGES, OTHERS, PASSAGES[::-1]],
        [torch.tensor([0.5, -1.5]), torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.5])],
        # A sum over eight terms is twice the sum over the four examples' means.
        [2.0] * 4,
        [True] * 4 + [False] * 8,
        comparative={"baseline": 1.5},
    ),
}


def slow_losses(model: CrossEncoder, case: Case, plan: Plan, draw: str) -> list[list[Tensor]]:
    """For each example its wrapped loss at every step: one pair, one step, one forward pass at a time."""
    queries, *columns = case.columns
    passages = [
        (i, text)
        for column in columns
        for i, texts in enumerate(column)
        for text in ([texts] if isinstance(texts, str) else texts)
    ]
    (drop,) = plan.on_model
    assert isinstance(drop, CmpDrop)
    scores: list[list[list[Tensor]]] = [[[] for _ in range(1 + len(plan))] for _ in queries]
    for (i, text), relevant in zip(passages, case.relevant, strict=True):
        (example,) = tokenise(model, [(queries[i], text)], plan, relevant=[relevant], draw=draw)
        for k, view in enumerate(plan.views(example)):
            scores[i][k].append(slow_score(model, drop, example, view))
    alone = case.loss(model, **{name: value for name, value in case.options.items() if name != "reduction"})
    losses: list[list[Tensor]] = []
    for i, steps in enumerate(scores):
        losses.append([])
        for step in steps:
            if not step:
                losses[-1].append(torch.zeros(()))
                continue
            alone.model = Served(torch.stack(step))
            found = alone([column[i : i + 1] for column in case.columns], case.labels[i : i + 1])
            # A mean over no pair was not a number before sentence-transformers 6.2.
            losses[-1].append(torch.zeros(()) if found.isnan() else found)
    return losses


def slow_comparison(losses: list[Tensor], baseline: Any, reduction: str) -> tuple[Tensor, list[int]]:
    """The hinges of one example, and how many of them pull at each step: up (-1 each) or down (+1 each)."""
    dummy = {"zero": torch.zeros(()), "full": losses[0].detach()}.get(baseline)
    values = [*losses, torch.tensor(float(baseline)) if dummy is None else dummy]
    total, pulls, count = torch.zeros(()), [0] * len(values), 0
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            count += 1
            if values[i] > values[j]:
                total = total + values[i] - values[j]
                pulls[i] += 1
                pulls[j] -= 1
    return total / (count if reduction == "mean" else 1), pulls[:-1]


@pytest.mark.parametrize("name", CASES)
def test_value_gradients_and_diagnostics_are_those_of_the_slow_loop(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = cross_encoder(tmp_path, num_labels=case.num_labels).train()
    if case.double:
        model.double()
    options = {"baseline": "zero", "reduction": "mean"} | case.comparative
    plan = [CmpCrop(), CmpDrop(p=0.2)]
    loss = ComparativeLoss(model, case.loss(model, **case.options), plan, **options)
    value = loss(case.columns, case.labels)
    value.backward()
    fast = gradients(model)
    model.zero_grad()

    losses = slow_losses(model, case, Plan(plan), "0 (0, 0)")
    compared = [slow_comparison(steps, **options) for steps in losses]
    # The canary: examples differ, and so do the sum of this loss and the plain mean over examples.
    expected = sum(weight * total for weight, (total, _) in zip(case.weights, compared, strict=True))
    if set(case.weights) - {0.0} != {1 / len(case.weights)}:
        plain = sum(total for total, _ in compared) / len(compared)
        assert (expected - plain).abs().item() > 1e-4 * plain.abs().item()
    expected.backward()
    rtol = 1e-6 if case.double else 1e-4
    torch.testing.assert_close(value.detach().double(), expected.detach().double(), rtol=rtol, atol=1e-6)
    same_gradients(fast, gradients(model), rtol=10 * rtol, atol=1e-6 if case.double else 1e-4)

    names = ["task_loss_full", "task_loss_step_1", "task_loss_step_2"]
    for k, step in enumerate(names):
        task = sum(weight * steps[k] for weight, steps in zip(case.weights, losses, strict=True))
        assert loss.diagnostics[step].item() == pytest.approx(task.item(), rel=1e-4)
    # The rates are those of the examples that enter the loss.
    entering = [k for k, weight in enumerate(case.weights) if weight]
    violated = [any(a > b for a, b in pairwise(losses[k])) for k in entering]
    assert loss.diagnostics["violation_rate"].item() == pytest.approx(sum(violated) / len(violated))
    lost = [any(losses[k][0] > other for other in losses[k][1:]) for k in entering]
    assert loss.diagnostics["beaten_rate"].item() == pytest.approx(sum(lost) / len(lost))
    zeros = [pull == 0 for k in entering for pull in compared[k][1]]
    assert loss.diagnostics["zero_weight_rate"].item() == pytest.approx(sum(zeros) / len(zeros))


@pytest.mark.parametrize("baseline", ["zero", "full", "best"])
def test_rates_are_those_of_the_baseline(baseline: Any, tiny_model: CrossEncoder) -> None:
    """With one step, which weights are 0 follows from which examples are out of order, and from the baseline."""
    loss = ComparativeLoss(tiny_model.train(), upstream.MSELoss(tiny_model), [CmpDrop(p=0.3)], baseline=baseline)
    queries, passages = [query for query in QUERIES for _ in TEXTS], TEXTS * len(QUERIES)
    # The canary: some examples are in order and some are not, and these rates differ.
    rates = set()
    for _ in range(4):
        loss([queries, passages], torch.ones(len(queries)))
        violated, zero = (loss.diagnostics[name].item() for name in ("violation_rate", "zero_weight_rate"))
        assert 0 < violated < 1
        rates.add(violated)
        if baseline == "zero":  # the full model has weight 1 or 2; the step 1, or 1 - 1
            assert zero == pytest.approx(violated / 2)
        else:  # in order: (0, 1); out of order: (1, -1), and with "best" (2, -1)
            assert zero == pytest.approx((1 - violated) / 2)
    assert len(rates) > 1
