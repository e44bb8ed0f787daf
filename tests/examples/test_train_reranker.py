"""The example of one changed line, run as a user runs it, on a small BEIR folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder

from cmp_rerank.guard import load_guard
from cmp_rerank.ir import read_run


def test_it_trains_both_arms_compares_and_guards(
    beir: Path, tiny_checkpoint: Path, tmp_path: Path, run_in_a_process: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    arguments = (f"beir:{beir}", "--model", tiny_checkpoint, "--out", out, "--negatives", 3, "--epochs", 4)
    printed = run_in_a_process("train_reranker", *arguments)
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["systems"] == ["BM25", "untuned", "plain", "comparative"]
    assert comparison["baseline"] == "plain"
    assert set(comparison["per_query"]["comparative"]["nDCG@10"]) == {f"test{i}" for i in range(4)}
    runs = {name: read_run(out / f"{name}.run") for name in comparison["systems"]}
    assert {name: set(run) for name, run in runs.items()} == {name: {f"test{i}" for i in range(4)} for name in runs}
    # Both arms have moved from the start, and not to the same place.
    assert len({json.dumps(run) for run in runs.values()}) == 4
    verdict = json.loads((out / "guarded" / "verdict.json").read_text())
    assert verdict["queries"] == 1  # a fifth of four, rounded up to one
    assert verdict["test"]["queries"] == 4
    assert verdict["outcome"] in ("helped", "no detectable difference", "would have hurt")
    assert verdict["sentence"].split()[0] in printed
    assert isinstance(load_guard(out / "guarded").model, CrossEncoder)


def test_a_collection_that_is_not_there_leaves_no_folder(
    tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    """The second try needs a new folder."""
    out = tmp_path / "out"
    with pytest.raises((ValueError, OSError), match="none"):
        run_example("train_reranker", f"beir:{tmp_path / 'none'}", "--model", tiny_checkpoint, "--out", out)
    assert not out.exists()
