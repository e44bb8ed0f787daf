"""What a collection gives, when it reads, what it refuses and what it leaves out; and `load`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cmp_rerank.collections import (
    Collection,
    LoadOptions,
    Split,
    kinds,
    load,
    register_collection,
)
from cmp_rerank.collections import load as load_function
from cmp_rerank.collections.queries import QueryFile
from cmp_rerank.ir import read_qrels, write_corpus, write_qrels, write_queries, write_run

CORPUS = {"d1": "one", "d2": "two", "d3": "three"}
QUERIES = {"q1": "first", "q2": "second"}


def tiny(**options: Any) -> Collection:
    splits = {
        "train": Split({"q2": "second"}, {"q2": {"d3": 2, "d1": 0}}, {"q2": 2.0}),
        "test": Split({"q1": "first"}, {"q1": {"d2": 1}}, None, {"q1": {"d2": [(0, 2)]}}),
    }
    return Collection("tiny", CORPUS, splits, **options)


def test_parts_of_a_collection() -> None:
    collection = tiny(runs={"bm25": {"q1": {"d1": 1.0}}}, metadata={"made": "here"})
    assert collection.splits == ("train", "test")
    assert collection.queries() == {"q2": "second", "q1": "first"}
    assert collection.queries("train") == {"q2": "second"}
    assert collection.qrels("train") == {"q2": {"d3": 2, "d1": 0}}
    assert collection.weights("train") == {"q2": 2.0}
    assert collection.weights("test") is None
    assert collection.support == {"q1": {"d2": [(0, 2)]}}
    assert collection.documents_of("train") == {"d3": "three"}
    assert collection.run("bm25") == {"q1": {"d1": 1.0}}
    assert collection.summary() == "tiny: 3 documents; queries: train 1, test 1"
    assert collection.metadata == {"made": "here"}
    assert collection.notes() == []


def test_a_name_that_is_not_there_is_answered_by_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"split must be one of 'train', 'test'; got 'tset'; did you mean 'test'"):
        tiny().queries("tset")
    with pytest.raises(ValueError, match=r"tiny: run must be one of \(none\); got 'bm25'"):
        tiny().run("bm25")


@pytest.mark.parametrize(("there", "asked"), [("dev", "validation"), ("validation", "dev")])
def test_dev_and_validation_are_one_split(there: str, asked: str) -> None:
    collection = Collection("x", CORPUS, {there: Split({"q1": "first"}, {"q1": {"d1": 1}})})
    assert collection.queries(asked) == {"q1": "first"}
    with pytest.raises(ValueError, match="got 'train'"):
        collection.queries("train")


def test_what_is_not_asked_for_is_not_read() -> None:
    read: list[str] = []

    def corpus() -> dict[str, str]:
        read.append("corpus")
        return CORPUS

    def split(name: str) -> Split:
        read.append(name)
        return Split({"q1": "first"}, {"q1": {"d1": 1}})

    collection = Collection(
        "x",
        corpus,
        {"train": lambda: split("train"), "test": lambda: split("test")},
        runs={"bm25": lambda: pytest.fail("the run was read")},
    )
    assert collection.splits == ("train", "test")
    assert collection.runs == ("bm25",)
    assert repr(collection) == "Collection('x', splits=('train', 'test'), runs=('bm25',))"
    assert read == []
    collection.qrels("test")
    collection.queries("test")
    assert read == ["test", "corpus"]


MISSING = Split(
    {"q1": "first", "q2": "second"},
    {"q1": {"d1": 1, "d8": 2}, "q2": {"d9": 1}, "q7": {"d1": 1}},
)


def test_judged_ids_without_a_text_are_an_error_that_names_the_option() -> None:
    collection = Collection("x", CORPUS, {"test": MISSING})
    with pytest.raises(
        ValueError,
        match=r"got none for 1 of 3 judged queries of split 'test', for example 'q7'; .*missing_texts='drop'",
    ):
        collection.qrels("test")
    documents_only = Split(MISSING.queries, {q: g for q, g in MISSING.qrels.items() if q != "q7"})
    with pytest.raises(
        ValueError, match=r"got none for 2 judged documents of split 'test', for example 'd8', 'd9'; .*='drop'"
    ):
        Collection("x", CORPUS, {"test": documents_only}).qrels("test")


def test_judged_ids_without_a_text_are_left_out_and_counted_by_the_option() -> None:
    collection = Collection("x", CORPUS, {"test": MISSING}, missing_texts="drop")
    assert collection.qrels("test") == {"q1": {"d1": 1}}
    assert collection.notes() == [
        "1 of 3 judged queries of split 'test' left out: they have no text ('q7')",
        "2 of 3 judgments of split 'test' left out: their documents have no text ('d8', 'd9')",
    ]
    assert collection.with_splits({"test": Split(QUERIES, {"q1": {"d1": 1}})}).notes() == collection.notes()


def test_no_judged_query_left_is_an_error_also_with_the_option() -> None:
    split = Split(QUERIES, {"1": {"d1": 1}, "2": {"d1": 1}})
    with pytest.raises(ValueError, match=r"must have a judged query .*; got none of 2 \(judged: '1', '2'; texts:"):
        Collection("x", CORPUS, {"test": split}, missing_texts="drop").qrels("test")


def test_a_split_without_judgments_is_allowed() -> None:
    assert Collection("x", CORPUS, {"eval": Split(QUERIES)}).qrels("eval") == {}


@pytest.mark.parametrize(
    ("corpus", "split", "message"),
    [
        ({1: "x"}, Split(QUERIES, {"q1": {"d1": 1}}), "documents must map ids"),
        (CORPUS, Split({1: "x"}, {}), "queries must map ids"),  # type: ignore[dict-item]
        (CORPUS, Split(QUERIES, {"q1": {1: 1}}), "ids are strings; got the document id 1"),  # type: ignore[dict-item]
        (CORPUS, Split(QUERIES, {1: {"d1": 1}}), "ids are strings; got the query id 1"),  # type: ignore[dict-item]
    ],
)
def test_integer_ids_are_refused(corpus: Any, split: Split, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Collection("x", corpus, {"test": split}).qrels("test")


def test_two_texts_of_one_query_are_refused() -> None:
    splits = {"dev": Split({"q": "one"}), "test": Split({"q": "two"})}
    with pytest.raises(ValueError, match=r"got two texts for 'q', one in split 'test': 'two' and 'one'"):
        Collection("x", CORPUS, splits).queries()


# --- load ----------------------------------------------------------------------------------------------------


def beir_folder(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "runs").mkdir()
    write_corpus(folder / "corpus.jsonl", CORPUS)
    write_queries(folder / "queries.jsonl", QUERIES)
    write_qrels(folder / "qrels" / "test.tsv", {"q1": {"d1": 1, "d2": 0}})
    write_qrels(folder / "qrels" / "dev.tsv", {"q2": {"d3": 2}})
    write_run(folder / "runs" / "bm25.top10.trec.gz", {"q1": {"d2": 2.5, "d1": 1.0}})
    return folder


def test_a_beir_folder(tmp_path: Path) -> None:
    folder = beir_folder(tmp_path / "mine")
    collection = load(f"beir:{folder}")
    assert collection.name == "mine"
    assert collection.splits == ("dev", "test")
    assert collection.corpus == CORPUS
    assert collection.queries("test") == {"q1": "first"}
    assert collection.qrels("dev") == {"q2": {"d3": 2}}
    assert collection.runs == ("bm25.top10",)
    assert collection.run("bm25.top10") == {"q1": {"d2": 2.5, "d1": 1.0}}


def test_weights_and_titles_of_a_beir_folder(tmp_path: Path) -> None:
    folder = beir_folder(tmp_path / "mine")
    (folder / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "first", "weight": 2.5}\n{"_id": "q2", "text": "x"}\n'
    )
    (folder / "corpus.jsonl").write_text(
        "".join(f'{{"_id": "d{i}", "title": "T{i}", "text": "x"}}\n' for i in (1, 2, 3))
    )
    collection = load(f"beir:{folder}")
    assert collection.weights("test") == {"q1": 2.5}
    assert collection.weights("dev") == {"q2": 1.0}
    assert collection.corpus["d1"] == "T1 x"
    assert load(f"beir:{folder}", titles=False).corpus["d1"] == "x"
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "first", "weight": 0}\n')
    with pytest.raises(ValueError, match=r"queries.jsonl, line 1: the weight of a query must be .*; got 0"):
        load(f"beir:{folder}").weights("test")


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tiny(metadata={"made": "here"}).write_beir(tmp_path / "new" / "folder")
    again = load(f"beir:{path}")
    for split in ("train", "test"):
        assert again.queries(split) == tiny().queries(split)
        assert again.qrels(split) == tiny().qrels(split)
    assert again.corpus == CORPUS
    assert again.weights("train") == {"q2": 2.0}
    assert again.metadata == {"made": "here"}
    assert again.name == "tiny"
    with pytest.raises(ValueError, match="exists already"):
        tiny().write_beir(path)
    broken = Collection("x", {"d": "b"}, {"test": Split({"q 1": "a"}, {"q 1": {"d": 1}})})
    with pytest.raises(ValueError, match="q 1"):
        broken.write_beir(tmp_path / "broken")
    assert [found.name for found in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("corpus.jsonl", "no corpus.jsonl in it; a BEIR folder has"),
        ("queries.jsonl", "no queries.jsonl in it"),
        ("qrels", "no .tsv file; a BEIR folder has one for each split"),
    ],
)
def test_a_beir_folder_without_one_of_its_files(tmp_path: Path, gone: str, message: str) -> None:
    folder = beir_folder(tmp_path / "mine")
    shutil.rmtree(folder / gone) if (folder / gone).is_dir() else (folder / gone).unlink()
    with pytest.raises(ValueError, match=message):
        load(f"beir:{folder}")


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    folder = beir_folder(tmp_path / "mine")
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "x"}\n{"_id": "d2"}\n')
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 2: expected"):
        len(load(f"beir:{folder}").corpus)
    (folder / "metadata.json").write_text("[]")
    with pytest.raises(ValueError, match=r"metadata\.json: metadata is a JSON object; got"):
        load(f"beir:{folder}")


def test_names_that_are_not_understood(tmp_path: Path) -> None:
    folder = beir_folder(tmp_path / "mine")
    (tmp_path / "pairs.csv").write_text("query,positive\na,b\n")
    for source, message in (
        ("bier:x", "the kind of a collection must be one of 'beir', .*; got 'bier'; did you mean 'beir'"),
        (str(folder), f"this looks like 'beir:{folder}'"),
        (str(tmp_path / "pairs.csv"), "this looks like 'table:"),
        ("nothing", "the kinds are beir, docstrings, hf"),
        (f"beir:{tmp_path / 'no'}", "a collection of the kind 'beir' is a folder; got nothing of this name"),
        (f"beir:{folder / 'corpus.jsonl'}", "is a folder; got a file"),
        ("beir:", "'beir' needs a folder; got no name"),
        (folder, "a collection is given by a name such as 'beir:folder'; got a "),
        (None, "got None"),
    ):
        with pytest.raises(ValueError, match=message):
            load(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing_texts": "ignore"}, "missing_texts must be one of 'error', 'drop'; got 'ignore'"),
        ({"split": 0.5}, "must sum below 1"),
        ({"split": {"test": 2}}, "the share of split 'test' must be a number between 0 and 1; got 2"),
        ({"split": {"train": 0.2}}, "shares are for splits other than 'train'"),
    ],
)
def test_options_are_checked_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("beir:not-there", **options)
    with pytest.raises(ValueError, match=message):
        LoadOptions(**options)


def test_a_kind_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmp_rerank.collections.loading._OPENERS", {})

    def opener(where: str, options: LoadOptions) -> Collection:
        return Collection(where, {"d": str(options.seed)}, {"test": Split({"q": "x"}, {"q": {"d": 1}})})

    register_collection("mine", opener)
    register_collection("mine", opener)  # as a module that is imported again does
    assert kinds() == ("mine",)
    assert load("mine:here:there", seed=3).name == "here:there"
    assert load("mine", seed=3).corpus == {"d": "3"}
    with pytest.raises(ValueError, match="each kind of collection has one opener; got 'mine'"):
        register_collection("mine", lambda where, options: tiny())
    with pytest.raises(ValueError, match="a kind of collection is a name of letters"):
        register_collection("my kind", opener)


def test_a_collection_is_returned_as_it_is() -> None:
    collection = tiny()
    assert load_function(collection) is collection


def test_trec_deep_learning_opens_with_the_option_only(shared_data: Path) -> None:
    folder = shared_data / "trec-dl-2019"
    for kind in ("beir", "trec"):
        with pytest.raises(ValueError, match=r"5,765 judged documents .*missing_texts='drop'"):
            load(f"{kind}:{folder}").qrels("test")
        collection = load(f"{kind}:{folder}", missing_texts="drop")
        judged = read_qrels(folder / "qrels" / "test.tsv")
        expected = {q: {d: g for d, g in grades.items() if d in collection.corpus} for q, grades in judged.items()}
        assert collection.qrels("test") == expected
        assert len(expected) == 43
        assert collection.notes()[0].startswith("5,886 of 9,260 judgments of split 'test' left out")
        assert collection.runs == ("bm25", "splade", "tasb")


def test_weights_of_queries_whose_id_has_another_name(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"id": 1, "text": "what", "weight": 2}\n{"qid": "b", "text": "who"}\n')
    read = QueryFile.read(path)
    assert read.texts == {"1": "what", "b": "who"}
    assert read.weights == {"1": 2.0}
