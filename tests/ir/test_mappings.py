"""Datasets as texts against a dictionary, the index of ids with colliding hashes, and what is taken for texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ir_datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optional_libraries import datasets

from cmp_rerank.ir import id_index, rank, write_corpus, write_qrels, write_run, write_top1000
from cmp_rerank.ir.arguments import check_run, check_texts
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.dataset_texts import DatasetTexts
from cmp_rerank.ir.id_index import IdIndex
from cmp_rerank.ir.mappings import Texts, with_title
from cmp_rerank.mining import sample_negatives

IDS = st.lists(st.text(min_size=0, max_size=3), max_size=30)


@settings(suppress_health_check=[HealthCheck.too_slow])  # characters are slow to draw the first time
@given(IDS.map(lambda ids: list(dict.fromkeys(ids))), IDS, st.sampled_from([1, 3, 2**64 - 1]))
def test_the_index_finds_what_a_dictionary_finds(ids: list[str], wanted: list[str], modulus: int) -> None:
    """With a modulus of 1 all ids share one hash; nothing is lost, nothing is invented."""

    def hashed(name: str) -> int:
        return len(name) * 7 % modulus

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(id_index, "id_hash", hashed)
        index = IdIndex.of(np.array([hashed(name) for name in ids], dtype=np.uint64), ids.__getitem__)
        oracle = {name: row for row, name in enumerate(ids)}
        assert [index.row(name) for name in (*ids, *wanted)] == [oracle.get(name) for name in (*ids, *wanted)]
        assert list(index.find(wanted)) == [oracle.get(name) for name in wanted]
        assert index.duplicate() is None


@given(IDS, st.sampled_from([1, 3, 2**64 - 1]))
def test_the_first_id_that_comes_twice_is_found(ids: list[str], modulus: int) -> None:
    def hashed(name: str) -> int:
        return len(name) * 7 % modulus

    expected = next(((ids.index(name), row) for row, name in enumerate(ids) if name in ids[:row]), None)
    index = IdIndex.of(np.array([hashed(name) for name in ids], dtype=np.uint64), ids.__getitem__)
    found = index.duplicate()
    assert (found is None) == (expected is None)
    if found and expected:
        assert found[1] == expected[1]
        assert ids[found[0]] == ids[found[1]]


def test_an_id_has_the_same_hash_everywhere() -> None:
    assert id_index.id_hash("MARCO_7") == 0xC2C9DCE5CC91964A
    assert id_index.id_hash("7") != id_index.id_hash("07")


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.text("ab1é", min_size=1, max_size=3), st.tuples(st.sampled_from(["", " ", "T"]), st.text(max_size=5))
    ).filter(bool)
)
def test_a_dataset_is_the_dictionary_of_its_columns(rows: dict[str, tuple[str, str]]) -> None:
    data = datasets.Dataset.from_dict(
        {"other": [0] * len(rows), "doc_id": list(rows), "title": [t for t, _ in rows.values()]}
        | {"contents": [text for _, text in rows.values()]}
    )
    texts, oracle = DatasetTexts(data), {name: with_title(title, text) for name, (title, text) in rows.items()}
    assert dict(texts) == oracle
    assert list(texts.items()) == list(oracle.items())
    assert list(texts.values()) == list(oracle.values())
    assert list(texts) == list(texts.ids) == list(oracle)
    assert texts.get_many(oracle) == list(oracle.values())
    assert texts.known([*oracle, "zz"]) == [True] * len(oracle) + [False]
    assert "zz" not in texts
    with pytest.raises(KeyError):
        texts["zz"]
    assert dict(DatasetTexts(data, titles=False)) == {name: text for name, (_, text) in rows.items()}


def test_a_dataset_with_indices_and_a_format_is_read_as_it_stands() -> None:
    data = (
        datasets.Dataset.from_dict({"_id": ["a", "b", "c"], "text": ["x", "y", "z"]})
        .select([2, 0])
        .with_format("numpy")
    )
    texts = as_texts("documents", data)
    assert dict(texts) == {"c": "z", "a": "x"}
    assert "b" not in texts
    assert type(texts["a"]) is str


@pytest.mark.parametrize(
    ("columns", "name", "message"),
    [
        ({"_id": [1, 2], "text": ["x", "y"]}, "documents", r"ids must be strings; got 1 in column '_id'"),
        ({"_id": ["a", "a"], "text": ["x", "y"]}, "documents", r"got 'a' in rows 0 and 1"),
        (
            {"_id": ["a"], "body_text": ["x"]},
            "documents",
            r"documents need a column of text.*; got the columns _id",
        ),
        ({"text": ["x"]}, "queries", r"queries need a column of _id, id, query_id"),
    ],
)
def test_datasets_that_are_no_texts_are_refused(columns: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_texts(name, datasets.Dataset.from_dict(columns))


def test_a_missing_text_is_an_error_and_not_none() -> None:
    texts = as_texts("documents", datasets.Dataset.from_dict({"_id": ["a", "b"], "text": ["x", None]}))
    assert texts["a"] == "x"
    with pytest.raises(ValueError, match="texts must be strings; got None for the id 'b' in column 'text'"):
        list(texts.values())


def test_several_splits_are_refused_with_their_names() -> None:
    data = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"_id": ["a"], "text": ["x"]})})
    with pytest.raises(ValueError, match="documents must be one Dataset; got the splits 'train'; take one of them"):
        check_texts("documents", as_texts("documents", data))


def test_ir_datasets_are_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    (tmp_path / "docs.tsv").write_text("d1\tPandas eat bamboo.\nd2\tBees make honey.\n")
    (tmp_path / "queries.tsv").write_text("q1\twhat do pandas eat\n")
    data = ir_datasets.create_dataset(str(tmp_path / "docs.tsv"), str(tmp_path / "queries.tsv"))
    texts = as_texts("documents", data)
    assert isinstance(texts, Texts)
    assert dict(texts) == {"d1": "Pandas eat bamboo.", "d2": "Bees make honey."}
    assert list(texts.items()) == list(dict(texts).items())
    assert len(texts) == 2
    assert texts.get_many(["d2", "d1"]) == ["Bees make honey.", "Pandas eat bamboo."]
    assert "d3" not in texts
    with pytest.raises(KeyError):
        texts["d3"]
    assert as_texts("queries", data) == {"q1": "what do pandas eat"}


def test_other_things_are_left_for_the_check() -> None:
    for value in (None, 5, "corpus.jsonl", [("d1", "x")]):
        assert as_texts("documents", value) is value
        with pytest.raises(ValueError, match="documents must map ids to texts"):
            check_texts("documents", as_texts("documents", value))


class Unread(Texts):
    """Texts that fail when anything but their number is asked for."""

    ids = property(lambda self: pytest.fail("ids were read"))

    def __len__(self) -> int:
        return 8_841_823

    def __getitem__(self, name: str) -> str:
        pytest.fail("a text was read")

    def __iter__(self) -> Any:
        pytest.fail("all ids were read")

    def pairs(self) -> Any:
        pytest.fail("all texts were read")


def test_checking_texts_on_disk_reads_none_of_them() -> None:
    check_texts("documents", Unread())
    check_texts("documents", as_texts("documents", Unread()))


class Numbered(Unread):
    """Millions of ids, of which those that are asked for are made up."""

    ids = property(lambda self: [f"d{i}" for i in range(50)])


def test_negatives_of_a_large_corpus_read_the_ids_that_are_drawn() -> None:
    drawn = sample_negatives({"q": {"d1": 1}}, Numbered(), 3)["q"]
    assert len(set(drawn) - {"d1"}) == 3


@pytest.mark.parametrize("which", ["documents", "qrels", "run", "queries"])
def test_negatives_refuse_integer_ids(which: str) -> None:
    """With integers in one place and strings in another, the positive would be handed out as a negative."""
    documents: list[Any] = ["1", "2", "3"]
    qrels: dict[Any, Any] = {"q": {"1": 1}}
    run: dict[Any, Any] = {"q": {"1": 2.0, "2": 1.0}}
    assert sample_negatives(qrels, documents, 1, run) == {"q": ["2"]}
    if which == "documents":
        documents = [1, 2, 3]
    elif which == "qrels":
        qrels = {"q": {1: 1}}
    elif which == "run":
        run = {"q": {1: 2.0, 2: 1.0}}
    else:
        qrels = {1: {"1": 1}}
    with pytest.raises(ValueError, match=r"ids are strings; got the (query|document) id 1 in .*; convert"):
        sample_negatives(qrels, documents, 1, run)


def test_a_ranking_refuses_integer_ids() -> None:
    with pytest.raises(ValueError, match="document ids are strings; got 7"):
        rank({7: 1.0, 8: 2.0})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="ids are strings; got the query id 7 in run"):
        check_run("run", {7: {}})


def test_files_refuse_integer_ids(tmp_path: Path) -> None:
    """Also JSON, which would write them as strings without a word."""
    run: Any = {7: {"1": 1.0}}
    for suffix in (".json", ".trec", ".tsv"):
        for write, value in ((write_run, run), (write_qrels, {7: {"1": 1}})):
            with pytest.raises(ValueError, match=r"string.*got (the query id )?7"):
                write(tmp_path / f"x{suffix}", value)
    for suffix in (".jsonl", ".tsv"):
        with pytest.raises(ValueError, match="ids are strings; got the query or document id 7 in texts"):
            write_corpus(tmp_path / f"x{suffix}", {7: "x"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="ids are strings; got the query id 7"):
        write_top1000(tmp_path / "x.tsv", {"7": "x"}, {"1": "y"}, run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("texts", [{1: "x"}, {"a": "x", 2: "y"}])
def test_texts_refuse_integer_ids(texts: Mapping[Any, Any]) -> None:
    with pytest.raises(ValueError, match="queries must map ids"):
        check_texts("queries", texts)
