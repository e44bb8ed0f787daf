"""The parts of the data: which queries train, choose and test; the same from a folder and from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline_data import CORPUS, QRELS, QUERIES, collection, split

from cmp_rerank.collections import Collection, Split
from cmp_rerank.ir import write_qrels, write_queries
from cmp_rerank.pipeline.config import Data
from cmp_rerank.pipeline.data import task_of


def parts(data: dict[str, Any], given: Collection | None = None) -> dict[str, set[str]]:
    task = task_of(Data(collection="tiny", **data), given or collection())
    return {name: set(part.qrels) for name, part in task.parts.items()}


def test_parts_are_the_splits_of_their_names() -> None:
    named = {
        "train": set(split(0, 6).queries),
        "validation": set(split(6, 10).queries),
        "test": set(split(10, 14).queries),
    }
    assert parts({}) == named
    assert parts({"train": "dev", "validation": "test", "test": "train"}) == dict(
        train=named["validation"], validation=named["test"], test=named["train"]
    )


def test_a_share_is_held_out_of_the_training_queries() -> None:
    found = parts({"validation": 0.34})
    assert found["train"] | found["validation"] == set(split(0, 6).queries)
    assert not found["train"] & found["validation"]
    assert len(found["validation"]) == 2
    only = Collection("tiny", CORPUS, {"train": split(0, 10)})
    task = task_of(Data(collection="tiny"), only)
    assert {name: len(part.qrels) for name, part in task.parts.items()} == {"train": 8, "validation": 2}
    assert any("held out" in note for note in task.notes)
    assert any("no split for a test" in note for note in task.notes)


def test_near_duplicates_are_on_one_side() -> None:
    queries = {f"q{i}": f"{QUERIES[f'q{i // 2}']} of the old river and the wide sea" for i in range(24)}
    both = Collection("twins", CORPUS, {"train": Split(queries, {query: {"d0": 1} for query in queries})})
    found = parts({"validation": 0.3}, both)
    assert len(found["validation"]) > 2
    pairs = {(int(query[1:]) // 2, name) for name in ("train", "validation") for query in found[name]}
    assert len(pairs) == 12


def test_a_limit_takes_the_same_queries_each_time() -> None:
    found = parts({"limit": 3})
    assert [len(queries) for queries in found.values()] == [3, 3, 3]
    reverse = Split(dict(reversed(split(0, 6).queries.items())), dict(reversed(split(0, 6).qrels.items())))
    other = Collection("tiny", CORPUS, {"train": reverse, "dev": split(6, 10), "test": split(10, 14)})
    assert parts({"limit": 3}, other) == found


def test_a_digest_stands_for_queries_and_judgments() -> None:
    def digest(grades: dict[str, int] | None = None, text: str = "what", name: str = "tiny") -> str:
        made = Split({"q": text}, {"q": grades or {"d0": 1}})
        return task_of(Data(collection="t"), Collection(name, CORPUS, {"train": made, "dev": split(0, 3)})).digest(
            "train"
        )

    assert digest() == digest()
    assert len({digest(), digest({"d0": 2}), digest({"d1": 1}), digest(text="who"), digest(name="other")}) == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": "tran"}, "tran"),
        ({"validation": "train"}, "train and validation must be different splits; got 'train' for both"),
        ({"test": "dev"}, "validation and test must be different splits"),
        ({"validation": "devel"}, "devel"),
    ],
)
def test_splits_that_do_not_fit(data: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parts(data)


@pytest.mark.parametrize("task", ["train", "validation", "test"])
def test_a_part_without_a_relevant_document_is_refused(task: str) -> None:
    whole = {"train": split(0, 6), "dev": split(6, 10), "test": split(10, 14)}
    name = {"validation": "dev"}.get(task, task)
    graded = {query: dict.fromkeys(docs, 0) for query, docs in whole[name].qrels.items()}
    none = Collection("tiny", CORPUS, whole | {name: Split(whole[name].queries, graded)})
    with pytest.raises(ValueError, match=f"the {task} split '{name}' of tiny has no relevant document; got "):
        parts({}, none)


def test_files_are_a_collection(tmp_path: Path) -> None:
    folder = collection().write_beir(tmp_path / "beir")
    files = Data(
        corpus=str(folder / "corpus.jsonl"),
        queries=str(folder / "queries.jsonl"),
        qrels={name: str(folder / "qrels" / f"{name}.tsv") for name in ("train", "dev", "test")},
    )
    by_files, by_folder = task_of(files), task_of(Data(collection=f"beir:{folder}"))
    for name in ("train", "validation", "test"):
        assert by_files.parts[name].qrels == by_folder.parts[name].qrels
        assert dict(by_files.parts[name].queries) == dict(by_folder.parts[name].queries)
        assert all(by_files.parts[name].qrels[query] == QRELS[query] for query in by_files.parts[name].qrels)
    assert dict(by_files.corpus) == CORPUS
    missing = files.model_copy(update={"corpus": str(tmp_path / "none.jsonl")})
    with pytest.raises(ValueError, match="no such file"):
        task_of(missing)


def test_files_take_the_options_of_collections(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": doc, "title": "Of", "text": text}) + "\n" for doc, text in CORPUS.items())
    )
    write_queries(tmp_path / "queries.tsv", QUERIES)
    write_qrels(tmp_path / "all.qrels", {**QRELS, "q0": {**QRELS["q0"], "unknown": 1}})
    files = {"corpus": tmp_path / "corpus.jsonl", "queries": tmp_path / "queries.tsv"}
    task = task_of(
        Data(
            **{name: str(path) for name, path in files.items()},
            qrels={"all": str(tmp_path / "all.qrels")},
            options={"titles": "no", "missing_texts": "drop", "split": {"dev": 0.2, "test": 0.3}},
        )
    )
    assert dict(task.corpus) == CORPUS
    assert {name: len(part.qrels) for name, part in task.parts.items()} == {"train": 7, "validation": 3, "test": 4}
    assert "'unknown'" in task.collection.notes()[0]
