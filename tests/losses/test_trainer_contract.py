"""ComparativeLoss under the real CrossEncoderTrainer, and what that trainer expects of a loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from optional_libraries import datasets
from processes import python
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import OTHERS, PASSAGES, QUERIES
from torch import Tensor, nn

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss
from cmp_rerank.losses.comparative import calling_trainer

STEPS = ["task_loss_full", "task_loss_step_1", "task_loss_step_2"]
DIAGNOSTICS = [*STEPS, "violation_rate", "beaten_rate", "zero_weight_rate"]


def pointwise() -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"query": QUERIES * 4, "passage": (PASSAGES + OTHERS) * 2, "label": ([1.0] * 4 + [0.0] * 4) * 2}
    )


def listwise() -> datasets.Dataset:
    lists = [[a, b] for a, b in zip(PASSAGES, OTHERS, strict=True)]
    return datasets.Dataset.from_dict({"query": QUERIES, "passages": lists, "label": [[1, 0]] * 4})


def trainer(model: CrossEncoder, loss: Any, data: Any, folder: Path, **options: Any) -> CrossEncoderTrainer:
    options = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-3} | options
    args = CrossEncoderTrainingArguments(
        output_dir=str(folder), report_to=[], disable_tqdm=True, use_cpu=True, dataloader_num_workers=0, **options
    )
    eval_data = data if options.get("eval_strategy", "no") != "no" else None
    return CrossEncoderTrainer(model=model, args=args, train_dataset=data, eval_dataset=eval_data, loss=loss)


def comparative(model: CrossEncoder, plain: nn.Module | None = None) -> ComparativeLoss:
    plain = upstream.BinaryCrossEntropyLoss(model) if plain is None else plain
    return ComparativeLoss(model, plain, [CmpCrop(), CmpDrop(p=0.2)])


def test_one_changed_line_trains(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in tiny_model.state_dict().items()}
    run = trainer(tiny_model, comparative(tiny_model), pointwise(), tmp_path, eval_strategy="steps", eval_steps=1)
    run.train()
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert set(DIAGNOSTICS) <= set(entry)
    moved = [k for k, v in tiny_model.state_dict().items() if not torch.equal(v, before[k])]
    assert len(moved) > 20


def test_diagnostics_are_logged_and_do_not_enter_the_loss(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    loss = comparative(tiny_model)
    returned: list[float] = []
    loss.register_forward_hook(lambda module, args, output: returned.append(output.item()))
    run = trainer(tiny_model, loss, pointwise(), tmp_path, max_steps=1)
    run.train()
    (entry,) = [entry for entry in run.state.log_history if "loss" in entry]
    assert entry["loss"] == pytest.approx(returned[0], abs=1e-3)
    # The mean over the 6 pairs of steps weighs the three task losses by at least a sixth each in sum.
    assert entry["task_loss_full"] == pytest.approx(loss.diagnostics["task_loss_full"].item(), abs=1e-4)
    assert entry["loss"] >= sum(entry[name] for name in STEPS) / 6 - 1e-3


def test_logged_diagnostics_are_means_over_the_steps_between_two_logs(
    tiny_model: CrossEncoder, tmp_path: Path
) -> None:
    loss = comparative(tiny_model)
    seen: list[float] = []
    loss.register_forward_hook(lambda module, args, output: seen.append(module.diagnostics["task_loss_full"].item()))
    run = trainer(
        tiny_model, loss, pointwise(), tmp_path, max_steps=3, logging_steps=3, gradient_accumulation_steps=2
    )
    run.train()
    (entry,) = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(seen) == 6
    assert entry["task_loss_full"] == pytest.approx(sum(seen) / 6, abs=1e-4)


def test_micro_batches_of_one_step_get_different_views(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    loss = comparative(tiny_model)
    draws: list[Any] = []
    loss.register_forward_hook(lambda module, args, output: draws.append(module.comparison.drawn))
    trainer(tiny_model, loss, pointwise(), tmp_path, max_steps=2, gradient_accumulation_steps=2).train()
    assert draws == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_resumed_training_is_the_uninterrupted_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def finish(resume_from: Path | None) -> dict[str, Tensor]:
        model = CrossEncoder(str(tiny_checkpoint), device="cpu")
        run = trainer(model, comparative(model), pointwise(), tmp_path, max_steps=3, save_steps=1)
        run.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        return model.state_dict()

    whole = finish(None)
    resumed = finish(tmp_path / "checkpoint-1")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_listwise_in_batch_and_several_losses_train(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    data = datasets.DatasetDict({"pairs": pointwise(), "lists": listwise()})
    losses = {
        "pairs": comparative(tiny_model),
        "lists": comparative(tiny_model, upstream.ListNetLoss(tiny_model)),
    }
    run = trainer(tiny_model, losses, data, tmp_path, max_steps=4)
    run.train()
    assert all(loss.diagnostics for loss in losses.values())
    in_batch = comparative(tiny_model, upstream.MultipleNegativesRankingLoss(tiny_model))
    trainer(tiny_model, in_batch, pointwise().remove_columns("label"), tmp_path, max_steps=1).train()
    assert in_batch.diagnostics["task_loss_full"] > 0


def test_prompt_and_task_reach_the_model(
    tiny_model: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[Any] = []
    preprocess = CrossEncoder.preprocess

    def note(self: CrossEncoder, inputs: Any, prompt: str | None = None, **kwargs: Any) -> Any:
        prompts.append(prompt)
        return preprocess(self, inputs, prompt=prompt, **kwargs)

    monkeypatch.setattr(CrossEncoder, "preprocess", note)
    loss = comparative(tiny_model)
    trainer(tiny_model, loss, pointwise(), tmp_path, max_steps=1, prompts="pandas: ").train()
    # The trainer's own calls, for the model card, have no prompt.
    assert [prompt for prompt in prompts if prompt] == ["pandas: "]  # tokenised once


def test_a_type_error_inside_is_not_swallowed_into_a_second_run(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """The trainer runs a loss again without prompt and task after a TypeError; errors of ours are ValueErrors."""
    data = pointwise().map(lambda row, i: {"passage": "" if i == 5 else row["passage"]}, with_indices=True)
    loss = comparative(tiny_model)
    with pytest.raises(ValueError, match=r"The passage in column 1, row \d is empty"):
        trainer(tiny_model, loss, data, tmp_path, max_steps=4).train()


def test_the_wrapped_model_is_swapped_in_everywhere(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """Distributed and compiled models are put into the loss by attribute name, at every level."""

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module
            self.calls = 0

        def forward(self, features: Any) -> Any:
            self.calls += 1
            return self.module(features)

    loss = comparative(tiny_model)
    run = trainer(tiny_model, loss, pointwise(), tmp_path)
    wrapped = Wrapper(tiny_model).train()
    swapped = run.override_model_in_loss(loss, wrapped)
    assert swapped.model is wrapped
    assert swapped.loss.model is wrapped
    value = swapped([QUERIES, PASSAGES], torch.tensor([1.0, 0.0, 1.0, 0.0]))
    value.backward()
    assert wrapped.calls > 0
    assert next(tiny_model.parameters()).grad is not None


def test_the_model_card_names_the_loss_and_cites_the_paper(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    run = trainer(tiny_model, comparative(tiny_model), pointwise(), tmp_path, max_steps=1)
    run.train()
    tiny_model.save_pretrained(str(tmp_path / "final"))
    card = (tmp_path / "final" / "README.md").read_text()
    assert "ComparativeLoss" in card
    assert "2301.03765" in card
    assert "CmpCrop(), CmpDrop(p=0.2)" in card


def test_the_checkpoint_loads_without_this_package(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    trainer(tiny_model, comparative(tiny_model), pointwise(), tmp_path, max_steps=1).train()
    tiny_model.save_pretrained(str(tmp_path / "final"))
    program = (
        "import sys, json; sys.modules['cmp_rerank'] = None\n"
        "from sentence_transformers import CrossEncoder\n"
        "print(json.dumps(CrossEncoder(sys.argv[1], device='cpu').predict([('a', 'b'), ('c', 'd')]).tolist()))"
    )
    done = python("-c", program, tmp_path / "final")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(
        tiny_model.predict([("a", "b"), ("c", "d")]).tolist()
    )


def test_the_trainer_is_found_among_the_callers_and_nowhere_else(tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """It is looked up in a way that should not be needed: when a trainer makes itself known to its loss, use that."""
    seen: list[Any] = []

    class Noting(upstream.BinaryCrossEntropyLoss):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            seen.append((calling_trainer(), args, kwargs))
            return super().forward(*args, **kwargs)

    loss = Noting(tiny_model)
    run = trainer(tiny_model, loss, pointwise(), tmp_path, max_steps=1)
    run.train()
    ((found, args, kwargs),) = seen
    assert found == (run, None)
    assert calling_trainer() == (None, None)

    def holds(value: Any) -> bool:
        return value is run or (isinstance(value, dict) and any(holds(each) for each in value.values()))

    known = [*args, *kwargs.values(), *vars(loss).values(), *vars(tiny_model).values()]
    known += vars(tiny_model.model_card_data).values()
    assert not any(holds(value) for value in known)
