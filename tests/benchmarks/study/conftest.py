"""Made-up tasks of the study, with their starts; and what the study keeps in memory is forgotten after a test."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from processes import SERVER

from benchmarks.study import together, training, workers
from benchmarks.study.starts import make_start
from benchmarks.study.tasks import TASKS, prepare


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Rows and tokens are kept by the names of tasks, which tests change."""
    yield
    training._LOADED.clear()
    for kept in (_PARTS, together._opened, together._start_on_guard, together.asked, together._examples):
        kept.cache_clear()


_PARTS = together._parts


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the study spawns processes, they fork from one that has imported torch."""
    contexts = SimpleNamespace(get_context={"spawn": SERVER}.__getitem__)
    monkeypatch.setattr(workers, "multiprocessing", contexts)


@pytest.fixture(scope="module")
def cache(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("study")
    prepare("smoke", folder, folder)
    make_start(TASKS["smoke"], folder, str(tiny_checkpoint), layers=2)
    return folder


@pytest.fixture(scope="module")
def squad(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks of SQuAD, from twelve paragraphs, and their starts."""
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("squad")
    for file in ("train", "dev"):
        paragraphs = []
        for i, word in enumerate(["bear", "honey", "river", "bridge", "torch", "panda", "rain", "flower"] * 5):
            text = f"The {word} of {file} number {i} is old. It was made by the {word} people. They sleep now."
            begin = text.index(f"the {word} people")
            answer = {"text": f"the {word} people", "answer_start": begin}
            question = {"id": f"{file}{i}", "question": f"who made the {word} {i}", "answers": [answer]}
            paragraphs.append({"context": text, "qas": [question]})
        (folder / "squad").mkdir(exist_ok=True)
        (folder / "squad" / f"{file}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("passages", "reading"):
            patch.setitem(TASKS, name, replace(TASKS[name], start=(2, 1)))
            prepare(name, folder, folder)
            make_start(TASKS[name], folder, str(tiny_checkpoint), layers=2)
    return folder
