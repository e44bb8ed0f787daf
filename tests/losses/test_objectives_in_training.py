"""Objectives over several passes, and what follows the training step, in a loss and in trainers: by slow loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss, MarginMSELoss, MSELoss
from slow_loop import gradients, same_gradients, slow_score
from tiny_models import OTHERS, PASSAGES, QUERIES
from tiny_readers import reader, windows
from torch import Tensor

from cmp_rerank import (
    CmpCrop,
    CmpDrop,
    ComparativeLoss,
    ComparativeTrainer,
    CosineSchedule,
    HingeRegularized,
    IndependentCopies,
    IntraDistillation,
    LinearSchedule,
    MeanOfSteps,
    RDrop,
    RerankerTrainer,
    RerankerTrainingArguments,
    ScheduledAblation,
    ScheduledObjective,
    TrainingProgress,
    WeightedByLoss,
    WeightedByViolation,
)
from cmp_rerank.ablations import Plan
from cmp_rerank.models.pairs import tokenise

LABELS = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
LISTS = [list(pair) for pair in zip(PASSAGES, OTHERS, strict=True)]
GRADES = [torch.tensor([1.0, 0.0], dtype=torch.float64)] * 4
DROP = CmpDrop(p=0.2)


# The slow loop: one row, one pass, plain arithmetic of tensors ---------------------------------------------


def slow_passes(model: CrossEncoder, pairs: Sequence[tuple[str, str]], passes: int, draw: str) -> Tensor:
    """Scores of independent copies, (rows, passes): pass k of a row has masks from the seed of its copy k."""
    plan = Plan([IndependentCopies(DROP, steps=passes - 1)])
    found = []
    for pair in pairs:
        (example,) = tokenise(model, [pair], plan, draw=draw)
        views = plan.views(example)
        assert len({example.seed_of(view.copy) for view in views}) == passes
        own = [slow_score(model, DROP, replace(example, seed=example.seed_of(view.copy)), view) for view in views]
        found.append(torch.cat(own))
    return torch.stack(found)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum()


def slow_r_drop(distributions: Sequence[Tensor]) -> Tensor:
    p, q = distributions
    return (kl(p, q) + kl(q, p)) / 2


def slow_intra(distributions: Sequence[Tensor]) -> Tensor:
    mean = sum(distributions) / len(distributions)
    return sum(kl(p, mean) + kl(mean, p) for p in distributions) / len(distributions)  # type: ignore[return-value]


def two_classes(z: Tensor) -> Tensor:
    return torch.stack([1 - z.sigmoid(), z.sigmoid()])


def check(model: CrossEncoder, loss: ComparativeLoss, columns: Any, labels: Any, total: Any) -> None:
    """Value and gradients of a loss equal those of the slow loop ``total(draw)``."""
    value = loss(columns, labels)
    value.backward()
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    expected = total("0 (0, 0)")
    expected.backward()
    torch.testing.assert_close(value, expected)
    slow = gradients(model)
    # Rates and labels are in single precision on both sides, so small entries agree relative to the largest only.
    same_gradients(found, slow, rtol=1e-5, atol=1e-6 * max(float(g.abs().max()) for g in slow.values()))


@pytest.mark.parametrize("strategy", ["naive", "stacked", "hybrid", "auto"])
@pytest.mark.parametrize("name", ["r-drop", "intra-distillation"])
def test_pointwise_over_the_labels(name: str, strategy: Any, tiny_model: CrossEncoder) -> None:
    model = tiny_model.double().train()
    passes = 2 if name == "r-drop" else 3
    objective = RDrop(1.5) if name == "r-drop" else IntraDistillation(1.5, passes)
    divergence = slow_r_drop if name == "r-drop" else slow_intra
    loss = ComparativeLoss(
        model, BinaryCrossEntropyLoss(model), [IndependentCopies(DROP, steps=passes - 1)], objective=objective,
        strategy=strategy,
    )  # fmt: skip

    def total(draw: str) -> Tensor:
        scores = slow_passes(model, list(zip(QUERIES, PASSAGES, strict=True)), passes, draw)
        values = []
        for z, label in zip(scores, LABELS, strict=True):
            task = sum(F.binary_cross_entropy_with_logits(each, label) for each in z) / passes
            values.append(task + 1.5 * divergence([two_classes(each) for each in z]))
        return torch.stack(values).mean()

    check(model, loss, [QUERIES, PASSAGES], LABELS, total)


@pytest.mark.parametrize("name", ["r-drop", "intra-distillation"])
def test_listwise_over_the_list(name: str, tiny_model: CrossEncoder) -> None:
    model = tiny_model.double().train()
    passes = 2 if name == "r-drop" else 3
    objective = RDrop(1.5, "list") if name == "r-drop" else IntraDistillation(1.5, passes, distribution="list")
    divergence = slow_r_drop if name == "r-drop" else slow_intra
    plan = [IndependentCopies(DROP, steps=passes - 1)]
    task = LambdaLoss(model)
    loss = ComparativeLoss(model, task, plan, objective=objective)
    control = ComparativeLoss(model, task, plan, objective=MeanOfSteps())

    def total(draw: str) -> Tensor:
        values = []
        for query, texts in zip(QUERIES, LISTS, strict=True):
            z = slow_passes(model, [(query, text) for text in texts], passes, draw)  # (passages, passes)
            values.append(1.5 * divergence([z[:, k].softmax(dim=0) for k in range(passes)]))
        # What the task loss adds is what the control gives: the split of LambdaLoss has tests of its own.
        mean: Tensor = control([QUERIES, LISTS], GRADES)
        return mean + torch.stack(values).mean()

    check(model, loss, [QUERIES, LISTS], GRADES, total)


def test_regression_by_values_and_by_margins(tiny_model: CrossEncoder) -> None:
    model = tiny_model.double().train()
    pairs = list(zip(QUERIES, PASSAGES, strict=True))
    plan = [IndependentCopies(DROP, steps=2)]

    def values(draw: str) -> Tensor:
        z = slow_passes(model, pairs, 3, draw)
        return (((z - LABELS[:, None]) ** 2).mean(1) + 2.0 * ((z - z.mean(1, keepdim=True)) ** 2).mean(1)).mean()

    objective = IntraDistillation(2.0, 3, distribution="values")
    loss = ComparativeLoss(model, MSELoss(model, activation_fn=torch.nn.Identity()), plan, objective=objective)
    check(model, loss, [QUERIES, PASSAGES], LABELS, values)
    model.zero_grad(set_to_none=True)

    def margins(draw: str) -> Tensor:
        z = slow_passes(model, pairs, 3, draw) - slow_passes(model, list(zip(QUERIES, OTHERS, strict=True)), 3, draw)
        return (((z - LABELS[:, None]) ** 2).mean(1) + 2.0 * ((z - z.mean(1, keepdim=True)) ** 2).mean(1)).mean()

    objective = IntraDistillation(2.0, 3, distribution="margins")
    loss = ComparativeLoss(model, MarginMSELoss(model, activation_fn=torch.nn.Identity()), plan, objective=objective)
    check(model, loss, [QUERIES, PASSAGES, OTHERS], LABELS, margins)


@pytest.mark.parametrize("kind", [WeightedByLoss, WeightedByViolation])
def test_weighted_examples(kind: Any, tiny_model: CrossEncoder) -> None:
    model = tiny_model.double().train()
    loss = ComparativeLoss(
        model, BinaryCrossEntropyLoss(model), [IndependentCopies(DROP)], objective=kind(RDrop(1.5), 3.0)
    )

    def total(draw: str) -> Tensor:
        scores = slow_passes(model, list(zip(QUERIES, PASSAGES, strict=True)), 2, draw)
        values, hard = [], []
        for z, label in zip(scores, LABELS, strict=True):
            task = torch.stack([F.binary_cross_entropy_with_logits(each, label) for each in z])
            values.append(task.mean() + 1.5 * slow_r_drop([two_classes(each) for each in z]))
            hard.append(float(task[0]) if kind is WeightedByLoss else max(0.0, float(task[0] - task[1])))
        weights = np.exp(3.0 * np.array(hard))
        assert np.ptp(weights) > 0.01
        return sum(float(w) * v for w, v in zip(weights / weights.sum(), values, strict=True))  # type: ignore[return-value]

    check(model, loss, [QUERIES, PASSAGES], LABELS, total)


# Trainers --------------------------------------------------------------------------------------------------


def plain_sgd(model: Any) -> tuple[Any, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def parameters(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same_parameters(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name, expected in b.items():
        torch.testing.assert_close(a[name], expected, rtol=1e-6, atol=1e-8)


def test_reranker_trainer_follows_the_schedule(
    tiny_model: CrossEncoder, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Three steps of SGD, with an alpha of 0, 1 and 2, are those of the slow loop."""
    model = tiny_model.double()
    objective = ScheduledObjective(RDrop(9.0), {"alpha": LinearSchedule(0.0, 3.0)})
    loss = ComparativeLoss(model, BinaryCrossEntropyLoss(model), [IndependentCopies(DROP)], objective=objective)
    data = datasets.Dataset.from_dict({"query": QUERIES, "passage": PASSAGES, "label": LABELS.tolist()})
    arguments = RerankerTrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=4, max_grad_norm=0, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    before = parameters(model)
    RerankerTrainer(model, arguments, train_dataset=data, loss=loss, optimizers=plain_sgd(model)).train()

    slow = CrossEncoder(str(tiny_checkpoint), device="cpu").double().train()
    optimizer, _ = plain_sgd(slow)
    for step in range(3):
        scores = slow_passes(slow, list(zip(QUERIES, PASSAGES, strict=True)), 2, f"0 ({step}, 0)")
        values = []
        for z, label in zip(scores, LABELS, strict=True):
            task = sum(F.binary_cross_entropy_with_logits(each, label) for each in z) / 2
            values.append(task + step * slow_r_drop([two_classes(each) for each in z]))
        torch.stack(values).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    same_parameters(parameters(model), parameters(slow))
    assert max(float((before[name] - p).abs().max()) for name, p in parameters(model).items()) > 1e-3


def trained_reranker(checkpoint: Path, folder: Path, resume: bool = False, steps: int = 6) -> dict[str, Tensor]:
    """A curriculum in everything: rate, number of steps, weight of the comparison, and of examples."""
    model = CrossEncoder(str(checkpoint), device="cpu")
    inner = ScheduledObjective(HingeRegularized(task="full"), {"weight": CosineSchedule(0.0, 4.0)})
    objective = ScheduledObjective(WeightedByLoss(MeanOfSteps()), {"tilt": LinearSchedule(-3.0, 3.0)})
    objective = replace(objective, objective=WeightedByLoss(inner))
    drop = ScheduledAblation(CmpDrop(p=0.3, steps=2), rate=LinearSchedule(0.0, 0.3), count=LinearSchedule(0.0, 2.0))
    loss = ComparativeLoss(model, BinaryCrossEntropyLoss(model), [drop], objective=objective)
    texts = [
        (query, text, float(text == own)) for query, own in zip(QUERIES, PASSAGES, strict=True) for text in PASSAGES
    ]
    query, passage, label = (list(column) for column in zip(*texts, strict=True))
    data = datasets.Dataset.from_dict({"query": query, "passage": passage, "label": label})
    arguments = RerankerTrainingArguments(
        str(folder), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-3, report_to=[], use_cpu=True,
        disable_tqdm=True, save_steps=3, logging_steps=1,
    )  # fmt: skip
    trainer = RerankerTrainer(model, arguments, train_dataset=data, loss=loss)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resume else None)
    assert loss.comparison.progress == TrainingProgress(5, 6)
    return parameters(model)


def test_a_resumed_curriculum_goes_on_where_it_was(tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = trained_reranker(tiny_checkpoint, tmp_path)
    resumed = trained_reranker(tiny_checkpoint, tmp_path, resume=True)
    assert all(torch.equal(whole[name], p) for name, p in resumed.items())
    start = parameters(CrossEncoder(str(tiny_checkpoint), device="cpu"))
    assert any(not torch.equal(start[name], p) for name, p in whole.items())


def slow_copies(model: Any, example: Any, passes: int) -> list[Any]:
    """What a model of transformers gives for each copy of an example, one at a time."""
    hooks = DROP.hooks(model)
    found = []
    for number in range(passes):
        positions = torch.arange(len(example))[None]
        features = {
            name: torch.from_numpy(np.asarray(value)).long()[None] for name, value in example.features.items()
        }
        features["attention_mask"] = torch.ones_like(positions)
        with hooks.installed(), hooks.rows(torch.tensor([example.seed_of(number)]), positions, [int(number > 0)]):
            found.append(model(**features))
    return found


def first_draw(trainer: ComparativeTrainer, row: Any) -> Any:
    """An example with the seed that it has in the first step."""
    from cmp_rerank.models.pairs import example_seed

    example = trainer.adapter.example(row)
    return replace(example, seed=example_seed(str(example.seed), "", f"{trainer.args.seed} (0, 0)"))


def comparative_trainer(model: Any, rows: Any, objective: Any, folder: Path) -> ComparativeTrainer:
    return ComparativeTrainer(
        model,
        transformers.TrainingArguments(
            str(folder), max_steps=1, per_device_train_batch_size=len(rows), max_grad_norm=0, report_to=[],
            use_cpu=True, disable_tqdm=True, save_strategy="no", remove_unused_columns=False,
        ),
        train_dataset=rows,
        ablations=[IndependentCopies(DROP, steps=objective.passes - 1)],
        objective=objective,
        optimizers=plain_sgd(model),
    )  # fmt: skip


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_comparative_trainer_on_a_classifier(problem: str, tmp_path: Path) -> None:
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    config = transformers.BertConfig(**sizes, num_labels=3, problem_type=problem)
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4.0)
    ids = [[2, 7, 8, 9, 3], [2, 9, 3], [2, 30, 31, 32, 33, 3]]
    numbers = [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.5, 0.0]]
    rows: Any = [
        {"input_ids": i, "labels": number if problem == "single_label_classification" else numbers[number]}
        for number, i in enumerate(ids)
    ]
    kind = {
        "single_label_classification": "labels",
        "multi_label_classification": "bernoulli",
        "regression": "values",
    }
    objective = IntraDistillation(2.0, 3, distribution=kind[problem])  # type: ignore[arg-type]
    trainer = comparative_trainer(model, rows, objective, tmp_path)
    before = parameters(model)
    trainer.train()
    after = parameters(model)

    model.load_state_dict(before, strict=False)
    model.zero_grad(set_to_none=True)
    values = []
    for number, row in enumerate(rows):
        z = [out.logits[0] for out in slow_copies(model, first_draw(trainer, row), 3)]
        target = torch.tensor(numbers[number], dtype=torch.float64)
        if kind[problem] == "labels":
            task = sum(F.cross_entropy(each, torch.tensor(number)) for each in z) / 3
            apart = slow_intra([each.softmax(dim=0) for each in z])
        elif kind[problem] == "bernoulli":
            task = sum(F.binary_cross_entropy_with_logits(each, target) for each in z) / 3
            apart = sum(slow_intra([two_classes(each[label]) for each in z]) for label in range(3))  # type: ignore[assignment]
        else:
            task = sum(F.mse_loss(each, target) for each in z) / 3
            apart = torch.stack(z).var(dim=0, correction=0).mean()
        values.append(task + 2.0 * apart)
    torch.stack(values).mean().backward()  # type: ignore[arg-type]
    expected = {name: before[name] - 0.05 * p.grad for name, p in model.named_parameters() if p.grad is not None}
    same_parameters(after, expected)
    assert max(float((before[name] - p).abs().max()) for name, p in after.items()) > 1e-3


def test_comparative_trainer_on_a_reader(tmp_path: Path) -> None:
    """Of starts and ends each on their own, over the tokens; their mean."""
    model, tokenizer = reader("bert")
    model.double()
    made = windows(tokenizer)
    rows = [made[number] for number in range(3)]
    trainer = comparative_trainer(model, rows, IntraDistillation(2.0, 2), tmp_path)
    before = parameters(model)
    trainer.train()
    after = parameters(model)

    model.load_state_dict(before, strict=False)
    model.zero_grad(set_to_none=True)
    values = []
    for row in rows:
        outputs = slow_copies(model, first_draw(trainer, row), 2)
        for name, label in (("start_logits", row.start), ("end_logits", row.end)):
            z = [out[name][0] for out in outputs]
            task = sum(F.cross_entropy(each, torch.tensor(label)) for each in z) / 2
            values.append(task + 2.0 * slow_intra([each.softmax(dim=0) for each in z]))
    torch.stack(values).mean().backward()  # type: ignore[arg-type]
    expected = {name: before[name] - 0.05 * p.grad for name, p in model.named_parameters() if p.grad is not None}
    same_parameters(after, expected)
    assert max(float((before[name] - p).abs().max()) for name, p in after.items()) > 1e-3


# Plans that follow the training step -----------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["naive", "stacked", "hybrid", "trunk", "auto"])
@pytest.mark.parametrize("step", [0, 1, 5])
def test_a_batch_is_that_of_the_plan_of_its_step(strategy: Any, step: int, tiny_model: CrossEncoder) -> None:
    """Value and gradients equal those of a plain plan with that rate and that number of steps."""
    tiny_model.double().train()
    task = BinaryCrossEntropyLoss(tiny_model)
    drop = CmpDrop(p=0.2, layers="top:1", steps=3)
    rate = LinearSchedule(0.05, 0.3, until=5)
    scheduled = ScheduledAblation(drop, rate=rate, count=LinearSchedule(1, 3, until=5))
    found = ComparativeLoss(tiny_model, task, [scheduled], objective=MeanOfSteps(), strategy=strategy)
    found.comparison.drawn = (step - 1, 0)
    value = found([QUERIES, PASSAGES], LABELS)
    value.backward()
    mine = gradients(tiny_model)
    tiny_model.zero_grad(set_to_none=True)
    plain = CmpDrop(p=rate(TrainingProgress(step)), layers="top:1", steps={0: 1, 1: 1, 5: 3}[step])
    expected = ComparativeLoss(tiny_model, task, [plain], objective=MeanOfSteps(), strategy="naive")
    expected.comparison.drawn = (step - 1, 0)
    wanted = expected([QUERIES, PASSAGES], LABELS)
    wanted.backward()
    torch.testing.assert_close(value, wanted)
    same_gradients(mine, gradients(tiny_model), rtol=1e-6, atol=1e-9)
    # A step that is not there yet is logged as the one before it.
    known = {name: float(x) for name, x in expected.diagnostics.items()}
    last = known[f"task_loss_step_{plain.steps}"]
    for number in range(1, 4):
        logged = float(found.diagnostics[f"task_loss_step_{number}"])
        assert logged == pytest.approx(known.get(f"task_loss_step_{number}", last))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_each_loss_is_logged_under_the_number_that_its_step_has_in_the_plan(
    count: int, tiny_model: CrossEncoder
) -> None:
    """Steps that are not there yet may stand before others: they are logged as the one before them."""
    tiny_model.train()
    task, drop = BinaryCrossEntropyLoss(tiny_model), CmpDrop(p=0.5)

    def logged(*ablations: Any) -> list[float]:
        loss = ComparativeLoss(tiny_model, task, ablations)
        loss([QUERIES, PASSAGES], LABELS.float())
        return [float(value) for name, value in loss.diagnostics.items() if name.startswith("task_loss")]

    # The plan without the steps that are not there.
    *before, last = logged(*[CmpCrop()] * count, drop)
    found = logged(ScheduledAblation(CmpCrop(steps=2), count=lambda progress: count), drop)
    assert found == pytest.approx([*before, *before[-1:] * (2 - count), last])
    assert last != pytest.approx(before[-1], rel=1e-3)


@pytest.mark.parametrize(
    "objective",
    [RDrop(), WeightedByLoss(RDrop()), IntraDistillation(passes=2, distribution="values"), HingeRegularized()],
)
def test_copies_that_a_schedule_has_not_added_yet(objective: Any, tiny_model: CrossEncoder) -> None:
    """Without a copy it is the task loss; with all of them the loss is that without a schedule."""
    tiny_model.train()
    task, copies = BinaryCrossEntropyLoss(tiny_model), IndependentCopies(DROP)

    def value(ablation: Any, objective: Any, step: int) -> Tensor:
        loss = ComparativeLoss(tiny_model, task, [ablation], objective=objective)
        loss.comparison.drawn = (step - 1, 0)
        return loss([QUERIES, PASSAGES], LABELS.float())  # type: ignore[no-any-return]

    scheduled = ScheduledAblation(copies, count=lambda progress: progress.step)
    plain = replace(objective, objective=MeanOfSteps()) if hasattr(objective, "objective") else MeanOfSteps()
    torch.testing.assert_close(value(scheduled, objective, 0), value(scheduled, plain, 0))
    torch.testing.assert_close(value(scheduled, objective, 1), value(copies, objective, 1))


@pytest.mark.parametrize("scheduled", [False, True])
def test_an_objective_for_another_number_of_passes_is_refused_at_once(
    scheduled: bool, tiny_model: CrossEncoder
) -> None:
    copies: Any = IndependentCopies(steps=2)
    if scheduled:
        copies = ScheduledAblation(copies, count=LinearSchedule(0, 2, until=10))
    task = BinaryCrossEntropyLoss(tiny_model)
    with pytest.raises(ValueError, match=r"compares 2 passes; got ablations with 2 steps.* give \[IndependentCopies"):
        ComparativeLoss(tiny_model, task, [copies], objective=RDrop())
    ComparativeLoss(tiny_model, task, [copies], objective=IntraDistillation(passes=3))
