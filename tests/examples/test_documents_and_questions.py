"""The example from a folder of documents to an answer with its citation, on a small folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from tiny_models import QUERIES, TEXTS
from transformers import AutoModelForQuestionAnswering

from cmp_rerank import Reader
from cmp_rerank.guard import load_guard
from cmp_rerank.reader.answers import AnswerSpan


def test_the_answer_stands_where_the_citation_says(
    tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    folder = tmp_path / "manuals"
    (folder / "more").mkdir(parents=True)
    for place, text in enumerate(TEXTS):
        # Longer than the window of 128 tokens, so that the answer may stand in any of several passages.
        (folder / ("more" if place % 2 else ".") / f"{place}.txt").write_text(f"{text} " * 20, encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    rows = zip(QUERIES, ("0.txt", "2.txt", "more/3.txt", "4.txt"), strict=True)
    table = tmp_path / "questions.csv"
    table.write_text("question,document\n" + "".join(f"{question},{name}\n" for question, name in rows))
    reader = tiny_models.save_checkpoint(
        tmp_path / "reader",
        tiny_models.bert_config(),
        tiny_models.wordpiece(),
        AutoModelForQuestionAnswering,
        num_labels=None,
    )
    out = tmp_path / "out"
    printed = run_example(
        "documents_and_questions", folder, table, "--model", tiny_checkpoint, "--reader", reader, "--out", out,
        "--ask", "how do bees make honey", "--ask", "xylophone", "--epochs", 1,
    )  # fmt: skip
    assert "documents exceed the window" in printed
    assert "xylophone\n  no document has a word of it" in printed
    answer, path, start, end = re.search(
        r"how do bees make honey\n  (.+)\n  (.+), characters (\d+) to (\d+)", printed
    ).groups()  # type: ignore[union-attr]
    assert Path(path).read_text(encoding="utf-8")[int(start) : int(end)] == answer
    assert load_guard(out / "reranker").model.settings["combine"] == {"name": "max"}


def test_yes_is_credited_to_no_document(
    tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table, out = tmp_path / "manuals", tmp_path / "questions.csv", tmp_path / "out"
    folder.mkdir()
    for place, text in enumerate(TEXTS):
        (folder / f"{place}.txt").write_text(text, encoding="utf-8")
    names = ("0.txt", "2.txt", "3.txt", "4.txt")
    table.write_text("question,document\n" + "".join(f"{q},{n}\n" for q, n in zip(QUERIES, names, strict=True)))
    monkeypatch.setattr(Reader, "from_pretrained", lambda name: Reader.__new__(Reader))
    monkeypatch.setattr(Reader, "answer", lambda *_, **__: [AnswerSpan("yes", 1.0, 0.9, -2, 0, 0)])
    options = ("--model", tiny_checkpoint, "--reader", "any", "--out", out, "--epochs", 1)
    printed = run_example("documents_and_questions", folder, table, *options, "--ask", "do bees make honey")
    assert printed.endswith("do bees make honey\n  yes\n")


def test_a_table_without_its_columns_leaves_no_folder(
    tiny_checkpoint: Path, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    table, out = tmp_path / "questions.csv", tmp_path / "out"
    table.write_text("query,document\nwho,0.txt\n")
    with pytest.raises(ValueError, match=r"question and document; got \['query', 'document'\]"):
        run_example(
            "documents_and_questions", tmp_path, table, "--model", tiny_checkpoint, "--reader", "any", "--out", out,
            "--ask", "who",
        )  # fmt: skip
    assert not out.exists()
