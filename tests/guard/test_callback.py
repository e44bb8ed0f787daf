"""The guard in a trainer: the model has the chosen weights when training ends."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_collection import Tiny, tiny_collection

from cmp_rerank.guard import GuardCallback, GuardOptions, Split, load_guard

FEW = GuardOptions(interpolations=(0.5,), score_weights=(), repeats=1)


@pytest.fixture
def start(tmp_path: Path) -> CrossEncoder:
    return tiny_models.cross_encoder(tmp_path / "start")


@pytest.fixture
def tiny(start: CrossEncoder) -> Tiny:
    return tiny_collection(start, queries=20)


def trained(
    model: CrossEncoder,
    tiny: Tiny,
    folder: Path,
    callback: GuardCallback,
    label: float,
    resume: Path | None = None,
    late: bool = False,
    **arguments: Any,
):
    """Train so that relevant passages score higher (label 1), or lower (label 0)."""
    rows = [(q, d, label if d in tiny.qrels[q] else 1 - label) for q, s in tiny.first_stage.items() for d in s]
    data = datasets.Dataset.from_dict(
        {
            "query": [tiny.queries[q] for q, _, _ in rows],
            "passage": [tiny.corpus[d] for _, d, _ in rows],
            "label": [label for _, _, label in rows],
        }
    )
    args = CrossEncoderTrainingArguments(
        output_dir=str(folder), report_to=[], per_device_train_batch_size=32, use_cpu=True,
        disable_tqdm=True, **{"save_strategy": "no", "learning_rate": 3e-3, **arguments},
    )  # fmt: skip
    trainer = CrossEncoderTrainer(
        model=model, args=args, train_dataset=data, eval_dataset=data, loss=BinaryCrossEntropyLoss(model),
        callbacks=[] if late else [callback],
    )  # fmt: skip
    if late:
        trainer.add_callback(callback)
    trainer.train(None if resume is None else str(resume))


def test_a_bad_training_leaves_the_weights_of_the_start(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    model = copy.deepcopy(start)
    guarding = GuardCallback(
        corpus=tiny.corpus,
        **tiny.inputs(),
        measure="RR",
        options=FEW,
        test=Split(**tiny.inputs()),
        out=tmp_path / "out",
    )
    trained(model, tiny, tmp_path / "run", guarding, label=0.0, max_steps=10)
    assert guarding.verdict is not None
    assert guarding.verdict.outcome == "would have hurt"
    assert guarding.verdict.test is not None
    first, second = start.state_dict(), model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert guarding.mix == load_guard(tmp_path / "out", device="cpu").mix


def test_a_training_that_diverges_leaves_the_weights_of_the_start(
    start: CrossEncoder, tiny: Tiny, tmp_path: Path
) -> None:
    model = copy.deepcopy(start)
    guarding = GuardCallback(corpus=tiny.corpus, **tiny.inputs(), options=FEW, each_evaluation=True)
    steps = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    trained(model, tiny, tmp_path / "run", guarding, label=1.0, **{**steps, "learning_rate": 1e30})
    assert guarding.verdict is not None
    for verdict in (guarding.verdict, guarding.history[0][1]):
        assert (verdict.outcome, verdict.kept) == ("would have hurt", True)
        assert any("from a training that diverged" in note for note in verdict.notes)
    first, second = start.state_dict(), model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_good_training_keeps_its_weights(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    """Guarded at each evaluation, too: this changes nothing of the training."""
    ends = []
    for each in (False, True):
        model = copy.deepcopy(start)
        guarding = GuardCallback(corpus=tiny.corpus, **tiny.inputs(), measure="RR", options=FEW, each_evaluation=each)
        trained(
            model,
            tiny,
            tmp_path / f"run{each}",
            guarding,
            label=1.0,
            max_steps=30,
            eval_strategy="steps",
            eval_steps=15,
        )
        assert guarding.verdict is not None
        assert [step for step, _ in guarding.history] == ([15, 30] if each else [])
        ends.append((guarding.verdict.chosen, guarding.verdict.rows[-1].mean, model.state_dict()))
    (name, mean, weights), (other, other_mean, other_weights) = ends
    assert (name, mean) == (other, other_mean)
    assert name in ("tuned", "start to tuned 50%")
    assert all(torch.equal(weights[key], other_weights[key]) for key in weights)
    assert not all(torch.equal(weights[key], tensor) for key, tensor in start.state_dict().items())


def test_a_resumed_training_is_compared_with_its_start(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    """Not with the checkpoint, whose weights the model has when a resumed training begins."""
    verdicts = []
    steps: dict[str, Any] = {"label": 0.0, "max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    checkpoint = tmp_path / "run" / "checkpoint-4"
    for resume in (None, checkpoint):
        model = copy.deepcopy(start)
        guarding = GuardCallback(corpus=tiny.corpus, **tiny.inputs(), measure="RR", options=FEW)
        trained(model, tiny, tmp_path / "run", guarding, resume=resume, **steps)
        assert guarding.verdict is not None
        verdicts.append([(row.name, row.mean) for row in guarding.verdict.rows])
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in start.state_dict().items())
    assert verdicts[0] == verdicts[1]
    late = GuardCallback(corpus=tiny.corpus, **tiny.inputs(), measure="RR", options=FEW)
    with pytest.raises(ValueError, match="resumed at step 4, with a callback that came after the trainer was made"):
        trained(copy.deepcopy(start), tiny, tmp_path / "run", late, resume=checkpoint, late=True, **steps)


def test_wrong_input_is_told_before_training(start: CrossEncoder, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the guard chooses by one measure"):
        GuardCallback(corpus=tiny.corpus, **tiny.inputs(), measure="RR nDCG@10")
    with pytest.raises(ValueError, match="no candidate for any judged query"):
        GuardCallback(corpus=tiny.corpus, **(tiny.inputs() | {"first_stage": {}}))
    with pytest.raises(ValueError, match="exists already"):
        GuardCallback(corpus=tiny.corpus, **tiny.inputs(), out=tmp_path)
    guarding = GuardCallback(corpus=tiny.corpus, **tiny.inputs())
    args = CrossEncoderTrainingArguments(output_dir=str(tmp_path / "run"), report_to=[], use_cpu=True)
    with pytest.raises(ValueError, match="the guard needs the trainer's CrossEncoder, whole; got a Linear"):
        guarding.on_train_begin(args, None, None, model=torch.nn.Linear(1, 1))  # type: ignore[arg-type]
