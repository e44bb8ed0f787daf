"""Resuming a training: from a complete checkpoint, with the same settings, and not beyond its last step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_readers import questions, reader, windows
from transformers import TrainingArguments

from cmp_rerank.ablations import CmpDrop
from cmp_rerank.reader.digest import questions_digest
from cmp_rerank.reader.records import GoldAnswer, Question
from cmp_rerank.training import ComparativeTrainer
from cmp_rerank.training.resume import check_settings, last_checkpoint, train, weights_digest


def trainer(folder: Path, **options: Any) -> ComparativeTrainer:
    model, tokenizer = reader("bert")
    defaults = dict(
        per_device_train_batch_size=2, learning_rate=1e-2, save_steps=2, report_to=[], use_cpu=True,
        disable_tqdm=True, logging_steps=1, lr_scheduler_type="constant",
    )  # fmt: skip
    args = TrainingArguments(str(folder), **(defaults | options))
    return ComparativeTrainer(
        model, args, train_dataset=windows(tokenizer), processing_class=tokenizer, ablations=[CmpDrop()]
    )


def weights(made: ComparativeTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in made.model.parameters()])


@pytest.mark.parametrize(("length", "steps"), [({"max_steps": 2}, 2), ({"num_train_epochs": 1}, 3)])
def test_a_finished_training_is_not_trained_further(length: dict[str, Any], steps: int, tmp_path: Path) -> None:
    done = trainer(tmp_path, **length)
    train(done, None)
    assert done.state.global_step == steps  # in the middle of an epoch, or at its end
    assert not torch.equal(weights(done), weights(trainer(tmp_path, **length)))  # there was something to learn
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint == tmp_path / f"checkpoint-{steps}"
    again = trainer(tmp_path, **length)
    train(again, checkpoint)
    assert again.state.global_step == steps
    assert torch.equal(weights(again), weights(done))
    assert [e["loss"] for e in again.state.log_history if "loss" in e] == [
        e["loss"] for e in done.state.log_history if "loss" in e
    ]


def test_an_interrupted_training_is_resumed_from_the_last_complete_checkpoint(tmp_path: Path) -> None:
    done = trainer(tmp_path, max_steps=4)
    train(done, None)
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    written = state.read_text()
    for cut in ("", written[: len(written) // 2], "[]", "{}"):
        state.write_text(cut)
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    state.unlink()
    (tmp_path / "checkpoint-10").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    again = trainer(tmp_path, max_steps=4)
    train(again, last_checkpoint(tmp_path))
    assert again.state.global_step == 4
    assert torch.equal(weights(again), weights(done))
    # By number, not by name.
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_step": 10}')
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert last_checkpoint(tmp_path / "nothing") is None


def test_a_training_is_resumed_with_the_same_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    settings = {"rate": 0.1, "steps": 3, "layers": (1, 2)}
    check_settings(path, settings, resume=False)
    assert json.loads(path.read_text()) == {"rate": 0.1, "steps": 3, "layers": [1, 2]}
    check_settings(path, settings, resume=True)
    for changes, message in [
        ({"rate": 0.2}, r"settings.json: .*\(rate was 0.1, now 0.2\)"),
        ({"steps": 4, "seed": 1}, r"\(steps was 3, now 4; seed was None, now 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_settings(path, settings | changes, resume=True)
    check_settings(path, settings | {"seed": 1}, resume=False)
    with pytest.raises(ValueError, match="seed was 1, now None"):
        check_settings(path, settings, resume=True)
    with pytest.raises(ValueError, match=r"none\.json: no such file"):
        check_settings(tmp_path / "none.json", settings, resume=True)


def test_digests_tell_weights_and_questions_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        reader("bert", seed)[0].save_pretrained(tmp_path / str(seed) / "model")
    reader("bert", 0)[0].save_pretrained(tmp_path / "copy", max_shard_size="20KB")
    first, other = (weights_digest(str(tmp_path / str(seed) / "model")) for seed in (0, 1))
    assert first != other
    assert weights_digest(str(tmp_path / "0" / "model")) == first
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) > 1
    shard = max((tmp_path / "copy").glob("*.safetensors"))
    before = weights_digest(str(tmp_path / "copy"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert weights_digest(str(tmp_path / "copy")) != before
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty must be a checkpoint with weights"):
        weights_digest(str(tmp_path / "empty"))
    asked = questions()
    assert questions_digest(asked) == questions_digest(questions())
    moved = Question("q", "Who?", ("bees, bees",), (GoldAnswer("bees", 0, 0),))
    variants = [asked, asked[::-1], [*asked, moved], [*asked, replace(moved, answers=(GoldAnswer("bees", 0, 6),))]]
    odd = replace(moved, question="Who \ud83d?")
    assert len({questions_digest(some) for some in [*variants, [odd], [moved]]}) == 6


def test_digests_of_questions_stay_what_they_were() -> None:
    """A training that was interrupted can be resumed by a later version."""
    passages = ("Rain.", "Honey is made by bees.")
    first = Question(
        "q", "Who makes honey?", passages, (GoldAnswer("bees", 1, 17),), ((1, 0, 22),), titles=("a", "b")
    )
    second = Question("r", "Is it?", ("Bär \ud83d",), kind="none")
    assert (questions_digest([first]), questions_digest([first, second])) == ("d2b856313b83eea9", "1cad6591d4562e7d")
