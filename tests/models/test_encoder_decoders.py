"""T5 and BART classifiers, and T5's encoder with a head (RankT5), train, save and load as any other cross-encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from tiny_models import OTHERS, PASSAGES, QUERIES, bart_config, byte_bpe, cross_encoder, save_checkpoint, t5_config
from torch import nn

from cmp_rerank import (
    CmpCrop,
    CmpDrop,
    ComparativeLoss,
    ComparativeTrainer,
    IndependentCopies,
    RDrop,
    RerankerTrainer,
    RerankerTrainingArguments,
)

PAIRS = [*zip(QUERIES, PASSAGES, strict=True), ("it", "a")]


def t5_encoder(folder: Path) -> CrossEncoder:
    """The encoder variant of RankT5: the encoder alone, its first state, a dense layer."""
    save_checkpoint(folder, t5_config(), byte_bpe(), transformers.AutoModel, num_labels=None)
    transformer = Transformer(str(folder))
    dense = Dense(32, 1, activation_function=nn.Identity(), module_output_name="scores")
    return CrossEncoder(modules=[transformer, Pooling(32, "cls"), dense], device="cpu")


MAKE = {
    "t5": (lambda folder: cross_encoder(folder, t5_config, byte_bpe), "T5ForSequenceClassification"),
    "bart": (lambda folder: cross_encoder(folder, bart_config, byte_bpe), "BartForSequenceClassification"),
    "t5-encoder": (t5_encoder, "T5EncoderModel"),
}
LISTWISE = datasets.Dataset.from_dict(
    {
        "query": QUERIES,
        "passages": [list(pair) for pair in zip(PASSAGES, OTHERS, strict=True)],
        "label": [[1.0, 0.0]] * 4,
    }
)
POINTWISE = datasets.Dataset.from_dict(
    {"query": QUERIES * 2, "passage": PASSAGES + OTHERS, "label": [1.0] * 4 + [0.0] * 4}
)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("ablations", ["crop and drop", "copies"])
def test_train_save_load(name: str, ablations: str, tmp_path: Path) -> None:
    make, kind = MAKE[name]
    model = make(tmp_path / "start")
    assert type(model[0].model).__name__ == kind
    before = model.predict(PAIRS)
    loss: Any
    if ablations == "copies":
        data = POINTWISE
        loss = ComparativeLoss(model, BinaryCrossEntropyLoss(model), [IndependentCopies()], objective=RDrop())
    else:
        data = LISTWISE
        loss = ComparativeLoss(model, LambdaLoss(model), [CmpCrop(), CmpDrop()])
    arguments = RerankerTrainingArguments(
        str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=3, learning_rate=1e-2, report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    RerankerTrainer(model, arguments, train_dataset=data, loss=loss).train()
    assert loss.scorer.strategy == "auto"
    after = model.predict(PAIRS)
    assert np.abs(after - before).max() > 1e-3
    model.save_pretrained(str(tmp_path / "tuned"))
    again = CrossEncoder(str(tmp_path / "tuned"), device="cpu")
    assert type(again[0].model).__name__ == kind
    np.testing.assert_allclose(again.predict(PAIRS), after, rtol=1e-5, atol=1e-6)
    assert loss.diagnostics["task_loss_full"] != loss.diagnostics["task_loss_step_1"]


def test_a_t5_classifier_by_the_trainer_of_transformers(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "start", t5_config(), byte_bpe(), num_labels=3)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "start")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "start")
    rows = [{"input_ids": tokenizer(text)["input_ids"], "labels": number % 3} for number, text in enumerate(PASSAGES)]
    trainer = ComparativeTrainer(
        model,
        transformers.TrainingArguments(str(tmp_path / "run"), max_steps=2, report_to=[], use_cpu=True),
        train_dataset=rows,
        processing_class=tokenizer,
        ablations=[CmpDrop(steps=2)],
    )
    trainer.train()
    assert len({float(trainer.diagnostics[name]) for name in trainer.diagnostics if "task" in name}) == 3
    model.save_pretrained(tmp_path / "tuned")
    again = type(model).from_pretrained(tmp_path / "tuned").eval()
    batch = tokenizer(PASSAGES, padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, model.eval()(**batch).logits)
