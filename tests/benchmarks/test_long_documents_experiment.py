"""The experiment with long documents, run as a user runs it, in its short form on a small BEIR folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import python
from tiny_models import PASSAGES, QUERIES, TEXTS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "experiments" / "long_documents.py"


def test_the_short_form_compares_all_arms(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "qrels").mkdir()
    documents = [f"{text} " * 6 for text in TEXTS]
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": text}) for i, text in enumerate(documents)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [json.dumps({"_id": f"q{i}", "text": text}) for i, text in enumerate(QUERIES)]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    judged = [f"q{i}\td{TEXTS.index(passage)}\t1" for i, passage in enumerate(PASSAGES)]
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged))
    out = tmp_path / "result.json"
    done = python(SCRIPT, "--data", tmp_path, "--model", tiny_checkpoint, "--fast", "--out", out)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert result["comparison"]["systems"] == [
        "BM25",
        "untuned, truncation",
        "untuned, MaxP",
        "truncation",
        "MaxP",
        "MaxP + CmpCrop",
    ]
    assert len(result["comparison"]["per_query"]["MaxP"]["nDCG@10"]) == len(QUERIES)
    assert [len(several) for several in result["training"].values()] == [2, 2, 2]  # folds
    assert "documents exceed the window" in result["coverage_of_the_last_model"]
    assert result["config"]["seeds"] == [0]
    assert {(c["system"], c["baseline"]) for c in result["against_maxp"]["contrasts"]} == {("MaxP + CmpCrop", "MaxP")}


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    done = python(SCRIPT, "--data", tmp_path / "nothing")
    assert done.returncode == 1
    assert "nothing is missing" in done.stderr
