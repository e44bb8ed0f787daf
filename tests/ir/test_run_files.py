"""Runs and qrels: what is written is what is read, in every format, and nothing is half-written."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmp_rerank.ir import rank, read_qrels, read_run, write_qrels, write_run

ids = st.text("abc123é/:#\"'\U0001f600", min_size=1, max_size=6)
query_ids = ids.filter(lambda name: not name.startswith("#"))  # that begins a comment
runs = st.dictionaries(
    query_ids, st.dictionaries(ids, st.floats(allow_nan=False), min_size=1, max_size=5), min_size=1, max_size=4
)
qrels_strategy = st.dictionaries(
    query_ids, st.dictionaries(ids, st.integers(-2, 4), min_size=1, max_size=5), min_size=1, max_size=4
)
tmp_ok = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@given(runs, st.sampled_from(["run.trec", "run.trec.gz", "run.json", "run.json.gz"]))
@tmp_ok
def test_a_run_comes_back_bit_by_bit(tmp_path: Path, run: dict, name: str) -> None:
    path = tmp_path / name
    if name.startswith("run.json") and any(math.isinf(s) for scores in run.values() for s in scores.values()):
        run = {query: {doc: max(min(s, 1e308), -1e308) for doc, s in scores.items()} for query, scores in run.items()}
    write_run(path, run)
    back = read_run(path, "json" if "json" in name else "trec")
    assert back == run
    assert [list(scores) for scores in back.values()] == [[d for d, _ in rank(s)] for s in run.values()]


@given(runs)
@tmp_ok
def test_msmarco_run_keeps_the_ranking(tmp_path: Path, run: dict) -> None:
    write_run(tmp_path / "run.tsv", run)
    back = read_run(tmp_path / "run.tsv", "msmarco")
    assert {q: [d for d, _ in rank(s)] for q, s in back.items()} == {
        q: [d for d, _ in rank(s)] for q, s in run.items()
    }


@given(qrels_strategy, st.sampled_from(["trec", "msmarco", "beir", "json"]), st.sampled_from(["", ".gz"]))
@tmp_ok
def test_qrels_come_back(tmp_path: Path, qrels: dict, format: str, gz: str) -> None:
    path = tmp_path / f"qrels{'.json' if format == 'json' else ''}{gz}"
    write_qrels(path, qrels, format=format)
    assert read_qrels(path, format) == qrels
    if format in ("msmarco", "beir", "json"):  # these are told apart by themselves
        assert read_qrels(path) == qrels


def test_what_the_files_look_like(tmp_path: Path) -> None:
    run = {"q1": {"d1": 1.5, "d2": 1.5, "d3": 2}}
    write_run(tmp_path / "a.trec", run, "mine")
    assert (tmp_path / "a.trec").read_text() == "q1 Q0 d3 1 2.0 mine\nq1 Q0 d2 2 1.5 mine\nq1 Q0 d1 3 1.5 mine\n"
    write_run(tmp_path / "a.tsv", run)
    assert (tmp_path / "a.tsv").read_text() == "q1\td3\t1\nq1\td2\t2\nq1\td1\t3\n"
    write_run(tmp_path / "a.json", run)
    assert json.loads((tmp_path / "a.json").read_text()) == run
    write_qrels(tmp_path / "q.txt", {"q1": {"d1": 2}})
    assert (tmp_path / "q.txt").read_text() == "q1 0 d1 2\n"
    write_qrels(tmp_path / "q.tsv", {"q1": {"d1": 2}})
    assert (tmp_path / "q.tsv").read_text() == "query-id\tcorpus-id\tscore\nq1\td1\t2\n"
    write_qrels(tmp_path / "m.tsv", {"q1": {"d1": 2}}, format="msmarco")
    assert (tmp_path / "m.tsv").read_text() == "q1\t0\td1\t2\n"


def test_gzip_is_the_same_every_time(tmp_path: Path) -> None:
    run = {"q1": {"d1": 1.5}}
    write_run(tmp_path / "a.gz", run)
    write_run(tmp_path / "b.gz", run)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"q1 Q0 d1 1 1.5 cmp_rerank\n"


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({"q1": {"d1": 1.0}, "q2": {"d 2": 1.0}}, "t", "the document id 'd 2' cannot stand in a file of columns"),
        ({"q1": {"d1": 1.0}, "": {"d2": 1.0}}, "t", "the query id '' cannot"),
        ({"q1": {"d1": 1.0}, "q2": {"d2": math.nan}}, "t", "'d2' is NaN"),
        ({"q1": {"d1": 1.0}}, "my run", "the tag 'my run' cannot"),
        ({"q1": {"d1": 1.0}, 7: {"d2": 1.0}}, "t", "a query id is a string; got 7"),
        ({"q1": {"d1": 1.0}, "#2": {"d2": 1.0}}, "t", "the query id '#2' would begin a comment"),
    ],
)
def test_nothing_is_half_written(tmp_path: Path, run: dict, tag: str, message: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text("what was there before")
    with pytest.raises(ValueError, match=message):
        write_run(path, run, tag)
    assert path.read_text() == "what was there before"
    assert [p.name for p in tmp_path.iterdir()] == ["run.trec"]


def test_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such directory"):
        write_run(tmp_path / "missing" / "run.trec", {"q1": {"d1": 1.0}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q1 0 d1 1\nq1 0 d2\n", "qrels, line 2: 3 fields"),
        ("query-id\tcorpus-id\tscore\nq1\t0\td1\t1\n", "qrels, line 2: 4 fields"),
        ("q1 0 d1 yes\n", "qrels, line 1: a grade must be an integer; got b'yes'"),
        ("q1 0 d1 0.5\n", "qrels, line 1: a grade must be an integer; got 0.5"),
        ("q1 0 d1 1\nq1 0 d1 2\n", r"qrels, line 2: document 'd1' is judged twice for query 'q1' \(1 and 2\)"),
        ("query-id\tcorpus-id\tscore\n", "qrels: there is no judgment in it"),
        ("", "qrels: there is no judgment in it"),
        ("q1\tdoc 1\t1\n", r"qrels, line 1: b'q1\\tdoc 1\\t1' has three columns by its tabs, and four by its white"),
        ("q 1\td1\t1\n", "qrels, line 1: .* has three columns by its tabs"),
        ("q1\t0\td1\t1\nq1\tdoc 1\t1\n", "qrels, line 2: .* has three columns by its tabs"),
        ("query-id\tcorpus-id\tscore\nq1\tdoc 1\t1\n", "qrels, line 2: 4 fields"),
        ("q1\td1\t1\nq1\tdoc 1\t1\n", "qrels, line 2: 4 fields"),
    ],
)
def test_errors_of_qrels_say_where(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "qrels").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_qrels(tmp_path / "qrels")


@pytest.mark.parametrize("line", ["session 0\td1\t1", "q1\t0 d1\t1"])
def test_an_id_of_beir_may_have_the_zero_of_trec(tmp_path: Path, line: str) -> None:
    (tmp_path / "test.tsv").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"test\.tsv, line 1: .* has three columns by its tabs"):
        read_qrels(tmp_path / "test.tsv")
    (tmp_path / "test.tsv").write_text("q1\t0\td1\t1\n")  # MS MARCO
    assert read_qrels(tmp_path / "test.tsv") == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    "line", ["q1 0 d1 1", "q1\t0\td1\t1", "q1 0\td1\t1", "q1\tQ0 d1\t1", "q1 0 d1 1\t\t", "q1\td1\t1", "q1 d1 1"]
)
def test_white_space_of_qrels_is_any(tmp_path: Path, line: str) -> None:
    (tmp_path / "qrels").write_text(f"{line}\n{line.replace('d1', 'd2')}\n")
    assert read_qrels(tmp_path / "qrels") == {"q1": {"d1": 1, "d2": 1}}


@pytest.mark.parametrize(("policy", "grade"), [("first", 1), ("last", 0), ("max", 3)])
def test_duplicates_in_qrels(tmp_path: Path, policy: str, grade: int) -> None:
    (tmp_path / "qrels").write_text("q1 0 d1 1\nq1 0 d1 3\nq1 0 d1 0\n")
    assert read_qrels(tmp_path / "qrels", duplicates=policy) == {"q1": {"d1": grade}}


def test_grades_are_integers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a grade must be an integer; got 0\.5"):
        write_qrels(tmp_path / "q", {"q1": {"d1": 0.5}})  # type: ignore[dict-item]
    (tmp_path / "q.json").write_text('{"q1": {"d1": 0.5}}')
    with pytest.raises(ValueError, match=r"document 'd1': a grade must be an integer; got 0\.5"):
        read_qrels(tmp_path / "q.json")


def test_the_real_collections(shared_data: Path) -> None:
    qrels = read_qrels(shared_data / "trec-dl-2019/qrels/test.tsv")
    assert len(qrels) == 43
    assert sum(map(len, qrels.values())) == 9260
    run = read_run(shared_data / "trec-dl-2019/runs/bm25.trec")
    assert len(run) == 43
    assert run["264014"]["5611210"] == 15.780599594116211


@pytest.mark.parametrize("name", ["run.trec", "run.tsv", "run.json"])
def test_pairs_are_written_as_they_come(tmp_path: Path, name: str) -> None:
    run = {"q1": {"a": 1.0, "b": 2.0}, "q2": {"c": 0.5}}
    write_run(tmp_path / name, (pair for pair in run.items()))
    write_run(tmp_path / "whole", run, format={"run.trec": "trec", "run.tsv": "msmarco"}.get(name, "json"))
    assert (tmp_path / name).read_bytes() == (tmp_path / "whole").read_bytes()
