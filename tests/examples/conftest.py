"""A small collection in the layouts that the examples read, and a way to run an example."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from optional_libraries import datasets
from processes import python
from tiny_models import PASSAGES, QUERIES, TEXTS

EXAMPLES = Path(__file__).parents[2] / "examples"

#: Every document twice; the second time with something added.
DOCUMENTS = {f"d{i}": text for i, text in enumerate(TEXTS + [f"{text} This was said again." for text in TEXTS])}
#: A query of each split for every passage.
ASKED = {
    split: {f"{split}{i}": wording.format(query) for i, query in enumerate(QUERIES)}
    for split, wording in (("train", "tell me {}"), ("test", "{} says who in which book"))
}
JUDGED = {split: {f"{split}{i}": f"d{TEXTS.index(passage)}" for i, passage in enumerate(PASSAGES)} for split in ASKED}


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A BEIR folder with the splits train and test."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": name, "title": "", "text": text}) for name, text in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    queries = {name: text for asked in ASKED.values() for name, text in asked.items()}
    lines = [json.dumps({"_id": name, "text": text}) for name, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for split, judged in JUDGED.items():
        lines = ["query-id\tcorpus-id\tscore", *(f"{query}\t{document}\t1" for query, document in judged.items())]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def msmarco(tmp_path: Path) -> Path:
    """The same in the layout of MS MARCO, with candidates of the dev split."""
    folder = tmp_path / "msmarco"
    folder.mkdir()
    (folder / "collection.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in DOCUMENTS.items()))
    for split, of in (("train", "train"), ("dev.small", "test")):
        (folder / f"queries.{split}.tsv").write_text("".join(f"{q}\t{text}\n" for q, text in ASKED[of].items()))
        (folder / f"qrels.{split}.tsv").write_text("".join(f"{q}\t0\t{doc}\t1\n" for q, doc in JUDGED[of].items()))
    candidates = [
        f"{query}\t{name}\t{text}\t{DOCUMENTS[name]}\n"
        for query, text in ASKED["test"].items()
        for name in ("d5", JUDGED["test"][query])
    ]
    (folder / "top1000.dev.tsv").write_text("".join(candidates))
    return folder


@pytest.fixture
def run_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Run an example in this process, with its arguments; returns what it prints.

    A process of its own would spend most of the time on imports.
    """

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err[-2000:]
        return printed.out

    return run


@pytest.fixture
def run_in_a_process(tmp_path: Path) -> Callable[..., str]:
    """Run an example as a user does."""

    def run(name: str, *arguments: object) -> str:
        datasets.Dataset  # noqa: B018 - the test is skipped where they are not
        done = python(
            EXAMPLES / f"{name}.py",
            *arguments,
            environment={"COLUMNS": "160", "CUDA_VISIBLE_DEVICES": ""},
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run
