"""RerankerTrainer calls what the user sees: a forward that was replaced, hooks, and the prompt of each dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import nn

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.losses.core import Comparison

MAKE: dict[str, Callable[[CrossEncoder], nn.Module]] = {
    "plain": upstream.BinaryCrossEntropyLoss,
    "comparative": lambda m: ComparativeLoss(m, upstream.BinaryCrossEntropyLoss(m), [CmpCrop(), CmpDrop()]),
}


def data(rows: int = 4) -> datasets.Dataset:
    """A new object each time: a trainer puts the name of the dataset into it."""
    columns = {"query": QUERIES, "passage": PASSAGES, "label": [1.0, 0.0, 1.0, 0.0]}
    return datasets.Dataset.from_dict({name: values[:rows] for name, values in columns.items()})


def trainer(
    model: CrossEncoder, loss: Any, folder: Path, train: Any, cls: Any = RerankerTrainer, **options: Any
) -> Any:
    defaults: dict[str, Any] = dict(
        output_dir=str(folder), per_device_train_batch_size=2, per_device_eval_batch_size=2, num_train_epochs=1,
        report_to=[], disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, save_strategy="no",
        learning_rate=0.1, optim="sgd", max_grad_norm=0.0, length_bucketing=False,
    )  # fmt: skip
    evaluated = options.pop("eval_dataset", None)
    args = RerankerTrainingArguments(**(defaults | options))
    return cls(model=model, args=args, train_dataset=train, eval_dataset=evaluated, loss=loss)


def without_dropout(checkpoint: Path) -> CrossEncoder:
    model = CrossEncoder(str(checkpoint), device="cpu").double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def replace_forward(loss: nn.Module, factor: float) -> list[tuple[Any, Any]]:
    """Make the loss another multiple of itself; what it is called with from now on: queries and prompt."""
    forward, calls = loss.forward, []

    def replaced(inputs: Any, labels: Any = None, prompt: Any = None, task: Any = None) -> Any:
        calls.append((inputs[0], prompt))
        return factor * forward(inputs, labels, prompt=prompt, task=task)

    loss.forward = replaced  # type: ignore[method-assign]
    return calls


@pytest.mark.parametrize("name", MAKE)
def test_a_replaced_forward_is_called_once_for_each_batch(
    name: str, tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With what the base trainer calls it with; what it returns is what is trained on."""
    found = {}
    for cls in (CrossEncoderTrainer, RerankerTrainer):
        model = without_dropout(tiny_checkpoint)
        loss = MAKE[name](model)
        calls = replace_forward(loss, 3)
        trainer(model, loss, tmp_path, data(), cls, prompts="bears: ").train()
        found[cls] = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert sorted(query for queries, _ in calls for query in queries) == sorted(QUERIES)
        assert [prompt for _, prompt in calls] == ["bears: "] * 2
    assert torch.equal(*found.values())
    assert "forward was replaced on the object" in caplog.text
    # The canary: without the factor they are others.
    model = without_dropout(tiny_checkpoint)
    trainer(model, MAKE[name](model), tmp_path, data(), prompts="bears: ").train()
    plain = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert not torch.allclose(plain, found[RerankerTrainer])


def test_a_comparative_loss_calls_the_replaced_forward_of_the_one_inside(tiny_model: CrossEncoder) -> None:
    values = []
    for factor in (1, 3):
        inside = upstream.BinaryCrossEntropyLoss(tiny_model)
        assert not replace_forward(inside, factor)
        loss = ComparativeLoss(tiny_model.train(), inside, [CmpDrop(p=0.3)])
        loss([QUERIES, PASSAGES], torch.tensor([1.0, 0.0, 1.0, 0.0]))
        values.append(float(loss.diagnostics["task_loss_full"]))
    assert values[1] == pytest.approx(3 * values[0])


@pytest.mark.parametrize("name", MAKE)
def test_hooks_of_a_loss_are_called_once_for_each_batch(name: str, tiny_model: CrossEncoder, tmp_path: Path) -> None:
    loss = MAKE[name](tiny_model)
    seen: list[float] = []
    loss.register_forward_hook(lambda module, args, value: seen.append(value.item()))
    run = trainer(tiny_model, loss, tmp_path, data(), logging_steps=1)
    run.train()
    logged = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert seen == pytest.approx(logged, abs=1e-3)
    assert len(logged) == 2


class Both(torch.nn.Module):
    """A loss that is compared, and one that is not."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model
        self.compared = ComparativeLoss(model, upstream.BinaryCrossEntropyLoss(model), [CmpDrop(p=0.3)])
        self.plain = upstream.MSELoss(model)

    def forward(self, inputs: Any, labels: Any, prompt: Any = None, task: Any = None) -> Any:
        return self.compared(inputs, labels, prompt=prompt, task=task) + self.plain(inputs, labels)


def test_a_comparative_loss_inside_of_another_loss(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It draws once for each step: that a batch was looked at ahead draws nothing."""
    drawn: list[str] = []
    draw = Comparison.draw

    def noted(self: Comparison, *args: Any) -> str:
        drawn.append(draw(self, *args))
        return drawn[-1]

    monkeypatch.setattr(Comparison, "draw", noted)
    for cls in (CrossEncoderTrainer, RerankerTrainer):
        model = without_dropout(tiny_checkpoint)
        loss = Both(model)
        trainer(model, loss, tmp_path, data(), cls).train()
        assert loss.compared.model is model
    assert drawn == ["0 (0, 0)", "0 (1, 0)"] * 2
    assert "A ComparativeLoss within another loss" in caplog.text


class Subclass(upstream.CachedMultipleNegativesRankingLoss):
    """Has a forward of its own, which that of the plain parent class would pass by."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return 3 * super().forward(*args, **kwargs)


def test_the_own_forward_of_a_loss_that_caches_gradients(
    tiny_model: CrossEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = datasets.Dataset.from_dict({"query": QUERIES, "positive": PASSAGES, "negative": OTHERS})
    values = {}
    for cls in (upstream.CachedMultipleNegativesRankingLoss, Subclass):
        caplog.clear()
        loss = cls(tiny_model, num_negatives=None)
        options: dict[str, Any] = dict(per_device_train_batch_size=4, logging_steps=1, learning_rate=1e-9)
        run = trainer(tiny_model.eval(), loss, tmp_path, columns, **options)
        run.train()
        values[cls] = run.state.log_history[0]["loss"]
        assert ("is the same loss without the cache" in caplog.text) == (cls is Subclass)
    with pytest.raises(ValueError, match="use its uncached form"):
        ComparativeLoss(tiny_model.train(), Subclass(tiny_model), [CmpDrop()])([QUERIES, PASSAGES, OTHERS])


@pytest.mark.parametrize(
    ("name", "by_name"),
    [
        ("plain", True),
        ("comparative", False),
        pytest.param("plain", False, marks=pytest.mark.slow),
        pytest.param("comparative", True, marks=pytest.mark.slow),
    ],
)
def test_each_dataset_has_its_own_prompt(name: str, by_name: bool, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Weights and losses of evaluation are those of the base trainer, and others with other prompts.

    Each dataset has a loss of its own, by its name, or all have one.
    """

    def trained(cls: Any, prompts: Any, **options: Any) -> tuple[torch.Tensor, dict[str, float]]:
        model = without_dropout(tiny_checkpoint)
        sets = {"first": data(2), "second": data(3), "third": data(4)}
        loss = {each: MAKE[name](model) for each in sets} if by_name else MAKE[name](model)
        options |= {"prompts": prompts, "eval_dataset": datasets.DatasetDict({each: data() for each in sets})}
        run = trainer(model, loss, tmp_path, datasets.DatasetDict(sets), cls, **options)
        run.train()
        evaluated = run.evaluate()
        losses = {name: value for name, value in evaluated.items() if name.endswith("_loss")}
        assert set(losses) == {f"eval_{each}_loss" for each in sets}
        return torch.cat([p.detach().flatten() for p in model.parameters()]), losses

    prompts = {"first": "one: ", "second": "two: "}  # the third has none
    expected, losses = trained(CrossEncoderTrainer, prompts)
    found, evaluated = trained(RerankerTrainer, prompts, dataloader_num_workers=int(by_name))
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert evaluated == pytest.approx(losses, rel=1e-6)
    others, evaluated = trained(RerankerTrainer, {"first": "two: ", "second": "one: "})
    assert not torch.allclose(others, expected, rtol=1e-5, atol=1e-5)
    assert len(set(evaluated.values())) == 3
