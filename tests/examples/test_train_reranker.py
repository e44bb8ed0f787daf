"""The example script, run as a user runs it, on a small BEIR folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import PASSAGES, QUERIES, TEXTS

SCRIPT = Path(__file__).parents[2] / "examples" / "train_reranker.py"


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = TEXTS + [f"{text} Filler {i} is about number {i}." for i, text in enumerate(TEXTS)]
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": text}) for i, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [json.dumps({"_id": f"q{i}", "text": text}) for i, text in enumerate(QUERIES)]
    (folder / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for split, rows in (("train", range(2)), ("test", range(4))):
        judged = [f"q{i}\td{TEXTS.index(PASSAGES[i])}\t1" for i in rows]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged))
    return folder


def test_it_trains_both_arms_and_writes_what_a_figure_needs(
    beir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), str(beir), "--model", str(tiny_checkpoint), "--out", str(out)]
    environment = os.environ | {"COLUMNS": "160"}
    command += ["--epochs", "1", "--seeds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["config"]["seeds"] == 2
    assert "torch" in metrics["versions"]
    assert len(metrics["training_seconds"]["comparative"]) == 2
    for name in ("BM25-0", "untuned-0", "plain-0", "plain-1", "comparative-0", "comparative-1"):
        assert (out / f"{name}.run").read_text().startswith("q0 Q0 ")
    steps = json.loads((out / "comparative-1.steps.json").read_text())
    assert steps
    for name in ("BM25", "untuned", "plain", "comparative"):
        assert name in done.stdout
