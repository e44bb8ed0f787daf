"""What TensorBoard, W&B and Trackio show: the names that transformers makes of the log, and the files of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sentence_transformers.cross_encoder.losses as upstream
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer
from tiny_models import PASSAGES, QUERIES
from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from cmp_rerank import CmpDrop, ComparativeLoss, RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.evaluation.evaluator import RunEvaluator

TOLD = ("task_loss_full", "task_loss_step_1", "violation_rate", "beaten_rate", "zero_weight_rate")
WANTED = {
    "train/loss",
    "eval/dev_nDCG@10",
    *(f"train/{dataset}_{name}" for dataset in ("web", "news") for name in TOLD),
}


def train(cls: Any, model: CrossEncoder, folder: Path, report_to: list[str], *callbacks: TrainerCallback) -> None:
    """Two datasets with a comparative loss each, and an evaluator."""

    def pairs() -> Any:
        return datasets.Dataset.from_dict({"query": QUERIES, "passage": PASSAGES, "label": [1.0, 0.0, 1.0, 0.0]})

    corpus = {f"d{i}": passage for i, passage in enumerate(PASSAGES)}
    candidates = {"q": {doc: 1.0 / (1 + i) for i, doc in enumerate(corpus)}}
    evaluator = RunEvaluator(
        {"q": QUERIES[0]}, corpus, {"q": {"d0": 1}}, candidates, measures="nDCG@10", name="dev", write_csv=False
    )
    args = RerankerTrainingArguments(
        output_dir=str(folder / "out"), per_device_train_batch_size=4, num_train_epochs=1, logging_steps=1,
        eval_strategy="epoch", save_strategy="no", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
        report_to=report_to,
    )  # fmt: skip
    plain = upstream.BinaryCrossEntropyLoss(model)
    losses = {name: ComparativeLoss(model, plain, [CmpDrop()]) for name in ("web", "news")}
    data = datasets.DatasetDict({"web": pairs(), "news": pairs()})
    cls(
        model=model, args=args, train_dataset=data, loss=losses, evaluator=evaluator, callbacks=list(callbacks)
    ).train()


@pytest.mark.parametrize("cls", [CrossEncoderTrainer, RerankerTrainer])
def test_the_names_of_all_reporters(cls: Any, tiny_model: CrossEncoder, tmp_path: Path) -> None:
    """TensorBoard, W&B and Trackio all show what `rewrite_logs` makes of an entry."""
    names: set[str] = set()

    class Report(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            names.update(rewrite_logs(dict(logs)))

    train(cls, tiny_model, tmp_path, [], Report())
    assert names >= WANTED
    assert not {name for name in names if name.startswith("train/") and name.removeprefix("train/") in TOLD}


def test_tensorboard_has_a_curve_for_each(
    tiny_model: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    train(RerankerTrainer, tiny_model, tmp_path, ["tensorboard"])
    (file,) = (tmp_path / "board").rglob("events.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= WANTED
    for name in WANTED - {"train/loss", "eval/dev_nDCG@10"}:
        (event,) = events.Scalars(name)
        assert 0 <= event.value < 10


@pytest.mark.slow
def test_wandb_has_a_curve_for_each(
    tiny_model: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: `make test-integrations`")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train(RerankerTrainer, tiny_model, tmp_path, ["wandb"])
    wandb.finish()
    (file,) = tmp_path.rglob("offline-run-*/run-*.wandb")
    # What is printed in training is in the file, too, but only these names have a part before a slash.
    recorded = file.read_bytes()
    assert {name for name in WANTED if name.encode() in recorded} == WANTED


@pytest.mark.slow
def test_trackio_has_a_curve_for_each(
    tiny_model: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed: `make test-integrations`")
    from trackio.sqlite_storage import SQLiteStorage

    train(RerankerTrainer, tiny_model, tmp_path, ["trackio"])
    (project,) = SQLiteStorage.get_projects()
    (run,) = SQLiteStorage.get_runs(project)
    found: dict[str, Any] = {}
    for entry in SQLiteStorage.get_logs(project, run):
        found |= entry
    assert found.keys() >= WANTED
    for name in WANTED - {"train/loss", "eval/dev_nDCG@10"}:
        assert 0 <= found[name] < 10
