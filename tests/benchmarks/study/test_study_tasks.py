"""The tasks of the study: parts that share nothing, rows that all arms share, and the values of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.study import distilled, measuring, real, tasks
from benchmarks.study.arms import ARMS
from benchmarks.study.measuring import decode
from benchmarks.study.plan import CORE
from benchmarks.study.tasks import PARTS, TASKS, load, training_rows
from cmp_rerank.collections import Collection
from cmp_rerank.collections.base import Split
from cmp_rerank.evaluation import evaluate
from cmp_rerank.ir.bm25 import BM25


def test_arms_of_one_seed_share_their_rows(cache: Path) -> None:
    task, rows = TASKS["smoke"], load("smoke", cache)["train"]
    assert training_rows(task, rows, 8, 3) == training_rows(task, rows, 8, 3) != training_rows(task, rows, 8, 4)
    assert set(load("smoke", cache)) == {*PARTS, "guard"}
    with pytest.raises(ValueError, match="size must be at most 16; got 17"):
        training_rows(task, rows, 17, 0)
    assert set(CORE) <= set(ARMS)


def test_labels_are_wrong_where_a_task_says_so() -> None:
    rows = [{"query": str(i), "docs": ["d"], "labels": [float(i % 2)]} for i in range(60)]
    task, noise = TASKS["smoke"], replace(TASKS["smoke"], noise=0.25)
    clean, noisy = training_rows(task, rows, 40, 3), training_rows(noise, rows, 40, 3)
    assert [row["query"] for row in clean] == [row["query"] for row in noisy]
    assert sum(a["labels"] != b["labels"] for a, b in zip(clean, noisy, strict=True)) == 10
    assert training_rows(noise, rows, 40, 3) == noisy
    assert rows == [{"query": str(i), "docs": ["d"], "labels": [float(i % 2)]} for i in range(60)]
    lists = [{"query": "q", "docs": ["a", "b", "c"], "labels": [0.0, 1.0, 0.0]}] * 8
    wrong = training_rows(replace(task, noise=1.0), lists, 8, 0)
    assert all(row["labels"] in ([1.0, 0, 0], [0, 0, 1.0]) for row in wrong)


def test_training_rows_have_the_documents_that_a_task_says() -> None:
    rows = [{"query": str(i), "docs": list("abcd"), "labels": [1.0, 0, 0, 0], "support": [[0, 1]]} for i in range(9)]
    task = replace(TASKS["smoke"], docs=3)
    for row in training_rows(task, rows, 9, 0):
        assert (row["docs"], row["labels"], row["support"]) == (["a", "b", "c"], [1.0, 0, 0], [[0, 1]])
    assert all(len(row["docs"]) == 4 for row in rows)
    noisy = [row["labels"] for row in training_rows(replace(task, noise=1.0), rows, 9, 0)]
    assert {tuple(labels) for labels in noisy} == {(0, 1.0, 0), (0, 0, 1.0)}  # of those that are left


def test_parts_that_are_sampled_are_the_same_each_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load("smoke", cache)
    assert whole["guard"] == whole["validation"]
    monkeypatch.setitem(TASKS, "smoke", replace(TASKS["smoke"], test_rows=5))
    some = load("smoke", cache)["test"]
    assert some == load("smoke", cache)["test"]
    assert len(some) == 5
    places = [whole["test"].index(row) for row in some]
    assert places == sorted(places)
    monkeypatch.setitem(TASKS, "smoke", replace(TASKS["smoke"], validation_rows=5))
    fewer = load("smoke", cache)
    assert len(fewer["validation"]) == 5
    assert fewer["guard"] == whole["guard"]  # a user's, of all rows


def test_only_sizes_with_earlier_rows_are_trained_in_32_bits() -> None:
    exact = {(task.name, size) for task in TASKS.values() for size in task.sizes if not task.half(size)}
    assert exact == {("sst2", 100), ("sst2-noise", 100), ("sentence-selection", 500), ("smoke", 16)}


def test_the_values_of_rows() -> None:
    draw = np.random.default_rng(0)
    rows, qrels, run = [], {}, {}
    for query in map(str, range(20)):
        grades = draw.integers(0, 4, size=12)
        ideal = sorted([float(g) for g in [*grades, 3] if g], reverse=True)[:10]  # one that was not found
        rows.append({"query": query, "docs": ["d"] * 12, "labels": grades.astype(float).tolist(), "ideal": ideal})
        qrels[query] = {str(doc): int(grade) for doc, grade in enumerate(grades)} | {"missed": 3}
        run[query] = {str(doc): float(draw.normal()) for doc in range(12)}
    scores = np.concatenate([list(scores.values()) for scores in run.values()])
    wanted = evaluate(run, qrels, ["nDCG@10"])
    found = measuring.values_of(scores, rows, TASKS["scifact"])
    assert found == pytest.approx([wanted.values[wanted.queries.index(query), 0] for query in run], abs=1e-4)
    assert decode(found, TASKS["scifact"]) == pytest.approx(found)
    tied = measuring.values_of(np.zeros(12), rows[:1], TASKS["scifact"])[0]
    discounts = 1 / np.log2(np.arange(2, 12))
    worst, ideal = np.sort(rows[0]["labels"])[:10], np.array(rows[0]["ideal"])
    assert tied == pytest.approx(worst @ discounts / (ideal @ discounts[: len(ideal)]), abs=1e-4)
    one = [{"query": "q", "docs": ["a", "b", "c"], "labels": [0.0, 1.0, 0.0]}]
    assert measuring.values_of(np.array([3.0, 2.0, 2.0]), one, TASKS["smoke"]) == "3"  # a tie counts against it


def test_the_parts_of_a_real_collection(tmp_path: Path) -> None:
    words = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx"]
    corpus = {str(i): f"the {word} and its {words[i - 1]} friends" for i, word in enumerate(words)}
    queries = {f"q{i}": f"where does the {word} number {i} live" for i, word in enumerate(words)}
    queries["again"] = queries["q0"]
    qrels = {query: {"0" if query == "again" else query[1:]: 1} for query in queries}
    Collection("c", corpus, {"test": Split(queries, qrels)}).write_beir(tmp_path / "beir")
    parts = real.beir(tmp_path / "beir", validation=0.3, test=0.3)
    texts = {part: [row["query"] for row in rows] for part, rows in parts.items()}
    assert sum(map(len, texts.values())) <= 13
    assert not set(texts["train"]) & {*texts["validation"], *texts["test"]}
    assert all(texts.values())
    for row in parts["train"]:
        (word,) = (word for word in words if f" {word} " in f" {row['query']} ")
        assert word in row["docs"][0]
        assert row["labels"] == [1.0, *[0.0] * (len(row["docs"]) - 1)]
        assert len(row["docs"]) <= real.DOCS
    for row in parts["test"]:
        assert row["ideal"] == [1.0]
        assert sum(row["labels"]) == 1
    drawn = real.beir(tmp_path / "beir", validation=0.3, test=0.3, first=False)
    assert {part: drawn[part] for part in ("validation", "test")} == {
        part: parts[part] for part in ("validation", "test")
    }
    assert drawn == real.beir(tmp_path / "beir", validation=0.3, test=0.3, first=False)
    assert [row["query"] for row in drawn["train"]] == [row["query"] for row in parts["train"]]


def test_negatives_are_the_first_ones_or_drawn() -> None:
    found = {str(place): 20.0 - place for place in range(20)}
    corpus = {name: f"text {name}" for name in found}
    qrels = {"3": 1, "5": 0}
    first, again, *others = (
        real.training_row(query, qrels, found, corpus, first=False) for query in ("a", "a", *map(str, range(50)))
    )
    assert first == again
    assert real.training_row("a", qrels, found, corpus)["docs"] == [corpus[name] for name in "30124567"]
    counts = dict.fromkeys(corpus.values(), 0)
    for row in others:
        assert row["labels"] == [1.0, *[0.0] * 7]
        assert row["docs"][0] == "text 3"
        assert "text 3" not in row["docs"][1:]
        for text in row["docs"][1:4]:  # those that a task with 4 documents trains with
            counts[text] += 1
    assert sum(count > 0 for count in counts.values()) == 19
    few = real.training_row("a", qrels, {"0": 2.0, "3": 1.0}, corpus, first=False)
    assert few["docs"] == ["text 3", "text 0"]


def test_only_the_collections_with_the_later_start_draw_their_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(tasks, "beir", lambda folder, **options: asked.update({folder.name: options}) or {})
    for name, first in (("scifact", True), ("scifact-distilled", False)):
        tasks._MAKERS[name](Path())
        assert asked["scifact"].get("first", True) is first
    for name, first in (("cranfield", True), ("cranfield-distilled", False)):
        tasks._MAKERS[name](Path())
        assert asked["cranfield"].get("first", True) is first
    assert {task.start_of for task in TASKS.values() if "-distilled" in task.name} == {"distilled"}


def test_a_start_learns_scores_of_bm25_and_of_embeddings(tmp_path: Path) -> None:
    """Targets of the loss, the softmax of ten times the labels, are those of the two scores; as a slow loop."""
    words = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
    paragraphs = {str(i): f"the {word} and its {words[i - 1]} live here" for i, word in enumerate(words)} | {
        "8": "rain"
    }
    asked = [(f"where does the {word} live", str(i)) for i, word in enumerate(words)]
    asked += [("of nothing", "3"), ("who has friends and may live here", "8")]

    def embed(texts: Sequence[str]) -> np.ndarray:
        found = np.array([[len(text) % 7 + 1.0, text.count("e"), text.count("a")] for text in texts])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    rows = distilled.rows_of(asked, paragraphs, embed)
    assert [row["query"] for row in rows] == [text for text, _ in asked[:-2]]  # BM25 does not find the last ones'
    search = BM25(paragraphs)
    drawn = set()
    for (text, own), row in zip(asked, rows, strict=False):
        assert row["docs"][0] == paragraphs[own]
        assert len(set(row["docs"])) == 4
        scores = {paragraphs[name]: score for name, score in search.search({"q": text}, 20)["q"].items()}
        wanted = [(scores[doc] + 20 * float(embed([doc])[0] @ embed([text])[0])) / 4 for doc in row["docs"]]
        assert [10 * label for label in row["labels"]] == pytest.approx(wanted, abs=1e-3)
        others = [doc for doc in sorted(scores, key=lambda doc: -scores[doc]) if doc != row["docs"][0]]
        drawn.add(tuple(map(others.index, row["docs"][1:])))
    assert len(drawn) > 4  # of places in BM25's order, by each question
    assert distilled.rows_of(asked, paragraphs, embed) == rows
    squad = {"data": [{"paragraphs": [
        {"context": text, "qas": [{"question": question} for question, of in asked if of == name]}
        for name, text in paragraphs.items()
    ]}]}  # fmt: skip
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "train.json").write_text(json.dumps(squad), encoding="utf-8")
    assert real.squad_paragraphs(tmp_path) == (paragraphs, sorted(asked, key=lambda each: each[1]))


def test_the_tasks_of_squad(squad: Path) -> None:
    passages, reading = load("passages", squad), load("reading", squad)
    for parts in (passages, reading):
        texts = {part: {row["docs"][0] for row in parts[part]} for part in PARTS}
        assert sum(map(len, texts.values())) == 80
        assert len(set.union(*texts.values())) == 80
        assert all(texts.values())
    for part in PARTS:
        own = {row["docs"][0] for row in passages[part]}
        for row in passages[part]:
            (begin, end), word = row["support"][0], row["query"].split()[-2]
            assert row["docs"][0][begin:end] == f"the {word} people"
            assert row["labels"] == [1.0] + [0.0] * (len(row["docs"]) - 1)
            assert set(row["docs"]) <= own
            assert len(set(row["docs"])) == len(row["docs"]) <= real.DOCS
    assert [row["answers"] for row in reading["test"][:1]] == [["the bear people"]]
