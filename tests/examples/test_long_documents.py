"""The example of documents beyond the window."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cmp_rerank import LongDocumentReranker


@pytest.mark.parametrize("held_out", [0.0, 0.25])
def test_all_systems_are_compared(
    held_out: float, beir: Path, tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    options = ("--window", 24, "--passages", 2, "--negatives", 2, "--held-out", held_out)
    printed = run_example("long_documents", f"beir:{beir}", "--model", tiny_checkpoint, "--out", out, *options)
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["systems"] == [
        "BM25",
        "untuned, truncation",
        "tuned, truncation",
        "untuned, MaxP",
        "tuned, MaxP",
    ]
    values = {name: comparison["per_query"][name]["nDCG@10"] for name in comparison["systems"]}
    assert {len(of_one) for of_one in values.values()} == {2 if held_out else 4}
    assert "documents exceed the window" in printed
    assert LongDocumentReranker(str(out / "MaxP"), device="cpu").settings["max_passages"] == 2
