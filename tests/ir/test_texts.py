"""Texts and samples: what is written is what is read, and errors say where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmp_rerank.ir import (
    read_corpus,
    read_queries,
    read_samples,
    read_top1000,
    write_corpus,
    write_queries,
    write_samples,
    write_top1000,
)

TEXTS = st.dictionaries(st.text("ab1é", min_size=1, max_size=4), st.text(max_size=20), max_size=4)


@given(TEXTS, st.sampled_from(["x.jsonl", "x.jsonl.gz"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_jsonl_comes_back(tmp_path: Path, texts: dict[str, str], name: str) -> None:
    for write, read in ((write_corpus, read_corpus), (write_queries, read_queries)):
        write(tmp_path / name, texts)
        assert read(tmp_path / name) == texts


def test_beir_and_tsv(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(
        '{"_id": "d1", "title": "A title", "text": "and text"}\n{"_id": "d2", "title": "", "text": "only text"}\n'
    )
    assert read_corpus(tmp_path / "c.jsonl") == {"d1": "A title and text", "d2": "only text"}
    assert read_corpus(tmp_path / "c.jsonl", title=False, ids={"d1"}) == {"d1": "and text"}
    write_queries(tmp_path / "q.tsv", {"q1": "what is this", "q2": ""})
    assert (tmp_path / "q.tsv").read_text() == "q1\twhat is this\nq2\t\n"
    assert read_queries(tmp_path / "q.tsv") == {"q1": "what is this", "q2": ""}
    with pytest.raises(ValueError, match="'q1' cannot be written as TSV"):
        write_queries(tmp_path / "q.tsv", {"q1": "two\nlines"})
    assert read_queries(tmp_path / "q.tsv") == {"q1": "what is this", "q2": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"_id": "d1", "text": "x"}\n{"_id": "d1", "text": "y"}\n', "line 2: the id 'd1' occurs twice"),
        ('{"_id": "d1", "text": "x"}\n{"_id": "d2"}\n', "line 2: expected"),
        ('{"_id": "d1", "text": "x"}\nnot json\n', "line 2: not JSON"),
    ],
)
def test_errors_say_where(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_corpus(tmp_path / "c.jsonl")


def test_top1000(tmp_path: Path) -> None:
    queries, corpus = {"q1": "one", "q2": "two"}, {"d1": "a", "d2": "b"}
    run = {"q1": {"d1": 0.1, "d2": 0.7}, "q2": {"d1": 3.0}}
    write_top1000(tmp_path / "t", queries, corpus, run)
    assert (tmp_path / "t").read_text() == "q1\td2\tone\tb\nq1\td1\tone\ta\nq2\td1\ttwo\ta\n"
    ranked = {"q1": {"d2": -1.0, "d1": -2.0}, "q2": {"d1": -1.0}}
    assert read_top1000(tmp_path / "t") == (queries, corpus, ranked)
    (tmp_path / "t").write_text("q1\td2\tone\tb\nq1\td1\tanother\ta\n")
    with pytest.raises(ValueError, match="line 2: query 'q1' had another text before"):
        read_top1000(tmp_path / "t")
    with pytest.raises(ValueError, match="there is no text for document 'd9'"):
        write_top1000(tmp_path / "u", queries, corpus, {"q1": {"d9": 1.0}})
    assert not (tmp_path / "u").exists()


def test_samples_of_sentence_transformers(tmp_path: Path) -> None:
    samples = [
        {"query": "one", "positive": "a", "documents": ["b", "a", "c"]},
        {"query": "two", "positive": ["b", "x"], "negative": ["a"]},
    ]
    for name, content in (
        ("s.json", json.dumps(samples)),
        ("s.jsonl", "".join(json.dumps(s) + "\n" for s in samples)),
        ("bom.json", "\ufeff" + json.dumps(samples)),
        ("bom.jsonl", "\ufeff" + "".join(json.dumps(s) + "\n" for s in samples)),
        ("blank.json", "\ufeff" + "\n" * 100 + " " + json.dumps(samples, indent=1)),
    ):
        (tmp_path / name).write_text(content)
        queries, corpus, qrels, run = read_samples(tmp_path / name)
        assert queries == {"q0": "one", "q1": "two"}
        assert {qid: {corpus[d] for d in docs} for qid, docs in qrels.items()} == {"q0": {"a"}, "q1": {"b", "x"}}
        assert [corpus[d] for d in run["q0"]] == ["b", "a", "c"]
        assert list(run["q0"].values()) == [-1.0, -2.0, -3.0]
        assert "q1" not in run
        assert set(corpus.values()) == {"a", "b", "c", "x"}
    write_samples(tmp_path / "out.json", queries, corpus, qrels, run)
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"query": "one", "positive": ["a"], "documents": ["b", "a", "c"]},
        {"query": "two", "positive": ["b", "x"], "documents": []},
    ]
    (tmp_path / "s.json").write_text('[{"query": "one"}]')
    with pytest.raises(ValueError, match="sample 0: 'positive' must be a text or a list of texts"):
        read_samples(tmp_path / "s.json")


@pytest.mark.parametrize("name", ["queries.jsonl", "samples.json"])
def test_half_of_a_surrogate_pair_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    whole, half = r'{"_id": "q1", "text": "\ud83e\udd89"}', r'{"_id": "q2", "text": "\ud83e"}'
    path = tmp_path / name
    if name == "samples.json":
        path.write_text('[{"query": "\\ud83e", "positive": "x", "documents": []}]')
        with pytest.raises(ValueError, match=r"samples\.json: half of a surrogate pair, '\\ud83e', is no character"):
            read_samples(path)
        return
    path.write_text(f"{whole}\n{half}\n")
    with pytest.raises(ValueError, match=r"queries\.jsonl, line 2: half of a surrogate pair, '\\ud83e'"):
        read_queries(path)
    path.write_text(f"{whole}\n")
    assert read_queries(path) == {"q1": "\N{OWL}"}
