"""Plain training is `Trainer`'s; comparative training is a slow loop over windows, views and pairs of losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as t
from optional_libraries import datasets
from tiny_models import SIZES, TEXTS, OutOfMemoryOnce, random_model
from tiny_readers import READERS, reader, windows, wordpiece
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from cmp_rerank.ablations import CmpCrop, CmpDrop, Example, FeedbackCounts, FixedCounts, IndependentCopies, Plan
from cmp_rerank.ablations.drop import DropHooks
from cmp_rerank.hooks.dropout import dropout_rates
from cmp_rerank.models.classifier import ClassifierAdapter, classification_losses
from cmp_rerank.models.pairs import example_seed
from cmp_rerank.models.span_reader import SpanReaderAdapter, span_losses
from cmp_rerank.reader import WholePassages, Window
from cmp_rerank.training import ComparativeTrainer

CROP, DROP = CmpCrop(), CmpDrop(p=0.3, layers="top:1")


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    defaults = dict(
        per_device_train_batch_size=2, learning_rate=1e-3, num_train_epochs=2, logging_steps=1, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, seed=7,
    )  # fmt: skip
    return TrainingArguments(str(folder), **(defaults | options))


def row(window: Window) -> dict[str, Any]:
    """A window as users tokenise theirs."""
    features = {name: value.tolist() for name, value in window.example.features.items()}
    return features | {
        "attention_mask": [1] * len(window), "start_positions": window.start, "end_positions": window.end,
    }  # fmt: skip


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# Without ablations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_without_ablations_it_is_the_plain_trainer(name: str, tmp_path: Path) -> None:
    """Bit for bit, with the model's own dropout and accumulated gradients."""

    def run(make: Callable[..., Trainer], seed: int = 7, **options: Any) -> tuple[list[float], torch.Tensor]:
        model, tokenizer = reader(name)
        data = windows(tokenizer)
        if make is Trainer:
            names = [*tokenizer.model_input_names, "start_positions", "end_positions"]
            names += ["global_attention_mask"] * (name == "longformer")
            data = [{key: value for key, value in row(window).items() if key in names} for window in data]
            if "global_attention_mask" in names:

                def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
                    width = max(len(r["input_ids"]) for r in rows)
                    rows = [r | {"global_attention_mask": r["global_attention_mask"]
                                 + [0] * (width - len(r["input_ids"]))} for r in rows]  # fmt: skip
                    return DataCollatorWithPadding(tokenizer)(rows)

                options["data_collator"] = pad
        trainer = make(
            model=model, args=arguments(tmp_path, gradient_accumulation_steps=2, seed=seed), train_dataset=data,
            processing_class=tokenizer, **options,
        )  # fmt: skip
        trainer.train()
        return losses(trainer), weights(model)

    expected_losses, expected = run(Trainer)
    found_losses, found = run(ComparativeTrainer, ablations=[])
    assert found_losses == expected_losses
    assert torch.equal(found, expected)
    # The canary: there is something to get wrong.
    assert not torch.equal(run(Trainer, seed=8)[1], expected)
    assert (expected - weights(reader(name)[0])).abs().max() > 1e-4


# The slow loop ---------------------------------------------------------------------------------------------------


def hinge(values: list[torch.Tensor]) -> torch.Tensor:
    """The mean over pairs of max(0, l(i) - l(j)), with a last loss of 0."""
    pairs = list(combinations([*values, torch.zeros_like(values[0])], 2))
    return torch.stack([(a - b).clamp(min=0) for a, b in pairs]).sum() / len(pairs)


def oracle(model: Any, data: list[Window], plan: Plan, draw: str) -> tuple[torch.Tensor, list[list[list[float]]]]:
    """One window, one view, one pass at a time: no padding, labels moved to the tokens that are left."""
    accepted = set(inspect.signature(model.forward).parameters)

    def inputs(example: Example, tokens: np.ndarray) -> dict[str, torch.Tensor]:
        known = {name: example.features[name][tokens] for name in accepted & set(example.features)}
        known["attention_mask"] = np.ones_like(tokens)
        return {name: torch.from_numpy(value.astype(np.int64))[None] for name, value in known.items()}

    first = data[0].example
    probe = {name: value.repeat(2, 1) for name, value in inputs(first, first.full().tokens).items()}
    ablation = None if not plan.on_model else DropHooks(model, plan.on_model[0], lambda: model(**probe))
    total = torch.zeros((), dtype=torch.float64)
    seen = []
    for window in data:
        example = replace(window.example, seed=example_seed(str(window.example.seed), "", draw))
        of_start, of_end = [], []
        for view in plan.views(example):
            features = inputs(example, view.tokens)
            positions = torch.from_numpy(view.tokens)[None]
            if ablation is None:
                out = model(**features)
            else:
                with ablation.installed(), ablation.rows(torch.tensor([example.seed]), positions, [view.level(0)]):
                    out = model(**features)
            at = {int(token): place for place, token in enumerate(view.tokens)}
            of_start.append(F.cross_entropy(out.start_logits, torch.tensor([at[window.start]])))
            of_end.append(F.cross_entropy(out.end_logits, torch.tensor([at[window.end]])))
        total = total + (hinge(of_start) + hinge(of_end)) / 2 / len(data)
        seen.append([[float(v.detach()) for v in values] for values in (of_start, of_end)])
    return total, seen


def rates(examples: list[list[float]]) -> tuple[float, float]:
    """Shares of examples of which some step does better than one before it, and of steps whose loss no pair moves."""
    wrong = sum(any(a > b for a, b in combinations(values, 2)) for values in examples) / len(examples)
    idle = []
    for values in examples:
        leveled = [*values, 0.0]
        for i in range(len(values)):
            down = sum(leveled[i] > leveled[j] for j in range(i + 1, len(leveled)))
            up = sum(leveled[j] > leveled[i] for j in range(i))
            idle.append(down == up)
    return wrong, sum(idle) / len(idle)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def close(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], tolerance: float) -> None:
    assert expected.keys() == found.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    assert scale > 1e-6, "nothing is compared: all gradients are zero"
    worst = max(float((expected[name] - found[name]).abs().max()) for name in expected)
    assert worst <= tolerance * scale, f"gradients differ by {worst / scale:.2g} of the largest"


PLANS = {
    "crop, drop, drop": [CROP, CmpDrop(p=0.3, layers="top:1", steps=2)],
    "crop": [CmpCrop(steps=2)],
}


@pytest.mark.parametrize("ablations", PLANS)
@pytest.mark.parametrize("name", READERS)
def test_every_strategy_equals_the_slow_loop(name: str, ablations: str, tmp_path: Path) -> None:
    model, tokenizer = reader(name)
    if ablations == "crop":  # without a drop the model's own dropout runs
        for holder, rate, _ in dropout_rates(model):
            holder[rate] = 0.0
    # In float64 the gradients of transformers' Longformer are no numbers where a batch is padded.
    model, tolerance = (model.train(), 2e-5) if name == "longformer" else (model.double().train(), 1e-6)
    data = windows(tokenizer, crop=CROP)
    assert len({len(w) for w in data}) > 2
    assert {w.start == 0 for w in data} == {True, False}
    plan = Plan(PLANS[ablations])
    draw = "7 (0, 0)"
    expected, seen = oracle(model, data, plan, draw)
    expected.backward()
    wanted = gradients(model)
    spread = [max(values) - min(values) for pair in seen for values in pair]
    assert max(spread) > 1e-2  # the steps differ, so that a mixed-up view would show

    def run(strategy: Any) -> None:
        trainer = ComparativeTrainer(
            model, arguments(tmp_path), train_dataset=data, processing_class=tokenizer, ablations=PLANS[ablations],
            strategy=strategy, tokens_per_chunk=150,
        )  # fmt: skip
        model.train()
        loss = trainer.compute_loss(model, trainer.data_collator(data))
        loss.backward()
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=tolerance / 10)
        close(wanted, gradients(model), tolerance)
        # Diagnostics: the task losses, and how often a step is better than the one before it.
        each = np.array(seen).reshape(-1, len(plan) + 1)
        names = ["task_loss_full", *(f"task_loss_step_{k}" for k in range(1, len(plan) + 1))]
        means = each.mean(axis=0).tolist()
        assert [float(trainer.diagnostics[n]) for n in names] == pytest.approx(means, rel=tolerance / 10)
        wrong, idle = rates(each.tolist())
        assert float(trainer.diagnostics["violation_rate"]) == pytest.approx(wrong, abs=1e-6)
        assert float(trainer.diagnostics["zero_weight_rate"]) == pytest.approx(idle, abs=1e-6)

    for strategy in ("naive", "stacked", "hybrid", "auto"):
        run(strategy)
    if ablations != "crop":
        if name in ("bert", "roberta", "modernbert"):
            run("trunk")
        else:
            try:
                run("trunk")
            except ValueError as error:
                assert "cannot be used with" in str(error)  # noqa: PT017


def test_the_full_model_runs_without_its_own_dropout(tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    data = windows(tokenizer, crop=CROP)
    trainer = ComparativeTrainer(
        model, arguments(tmp_path), train_dataset=data, processing_class=tokenizer, ablations=[DROP]
    )
    model.train()
    batch = trainer.data_collator(data)
    _, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    starts, ends = trainer.logits(data)
    for i, window in enumerate(data):
        assert torch.allclose(outputs["start_logits"][i, : len(window)], torch.from_numpy(starts[i]), atol=1e-5)
        assert torch.allclose(outputs["end_logits"][i, : len(window)], torch.from_numpy(ends[i]), atol=1e-5)
    assert model.training
    with_own = model(**{n: v for n, v in batch.items() if n in ("input_ids", "token_type_ids", "attention_mask")})
    assert (with_own.start_logits - outputs["start_logits"]).abs().max() > 1e-3
    # Crops alone leave it on.
    cropping = ComparativeTrainer(
        model, arguments(tmp_path), train_dataset=data, processing_class=tokenizer, ablations=[CROP]
    )
    one, other = (cropping.compute_loss(model, batch).item() for _ in range(2))
    assert one != other


def test_views_derive_from_seed_step_and_example(tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    data = windows(tokenizer, crop=CROP)
    made: list[list[tuple[int, ...]]] = []

    class Noting(SpanReaderAdapter):
        def split(self, model: Any, scores: Any, views: Any, *others: Any) -> Any:
            made.append([tuple(steps[-1].tokens) for steps in views])
            return super().split(model, scores, views, *others)

    def views(seed: int, step: int, batch: list[Window], batches: int = 1) -> list[tuple[int, ...]]:
        trainer = ComparativeTrainer(
            model,
            arguments(tmp_path, seed=seed),
            train_dataset=data,
            processing_class=tokenizer,
            ablations=[CROP, DROP],
            adapter=Noting.of(model, tokenizer),
        )
        trainer.state.global_step = step
        model.train()
        for _ in range(batches):
            trainer.compute_loss(model, trainer.data_collator(batch))
        return made[-1]

    first = views(7, 3, data)
    assert views(7, 3, data) == first
    assert views(7, 3, data[::-1]) == first[::-1]  # on any row
    assert views(7, 3, data[2:4]) == first[2:4]  # of any process
    others = [views(8, 3, data), views(7, 4, data), views(7, 3, data, batches=2)]
    assert all(other != first for other in others)


# The loss of an example --------------------------------------------------------------------------------------------


def test_labels_outside_of_the_window_are_ignored(tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    model = model.double()
    data = list(windows(tokenizer, crop=CROP))
    outside = [
        *data[:2],
        replace(data[2], start=len(data[2]), end=len(data[2]) + 40),
        replace(data[3], start=-1, end=-1),
    ]
    trainer = ComparativeTrainer(
        model, arguments(tmp_path), train_dataset=outside, processing_class=tokenizer, ablations=[DROP]
    )

    def run(batch: list[Window]) -> tuple[float, dict[str, torch.Tensor]]:
        trainer.comparison.drawn = (-1, 0)
        model.train()
        loss = trainer.compute_loss(model, trainer.data_collator(batch))
        loss.backward()
        return loss.item(), gradients(model)

    found, grad = run(outside)
    expected, wanted = run([*data[:2], replace(data[3], start=0, end=0)])
    assert found == pytest.approx(expected, rel=1e-9)
    close(wanted, grad, 1e-9)
    nothing, none = run([outside[2]])
    assert nothing == 0.0
    assert all(float(g.abs().max()) == 0 for g in none.values())


def test_a_step_is_taken_again_when_memory_runs_out_in_the_backward_pass(tmp_path: Path) -> None:
    """With the same views, so that the weights are those of a large memory."""

    found = []
    for failing in (0, 1):
        OutOfMemoryOnce.fail = failing
        model, tokenizer = reader("bert")
        model.double()
        before = weights(model)
        model.bert.embeddings.register_forward_hook(lambda _, __, out: OutOfMemoryOnce.apply(out))
        data = list(windows(tokenizer, crop=CROP))
        trainer = ComparativeTrainer(
            model, arguments(tmp_path, max_steps=3, optim="sgd", learning_rate=0.1), train_dataset=data,
            processing_class=tokenizer, ablations=[CROP, DROP], strategy="stacked",
        )  # fmt: skip
        trainer.train()
        assert trainer.comparison.scorer.budget.events == failing
        found.append(weights(model))
    moved = (found[0] - before).abs().max()
    assert moved > 1e-4
    assert (found[0] - found[1]).abs().max() < 1e-9 * moved


def test_full_losses_are_the_models_own() -> None:
    """Where nothing is padded the weighted sum of single losses is what transformers computes."""
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 10, dtype=torch.float64)
    kept = torch.ones(3, 2, 5, dtype=torch.bool)
    starts, ends = torch.tensor([[0], [4], [9]]), torch.tensor([[2], [4], [5]])
    found = span_losses(logits, kept, starts, ends)
    for k in range(2):
        expected = t.loss.loss_utils.ForQuestionAnsweringLoss(logits[:, k, :5], logits[:, k, 5:], starts, ends)
        value = sum(each.weights @ each.losses[:, k] for each in found) / 2
        assert float(value) == pytest.approx(float(expected), rel=1e-12)
    # A view alone is what it is beside the full one, though its label is behind as many tokens as it has.
    kept[:, 1] &= torch.arange(5) > 1
    cropped = (logits[:1], kept[:1], torch.tensor([4]), torch.tensor([4]))
    for both, alone in zip(
        span_losses(*cropped), span_losses(logits[:1, 1:], kept[:1, 1:], *cropped[2:]), strict=True
    ):
        assert alone.losses[0, 0] == both.losses[0, 1] > 0
    kept[:, 1] = torch.arange(5) < 2
    with pytest.raises(ValueError, match="lost the token of its label"):
        span_losses(logits, kept, starts, ends)


CLASSES = {
    "single_label_classification": (3, torch.tensor([0, 2, -100, 1])),
    "regression": (1, torch.tensor([0.5, -1.0, 2.0, 0.0])),
    "multi_label_classification": (3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1]])),
}


@pytest.mark.parametrize("problem", CLASSES)
def test_classification_losses_are_those_of_transformers(problem: str) -> None:
    width, labels = CLASSES[problem]
    torch.manual_seed(0)
    logits = torch.randn(4, 2, width)
    (found,) = classification_losses(logits, labels, problem)
    config = t.BertConfig(num_labels=width, problem_type=problem)
    for k in range(2):
        expected = t.loss.loss_utils.ForSequenceClassificationLoss(labels, logits[:, k], config)
        assert float(found.weights @ found.losses[:, k]) == pytest.approx(float(expected), rel=1e-6)


# Sequence classification -------------------------------------------------------------------------------------------


def classifier(labels: int = 2, **options: Any) -> tuple[Any, Any]:
    tokenizer = wordpiece()
    config = t.BertConfig(**SIZES, vocab_size=len(tokenizer), pad_token_id=0, num_labels=labels, **options)
    return random_model(t.BertForSequenceClassification, config), tokenizer


def texts(tokenizer: Any, labels: list[Any]) -> list[dict[str, Any]]:
    encoded = tokenizer([text[: 30 + 15 * i] for i, text in enumerate(TEXTS[: len(labels)])])
    return [{name: values[i] for name, values in encoded.items()} | {"labels": labels[i]} for i in range(len(labels))]


@pytest.mark.parametrize(
    ("labels", "width"), [([0, 1, 1, 0], 2), ([0.5, -1.0, 2.0, 0.0], 1), ([[1.0, 0.0], [0.0, 1.0]] * 2, 2)]
)
def test_classifiers_without_ablations(labels: list[Any], width: int, tmp_path: Path) -> None:
    def run(make: Any, **options: Any) -> tuple[list[float], torch.Tensor]:
        model, tokenizer = classifier(width)
        trainer = make(
            model=model, args=arguments(tmp_path, gradient_accumulation_steps=2),
            train_dataset=texts(tokenizer, labels), processing_class=tokenizer, **options,
        )  # fmt: skip
        trainer.train()
        return losses(trainer), weights(model)

    expected_losses, expected = run(Trainer)
    found_losses, found = run(ComparativeTrainer)
    assert found_losses == expected_losses
    assert torch.equal(found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classifiers_equal_the_slow_loop(smoothing: float, tmp_path: Path) -> None:
    model, tokenizer = classifier()
    model = model.double().train()
    data = texts(tokenizer, [0, 1, 1, 0])
    for each in data:  # two segments in each text, the first of which supports the label
        n = len(each["input_ids"])
        each["segment"] = [-1, *[0] * (n // 2 - 1), *[1] * (n - n // 2 - 1), -1]
        each["support"] = [0]
    plan = Plan([CmpCrop(), DROP])
    trainer = ComparativeTrainer(
        model, arguments(tmp_path, label_smoothing_factor=smoothing), train_dataset=data, processing_class=tokenizer,
        ablations=plan.ablations, strategy="hybrid",
    )  # fmt: skip
    collator = trainer.data_collator
    ablation = DropHooks(model, plan.on_model[0])
    expected = torch.zeros((), dtype=torch.float64)
    cropped = 0
    for each in data:
        example = collator.adapter.example(each)
        example = replace(example, seed=example_seed(str(example.seed), "", "7 (0, 0)"))
        values = []
        for view in plan.views(example):
            cropped += len(view) < len(example)
            positions = torch.from_numpy(view.tokens)[None]
            features = {n: torch.from_numpy(v[view.tokens])[None] for n, v in example.features.items()}
            with ablation.installed(), ablation.rows(torch.tensor([example.seed]), positions, [view.level(0)]):
                logits = model(**features).logits
            values.append(F.cross_entropy(logits, torch.tensor([each["labels"]]), label_smoothing=smoothing))
        expected = expected + hinge(values) / len(data)
    assert cropped
    expected.backward()
    wanted = gradients(model)
    loss = trainer.compute_loss(model, collator(data))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    close(wanted, gradients(model), 1e-9)
    logits = trainer.logits(data)
    assert [len(each) for each in logits] == [2] * 4


@pytest.mark.parametrize(("labels", "width"), [([0.5, 1.5], 1), ([[0.0, 1.0], [1.0, 1.0]], 2)])
def test_label_smoothing_without_a_class_is_refused(labels: list[Any], width: int, tmp_path: Path) -> None:
    model, tokenizer = classifier(width)
    trainer = ComparativeTrainer(
        model, arguments(tmp_path, label_smoothing_factor=0.1), train_dataset=texts(tokenizer, labels),
        processing_class=tokenizer, ablations=[DROP],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"label_smoothing_factor must be 0 for .*; got 0\.1"):
        trainer.train()


def test_label_smoothing_of_a_reader_is_refused(tmp_path: Path) -> None:
    name = next(iter(READERS))
    model, tokenizer = reader(name)
    trainer = ComparativeTrainer(
        model, arguments(tmp_path, label_smoothing_factor=0.1), train_dataset=windows(tokenizer),
        processing_class=tokenizer, ablations=[DROP],
    )  # fmt: skip
    with pytest.raises(ValueError, match="label_smoothing_factor must be 0 for starts and ends of answers"):
        trainer.train()


def test_label_smoothing_by_an_adapter_that_has_none_is_refused(tmp_path: Path) -> None:
    class Plain(ClassifierAdapter):
        def split(self, model: Any, scores: Any, views: Any, labels: Any) -> Any:  # type: ignore[override]
            return super().split(model, scores, views, labels)

    model, tokenizer = classifier()

    def train(smoothing: float) -> None:
        ComparativeTrainer(
            model, arguments(tmp_path, label_smoothing_factor=smoothing), train_dataset=texts(tokenizer, [0, 1]),
            processing_class=tokenizer, ablations=[DROP], adapter=Plain.of(model, tokenizer),
        ).train()  # fmt: skip

    with pytest.raises(ValueError, match=r"must be 0 for Plain, whose split has no argument smoothing; got 0\.1"):
        train(0.1)
    train(0.0)


def test_accumulated_batches_are_averaged(tmp_path: Path) -> None:
    """Models that count items of an accumulated batch themselves would have the sum."""
    model, tokenizer = classifier()
    seen: list[float] = []

    class Noting(ComparativeTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            seen.append(float(loss.detach()))
            return loss

    trainer = Noting(
        model, arguments(tmp_path, gradient_accumulation_steps=2, num_train_epochs=1),
        train_dataset=texts(tokenizer, [0, 1, 1, 0]), processing_class=tokenizer, ablations=[DROP],
    )  # fmt: skip
    trainer.train()
    assert len(seen) == 2
    assert losses(trainer) == pytest.approx([sum(seen) / 2], abs=1e-3)


def test_own_rows_train_like_windows(tmp_path: Path) -> None:
    """Rows that users tokenised, padded to the longest, give the same loss as windows of the same tokens."""
    model, tokenizer = reader("bert")
    data = windows(tokenizer)
    padded = []
    for window in data:
        pad = 90 - len(window)
        each = {name: value + [0] * pad if isinstance(value, list) else value for name, value in row(window).items()}
        padded.append(each)
    found = []
    for rows in (data, padded):
        trainer = ComparativeTrainer(
            model.double(), arguments(tmp_path), train_dataset=rows, processing_class=tokenizer, ablations=[DROP]
        )
        model.train()
        examples = [trainer.data_collator.adapter.example(r) for r in rows]
        seeded = [replace(e, seed=i) for i, e in enumerate(examples)]
        batch = trainer.data_collator(rows) | {"examples": seeded}
        found.append(trainer.compute_loss(model, batch).item())
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_segments_of_the_label_are_support(tmp_path: Path) -> None:
    """Of rows that users tokenised, too: an answer may begin in one segment and end in another."""
    model, tokenizer = reader("bert")
    trainer = ComparativeTrainer(
        model, arguments(tmp_path), train_dataset=windows(tokenizer), processing_class=tokenizer, ablations=[DROP]
    )
    ids, segment = list(range(10, 20)), [-1, 0, 0, 1, 1, 2, 2, 3, 3, -1]
    for start, end, support in [(4, 6, {1, 2}), (3, 4, {1}), (7, 7, {3}), (1, 8, {0, 1, 2, 3})]:
        made = {"input_ids": ids, "segment": segment, "start_positions": start, "end_positions": end}
        assert trainer.data_collator.adapter.example(made).support - {-1} == support
        assert trainer.data_collator.adapter.example(made | {"support": [3]}).support - {-1} == support | {3}
    unlabelled = {"input_ids": ids, "segment": segment, "support": [2]}
    assert trainer.data_collator.adapter.example(unlabelled).support == {2}


def test_columns_that_are_none_are_missing(tmp_path: Path) -> None:
    """`datasets` fills the columns that some rows lack."""
    model, tokenizer = reader("bert")
    data = windows(tokenizer, crop=CROP, pack=False)
    own = [row(window) | {"segment": window.example.segment.tolist()} for window in data]
    own[0] |= {"support": None, "attention_mask": None}
    own[1] |= {"segment": None}
    trainer = ComparativeTrainer(
        model, arguments(tmp_path), train_dataset=own, processing_class=tokenizer, ablations=[CROP]
    )
    adapter = trainer.adapter
    without = {name: value for name, value in own[0].items() if value is not None}
    assert adapter.example(own[0]).support == adapter.example(without).support
    assert adapter.example(own[0]).segments() == data[0].example.segments()
    assert not adapter.example(own[1]).croppable
    unlabelled = without | {"start_positions": None, "end_positions": None}
    assert adapter.example(unlabelled).support == frozenset()
    assert adapter.labels([unlabelled]) == {}
    trainer.train()
    with pytest.raises(ValueError, match="have the column input_ids"):
        adapter.example({"input_ids": None})


def rows_of(*segments: list[int], support: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    labels = {"start_positions": 0, "end_positions": 0, "support": list(support)}
    return [{"input_ids": [2, *range(9, 9 + len(s)), 3], "segment": [-1, *s, -1], **labels} for s in segments]


@pytest.mark.parametrize(
    ("ablation", "rows", "refused"),
    [
        (CmpCrop(), rows_of([0, 0, 0], [0, 0]), True),
        (CmpCrop(), rows_of([0, 0, 0], [0, 1]), False),
        (CmpCrop(), rows_of([0, 1], support=(0, 1)), True),
        (CmpCrop(), rows_of([0, 1, 2], support=(0, 1)), False),
        (CmpCrop(schedule=FixedCounts((3,))), rows_of([0, 1, 2]), True),
        (CmpCrop(schedule=FixedCounts((2,))), rows_of([0, 1, 2]), False),
        (CmpCrop(schedule=FeedbackCounts()), rows_of([0, 0]), False),  # keeps all in every other draw
        (IndependentCopies(CmpCrop()), rows_of([0, 0], [1, 1]), True),
        (IndependentCopies(CmpCrop()), rows_of([0, 0], [0, 1]), False),
        (CmpCrop(), [*rows_of([0]) * 1500, *rows_of([0, 1])], False),
    ],
)
def test_a_crop_that_would_take_nothing_away_is_refused(
    ablation: Any, rows: list[dict[str, Any]], refused: bool, tmp_path: Path
) -> None:
    model, tokenizer = reader("bert")

    def make() -> ComparativeTrainer:
        args = arguments(tmp_path)
        return ComparativeTrainer(model, args, train_dataset=rows, processing_class=tokenizer, ablations=[ablation])

    if refused:
        with pytest.raises(
            ValueError, match=f"would take nothing away: all segments stay in each of the {len(rows)}"
        ):
            make()
    else:
        make()


def test_whole_passages_need_several_in_a_window(tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    crop = CmpCrop(segmenter=WholePassages())
    options: dict[str, Any] = {"processing_class": tokenizer, "ablations": [crop]}
    with pytest.raises(ValueError, match=r"CmpCrop would take nothing away: .* give shorter segments, or several"):
        ComparativeTrainer(
            model, arguments(tmp_path), train_dataset=windows(tokenizer, crop=crop, pack=False), **options
        )
    packed = windows(tokenizer, crop=crop, pack=True)
    assert any(len(window.example.segments()) > 1 for window in packed)
    ComparativeTrainer(model, arguments(tmp_path), train_dataset=packed, **options)


# A trainer like any other ------------------------------------------------------------------------------------------


def train(folder: Path, resume: Path | None = None, **options: Any) -> tuple[ComparativeTrainer, torch.Tensor]:
    own = {name: options.pop(name) for name in ("ablations", "tokens_per_batch", "strategy") if name in options}
    model, tokenizer = reader("bert")
    data = windows(tokenizer, crop=CROP, pack=False)
    trainer = ComparativeTrainer(
        model,
        arguments(folder, **options),
        train_dataset=data,
        eval_dataset=data[:5],
        processing_class=tokenizer,
        **own,
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer, weights(model)


@pytest.mark.parametrize("ablations", [[CROP], [CROP, DROP], []], ids=["crop", "crop-drop", "plain"])
def test_a_resumed_run_is_the_uninterrupted_one(ablations: list[Any], tmp_path: Path) -> None:
    options = dict(ablations=ablations, tokens_per_batch=90, num_train_epochs=3, save_strategy="steps", save_steps=4)
    whole, expected = train(tmp_path / "whole", **options)
    assert whole.state.max_steps > 8
    assert (tmp_path / "whole" / "checkpoint-4").is_dir()
    resumed, found = train(tmp_path / "again", resume=tmp_path / "whole" / "checkpoint-4", **options)
    assert torch.equal(found, expected)
    assert losses(resumed) == losses(whole)
    _, other = train(tmp_path / "other", seed=8, **options)
    assert not torch.equal(other, expected)


def test_the_log_has_the_task_loss_of_each_step(tmp_path: Path) -> None:
    trainer, _ = train(tmp_path, ablations=[CROP, DROP], logging_steps=2, gradient_accumulation_steps=2)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged
    for entry in logged:
        steps = [entry[n] for n in ("task_loss_full", "task_loss_step_1", "task_loss_step_2")]
        assert all(np.isfinite(value) and value > 0 for value in steps)
        # Two ablated copies: 3 of 6 pairs are with the 0, and the ordered ones are differences.
        assert entry["loss"] >= sum(steps) / 6 - 1e-3
        assert 0 <= entry["beaten_rate"] <= entry["violation_rate"] <= 1
        assert 0 <= entry["zero_weight_rate"] < 1
    assert set(trainer.diagnostics) <= set(logged[-1])


@pytest.mark.parametrize("grouped", [False, True])
def test_batches_of_similar_length(grouped: bool, tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    data = windows(tokenizer, pack=False, max_length=60) + windows(tokenizer, max_length=100)
    options: dict[str, Any] = {}
    if grouped:
        options["train_sampling_strategy"] = "group_by_length"
    trainer = ComparativeTrainer(
        model, arguments(tmp_path, **options), train_dataset=data, processing_class=tokenizer,
        tokens_per_batch=None if grouped else 100,
    )  # fmt: skip
    loader = trainer.get_train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches = [[len(e) for e in batch["examples"]] for batch in loader]
        assert sorted(n for batch in batches for n in batch) == sorted(map(len, data))
        assert len(batches) == len(loader)
        assert all(len(b) <= 2 if grouped else len(b) == 1 or sum(b) <= 100 for b in batches)
        epochs.append(batches)
    assert epochs[0] != epochs[1]
    padding = sum(len(b) * max(b) - sum(b) for b in epochs[0])
    assert padding < 0.1 * sum(map(len, data))


def test_evaluation_prediction_and_callbacks(tmp_path: Path) -> None:
    seen: list[str] = []

    class Noting(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            seen.extend(metrics)

    model, tokenizer = reader("bert")
    data = windows(tokenizer, crop=CROP)
    trainer = ComparativeTrainer(
        model, arguments(tmp_path, eval_strategy="epoch", per_device_eval_batch_size=2), train_dataset=data,
        eval_dataset=data, processing_class=tokenizer, ablations=[CROP, DROP], callbacks=[Noting()],
        compute_metrics=lambda p: {"windows": float(len(p.predictions[0])), "first": float(p.label_ids[0][0])},
    )  # fmt: skip
    trainer.train()
    assert seen.count("eval_loss") == seen.count("eval_windows") == 2
    predicted = trainer.predict(data)
    starts, ends = trainer.logits(data)
    model.eval()
    for i, window in enumerate(data):
        features = {n: torch.from_numpy(v.astype(np.int64))[None] for n, v in window.example.features.items()}
        features.pop("global_attention_mask")
        alone = model(**features)
        assert starts[i].shape == ends[i].shape == (len(window),)
        assert np.allclose(starts[i], alone.start_logits[0].detach(), atol=1e-5)
        assert np.allclose(ends[i], alone.end_logits[0].detach(), atol=1e-5)
        assert np.allclose(predicted.predictions[0][i, : len(window)], starts[i], atol=1e-5)
        assert np.allclose(predicted.predictions[1][i, : len(window)], ends[i], atol=1e-5)
    # The value in evaluation is the model's own loss, batch by batch.
    own = []
    for first in range(0, len(data), 2):
        batch = trainer.data_collator(data[first : first + 2])
        del batch["examples"]
        own.append(float(model(**batch).loss.detach()) * len(data[first : first + 2]))
    assert predicted.metrics["test_loss"] == pytest.approx(sum(own) / len(data), rel=1e-5)
    # Without labels: rows of users, for prediction.
    rows = [{n: v for n, v in row(w).items() if "positions" not in n} for w in data]
    unlabelled = trainer.predict(rows)
    assert np.allclose(unlabelled.predictions[0], predicted.predictions[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["windows", "rows"])
def test_evaluation_keeps_the_order_whatever_the_sampling_in_training(kind: str, tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    made = windows(tokenizer, crop=CROP)
    lengths = [len(window) for window in made]
    assert lengths != sorted(lengths, reverse=True)  # so that grouping by length would show
    data: Any = made if kind == "windows" else [row(window) for window in made]
    trainer = ComparativeTrainer(
        model,
        arguments(
            tmp_path, train_sampling_strategy="group_by_length", eval_strategy="epoch", num_train_epochs=1,
            per_device_eval_batch_size=2,
        ),
        train_dataset=made, eval_dataset=data, processing_class=tokenizer, ablations=[DROP],
    )  # fmt: skip
    trainer.train()
    assert sum("eval_loss" in entry for entry in trainer.state.log_history) == 1
    predicted = trainer.predict(data)
    assert predicted.label_ids[0].tolist() == [window.start for window in made]
    starts, _ = trainer.logits(data)
    for i, length in enumerate(lengths):
        assert np.allclose(predicted.predictions[0][i, :length], starts[i], atol=1e-5)
    # Data without a length, and several processes, have no sampler.
    assert trainer._get_eval_sampler(iter(data)) is None
    assert trainer._get_eval_sampler(None) is None


def test_the_checkpoint_is_an_ordinary_one(tmp_path: Path) -> None:
    trainer, expected = train(tmp_path, ablations=[CROP, DROP], num_train_epochs=1)
    trainer.save_model(str(tmp_path / "reader"))
    again = t.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "reader")
    assert torch.equal(weights(again), expected)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in trainer.model.modules()]
    assert sum(hooks) == 0


def test_data_loader_workers_and_datasets(tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    rows = [row(w) | {"segment": w.example.segment.tolist(), "support": sorted(w.example.support), "id": "x"}
            for w in windows(tokenizer, crop=CROP)]  # fmt: skip
    args = arguments(tmp_path, dataloader_num_workers=1, num_train_epochs=1)
    trainer = ComparativeTrainer(
        model, args, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer, ablations=[CROP, DROP], tokens_per_batch=200,
    )  # fmt: skip
    before = weights(model)
    trainer.train()
    assert not torch.equal(before, weights(model))


def test_bad_input(tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    data = windows(tokenizer)
    args = arguments(tmp_path)

    def make(model: Any = model, train_dataset: Any = data, **options: Any) -> ComparativeTrainer:
        return ComparativeTrainer(model, args, train_dataset=train_dataset, processing_class=tokenizer, **options)

    with pytest.raises(ValueError, match=r"no row of the training data has segments.*make_windows"):
        make(ablations=[CROP])
    with pytest.raises(ValueError, match=r"tokens_per_batch must be a whole number, at least 1; got 0"):
        make(tokens_per_batch=0)
    with pytest.raises(ValueError, match="baseline"):
        make(ablations=[DROP], baseline="none")
    with pytest.raises(ValueError, match="strategy must be one of"):
        make(ablations=[DROP], strategy="quick")
    with pytest.raises(ValueError, match="leave data_collator out"):
        make(ablations=[DROP], data_collator=DataCollatorWithPadding(tokenizer))
    with pytest.raises(ValueError, match="its examples cannot be compared"):
        make(ablations=[DROP], compute_loss_func=lambda *_: 0)
    encoder = random_model(t.BertModel, t.BertConfig(**SIZES, vocab_size=len(tokenizer)))
    with pytest.raises(ValueError, match="BertModel is no reader and no sequence classifier"):
        make(encoder)
    with pytest.raises(ValueError, match=r"this model has num_labels=1 as rerankers have"):
        make(reader("bert", num_labels=1)[0])
    tagger = random_model(t.BertForTokenClassification, t.BertConfig(**SIZES, vocab_size=len(tokenizer)))
    labelled = [row(w) | {"labels": 1} for w in data]
    with pytest.raises(ValueError, match=r"logits of \(rows, labels\); got \(2, \d+, 2\) from BertForToken"):
        make(tagger, labelled, ablations=[DROP]).train()
    with pytest.raises(ValueError, match="The training data has no start_positions"):
        make(train_dataset=[{"input_ids": [2, 7, 3]}] * 4, ablations=[DROP]).train()
    with pytest.raises(ValueError, match="must be a Window, or have the column input_ids"):
        make(train_dataset=[{"question": "what?"}] * 4, ablations=[DROP]).train()
    with pytest.raises(ValueError, match="A row has 3 tokens, but 2 segments"):
        make(train_dataset=[{"input_ids": [2, 7, 3], "segment": [-1, 0]}] * 4, ablations=[DROP]).train()
    with pytest.raises(ValueError, match="A row has 2 tokens, but its attention_mask is 0 for all of them"):
        make(train_dataset=[{"input_ids": [2, 7], "attention_mask": [0, 0]}] * 4, ablations=[DROP]).train()
    with pytest.raises(ValueError, match="padding before its tokens"):
        make(train_dataset=[{"input_ids": [0, 7, 3], "attention_mask": [0, 1, 1]}] * 4, ablations=[DROP]).train()
