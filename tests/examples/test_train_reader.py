"""The example of readers, on questions of one passage and of several."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from tiny_models import PASSAGES, QUERIES
from transformers import AutoModel, AutoModelForQuestionAnswering

GOLD = ["bamboo", "Bees", "an hour", "The river rose"]


@pytest.mark.parametrize("several", [False, True], ids=["one passage", "several"])
def test_both_arms_are_trained_and_compared(
    several: bool, tmp_path: Path, run_example: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models.save_checkpoint(
        tmp_path / "model", tiny_models.bert_config(), tiny_models.wordpiece(), AutoModel, num_labels=None
    )
    rows = [
        {"id": f"q{i}", "question": question, "answers": [gold]}
        | ({"passages": [PASSAGES[i - 1], passage]} if several else {"context": passage})
        for i, (question, passage, gold) in enumerate(zip(QUERIES, PASSAGES, GOLD, strict=True))
    ]
    unknown = {"id": "q9", "question": "who?", "answers": []} | {
        name: rows[0][name] for name in ("passages", "context") if name in rows[0]
    }
    (tmp_path / "train.json").write_text(json.dumps([*rows, unknown]))
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    out = tmp_path / "out"
    files = (tmp_path / "train.json", tmp_path / "dev.json")
    options = ("--epochs", 3, "--max-length", 64, "--stride", 16)
    printed = run_example("train_reader", *files, "--model", model, "--out", out, *options)
    assert "comparative" in printed
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["baseline"] == "plain"
    assert set(comparison["per_query"]["comparative"]["F1"]) == {"q0", "q1", "q2", "q3"}
    weights = []
    for arm in ("plain", "comparative"):
        assert set(json.loads((out / arm / "predictions.json").read_text())) == {"q0", "q1", "q2", "q3"}
        assert json.loads((out / arm / "reader_options.json").read_text())["pack"] == several
        weights.append(AutoModelForQuestionAnswering.from_pretrained(out / arm).qa_outputs.weight)
    assert not weights[0].equal(weights[1])
