"""Checkpoints by time: when they are saved, that they change nothing, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import OTHERS, PASSAGES, QUERIES
from transformers import TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from cmp_rerank import CmpDrop, ComparativeLoss, RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.training import TimedCheckpoints
from cmp_rerank.training.checkpoints import _as_the_first

DATA = datasets.Dataset.from_dict(
    {"query": QUERIES * 2, "passage": [*PASSAGES, *OTHERS], "label": [1.0] * 4 + [0.0] * 4}
)


def trained(checkpoint: Path, out: Path, **options: Any) -> tuple[torch.Tensor, list[int]]:
    model = CrossEncoder(str(checkpoint), device="cpu")
    loss = ComparativeLoss(model, BinaryCrossEntropyLoss(model), [CmpDrop()])
    args = RerankerTrainingArguments(
        output_dir=str(out), per_device_train_batch_size=2, max_steps=4, learning_rate=1e-2, report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="no", **options,
    )  # fmt: skip
    RerankerTrainer(model=model, args=args, train_dataset=DATA, loss=loss).train()
    steps = sorted(int(path.name.split("-")[1]) for path in out.glob("checkpoint-*"))
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), steps


def test_they_are_saved_by_time_and_change_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plain, none = trained(tiny_checkpoint, tmp_path / "plain")
    often, all_steps = trained(tiny_checkpoint, tmp_path / "often", save_minutes=1e-9)
    seldom, few = trained(tiny_checkpoint, tmp_path / "seldom", save_minutes=60)
    assert (none, all_steps, few) == ([], [1, 2, 3, 4], [])  # `few`: it ends within the first minute
    assert torch.equal(plain, often)
    assert torch.equal(plain, seldom)


def test_any_checkpoint_begins_a_new_interval() -> None:
    times: list[float] = []
    args, state = TrainingArguments("nowhere"), TrainerState(epoch=1.0)
    callback = TimedCheckpoints(5, first=2, clock=lambda: times[-1])

    class Control:
        should_save = False

    def saves(minutes: float) -> bool:
        times.append(60 * minutes)
        control: Any = Control()
        callback.on_step_end(args, state, control)
        return bool(control.should_save)

    times.append(0.0)
    control: Any = Control()
    callback.on_train_begin(args, state, control)
    assert [saves(minute) for minute in (0, 1.9, 2)] == [False, False, True]
    assert saves(2.5)  # until it is saved
    callback.on_save(args, state, control)
    assert [saves(minute) for minute in (7, 7.4, 7.5)] == [False, False, True]
    times.append(60 * 7.2)  # one by steps
    callback.on_save(args, state, control)
    assert [saves(minute) for minute in (12, 12.3)] == [False, True]
    args.eval_strategy = IntervalStrategy.EPOCH
    assert [saves(minute) for minute in (13, 14)] == [False, False]  # its evaluation comes next
    state.epoch = 1.25
    assert saves(15)


def test_the_first_is_not_later_than_the_interval() -> None:
    assert TimedCheckpoints(0.5).first == 0.5
    assert TimedCheckpoints(10).first == 1


@pytest.mark.parametrize(("minutes", "first"), [(0, 1), (-1, 1), (float("nan"), 1), ("5", 1), (5, -1), (True, 1)])
def test_what_is_refused(minutes: Any, first: Any) -> None:
    with pytest.raises(ValueError, match=r"(minutes|first) must be .*; got"):
        TimedCheckpoints(minutes, first)
    if first == 1:
        with pytest.raises(ValueError, match=r"minutes must be .*; got"):
            RerankerTrainingArguments(output_dir="nowhere", save_minutes=minutes)


def test_alone_a_process_decides_for_itself() -> None:
    assert [_as_the_first(decision, None) for decision in (True, False)] == [True, False]  # type: ignore[arg-type]
