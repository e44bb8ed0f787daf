"""Tables of pairs: every format gives the same collection; columns, ids, labels, negatives, splits, support."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from cmp_rerank.collections import Collection, load
from cmp_rerank.collections.table_ids import TextIds

ROWS: list[dict[str, Any]] = [
    {"query": "what do pandas eat", "positive": 'Pandas, "bears", eat\nbamboo.', "negative": "Bees make honey."},
    {"query": "what do bees make", "positive": "Bees make honey.", "negative": "Rain fell."},
    {"query": "what do pandas eat", "positive": "Bamboo is what they eat.", "negative": "Rain fell."},
]
EXPECTED = {
    "queries": {"q1": "what do pandas eat", "q2": "what do bees make"},
    "corpus": {
        "d1": 'Pandas, "bears", eat\nbamboo.',
        "d2": "Bees make honey.",
        "d3": "Rain fell.",
        "d4": "Bamboo is what they eat.",
    },
    "qrels": {"q1": {"d1": 1, "d4": 1}, "q2": {"d2": 1}},
    "negatives": {"q1": {"d2": -1.0, "d3": -2.0}, "q2": {"d3": -1.0}},
}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a table as the suffix says."""
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
        return f"table:{path}"
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        if suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif suffix == ".json":
            json.dump(rows, file)
        else:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return f"table:{path}"


def content(collection: Collection, split: str = "train") -> dict[str, Any]:
    return {
        "queries": collection.queries(split),
        "corpus": dict(collection.corpus),
        "qrels": collection.qrels(split),
        "negatives": collection.run("negatives"),
    }


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.json", "p.parquet", "p.csv.gz", "p.jsonl.gz"])
def test_every_format_gives_the_same(tmp_path: Path, name: str) -> None:
    collection = load(write(tmp_path / name, ROWS))
    assert content(collection) == EXPECTED
    assert collection.name == "p"
    assert collection.splits == ("train",)


def test_a_byte_order_mark_and_spreadsheet_line_ends(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbfquery,positive\r\na b,c d\r\n")
    assert load(f"table:{tmp_path / 'p.csv'}").corpus == {"d1": "c d"}


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=8).filter(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(TEXT, TEXT, st.lists(TEXT, max_size=3)), min_size=1, max_size=8),
    st.sampled_from(["csv", "jsonl"]),
)
def test_tables_against_a_slow_loop(tmp_path: Path, rows: list[tuple[str, str, list[str]]], suffix: str) -> None:
    """Who is relevant for whom, and who is a negative, by texts: ids are but names."""
    as_json = json.dumps if suffix == "csv" else list
    table = [{"query": q, "positive": p, "negatives": as_json(n)} for q, p, n in rows]  # type: ignore[operator]
    collection = load(write(tmp_path / f"p.{suffix}", table))
    relevant: dict[str, set[str]] = {}
    negative: dict[str, list[str]] = {}
    for query, positive, _ in rows:
        relevant.setdefault(query, set()).add(positive)
    for query, _, negatives in rows:
        for text in negatives:
            if text not in relevant[query] and text not in negative.setdefault(query, []):
                negative[query].append(text)
    texts, queries = collection.corpus, collection.queries("train")
    assert sorted(texts.values()) == sorted({t for _, p, n in rows for t in (p, *n)})
    found = {queries[q]: {texts[d] for d in grades} for q, grades in collection.qrels("train").items()}
    assert found == relevant
    run = collection.run("negatives") if collection.runs else {}
    ranked = {queries[q]: [texts[d] for d in scores] for q, scores in run.items()}
    assert ranked == {query: found for query, found in negative.items() if found}
    assert all(list(scores.values()) == [-float(i) for i in range(1, len(scores) + 1)] for scores in run.values())


def test_labels_are_grades_and_the_lowest_are_negatives_too(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "passage": "a", "label": "2"},
        {"question": "q", "passage": "b", "label": "0.0"},
        {"question": "q", "passage": "c", "label": "1"},
        {"question": "q", "passage": "a", "label": "2"},
    ]
    collection = load(write(tmp_path / "p.csv", rows))
    assert collection.qrels("train") == {"q1": {"d1": 2, "d2": 0, "d3": 1}}
    assert collection.run("negatives") == {"q1": {"d2": -1.0}}
    assert load(write(tmp_path / "p.jsonl", [{"query": "q", "document": "a", "label": True}])).qrels("train") == {
        "q1": {"d1": 1}
    }


def test_ids_titles_weights_and_splits(tmp_path: Path) -> None:
    rows = [
        {"qid": 7, "query": "a", "doc_id": "p1", "title": "T", "text": "x", "weight": 2, "split": "test"},
        {"qid": 8, "query": "b", "doc_id": "p2", "title": "", "text": "y", "weight": None, "split": "train"},
        {"qid": 9, "query": "c", "doc_id": "p1", "title": "T", "text": "x", "weight": None, "split": "dev"},
    ]
    source = write(tmp_path / "p.jsonl", rows)
    collection = load(source)
    assert collection.splits == ("train", "dev", "test")
    assert collection.corpus == {"p1": "T x", "p2": "y"}
    assert collection.queries() == {"8": "b", "9": "c", "7": "a"}
    assert collection.qrels("test") == {"7": {"p1": 1}}
    assert collection.weights("test") == {"7": 2.0}
    assert collection.weights("train") is None
    assert collection.runs == ()
    assert load(source, titles=False).corpus == {"p1": "x", "p2": "y"}


def test_a_folder_has_a_split_in_each_file(tmp_path: Path) -> None:
    write(tmp_path / "test.csv", ROWS[:1])
    write(tmp_path / "train.jsonl", ROWS[1:])
    (tmp_path / "README.md").write_text("about")
    collection = load(f"table:{tmp_path}")
    assert collection.splits == ("train", "test")
    assert collection.qrels("test") == {"q2": {"d4": 1}}, "what do pandas eat, which the training rows ask, too"
    assert list(collection.queries()) == ["q1", "q2"]


def test_splits_made_of_shares(tmp_path: Path) -> None:
    rows = [{"query": f"alpha{i} beta{i} gamma{i}", "positive": f"text {i}"} for i in range(30)]
    collection = load(write(tmp_path / "p.csv", rows), split=0.2, seed=5)
    assert collection.splits == ("train", "dev", "test")
    assert [len(collection.queries(split)) for split in collection.splits] == [18, 6, 6]
    other = load(f"table:{tmp_path / 'p.csv'}", split=0.2, seed=6)
    assert other.queries("test") != collection.queries("test")


def test_support_is_found_in_the_document(tmp_path: Path) -> None:
    text = "Pandas are bears. They eat bamboo."
    rows = [
        {"query": "a", "positive": text, "support": "They eat bamboo."},
        {"query": "b", "positive": text, "support": [[0, 6], [18, 22]]},
        {"query": "c", "positive": text, "title": "Pandas", "support": ["bears", "They"]},
        {"query": "d", "positive": text, "support": None},
    ]
    collection = load(write(tmp_path / "p.jsonl", rows))
    support = collection.support or {}
    found = {
        query: [[collection.corpus[doc][start:stop] for start, stop in spans] for doc, spans in found.items()]
        for query, found in support.items()
    }
    assert found == {"q1": [["They eat bamboo."]], "q2": [["Pandas", "They"]], "q3": [["bears", "They"]]}
    csv_rows = [{"query": "b", "positive": text, "support": "[[0, 6], [18, 22]]"}]
    assert load(write(tmp_path / "p.csv", csv_rows)).support == {"q1": {"d1": [(0, 6), (18, 22)]}}


@pytest.mark.parametrize("name", ["p.csv", "p.tsv"])
@pytest.mark.parametrize("empty", ["label", "grade"])
def test_an_empty_label_is_no_positive(name: str, empty: str, tmp_path: Path) -> None:
    rows = [{"query": "x", "positive": "y", empty: "0"}, {"query": "x", "positive": "z", empty: ""}]
    with pytest.raises(ValueError, match=rf"{name}, line 3: a label must be .*; got an empty '{empty}'"):
        load(write(tmp_path / name, rows))
    # Another column of labels has it.
    rows = [{**row, "relevance": "2"} for row in rows[1:]]
    assert load(write(tmp_path / name, rows)).qrels("train") == {"q1": {"d1": 2}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"text": "x"}],
            r"line 1: a table needs a column 'query' \(or 'question', 'anchor'\); got .*'text'",
        ),
        ([{"query": "x"}], r"line 1: a table needs a column 'positive'"),
        (
            [{"query": "x", "positive": "y"}, {"query": " ", "positive": "y"}],
            r"line 2: 'query' must be a text",
        ),
        ([{"query": "x", "positive": None}], r"line 1: a row needs a text in 'positive'; got none"),
        ([{"query": "x", "positive": 5}], r"line 1: 'positive' must be a text; got 5"),
        (
            [{"query": "x", "positive": "y", "label": 0.73}],
            r"label must be a whole number, .*; got 0.73; scores of",
        ),
        ([{"query": "x", "positive": "y", "label": "high"}], r"label must be a whole number, .*; got 'high'"),
        (
            [{"query": "x", "positive": "y", "label": None}],
            r"line 1: a label must be a whole number, .*; got an empty 'label'; fill it in",
        ),
        ([{"query": "x", "positive": "y", "weight": -1}], r"the weight of a query must be .*; got -1"),
        (
            [{"query": "x", "positive": "y", "weight": 1}, {"query": "x", "positive": "z", "weight": 2}],
            r"line 2: a query has one weight; got 2 for 'x', which had 1 before",
        ),
        (
            [{"query": "x", "positive": "y", "label": 1}, {"query": "x", "positive": "y", "label": 0}],
            r"line 2: a pair has one label; got 0 .*, which had 1 before",
        ),
        (
            [{"query": "x", "positive": "y", "doc_id": "1"}, {"query": "x", "positive": "z", "doc_id": "1"}],
            r"line 2: an id stands for one text; got 'z' for '1', which had 'y' before",
        ),
        (
            [{"query": "x", "positive": "y", "support": "no"}],
            r"'support' must be a part of .*; got 'no'",
        ),
        ([{"query": "x", "positive": "y", "support": [[0, 9]]}], r"'support' must be .*; got \[0, 9\]"),
        ([{"query": "x", "positives": ["y", "z"], "doc_id": "1"}], r"one id cannot stand for 2 positives"),
        ([{"query": "x", "positive": "y", "negatives": '["z'}], r"line 1: 'negatives' must be a JSON list"),
        ([{"query": "x", "positive": "y", "support": "[[0, 1"}], r"line 1: 'support' must be a JSON list"),
        ([], r"p\.jsonl: a table needs a row; got none"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "p.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", b"query,positive\na,b,c\n", r"line 2: 3 cells, but 2 columns; quote cells that hold ','"),
        ("p.csv", b"query,positive\na\n", r"line 2: 1 cells, but 2 columns"),
        ("p.csv", b'query,positive\na,"b\n', r"line 2: not CSV"),
        ("p.csv", b"query,query\na,b\n", r"line 1: each column needs a name of its own; got 'query' twice"),
        ("p.csv", b"query,positive\n\xff,b\n", r"p.csv: not UTF-8 text"),
        ("p.csv", b"", r"p\.csv: a table needs a row; got none"),
        ("p.jsonl", b'{"query": "a", "positive": "b"}\n{"query":\n', r"line 2: not JSON"),
        ("p.jsonl", b"[1]\n", r"line 1: expected an object"),
        ("p.json", b"{}", r"p.json: expected a list of objects; got"),
        ("p.json", b"[5]", r"p.json, row 1: expected an object"),
        ("p.parquet", b"PAR1 this is none", r"p.parquet: not a parquet file"),
        ("p.xlsx", b"x", r"a table is a file of .csv, .tsv, .jsonl, .json, .parquet; got '.xlsx'"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(f"table:{tmp_path / name}")


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.json", "p.parquet"])
def test_a_file_that_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load(f"table:{tmp_path / name}")


def test_a_folder_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no table in this folder; it has one file for each split"):
        load(f"table:{tmp_path}")


def test_automatic_ids_give_way_to_given_ones(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "positive": "A", "document_id": "d1", "negative": "N", "support": "A"},
        {"query": "b", "positive": "B", "document_id": "d2", "negative": "A", "query_id": "q1"},
        {"query": "c", "positive": "C", "document_id": "d3", "negative": "D"},
        {"query": "c", "positive": "D", "document_id": "d9", "negative": "B", "weight": 2},
    ]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(rows))
    found = load(f"table:{path}")
    names = {
        "A": "d1",
        "B": "d2",
        "C": "d3",
        "D": "d9",
        "N": next(iter(set(found.corpus) - {"d1", "d2", "d3", "d9"})),
    }
    assert found.corpus == {name: text for text, name in names.items()}
    by_text = {text: query for query, text in found.queries("train").items()}
    assert by_text["b"] == "q1"
    assert len(set(by_text.values())) == 3
    relevant = {"a": ["d1"], "b": ["d2"], "c": ["d3", "d9"]}
    assert found.qrels("train") == {by_text[text]: dict.fromkeys(docs, 1) for text, docs in relevant.items()}
    assert found.weights("train") == {by_text["a"]: 1.0, "q1": 1.0, by_text["c"]: 2.0}
    assert found.support == {by_text["a"]: {"d1": [(0, 1)]}}
    # What is relevant by another row is no negative, whether or not the id was known.
    assert found.run("negatives") == {
        by_text["a"]: {names["N"]: -1.0},
        "q1": {"d1": -1.0},
        by_text["c"]: {"d2": -1.0},
    }


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([None, "d1", "d2", "d3", "d4"])), max_size=8))
def test_ids_of_texts_are_those_that_rows_give(rows: list[tuple[str, str | None]]) -> None:
    by_row = {text: name for text, name in rows if name is not None}
    assume(len({(text, name) for text, name in rows if name is not None}) == len(by_row) == len(set(by_row.values())))
    known = TextIds("d")
    keys = [known.key("", text, name) for text, name in rows]
    ids = known.ids()
    named = [(text, ids.get(key, key)) for (text, _), key in zip(rows, keys, strict=True)]
    assert all(by_row.get(text, name) == name for text, name in named)
    assert len(set(named)) == len({text for text, _ in rows}) == len({name for _, name in named})
