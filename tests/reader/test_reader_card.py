"""The model card of a reader or a classifier says how it was compared, as that of a reranker does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import transformers as t
from huggingface_hub import ModelCard
from tiny_models import SIZES, TEXTS, random_model
from tiny_readers import reader, windows, wordpiece
from transformers import TrainingArguments

from cmp_rerank import CmpDrop, ComparativeTrainer, Objective
from cmp_rerank.ir.card import add_section
from cmp_rerank.objectives import PairwiseHinge
from cmp_rerank.training.card import TITLE
from cmp_rerank.training.complete import is_complete

ABLATIONS = [CmpDrop(p=0.2), CmpDrop(p=0.2)]


def trained(model: Any, tokenizer: Any, data: Any, folder: Path, **options: Any) -> ComparativeTrainer:
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=2, learning_rate=1e-3, max_steps=2, logging_steps=1, save_steps=1,
        report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, seed=7,
    )  # fmt: skip
    trainer = ComparativeTrainer(model, args, train_dataset=data, processing_class=tokenizer, **options)
    trainer.train()
    return trainer


def settings(card: str) -> dict[str, Any]:
    found = re.search(r"```json\n(.*?)```", card, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_a_reader(tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    objective: Objective = PairwiseHinge(baseline="full")
    trainer = trained(
        model, tokenizer, windows(tokenizer), tmp_path, ablations=ABLATIONS, objective=objective, compare_share=0.5
    )
    trainer.save_model(str(tmp_path / "model"))
    for number, folder in enumerate(["checkpoint-1", "checkpoint-2", "model"], 1):
        card = (tmp_path / folder / "README.md").read_text()
        assert settings(card).items() >= {
            "ablations": repr(ABLATIONS), "objective": repr(objective), "seed": 7, "compare_share": 0.5,
        }.items()  # fmt: skip
        # What was logged last when it was saved: of the optimiser nothing, that is told above.
        entry = [entry for entry in trainer.state.log_history if "loss" in entry][min(number, 2) - 1]
        assert f"logged at step {entry['step']}" in card
        assert f"| task_loss_step_2 | {entry['task_loss_step_2']:.4g} |" in card
        assert "grad_norm" not in card
        assert "2301.03765" in card
    assert is_complete(tmp_path / "checkpoint-2")
    loaded = ModelCard(card)
    assert loaded.data.library_name == "transformers"
    assert "- learning_rate: 0.001" in loaded.content
    assert card.index(f"## {TITLE}") < card.index("## Training Details")


def test_a_classifier_and_a_card_that_is_there(tmp_path: Path) -> None:
    tokenizer = wordpiece()
    config = t.BertConfig(**SIZES, vocab_size=len(tokenizer), pad_token_id=0, num_labels=2)
    encoded = tokenizer(TEXTS[:4])
    data = [{name: values[i] for name, values in encoded.items()} | {"labels": i % 2} for i in range(4)]
    trainer = trained(
        random_model(t.BertForSequenceClassification, config), tokenizer, data, tmp_path, ablations=CmpDrop(p=0.2)
    )
    path = tmp_path / "own" / "README.md"
    path.parent.mkdir()
    path.write_text("---\nlicense: mit\n---\n# Mine\n\nWritten by hand.\n")
    add_section(path, TITLE, "of an earlier training")
    for _ in range(2):
        trainer.save_model(str(path.parent))
    card = path.read_text()
    assert "license: mit" in card
    assert "Written by hand." in card
    assert card.count(f"## {TITLE}") == 1
    assert "of an earlier training" not in card
    assert settings(card)["ablations"] == "[CmpDrop(p=0.2)]"


def test_without_ablations_what_is_saved_is_that_of_the_plain_trainer(tmp_path: Path) -> None:
    model, tokenizer = reader("bert")
    trained(model, tokenizer, windows(tokenizer), tmp_path)
    assert not list(tmp_path.rglob("README.md"))
