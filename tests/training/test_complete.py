"""Checkpoints are resumed from only when they were saved whole, whatever killed the process before."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import OTHERS, PASSAGES, QUERIES
from tiny_readers import reader, windows
from transformers import Trainer, TrainingArguments

from cmp_rerank import CmpDrop, ComparativeLoss, ComparativeTrainer, RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.training import complete
from cmp_rerank.training.complete import MARK, SAVING, STATE, is_complete, last_checkpoint, mark_complete

PAIRS = datasets.Dataset.from_dict(
    {"query": QUERIES * 2, "passage": [*PASSAGES, *OTHERS], "label": [1.0] * 4 + [0.0] * 4}
)
COMMON: dict[str, Any] = dict(
    per_device_train_batch_size=2, learning_rate=1e-2, save_steps=2, report_to=[], use_cpu=True, disable_tqdm=True,
    logging_steps=1, lr_scheduler_type="constant", dataloader_pin_memory=False,
)  # fmt: skip
#: Makes a trainer of a fresh model that saves to a folder.
Make = Callable[..., Any]


def of_reader(folder: Path, **options: Any) -> ComparativeTrainer:
    model, tokenizer = reader("bert")
    args = TrainingArguments(str(folder), **(COMMON | options))
    return ComparativeTrainer(
        model, args, train_dataset=windows(tokenizer), processing_class=tokenizer, ablations=[CmpDrop()]
    )


@pytest.fixture
def of_reranker(tiny_checkpoint: Path) -> Make:
    def make(folder: Path, **options: Any) -> RerankerTrainer:
        model = CrossEncoder(str(tiny_checkpoint), device="cpu")
        loss = ComparativeLoss(model, BinaryCrossEntropyLoss(model), [CmpDrop()])
        args = RerankerTrainingArguments(str(folder), **(COMMON | options))
        return RerankerTrainer(model=model, args=args, train_dataset=PAIRS, loss=loss)

    return make


@pytest.fixture(params=["reader", "reranker"])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = of_reader if request.param == "reader" else request.getfixturevalue("of_reranker")
    return found


def weights(made: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in made.model.parameters()])


def losses(made: Any) -> list[float]:
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


@pytest.mark.parametrize("length", [{"max_steps": 2}, {"num_train_epochs": 1}])
def test_a_finished_training_is_not_trained_further(make: Make, length: dict[str, Any], tmp_path: Path) -> None:
    done = make(tmp_path, **length)
    done.train()
    steps = done.state.global_step  # in the middle of an epoch, or at its end
    assert not torch.equal(weights(done), weights(make(tmp_path, **length)))  # there was something to learn
    assert last_checkpoint(tmp_path) == tmp_path / f"checkpoint-{steps}"
    again = make(tmp_path, **length)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == steps
    assert torch.equal(weights(again), weights(done))
    assert losses(again) == losses(done)
    longer = make(tmp_path, max_steps=steps + 1)  # it is another training, which goes on from there
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == steps + 1
    assert not torch.equal(weights(longer), weights(done))


@pytest.mark.parametrize(
    "left", ["nothing but a folder", "half of the weights", "no state", "no mark", "no optimizer"]
)
def test_it_goes_on_from_the_last_checkpoint_that_was_saved_whole(
    left: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = of_reader(tmp_path, max_steps=4)
    done.train()
    half = tmp_path / "checkpoint-4"
    if left == "nothing but a folder":
        shutil.rmtree(half)
        half.mkdir()
    elif left == "half of the weights":
        os.truncate(half / "model.safetensors", (half / "model.safetensors").stat().st_size // 2)
    else:
        (half / {"no state": STATE, "no mark": MARK, "no optimizer": "optimizer.pt"}[left]).unlink()
    with caplog.at_level(logging.WARNING):
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert f"{half} is left out: it is not marked as complete" in caplog.text
    again = of_reader(tmp_path, max_steps=4)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert torch.equal(weights(again), weights(done))
    assert last_checkpoint(tmp_path) == half  # saved again, and whole


@pytest.mark.parametrize(
    ("make", "step"),
    [
        ("reader", "save_model"),
        ("reader", "_save_optimizer_and_scheduler"),
        ("reader", "_save_rng_state"),
        ("reader", "mark"),
        ("reranker", "mark"),
    ],
    indirect=["make"],
)
def test_a_saving_that_is_interrupted_leaves_what_was_there(
    make: Make, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one checkpoint kept: the older one goes when the newer one is marked, not before."""
    options: dict[str, Any] = {"max_steps": 6, "save_total_limit": 1, "save_only_model": False}
    done = make(tmp_path / "whole", **options)
    done.train()
    assert [path.name for path in (tmp_path / "whole").glob("checkpoint-*")] == ["checkpoint-6"]
    killed = make(tmp_path / "killed", **options)
    owner: Any = complete if step == "mark" else type(killed)
    name = "_sync" if step == "mark" else step
    plain = getattr(owner, name)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if killed.state.global_step == 4:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            killed.train()
    assert last_checkpoint(tmp_path / "killed") == tmp_path / "killed" / "checkpoint-2"
    assert (tmp_path / "killed" / "checkpoint-4" / SAVING).exists()
    again = make(tmp_path / "killed", **options)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again), weights(done))
    files = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    ]
    assert files[0] == files[1]


def test_what_a_kill_has_left_is_removed_and_nothing_else(of_reranker: Make, tmp_path: Path) -> None:
    half, others, plain = (tmp_path / name for name in ("checkpoint-9", "checkpoint-old", "checkpoint-8"))
    for folder in (half, others, plain):
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
    for folder in (half, others):
        (folder / SAVING).touch()
    whole = tmp_path / "checkpoint-7"  # killed when all but the removal of the other mark was done
    shutil.copytree(plain, whole)
    mark_complete(whole)
    (whole / SAVING).touch()
    of_reranker(tmp_path, max_steps=1, save_strategy="no").train()
    assert [folder.exists() for folder in (half, others, plain, whole)] == [False, True, True, True]
    assert is_complete(whole)
    assert not (whole / SAVING).exists()


@pytest.mark.parametrize("relative", [False, True])
def test_an_unfinished_checkpoint_that_is_named_is_resumed_from_as_advised(
    relative: bool, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before the mark: all files are there, and it is the only one."""
    done = make(tmp_path, max_steps=4)
    done.train()
    named = tmp_path / "checkpoint-2"
    shutil.rmtree(tmp_path / "checkpoint-4")
    (named / MARK).unlink()
    (named / SAVING).touch()
    advice = f"train from the start without it, or try resume_from_checkpoint={str(named)!r}, which may be whole"
    with pytest.raises(ValueError, match=re.escape(advice)):
        make(tmp_path, max_steps=4).train(resume_from_checkpoint=True)
    files = {path: path.stat().st_size for path in named.iterdir()}
    monkeypatch.chdir(tmp_path)
    again = make(tmp_path, max_steps=4)
    again.train(resume_from_checkpoint=f"{named.name}/" if relative else str(named))
    assert torch.equal(weights(again), weights(done))
    assert {path: path.stat().st_size for path in named.iterdir()} == files


@pytest.mark.parametrize("state", [None, "", '{"epoch": 0.5, "glo', "[]", '{"unknown": 1}'])
def test_what_cannot_be_resumed_from_is_not_advised(state: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / SAVING).touch()
    if state is not None:
        (folder / STATE).write_text(state)
    with pytest.raises(ValueError, match=r"train from the start without it$"):
        of_reader(tmp_path, max_steps=1).train(resume_from_checkpoint=True)


def test_an_older_checkpoint_stays_beside_an_unfinished_one(of_reranker: Make, tmp_path: Path) -> None:
    """It may be needed yet: what is not marked may be of no use."""
    of_reranker(tmp_path, max_steps=4).train()
    named = tmp_path / "checkpoint-4"
    (named / MARK).unlink()
    (named / SAVING).touch()
    again = of_reranker(tmp_path, max_steps=4, save_strategy="no", save_total_limit=1)
    again.train(resume_from_checkpoint=str(named))
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_all_that_draws_batches_is_told_its_epoch(
    of_reranker: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also below a wrapper that tells nobody, as those of accelerate are, and before batches of it are skipped."""
    told: list[tuple[str, int]] = []

    class Part:
        def __init__(self, name: str, batch_sampler: Any) -> None:
            self.name, self.batch_sampler = name, batch_sampler

        def set_epoch(self, epoch: int) -> None:
            told.append((self.name, epoch))

    monkeypatch.setattr(Trainer, "_run_epoch", lambda self, **_: told.append(("run", 0)))
    trainer = of_reranker(tmp_path, max_steps=1)
    trainer.state.max_steps = 1
    loader = Part("loader", SimpleNamespace(batch_sampler=Part("batches", None)))
    trainer._run_epoch(model=trainer.model, epoch=3, train_dataloader=loader)
    assert told == [("loader", 3), ("batches", 3), ("run", 0)]


@pytest.mark.parametrize("best", [None, 1])
def test_what_was_to_be_removed_after_the_last_saving_is_removed(
    best: int | None, of_reranker: Make, tmp_path: Path
) -> None:
    """A kill came between: the checkpoint was complete, and an older one was still there."""
    made = of_reranker(tmp_path, max_steps=4, save_steps=1, save_strategy="steps")
    made.train()
    if best:
        state = json.loads((tmp_path / "checkpoint-4" / STATE).read_text())
        state["best_model_checkpoint"] = str(tmp_path / f"checkpoint-{best}")
        (tmp_path / "checkpoint-4" / STATE).write_text(json.dumps(state))
        mark_complete(tmp_path / "checkpoint-4")

    def numbers() -> list[int]:
        return sorted(int(path.name.removeprefix("checkpoint-")) for path in tmp_path.glob("checkpoint-*"))

    assert numbers() == [1, 2, 3, 4]
    older = of_reranker(tmp_path, max_steps=2, save_strategy="no", save_total_limit=2)
    older.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))  # not the newest: nothing goes
    assert numbers() == [1, 2, 3, 4]
    again = of_reranker(tmp_path, max_steps=4, save_strategy="no", save_total_limit=2)
    again.train(resume_from_checkpoint=True)
    assert numbers() == [best or 3, 4]


def test_without_a_complete_checkpoint_it_is_said(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "nothing") is None
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ValueError, match=r"needs a complete checkpoint; got none in .*; train from the start"):
        of_reader(tmp_path, max_steps=1).train(resume_from_checkpoint=True)


def test_a_checkpoint_is_found_by_its_number_and_resumed_by_its_name(of_reranker: Make, tmp_path: Path) -> None:
    for number in (2, 10, 9):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / STATE).write_text("{}")
        mark_complete(folder)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    done = of_reranker(tmp_path, max_steps=2)
    done.train()
    (tmp_path / "checkpoint-2" / MARK).unlink()  # as what another trainer saves
    again = of_reranker(tmp_path, max_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(weights(again), weights(done))


def test_all_is_on_the_disk_before_it_is_marked(of_reranker: Make, tmp_path: Path, monkeypatch: Any) -> None:
    """Each file and folder is synced: the files first, the mark after them, the names last."""
    synced: list[Path] = []
    plain = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    of_reranker(tmp_path, max_steps=2, save_total_limit=1).train()
    folder = tmp_path / "checkpoint-2"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert set(files) | {folder} <= set(synced)
    assert synced[-3:] == [folder / MARK, folder, tmp_path]
    assert synced.index(folder / MARK) > max(synced.index(path) for path in files if path.name != MARK)
    listed = json.loads((folder / MARK).read_text())["files"]
    assert set(listed) == {path.relative_to(folder).as_posix() for path in files} - {MARK}


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"files": 3}', '{"files": ["a"]}', '{"files": {"a": 1}}', "{"])
def test_a_damaged_mark_marks_nothing(damage: str, tmp_path: Path) -> None:
    (tmp_path / MARK).write_text(damage)
    assert not is_complete(tmp_path)
