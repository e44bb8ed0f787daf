"""Training without the model's own dropout: it is off in the steps, and what is saved between them has its rates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import OTHERS, PASSAGES, QUERIES
from tiny_readers import reader, windows
from transformers import TrainerCallback, TrainingArguments

from cmp_rerank import CmpCrop, ComparativeLoss, ComparativeTrainer, RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.hooks.dropout import dropout_rates
from cmp_rerank.training.complete import MARK, mark_complete
from cmp_rerank.training.own_dropout import training_without_dropout

PAIRS = datasets.Dataset.from_dict(
    {"query": QUERIES * 2, "passage": [*PASSAGES, *OTHERS], "label": [1.0] * 4 + [0.0] * 4}
)
COMMON: dict[str, Any] = dict(
    max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, save_steps=2, report_to=[], use_cpu=True,
    disable_tqdm=True, dataloader_pin_memory=False,
)  # fmt: skip
#: Makes a trainer of a fresh model that saves to a folder; quiet: of one without dropout.
Make = Callable[..., Any]


class Rates(TrainerCallback):
    """What anyone sees of the model's rates after a step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append([value for *_, value in dropout_rates(model)])


@pytest.fixture(params=["reader", "reranker", "plain"])
def make(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Make:
    def silenced(model: Any, quiet: bool) -> Any:
        for namespace, name, _ in dropout_rates(model) if quiet else []:
            namespace[name] = 0.0
        return model

    def of_reader(folder: Path, quiet: bool = False, **options: Any) -> Any:
        model, tokenizer = reader("bert")
        args = TrainingArguments(str(folder), **(COMMON | options))
        more = {
            "train_dataset": windows(tokenizer, CmpCrop()),
            "processing_class": tokenizer,
            "ablations": [CmpCrop()],
        }
        return ComparativeTrainer(silenced(model, quiet), args, **more)

    def of_reranker(folder: Path, quiet: bool = False, **options: Any) -> Any:
        model = silenced(CrossEncoder(str(tiny_checkpoint), device="cpu"), quiet)
        loss: Any = BinaryCrossEntropyLoss(model)
        if request.param == "plain":
            args = CrossEncoderTrainingArguments(str(folder), **(COMMON | options))
            return CrossEncoderTrainer(model=model, args=args, train_dataset=PAIRS, loss=loss)
        args = RerankerTrainingArguments(str(folder), **(COMMON | options))
        loss = ComparativeLoss(model, loss, [CmpCrop()])
        return RerankerTrainer(model=model, args=args, train_dataset=PAIRS, loss=loss)

    return of_reader if request.param == "reader" else of_reranker


def weights(made: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in made.model.parameters()])


def trained(made: Any, **options: Any) -> torch.Tensor:
    with training_without_dropout(made):
        made.train(**options)
    return weights(made)


def test_steps_are_those_of_a_model_without_dropout_and_all_that_is_saved_has_its_rates(
    make: Make, tmp_path: Path
) -> None:
    quiet = make(tmp_path / "quiet", quiet=True)
    quiet.train()
    loud = make(tmp_path / "loud")
    loud.train()
    made, rates = make(tmp_path / "made"), Rates()
    before = [value for *_, value in dropout_rates(made.model)]
    made.add_callback(rates)
    assert torch.equal(trained(made), weights(quiet))
    assert not torch.equal(weights(made), weights(loud))
    assert before
    assert rates.seen == [before] * 4
    for number in (2, 4):
        config = json.loads((tmp_path / "made" / f"checkpoint-{number}" / "config.json").read_text())
        assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0.1, 0.1)
    # A checkpoint whose configuration was written with rates of 0 is resumed from, too.
    folder = tmp_path / "made" / "checkpoint-2"
    zeros = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | zeros))
    if (folder / MARK).exists():
        mark_complete(folder)
    again = make(tmp_path / "made")
    assert torch.equal(trained(again, resume_from_checkpoint=str(folder)), weights(quiet))
    assert [value for *_, value in dropout_rates(again.model)] == before


def test_rates_and_the_trainer_are_as_before_when_a_step_fails(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path)
    before = [value for *_, value in dropout_rates(made.model)]
    inside: list[Any] = []

    def fails(*args: Any, **kwargs: Any) -> Any:
        inside.extend(dropout_rates(made.model))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(made), "training_step", fails)
        with pytest.raises(KeyboardInterrupt):
            trained(made)
    assert inside == []
    assert [value for *_, value in dropout_rates(made.model)] == before
    assert "training_step" not in vars(made)
    made.training_step = own = made.training_step  # the caller's
    with training_without_dropout(made):
        assert made.training_step is not own
    assert vars(made)["training_step"] is own
