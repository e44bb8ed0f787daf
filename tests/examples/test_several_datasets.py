"""The example of several datasets, each with its loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder
from tiny_models import PASSAGES, QUERIES


@pytest.mark.parametrize("more", [(), ("--evenly",)], ids=["by size", "evenly"])
def test_each_dataset_has_the_form_of_its_loss(
    more: tuple[str, ...], beir: Path, tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    table = tmp_path / "faq.csv"
    table.write_text("query,positive\n" + "".join(f'"{q}?","{p}"\n' for q, p in zip(QUERIES, PASSAGES, strict=True)))
    out = tmp_path / "out"
    printed = run_example(
        "several_datasets", "--data", f"beir:{beir}=ListNetLoss", "--data", f"table:{table}=BinaryCrossEntropyLoss",
        "--model", tiny_checkpoint, "--out", out, "--negatives", 2, *more,
    )  # fmt: skip
    assert "beir, ListNetLoss: 4 rows from 4 of 4 queries: 4 positives, 8 negatives" in printed
    assert "faq, BinaryCrossEntropyLoss: 12 rows from 4 of 4 queries: 4 positives, 8 negatives" in printed
    measured = dict(line.split("\t", 1) for line in printed.splitlines() if line.count("\t") == 2)
    assert {"beir_nDCG@10", "beir_base_nDCG@10"} <= set(measured)
    assert len(set(measured["beir_base_nDCG@10"].split("\t"))) == 1  # BM25 does not learn
    before, after = (CrossEncoder(str(path), device="cpu") for path in (tiny_checkpoint, out / "model"))
    pair = (QUERIES[0], PASSAGES[0])
    assert before.predict(pair) != after.predict(pair)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["{beir}=ListNetLoss", "{beir}=BinaryCrossEntropyLoss"], "has a name of its own"),
        (["{beir}=ListNetLoss", "{beir}=BinaryLoss"], "there is no loss 'BinaryLoss'"),
    ],
)
def test_what_would_leave_a_dataset_out_is_told_before_any_is_mined(
    data: list[str], message: str, beir: Path, tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    given = [part for one in data for part in ("--data", one.format(beir=f"beir:{beir}"))]
    with pytest.raises((AssertionError, ValueError), match=message):
        run_example("several_datasets", *given, "--model", tiny_checkpoint, "--out", tmp_path / "out")
