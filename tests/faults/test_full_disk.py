"""A disk that is full: one line, nothing half-written, what was there is still there, and the next call goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import tiny_models
from conftest import SmallDisk
from optional_libraries import datasets
from pipeline_data import CORPUS, QRELS, QUERIES, collection
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from test_fuzzed_commands import said
from typer.testing import CliRunner
from usages import USAGES, Usage
from vectors import Vectors

from cmp_rerank import RerankerTrainer, RerankerTrainingArguments
from cmp_rerank.cli.main import app
from cmp_rerank.cli.options import _full_disk
from cmp_rerank.collections import TextStore, open_texts
from cmp_rerank.evaluation.report import write_report
from cmp_rerank.ir import (
    BM25,
    Dense,
    write_corpus,
    write_qrels,
    write_queries,
    write_run,
    write_samples,
    write_top1000,
)
from cmp_rerank.reader.prediction_files import write_squad
from cmp_rerank.training.token_store import TokenStore

RUN = {query: dict.fromkeys(CORPUS, 1.0) for query in QUERIES}


def identifier(usage: Usage) -> str:
    return f"{usage.command}-{USAGES[usage.command].index(usage)}"


#: The demo trains for a minute; what it writes is written by the stages of `train`.
WRITING = [usage for usages in USAGES.values() for usage in usages if usage.out and usage.command != "demo"]
#: In the usual tests; the others train or load models, several times.
QUICK = ("retrieve", "fuse", "report")
COMMANDS = [
    pytest.param(usage, id=identifier(usage), marks=[] if usage.command in QUICK else pytest.mark.slow)
    for usage in WRITING
]
#: Shares of what a command writes for which there is room.
ROOMS = [0.0, 0.4, 0.8]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_unfinished(path: str, usage: Usage) -> bool:
    """Whether a file is one that the next call goes on with, or the lock of one."""
    return usage.command == "rerank" or bool(usage.again) or any(part.startswith(".") for part in Path(path).parts)


def call(usage: Usage, world: Mapping[str, Path], out: Path, more: str = "") -> tuple[int, list[str], str]:
    result = CliRunner().invoke(app, [*usage.call(world, out), *more.split()])
    return result.exit_code, said(result), result.output


@pytest.mark.parametrize("usage", COMMANDS)
def test_commands(usage: Usage, world: Mapping[str, Path], small_disk: SmallDisk, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    code, _, output = call(usage, world, tmp_path / "other" / usage.out)
    assert code == 0, output
    size = sum(len(content) for content in contents(tmp_path / "other").values())
    (small_disk.folder / "bystander").write_text("was there")
    for room in ROOMS:
        small_disk.leave(int(size * room))
        code, lines, output = call(usage, world, small_disk.folder / usage.out)
        if room and not code:  # it needs less than it seems, such as a page for two small files
            continue
        assert code == 2, output
        assert len(lines) == 1, lines
        assert lines[0].startswith("cmp-rerank: there is no room to write the results ("), lines
        left = [path for path in contents(small_disk.folder) if path != "bystander"]
        assert all(is_unfinished(path, usage) and path != usage.out for path in left), left
        small_disk.empty()
        code, lines, output = call(usage, world, small_disk.folder / usage.out)
        if code and usage.again:
            code, _, output = call(usage, world, small_disk.folder / usage.out, usage.again)
        assert code == 0, output
        made = contents(small_disk.folder)
        assert made.pop("bystander") == b"was there"
        assert usage.out in {path.split("/")[0] for path in made}
        for path in sorted(small_disk.folder.rglob("*"), reverse=True):
            if path.name != "bystander":
                path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("usage", [each for each in WRITING if each.command in QUICK], ids=identifier)
def test_a_result_of_before_stays(usage: Usage, world: Mapping[str, Path], small_disk: SmallDisk) -> None:
    """A command that may replace a file does so only by a whole one."""
    (small_disk.folder / usage.out).write_text("of before")
    small_disk.leave(0)
    code, lines, output = call(usage, world, small_disk.folder / usage.out)
    assert code == 2, output
    assert len(lines) == 1, lines
    assert (small_disk.folder / usage.out).read_text() == "of before"


def _train(folder: Path) -> None:
    checkpoint = tiny_models.save_checkpoint(
        folder.parent.parent / "model", tiny_models.bert_config(), tiny_models.wordpiece()
    )
    model = CrossEncoder(str(checkpoint), device="cpu")
    arguments = RerankerTrainingArguments(
        str(folder), max_steps=2, save_steps=1, save_strategy="steps", report_to="none", use_cpu=True
    )
    rows = {"query": ["a", "b"], "passage": ["c", "d"], "label": [0.0, 1.0]}
    RerankerTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(rows),
        loss=BinaryCrossEntropyLoss(model),
    ).train()


def _report(path: Path) -> None:
    write_report(path, {"a": RUN, "b": RUN}, QRELS, "RR", resamples=10)


#: Writers of the library, by what they write.
WRITERS: dict[str, Callable[[Path], object]] = {
    "run.trec": lambda path: write_run(path, RUN),
    "run.json.gz": lambda path: write_run(path, RUN),
    "qrels.tsv": lambda path: write_qrels(path, QRELS),
    "corpus.jsonl": lambda path: write_corpus(path, CORPUS),
    "queries.tsv": lambda path: write_queries(path, QUERIES),
    "top1000.tsv": lambda path: write_top1000(path, QUERIES, CORPUS, RUN),
    "samples.json": lambda path: write_samples(path, QUERIES, CORPUS, QRELS, RUN),
    "predictions.json": lambda path: write_squad(path, {"q": "a" * 10_000}),
    "report.html": _report,
    "beir": lambda path: collection().write_beir(path),
    "store": lambda path: TextStore.build(path, lambda: ((i, d, t) for i, (d, t) in enumerate(CORPUS.items())), "x"),
    "bm25": lambda path: BM25(CORPUS).save(path),
    "dense": lambda path: Dense({"a": "1 2", "b": "2 1"}, Vectors(), folder=path),  # type: ignore[arg-type]
    "tokens": lambda path: TokenStore.write(path, {}),
    "trainer": _train,
}
#: Gone on with by the next call: the index that was begun, and the checkpoints of before.
BEGUN = ("dense", "trainer")


@pytest.mark.parametrize("name", WRITERS)
def test_writers(name: str, small_disk: SmallDisk) -> None:
    path = small_disk.folder / name
    small_disk.leave(0)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of any library; the command knows it by its words
        WRITERS[name](path)
    assert _full_disk(raised.value), raised.value
    assert name in BEGUN or contents(small_disk.folder) == {}
    small_disk.empty()
    WRITERS[name](path)
    assert path.exists()
    if path.is_file():
        before = path.read_bytes()
        small_disk.leave(0)
        with pytest.raises(OSError, match="No space"):
            WRITERS[name](path)
        assert path.read_bytes() == before


def test_a_store_that_cannot_be_built_again_stays_damaged_and_says_why(small_disk: SmallDisk, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl", CORPUS)
    open_texts(tmp_path / "corpus.jsonl", cache_dir=small_disk.folder, large=0)
    (store,) = small_disk.folder.iterdir()
    (store / "ids.bin").write_bytes(b"")
    small_disk.leave(0)
    with pytest.raises(OSError, match="No space"):
        open_texts(tmp_path / "corpus.jsonl", cache_dir=small_disk.folder, large=0)
    small_disk.empty()
    assert dict(open_texts(tmp_path / "corpus.jsonl", cache_dir=small_disk.folder, large=0)) == CORPUS


def test_the_disk_of_these_tests_is_really_full(small_disk: SmallDisk) -> None:
    """Else all of the above would pass for another reason."""
    small_disk.leave(0)
    with pytest.raises(OSError, match="No space"):
        (small_disk.folder / "file").write_bytes(b"x")
    small_disk.leave(100_000)
    (small_disk.folder / "file").write_bytes(bytes(90_000))
