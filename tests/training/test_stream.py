"""Streams train in buffers: the same batches each time, in the budget, shared by processes, resumed bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import OTHERS, PASSAGES, QUERIES

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss
from cmp_rerank.ablations import Plan
from cmp_rerank.models.pairs import Truncation, tokenise
from cmp_rerank.training import RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.training import trainer as trainer_module
from cmp_rerank.training.collator import PREPARED, Preparer, RerankerCollator
from cmp_rerank.training.row_tokens import RowTokeniser
from cmp_rerank.training.stream import StreamedBatches

WORDS = " ".join(PASSAGES + OTHERS).split()
ROWS = 60


def rows() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for number in range(ROWS):
        passage = f"{number}: " + " ".join(rng.choice(WORDS, rng.integers(2, 25))) + ". It rained."
        yield {"query": QUERIES[number % 4], "passage": passage, "label": float(rng.integers(0, 2))}


def stream() -> Any:
    features = datasets.Features(
        {"query": datasets.Value("string"), "passage": datasets.Value("string"), "label": datasets.Value("float32")}
    )
    return datasets.IterableDataset.from_generator(rows, features=features)


def number_of(passage: str) -> int:
    return int(passage.partition(":")[0])


@pytest.fixture
def tokeniser(tiny_model: CrossEncoder) -> RowTokeniser:
    collator = RerankerCollator(tiny_model.preprocess)
    return RowTokeniser(Preparer(tiny_model, BinaryCrossEntropyLoss(tiny_model)), collator)


def numbers(batches: StreamedBatches, count: int) -> list[list[int]]:
    return [[number_of(row["passage"]) for row in batch] for batch in islice(batches, count)]


@pytest.mark.parametrize(("size", "by_length"), [({"rows": 4}, True), ({"tokens": 120}, True), ({"rows": 4}, False)])
def test_each_pass_has_every_row_once_and_a_window_its_own(
    size: dict[str, int], by_length: bool, tokeniser: RowTokeniser
) -> None:
    batches = StreamedBatches(stream(), tokeniser, **size, window=20, by_length=by_length, seed=3)
    seen: list[int] = []
    while len(seen) < 2 * ROWS:
        found = [row for batch in numbers(batches, 200) for row in batch]
        seen = found[: 2 * ROWS]
    for first in range(0, 2 * ROWS, 20):
        assert sorted(seen[first : first + 20]) == [i % ROWS for i in range(first, first + 20)]
    assert seen[:20] != sorted(seen[:20])
    assert seen[:ROWS] != seen[ROWS:]  # the next pass has another order
    again = StreamedBatches(stream(), tokeniser, **size, window=20, by_length=by_length, seed=3)
    other = StreamedBatches(stream(), tokeniser, **size, window=20, by_length=by_length, seed=4)
    assert numbers(again, 20) == numbers(batches, 20) != numbers(other, 20)


def test_no_batch_exceeds_its_budget(tokeniser: RowTokeniser) -> None:
    batches = StreamedBatches(stream(), tokeniser, tokens=120, window=20)
    for batch in islice(batches, 40):
        examples, _ = tokeniser(
            [{k: v for k, v in row.items() if k in ("query", "passage", "label")} for row in batch]
        )
        assert sum(len(pair) for pairs in examples for pair in pairs or ()) <= 120


@pytest.mark.parametrize("size", [{"rows": 2}, {"tokens": 120}])
def test_processes_share_the_batches_that_one_has(size: dict[str, int], tokeniser: RowTokeniser) -> None:
    shares = [
        numbers(StreamedBatches(stream(), tokeniser, **size, window=20, world=2, process=process), 12)
        for process in (0, 1)
    ]
    assert [len(a) for a in shares[0]] == [len(b) for b in shares[1]]
    if "rows" in size:
        whole = numbers(StreamedBatches(stream(), tokeniser, 4, window=20), 12)
        assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]


def test_a_stream_without_rows_is_an_error(tokeniser: RowTokeniser) -> None:
    with pytest.raises(ValueError, match="A stream must have rows for a batch"):
        next(iter(StreamedBatches([], tokeniser, 4, window=20)))
    few = [next(rows())] * 3
    with pytest.raises(ValueError, match="A stream must have rows for a batch"):
        next(iter(StreamedBatches(few, tokeniser, 4, window=20, drop_last=True)))


def make(checkpoint: Path, folder: Path, **options: Any) -> RerankerTrainer:
    defaults = dict(
        output_dir=str(folder), per_device_train_batch_size=4, max_steps=20, report_to="none", use_cpu=True, seed=1,
        save_strategy="steps", save_steps=7, disable_tqdm=True, learning_rate=0.1, optim="sgd", tokenise_workers=0,
        lr_scheduler_type="constant", dataloader_pin_memory=False,
    )  # fmt: skip
    model = CrossEncoder(str(checkpoint), device="cpu")
    loss = ComparativeLoss(model, BinaryCrossEntropyLoss(model), [CmpCrop(), CmpDrop(p=0.2)])
    args = RerankerTrainingArguments(**(defaults | options))
    return RerankerTrainer(model=model, args=args, train_dataset=stream(), loss=loss)


def trained(trainer: RerankerTrainer, resume: bool = False) -> torch.Tensor:
    trainer.train(resume_from_checkpoint=resume)
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_a_stream_trains_over_its_end_and_resumes_bit_for_bit(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 batches are one pass. With a worker that reads and tokenises, and without."""
    monkeypatch.setattr(trainer_module, "WINDOW", 20)
    whole = trained(make(tiny_checkpoint, tmp_path / "a", tokenise_workers=1))
    half = trained(make(tiny_checkpoint, tmp_path / "b", max_steps=7))
    assert torch.equal(trained(make(tiny_checkpoint, tmp_path / "b"), True), whole)
    assert not torch.equal(half, whole)
    start = CrossEncoder(str(tiny_checkpoint), device="cpu")
    assert not torch.equal(torch.cat([p.detach().flatten() for p in start.parameters()]), whole)


def test_tokens_of_a_stream_are_made_once(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "WINDOW", 20)
    trainer = make(tiny_checkpoint, tmp_path, tokens_per_batch=150)
    counted: list[int] = []
    preprocess = CrossEncoder.preprocess

    def count(self: Any, pairs: Any, *args: Any, **kwargs: Any) -> Any:
        counted.append(len(pairs))
        return preprocess(self, pairs, *args, **kwargs)

    monkeypatch.setattr(CrossEncoder, "preprocess", count)
    seen = 0
    for batch in trainer.get_train_dataloader():
        seen += len(batch[PREPARED].examples)
        if seen >= 40:
            break
    assert 40 <= sum(counted) <= 60  # the windows that were begun


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_tells_its_loss_what_the_window_cut(workers: int, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Of each pass over the stream, when its first batch is trained on."""
    trainer = make(tiny_checkpoint, tmp_path, tokenise_workers=workers, max_steps=16, save_strategy="no")
    trainer.model.max_seq_length = 20
    trainer.train()
    expected = Truncation()
    tokenise(trainer.model, [(row["query"], row["passage"]) for row in rows()], Plan([]), truncation=expected)
    assert expected.cut > 0
    found = trainer.loss.truncation
    assert (found.passages, found.cut, found.lost) == (120, 2 * expected.cut, 2 * expected.lost)


def test_a_stream_needs_a_number_of_steps(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_steps must be above 0 for a stream"):
        make(tiny_checkpoint, tmp_path, max_steps=-1, num_train_epochs=1)


def test_a_stream_that_can_be_read_once_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Its rows would be used up in the middle of the training."""
    model = CrossEncoder(str(tiny_checkpoint), device="cpu")
    args = RerankerTrainingArguments(str(tmp_path), max_steps=1, report_to=[])
    with pytest.raises(ValueError, match=r"must begin anew each time that it is iterated, .* got a generator"):
        RerankerTrainer(model=model, args=args, train_dataset=rows())
