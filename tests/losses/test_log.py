"""What training logs: means by the name of the dataset, of the batches that had a number, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import Tensor, nn
from transformers import TrainerCallback

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.losses.log import Means, _means


def pairs() -> datasets.Dataset:
    """A new object each time: a trainer puts the name of the dataset into it."""
    return datasets.Dataset.from_dict({"query": QUERIES, "passage": PASSAGES, "label": [1.0, 0.0, 1.0, 0.0]})


def lists(labels: list[float]) -> datasets.Dataset:
    both = [[a, b] for a, b in zip(PASSAGES, OTHERS, strict=True)]
    return datasets.Dataset.from_dict({"query": QUERIES, "passages": both, "label": [labels] * 4})


RATES = {"violation_rate", "beaten_rate", "zero_weight_rate"}
TRAINERS = [CrossEncoderTrainer, RerankerTrainer]


def strict(path: Path) -> Any:
    """JSON by the book, which has neither NaN nor Infinity."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} in {path.name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def train(cls: Any, model: CrossEncoder, folder: Path, data: Any, loss: Any, **options: Any) -> list[dict[str, Any]]:
    """The entries of the log of a training, read from its checkpoint."""
    defaults: dict[str, Any] = dict(
        output_dir=str(folder), per_device_train_batch_size=4, num_train_epochs=1, logging_steps=1, report_to=[],
        disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, save_strategy="epoch",
    )  # fmt: skip
    args = RerankerTrainingArguments(**(defaults | options))
    reported: list[dict[str, Any]] = []

    class Report(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            reported.append(dict(logs))

    cls(model=model, args=args, train_dataset=data, loss=loss, callbacks=[Report()]).train()
    (state,) = folder.glob("checkpoint-*/trainer_state.json")
    entries = [entry for entry in strict(state)["log_history"] if "loss" in entry]
    # Those that report the log are told the same.
    told = [entry for entry in reported if "loss" in entry]
    assert [{**entry, "step": kept["step"]} for entry, kept in zip(told, entries, strict=True)] == entries
    return entries


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.0, 1.5, -2.0, float("nan"), float("inf")])),
        max_size=8,
    ),
    st.integers(1, 3),
)
def test_means_are_over_the_batches_that_had_a_number(batches: list[dict[str, float]], processes: int) -> None:
    """Of one process or several, whatever names each of them has."""
    parts = []
    for process in range(processes):
        means = Means()
        for batch in batches[process::processes]:
            means.add({name: torch.tensor(value, requires_grad=True) for name, value in batch.items()})
        parts.append({name: tuple(one.tolist()) for name, one in means._sums.items()})
    expected = {}
    for name in "abc":
        there = [batch[name] for batch in batches if name in batch and abs(batch[name]) < float("inf")]
        if there:
            expected[name] = sum(there) / len(there)
    assert _means(parts) == pytest.approx(expected)


@pytest.mark.parametrize("cls", TRAINERS)
def test_each_dataset_has_its_own_names(cls: Any, tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """One loss with two steps, one with one, and a plain one that tells nothing."""
    data = datasets.DatasetDict({"pairs": pairs(), "lists": lists([1.0, 0.0]), "plain": pairs()})
    plain = upstream.BinaryCrossEntropyLoss(tiny_model)
    losses = {
        "pairs": ComparativeLoss(tiny_model, plain, [CmpCrop(), CmpDrop()]),
        "lists": ComparativeLoss(tiny_model, upstream.ListNetLoss(tiny_model), [CmpDrop()]),
        "plain": plain,
    }
    entries = train(cls, tiny_model, tmp_path, data, losses)
    found = [frozenset(entry) - {"loss", "grad_norm", "learning_rate", "epoch", "step"} for entry in entries]
    steps = {f"task_loss_{name}" for name in ("full", "step_1", "step_2")}
    two = frozenset(f"pairs_{name}" for name in steps | RATES)
    one = frozenset(f"lists_{name}" for name in (steps - {"task_loss_step_2"}) | RATES)
    assert sorted(found, key=len) == [frozenset(), one, two]
    for name, loss in losses.items():
        for step, value in loss.diagnostics.items() if isinstance(loss, ComparativeLoss) else ():
            (logged,) = [entry[f"{name}_{step}"] for entry in entries if f"{name}_{step}" in entry]
            assert logged == pytest.approx(float(value), abs=1e-4)


@pytest.mark.parametrize("cls", TRAINERS)
def test_one_loss_of_several_datasets_has_one_set_of_names(
    cls: Any, tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpDrop()])
    (entry,) = train(
        cls, tiny_model, tmp_path, datasets.DatasetDict({"one": pairs(), "two": pairs()}), loss, logging_steps=2
    )
    names = {name for name in entry if "task_loss" in name or "rate" in name} - {"learning_rate"}
    assert names == set(loss.diagnostics)  # the trainer does not say which dataset a batch is of


@pytest.mark.parametrize("cls", TRAINERS)
def test_a_dataset_that_was_one_of_several_is_alone_now(cls: Any, tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """The other trainer has left the name in it."""
    data = pairs()
    loss = ComparativeLoss(tiny_model, upstream.BinaryCrossEntropyLoss(tiny_model), [CmpDrop()])
    train(cls, tiny_model, tmp_path / "a", datasets.DatasetDict({"b": data, "c": pairs()}), {"b": loss, "c": loss})
    (entry,) = train(cls, tiny_model, tmp_path / "b", data, loss)
    assert "task_loss_full" in entry
    assert not any(name.startswith("b_") for name in entry)


class Parts(nn.Module):
    """A loss that says what it is made of, one part of which is not always a number."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model
        self.inside = upstream.BinaryCrossEntropyLoss(model)
        self.batches = 0

    def forward(self, inputs: Any, labels: Tensor, prompt: Any = None, task: Any = None) -> dict[str, Tensor]:
        value = self.inside(inputs, labels)
        return {"data": value, "prior": 0.0 * value.detach() + 2.0}


@pytest.mark.parametrize("comparative", [False, True])
def test_parts_of_a_loss_are_logged_only_where_there_are_any(
    comparative: bool, tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    losses: dict[str, nn.Module] = {"parts": Parts(tiny_model), "plain": upstream.BinaryCrossEntropyLoss(tiny_model)}
    if comparative:
        losses["plain"] = ComparativeLoss(tiny_model, losses["plain"], [CmpDrop()])
    data = datasets.DatasetDict({name: pairs() for name in losses})
    entries = train(RerankerTrainer, tiny_model, tmp_path, data, losses)
    assert sorted("parts_prior" in entry for entry in entries) == [False, True]
    assert all(("plain_task_loss_full" in entry) == (comparative and "parts_prior" not in entry) for entry in entries)
    assert [entry["parts_prior"] for entry in entries if "parts_prior" in entry] == [2.0]


def test_rates_of_nothing_are_not_logged(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """RankNet of lists with equal labels compares nothing: no example has weight, and there is nothing to rate."""
    loss = ComparativeLoss(tiny_model, upstream.RankNetLoss(tiny_model), [CmpDrop()])
    (entry,) = train(RerankerTrainer, tiny_model, tmp_path, lists([1.0, 1.0]), loss)
    assert entry["task_loss_full"] == 0
    assert not RATES & set(entry)
    assert not RATES & set(loss.diagnostics)


@pytest.mark.parametrize("cls", TRAINERS)
def test_a_training_logs_nothing_of_the_one_before(cls: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """As in a search for hyperparameters, where each trial may end between two entries of the log."""
    args = RerankerTrainingArguments(
        str(tmp_path), per_device_train_batch_size=1, max_steps=3, logging_steps=2, report_to=[], disable_tqdm=True,
        use_cpu=True, save_strategy="no",
    )  # fmt: skip
    trainer = cls(
        model_init=lambda: CrossEncoder(str(tiny_checkpoint), device="cpu"),
        args=args,
        train_dataset=pairs(),
        loss=lambda model: ComparativeLoss(model, upstream.BinaryCrossEntropyLoss(model), [CmpDrop()]),
    )
    logs = []
    for _ in range(2):
        trainer.train()
        logs.append([entry for entry in trainer.state.log_history if "loss" in entry])
    assert len(logs[0]) == 1
    assert logs[0][0]["task_loss_full"] > 0
    assert logs[0] == logs[1]
