"""Batches are the same whoever tokenised the rows, and when; a resumed training goes on with them bit for bit."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from optional_libraries import datasets
from packaging.version import Version
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss
from tiny_models import OTHERS, PASSAGES, QUERIES, TEXTS
from torch.utils.data import DataLoader

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, LongDocumentReranker
from cmp_rerank.training import RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.training import ahead as ahead_module
from cmp_rerank.training import trainer as trainer_module
from cmp_rerank.training.ahead import Ahead, Numbers, Rows, TokenisedBatches, TokenisedRows
from cmp_rerank.training.collator import PREPARED
from cmp_rerank.training.token_store import TokenStore
from cmp_rerank.training.windows import WindowBatches

RNG = np.random.default_rng(0)
WORDS = " ".join(PASSAGES + OTHERS).split()
PASSAGES_OF_DATA = [" ".join(RNG.choice(WORDS, RNG.integers(2, 25))) + ". It rained." for _ in range(48)]
DATA = datasets.Dataset.from_dict(
    {"query": QUERIES * 12, "passage": PASSAGES_OF_DATA, "label": RNG.integers(0, 2, 48).astype(float).tolist()}
)
LISTS = datasets.Dataset.from_dict(
    {
        "query": QUERIES * 5,
        "docs": [PASSAGES_OF_DATA[i : i + 2] for i in range(20)],
        "labels": [[1.0, 0.0]] * 20,
    }
)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "WINDOW", 12)
    monkeypatch.setattr(ahead_module, "PART", 4)


def comparative(model: CrossEncoder) -> ComparativeLoss:
    return ComparativeLoss(model, BinaryCrossEntropyLoss(model), [CmpCrop(), CmpDrop(p=0.2)])


def make(checkpoint: Path, folder: Path, data: Any = DATA, make_loss: Any = comparative, **options: Any) -> Any:
    defaults = dict(
        output_dir=str(folder / "run"), per_device_train_batch_size=4, max_steps=60, report_to="none", use_cpu=True,
        seed=1, save_strategy="no", disable_tqdm=True, learning_rate=0.1, optim="sgd", tokenise_workers=0,
        dataloader_pin_memory=False,
    )  # fmt: skip
    model = CrossEncoder(str(checkpoint), device="cpu")
    args = RerankerTrainingArguments(**(defaults | options))
    return RerankerTrainer(model=model, args=args, train_dataset=data, loss=make_loss(model))


def content(trainer: Any, epochs: int = 2) -> list[Any]:
    """All that a model sees of the batches."""
    loader = trainer.get_train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            examples = batch[PREPARED].examples
            found.append(
                [
                    (e.features["input_ids"].tolist(), e.segment.tolist(), sorted(e.support), e.croppable)
                    for e in examples
                ]
            )
    return found


def trained(trainer: Any, resume: bool = False) -> torch.Tensor:
    trainer.train(resume_from_checkpoint=resume)
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


SIZES: dict[str, dict[str, Any]] = {
    "rows": {},
    "tokens": {"tokens_per_batch": 150},
    "unsorted": {"length_bucketing": False},
    "no duplicates": {"batch_sampler": "no_duplicates"},
}


@pytest.mark.parametrize("size", SIZES)
def test_batches_are_the_same_with_a_cache_that_is_empty_or_full_or_in_parts(
    size: str, tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = {"token_cache": str(tmp_path / "tokens")}
    without = content(make(tiny_checkpoint, tmp_path, **SIZES[size]))
    assert sorted(ids for batch in without[: len(without) // 2] for ids, *_ in batch) == sorted(
        ids for batch in without[len(without) // 2 :] for ids, *_ in batch
    )  # all rows in each epoch
    assert content(make(tiny_checkpoint, tmp_path, **SIZES[size], **cache)) == without  # it is filled
    (folder,) = (tmp_path / "tokens").iterdir()
    parts = sorted(folder.iterdir())
    assert len(parts) >= 48 // 4
    assert content(make(tiny_checkpoint, tmp_path, **SIZES[size], **cache)) == without  # it is full
    for part in parts[::2]:
        part.unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-7])  # half of it is gone, a part is damaged
    with caplog.at_level(logging.WARNING, logger="cmp_rerank"):
        assert content(make(tiny_checkpoint, tmp_path, **SIZES[size], **cache)) == without
    assert "a damaged one" in caplog.text
    if size != "no duplicates" or Version(version("sentence-transformers")) >= Version("6.2"):  # 6.0 draws by no seed
        assert content(make(tiny_checkpoint, tmp_path, **SIZES[size], seed=2)) != without  # the canary


def test_a_full_cache_is_not_tokenised_again_whatever_the_seed(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"token_cache": str(tmp_path / "tokens")}
    content(make(tiny_checkpoint, tmp_path, **cache), 1)
    other = make(tiny_checkpoint, tmp_path, seed=5, **cache)  # the model card counts tokens
    monkeypatch.setattr(CrossEncoder, "preprocess", lambda *_, **__: pytest.fail("tokenised again"))
    content(other, 1)


def test_a_model_that_reads_whole_documents_has_tokens_of_its_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict({"query": ["who"] * 4, "passage": [" ".join(TEXTS)] * 4, "label": [1.0] * 4})
    args = RerankerTrainingArguments(str(tmp_path / "run"), token_cache=str(tmp_path / "tokens"), report_to=[])
    lengths = []
    for kind in (CrossEncoder, LongDocumentReranker):
        model = kind(str(tiny_checkpoint), device="cpu", max_length=20)
        trainer = RerankerTrainer(
            model=model, args=args, train_dataset=data, loss=BinaryCrossEntropyLoss(model)
        )  # fmt: skip
        lengths.append({len(ids) for batch in content(trainer, 1) for ids, *_ in batch})
    assert lengths[0] == {20}
    assert min(lengths[1]) > 20


@pytest.mark.parametrize("size", ["tokens", "unsorted"])
def test_batches_are_the_same_in_any_number_of_processes(size: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    one = content(make(tiny_checkpoint, tmp_path, **SIZES[size]))
    for tokenise, load in ((1, 0), (2, 0), (1, 2)):
        options = SIZES[size] | {"tokenise_workers": tokenise, "dataloader_num_workers": load}
        assert content(make(tiny_checkpoint, tmp_path, **options)) == one


def test_no_batch_exceeds_its_budget_of_tokens(tiny_checkpoint: Path, tmp_path: Path) -> None:
    batches = content(make(tiny_checkpoint, tmp_path, tokens_per_batch=150))
    sizes = [sum(len(ids) for ids, *_ in batch) for batch in batches]
    assert max(sizes) <= 150
    assert np.mean(sizes) > 50  # windows of 12 rows need a wide margin
    assert len(batches) == 2 * len(make(tiny_checkpoint, tmp_path, tokens_per_batch=150).get_train_dataloader())


def test_the_first_batch_waits_for_one_window(tiny_checkpoint: Path, tmp_path: Path) -> None:
    trainer = make(tiny_checkpoint, tmp_path)
    next(iter(trainer.get_train_dataloader()))
    assert len(trainer._ahead.index.missing(np.arange(48))) == 36


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        ("rows", 5),
        ("tokens", 15),
        pytest.param("unsorted", 15, marks=pytest.mark.slow),
        pytest.param("no duplicates", 5, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_training_ends_with_the_same_weights(
    size: str, steps: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """In the first epoch or a later one, with tokenising processes or without, whatever is in the cache."""
    plan = {"max_steps": 17, "save_strategy": "steps", "save_steps": steps, "lr_scheduler_type": "constant"}
    plan |= SIZES[size] | {"gradient_accumulation_steps": 1}
    whole = trained(make(tiny_checkpoint, tmp_path / "a", **plan, tokenise_workers=1))
    killed = make(tiny_checkpoint, tmp_path / "b", **(plan | {"max_steps": steps}))
    half = trained(killed)
    resumed = make(tiny_checkpoint, tmp_path / "b", **plan)
    assert torch.equal(trained(resumed, True), whole)
    assert not torch.equal(half, whole)


def test_a_resumed_training_passes_over_windows_that_are_done(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plan = {"save_strategy": "steps", "save_steps": 10, "lr_scheduler_type": "constant"}
    trained(make(tiny_checkpoint, tmp_path, max_steps=10, **plan))
    resumed = make(tiny_checkpoint, tmp_path, max_steps=11, **plan)
    trained(resumed, True)
    assert len(resumed._ahead.index.missing(np.arange(48))) == 36  # of four windows only the last was needed


def test_a_resumed_training_of_several_datasets(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def several(folder: str, steps: int) -> Any:
        def losses(model: CrossEncoder) -> Any:
            return {"pairs": comparative(model), "lists": LambdaLoss(model)}

        plan = {"save_strategy": "steps", "save_steps": 5, "lr_scheduler_type": "constant"}
        return make(
            tiny_checkpoint, tmp_path / folder, {"pairs": DATA, "lists": LISTS}, losses, max_steps=steps, **plan
        )

    whole = trained(several("a", 8))
    trained(several("b", 5))
    assert torch.equal(trained(several("b", 8), True), whole)


def test_a_loader_that_is_used_after_a_training_begins_at_the_start(tiny_checkpoint: Path, tmp_path: Path) -> None:
    trainer = make(tiny_checkpoint, tmp_path, max_steps=3)
    trained(trainer)
    assert content(trainer) == content(make(tiny_checkpoint, tmp_path))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_batches_and_go_on_in_the_right_epoch(world: int) -> None:
    """As accelerate deals and skips them. Nobody tells the sampler of a resumed training which epoch it is in."""

    def rows_of(process: int, epoch: int, skip: int, told: bool) -> list[list[int]]:
        lengths = np.random.default_rng(0).integers(5, 50, 96)

        class Fake(Ahead):
            def __init__(self) -> None:
                self.rows = Rows([list(range(96))])

            def places(self, rows: Any) -> Any:
                return list(rows)

        plan = WindowBatches(96, lambda rows: lengths[rows], 4, window=24, world=world)
        batches = TokenisedBatches(
            Fake(), [plan], Numbers(plan), world=world, process=process, progress=lambda: (0 if told else epoch, skip)
        )
        loader: Any = prepare_data_loader(
            DataLoader(range(96), batch_sampler=batches, collate_fn=list),  # type: ignore[arg-type]
            num_processes=world, process_index=process, put_on_device=False, even_batches=False,
        )  # fmt: skip
        if told:
            batches.set_epoch(epoch)
        return list(skip_first_batches(loader, skip) if skip else loader)

    for epoch in (0, 1):
        shares = [rows_of(process, epoch, 0, True) for process in range(world)]
        assert sorted(row for share in shares for batch in share for row in batch) == list(range(96))
        for process, share in enumerate(shares):
            assert rows_of(process, epoch, 5, False) == share[5:]


def test_a_row_that_cannot_be_tokenised_hinders_no_other(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = datasets.Dataset.from_dict(
        DATA.to_dict() | {"passage": [*PASSAGES_OF_DATA[:20], " ", *PASSAGES_OF_DATA[21:]]}
    )
    trainer = make(tiny_checkpoint, tmp_path, data, BinaryCrossEntropyLoss)
    with caplog.at_level(logging.WARNING, logger="cmp_rerank"):
        batches = list(trainer.get_train_dataloader())
    assert sum(len(batch["label"]) for batch in batches) == 48
    assert sum(batch[PREPARED] is None for batch in batches) == 1  # its own batch is left to the loss
    assert caplog.text.count("Some rows could not be tokenised in advance (The passage in column 1") == 1


def test_a_cache_that_cannot_be_written_is_a_warning(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    trainer = make(tiny_checkpoint, tmp_path, token_cache=str(tmp_path / "file" / "tokens"))
    assert content(trainer) == content(make(tiny_checkpoint, tmp_path))
    assert "cannot be written to" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_a_warning(
    workers: int,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = content(make(tiny_checkpoint, tmp_path))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TokenStore, "write", full)
    trainer = make(tiny_checkpoint, tmp_path, tokenise_workers=workers, token_cache=str(tmp_path / "tokens"))
    assert content(trainer) == expected
    assert caplog.text.count("No space left on device") == 1


def test_rows_whose_tokens_vanish_are_tokenised_when_they_are_needed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Someone clears the cache, and a data loader worker comes too late to open it."""
    trainer = make(tiny_checkpoint, tmp_path, token_cache=str(tmp_path / "tokens"))
    expected = content(trainer, 1)
    store = trainer._ahead.store
    shutil.rmtree(store.folder)
    late = TokenisedRows(trainer._ahead.rows, TokenStore(store.folder))
    batch = trainer.data_collator([late[place] for place in trainer._ahead.places(range(3))])
    ids = [example.features["input_ids"].tolist() for example in batch[PREPARED].examples]
    assert all(any(each == found for batch in expected for found, *_ in batch) for each in ids)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("make_loss", [BinaryCrossEntropyLoss, comparative])
def test_rows_that_a_transform_draws_anew_have_their_own_tokens(
    make_loss: Any, workers: int, tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A positive or a negative, drawn each time that a row is read: text, label and tokens belong together."""
    draw = np.random.default_rng(1)

    def either(batch: dict[str, Any]) -> dict[str, Any]:
        labels = draw.integers(0, 2, len(batch["query"])).astype(float).tolist()
        passages = [one if label else other for label, one, other in zip(labels, batch["a"], batch["b"], strict=True)]
        return {"query": batch["query"], "passage": passages, "label": labels}

    data = datasets.Dataset.from_dict(
        {"query": QUERIES * 4, "a": PASSAGES_OF_DATA[:16], "b": PASSAGES_OF_DATA[16:32]}
    )
    data.set_transform(either)
    trainer = make(tiny_checkpoint, tmp_path, data, make_loss, dataloader_num_workers=workers)
    preprocess = trainer.model.preprocess
    labels = set()
    with caplog.at_level(logging.WARNING, logger="cmp_rerank"):
        for batch in trainer.get_train_dataloader():
            for *pair, label, example in zip(
                batch["query"], batch["passage"], batch["label"].tolist(), batch[PREPARED].examples, strict=True
            ):
                assert example.features["input_ids"].tolist() == preprocess([tuple(pair)])["input_ids"][0].tolist()
                assert (pair[1] in PASSAGES_OF_DATA[:16]) == bool(label)
                labels.add(label)
    assert labels == {0.0, 1.0}
    if not workers:
        assert caplog.text.count("have changed since they were tokenised") == 1


def _batches_by_seed(checkpoint: Path, folder: Path, seed: int, results: Any) -> None:
    try:
        torch.set_num_threads(1)
        trainer = make(checkpoint, folder / str(seed), seed=seed, token_cache=str(folder / "tokens"))
        results.put((seed, content(trainer, 1)))
    except BaseException as error:
        results.put((seed, repr(error)))


def test_several_trainings_may_use_a_cache_at_the_same_time(tiny_checkpoint: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=_batches_by_seed, args=(tiny_checkpoint, tmp_path, seed, results)) for seed in range(3)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=100) for _ in processes)
    for process in processes:
        process.join()
    for seed in range(3):
        assert found[seed] == content(make(tiny_checkpoint, tmp_path, seed=seed), 1)
    (folder,) = (tmp_path / "tokens").iterdir()
    assert not list(folder.glob(".*"))


def test_no_process_stays_after_a_training(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Though it ends in the midst of an epoch, while the next window is tokenised."""
    before = set(multiprocessing.active_children())
    trainer = make(tiny_checkpoint, tmp_path, max_steps=2, tokenise_workers=1)
    begun: list[int] = []
    stop = trainer._course.on_train_end
    trainer._course.on_train_end = lambda *a, **k: (begun.append(len(trainer._ahead._running)), stop(*a, **k))
    trainer.train()
    assert begun == [1]
    assert set(multiprocessing.active_children()) == before


def _train_until_killed(checkpoint: Path, folder: Path, ready: Any) -> None:
    trainer = make(checkpoint, folder, tokenise_workers=1)
    loader = iter(trainer.get_train_dataloader())
    next(loader)
    ready.put([child.pid for child in multiprocessing.active_children()])
    time.sleep(100)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_no_process_stays_when_the_training_is_killed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    process = context.Process(target=_train_until_killed, args=(tiny_checkpoint, tmp_path, ready))
    process.start()
    children = ready.get(timeout=60)
    assert children
    process.kill()
    process.join()
    for _ in range(300):  # a worker looks every five seconds whether its parent is there
        states = [Path(f"/proc/{pid}/stat") for pid in children]
        if not any(path.exists() and ") Z" not in path.read_text() for path in states):
            return
        time.sleep(0.1)
    pytest.fail(f"{children} are still there")
