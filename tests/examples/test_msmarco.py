"""The example in the layout of MS MARCO, on a small folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder

from cmp_rerank import evaluate


def test_the_ranking_that_is_written_has_the_value_that_is_printed(
    msmarco: Path, tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    options = ("--dev", "dev.small", "--dev-run", "top1000.dev", "--evaluations", 2, "--epochs", 2)
    printed = run_example("msmarco", msmarco, "--model", tiny_checkpoint, "--out", out, *options)
    first_stage, tuned = printed.strip().splitlines()[-2:]
    assert first_stage == "first stage MSMARCO-MRR@10 0.5000 R@100 1.0000"  # the relevant one is second
    found = evaluate(out / "dev.small.tsv", msmarco / "qrels.dev.small.tsv", "MSMARCO-MRR@10 R@100").means
    assert float(tuned.split()[2]) == pytest.approx(found["MSMARCO-MRR@10"], abs=1e-4)
    assert tuned.endswith("R@100 1.0000")  # reranking loses no candidate
    assert (out / "bm25.index").is_dir()  # negatives of the train split
    assert CrossEncoder(str(out / "model"), device="cpu").num_labels == 1


def test_fewer_queries_and_a_run_for_each_split(
    msmarco: Path, tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    """A run of the folder stands in for BM25, for negatives as well."""
    (msmarco / "hard.run").write_text("train0 Q0 d4 1 2.0 hard\ntrain0 Q0 d1 2 1.0 hard\n")
    options = ("--dev", "dev.small", "--dev-run", "top1000.dev", "--train-run", "hard", "--queries", 1)
    printed = run_example(
        "msmarco", msmarco, "--model", tiny_checkpoint, "--out", tmp_path / "out", "--negatives", 2, *options
    )
    assert "1 rows from 1 of 1 queries: 1 positives, 2 negatives" in printed
    assert not (tmp_path / "out" / "bm25.index").exists()


def test_one_evaluation_is_refused(
    msmarco: Path, tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    """Trainers read a share of 1 as one step, and would evaluate after each."""
    with pytest.raises(AssertionError, match="evaluations"):
        run_example("msmarco", msmarco, "--model", tiny_checkpoint, "--out", tmp_path / "out", "--evaluations", 1)
