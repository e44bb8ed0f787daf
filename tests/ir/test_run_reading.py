"""Run files: the fast and the plain reader agree, policies, and errors that say where."""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmp_rerank.ir import UngroupedError, reading, stream_run
from cmp_rerank.ir.blocks import fingerprints, with_query
from cmp_rerank.ir.files import read_run

TREC = "q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 1.5 tag\nq2 Q0 d1 1 -3e-2 tag\n"
RUN = {"q1": {"d1": 2.5, "d2": 1.5}, "q2": {"d1": -0.03}}


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    "content",
    [
        TREC,
        TREC.replace(" ", "\t"),
        TREC.replace(" ", "  "),
        TREC.replace("\n", "\r\n"),
        TREC.rstrip("\n"),
        "\ufeff" + TREC,
        "\n" + TREC.replace("\nq2", "\n\n \nq2"),
        TREC.replace("q2 ", " q2\t"),
        TREC.replace("q2 ", "\tq2 "),
        TREC.replace(" -3e-2", "\t-3e-2 ").replace(" d1 1\t", " d1\t1 "),
        TREC.replace("-3e-2 tag", "-3e-2 tag\r"),
    ],
    ids=[
        "spaces",
        "tabs",
        "wide",
        "crlf",
        "no last newline",
        "bom",
        "blank lines",
        "mixed 1",
        "mixed 2",
        "mixed 3",
        "cr",
    ],
)
def test_trec_as_found_in_the_wild(tmp_path: Path, content: str) -> None:
    assert read_run(write(tmp_path / "run", content)) == RUN


def test_gzip_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_bytes(gzip.compress(TREC.encode()))
    assert read_run(tmp_path / "run.trec") == RUN


def test_damaged_gzip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.gz").write_bytes(gzip.compress(TREC.encode() * 1000)[:-20])
    with pytest.raises(ValueError, match=r"run\.gz.*damaged"):
        read_run(tmp_path / "run.gz")


def test_msmarco_top1000_and_json(tmp_path: Path) -> None:
    msmarco = write(tmp_path / "a.tsv", "q1\td9\t2\nq1\td1\t1\nq2\td1\t1\nq2\td3\t2\n")
    assert read_run(msmarco) == {"q1": {"d9": -2.0, "d1": -1.0}, "q2": {"d1": -1.0, "d3": -2.0}}
    assert list(read_run(msmarco, rank_order="given")["q1"]) == ["d1", "d9"]
    top = write(tmp_path / "b.tsv", "q1\td9\ta b\tc d e f\nq2\td1\ta\tb\nq1\td1\ta b\tx\n")
    assert read_run(top) == {"q1": {"d9": -1.0, "d1": -2.0}, "q2": {"d1": -1.0}}
    for first in ("who eats\tPandas eat", "who\tPandas eat bamboo", "who ate 7\t13", "7 13\tPandas eat"):
        six = write(tmp_path / "six.tsv", f"q1\td9\t{first}\nq1\td1\twho\tx\n")
        assert read_run(six) == {"q1": {"d9": -1.0, "d1": -2.0}}, first
    three_tabs = write(tmp_path / "three.tabs", "q1\tQ0\td9 1 2.5\ttag\n")
    assert read_run(three_tabs) == {"q1": {"d9": 2.5}}
    ranx = write(tmp_path / "c.json", json.dumps({"q1": {"d1": 1, "d2": 2.5}, "q2": {}}))
    assert read_run(ranx) == {"q1": {"d1": 1.0, "d2": 2.5}}
    assert read_run(write(tmp_path / "named.run", ranx.read_text())) == {"q1": {"d1": 1.0, "d2": 2.5}}


def test_queries_of_json_come_in_blocks_as_those_of_lines_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measure costs much more for a hundred blocks of one query than for one block of a hundred."""
    run = {f"q{i}": {f"d{j}": float(j) for j in range(i % 4)} for i in range(100)}
    path = write(tmp_path / "run.json", json.dumps(run))
    (block,) = stream_run(path)
    assert block.queries == [query for query, scores in run.items() if scores]
    monkeypatch.setattr(reading, "_LINES_PER_BLOCK", 6)
    blocks = list(stream_run(path))
    assert [len(block) for block in blocks] == [6] * 25
    for block in blocks:
        for query, start, stop in zip(block.queries, block.bounds[:-1], block.bounds[1:], strict=True):
            assert dict(zip(block.doc_list()[start:stop], block.scores[start:stop], strict=True)) == run[query]
            assert block.ranks[start:stop].tolist() == list(range(1, stop - start + 1))
    assert read_run(path) == {query: scores for query, scores in run.items() if scores}


rows = st.lists(
    st.tuples(
        st.sampled_from(["q1", "q2", "é"]),
        st.integers(0, 10**6).map(lambda i: f"d{i}"),
        st.integers(-5, 5),
        st.floats(allow_nan=False),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda row: row[:2],
)


@given(rows, st.sampled_from([" ", "\t"]), st.integers(20, 200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_fast_and_plain_reader_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list, delimiter: str, block: int
) -> None:
    lines = sorted(lines, key=lambda row: row[0])
    content = "".join(delimiter.join([q, "Q0", d, str(r), repr(s), "t"]) + "\n" for q, d, r, s in lines)
    path = write(tmp_path / "run", content)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_BYTES_PER_BLOCK", max(block, max(map(len, content.encode().splitlines())) + 2))
        patch.setattr(reading, "_LINES_PER_BLOCK", 3)
        fast = list(stream_run(path, "trec"))
        patch.setattr(reading, "_plain_delimiter", lambda *_: None)
        plain = list(stream_run(path, "trec"))
    for blocks in (fast, plain):
        queries = [query for b in blocks for query in b.queries]
        assert len(set(queries)) == len(queries)  # never split
        seen = []
        for b in blocks:
            for i, query in enumerate(b.queries):
                for row in range(b.bounds[i], b.bounds[i + 1]):
                    seen.append((query, b.doc(row), int(b.ranks[row]), float(b.scores[row])))
        assert seen == lines
    assert not isinstance(fast[0].docs, list)  # canary: the first one really was the fast reader
    assert isinstance(plain[0].docs, list)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("q2 Q0 d1 1 0.5\n", "line 4: 5 fields in b'q2 Q0 d1 1 0.5'"),
        ("q2 Q0 d1 1 0.5 \n", "line 4: 5 fields"),
        (" Q0 d1 1 0.5 tag\n", "line 4: 5 fields"),
        ("q2 Q0  1 0.5 tag\n", "line 4: 5 fields"),
        ("q2\t2 Q0 d1 1 0.5 tag\n", "line 4: the rank is not an integer: b'd1'"),
        ("q2 Q0 my doc 2 0.5 tag\n", "line 4: the rank is not an integer: b'doc'"),
        ("q2\tQ0\tdoc 1\t1\t12.5\ttag\n", r"line 4: b'q2\\tQ0\\tdoc 1\\t1\\t12.5\\ttag' has six columns by its tabs"),
        ("q2 Q0 d7 1 high tag\n", "line 4: the score is not a number: b'high'"),
        ("q2 Q0 d7 first 0.5 tag\n", "line 4: the rank is not an integer: b'first'"),
        ("q2 Q0 d7 1.5 0.5 tag\n", "line 4: the rank is not an integer: b'1.5'"),
        ("q2 Q0 d7 2 nan tag\n", "line 4: the score of document 'd7' is NaN"),
        ("q2 Q0 d1 2 0.5 tag\n", r"line 4: document 'd1' occurs twice for query 'q2' \(first in line 3\)"),
    ],
)
@pytest.mark.parametrize("filler", [0, 2000], ids=["first block", "later block"])
def test_errors_say_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str, message: str, filler: int
) -> None:
    monkeypatch.setattr(reading, "_BYTES_PER_BLOCK", 4096)
    before = "".join(f"q0 Q0 d{i} {i} {-i} t\n" for i in range(filler))
    message = re.sub(r"line (\d)", lambda match: f"line {filler + int(match[1])}", message)
    path = write(tmp_path / "my.run", before + TREC + bad)
    with pytest.raises(ValueError, match=f"my.run, {message}"):
        list(stream_run(path, ranks=True))


def test_broken_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(TREC.encode() + b"q2 Q0 \xff\xfe 2 0.5 tag\n")
    with pytest.raises(ValueError, match="run, line 4: not UTF-8"):
        read_run(tmp_path / "run")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1: not a run: b'hello there' has 2 fields; it must be 'query Q0"):
        read_run(write(tmp_path / "x", "hello there\n"))
    with pytest.raises(ValueError, match="missing: no such file"):
        read_run(tmp_path / "missing")
    with pytest.raises(ValueError, match="a directory"):
        read_run(tmp_path, "trec")
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read_run(write(tmp_path / "x.json", '{"q1":\n nothing}'))
    with pytest.raises(ValueError, match="query 'q1', document 'd1': the score is not a number: 'high'"):
        read_run(write(tmp_path / "x.json", '{"q1": {"d1": "high"}}'))
    with pytest.raises(ValueError, match="the key 'd1' occurs twice"):
        read_run(write(tmp_path / "x.json", '{"q1": {"d1": 1, "d1": 2}}'))
    with pytest.raises(ValueError, match="format must be one of"):
        read_run(write(tmp_path / "x", TREC), "trecrun")


DOUBLED = "q1 Q0 d1 1 2.0 t\nq1 Q0 d2 2 1.0 t\nq1 Q0 d1 3 5.0 t\nq1 Q0 d1 4 3.0 t\nq2 Q0 d1 1 1.0 t\n"


@pytest.mark.parametrize(("policy", "score"), [("first", 2.0), ("last", 3.0), ("max", 5.0)])
@pytest.mark.parametrize("separator", [" ", "  "], ids=["fast", "plain"])
def test_duplicates(tmp_path: Path, policy: str, score: float, separator: str) -> None:
    path = write(tmp_path / "run", DOUBLED.replace(" ", separator))
    run = read_run(path, duplicates=policy)
    assert run == {"q1": {"d1": score, "d2": 1.0}, "q2": {"d1": 1.0}}


@pytest.mark.parametrize("separator", [" ", "  "], ids=["fast", "plain"])
def test_nan(tmp_path: Path, separator: str) -> None:
    path = write(tmp_path / "run", TREC.replace("2.5", "NaN").replace("-3e-2", "nan").replace(" ", separator))
    lowest = read_run(path, nan="lowest")
    assert lowest == {"q1": {"d1": -math.inf, "d2": 1.5}, "q2": {"d1": -math.inf}}
    assert read_run(path, nan="drop") == {"q1": {"d2": 1.5}}


def test_empty(tmp_path: Path) -> None:
    for content in ("", "\n\n"):
        path = write(tmp_path / "run", content)
        with pytest.raises(ValueError, match="run: the run is empty; pass empty='allow'"):
            read_run(path)
        assert read_run(path, empty="allow") == {}


def test_a_query_that_comes_back(tmp_path: Path) -> None:
    lines = [f"q{i % 3} Q0 d{i} {i} {-i} t\n" for i in range(30)]
    path = write(tmp_path / "run", "".join(lines))
    expected = {f"q{q}": {f"d{i}": float(-i) for i in range(q, 30, 3)} for q in range(3)}
    assert read_run(path) == expected
    whole = list(stream_run(path, whole=True))
    assert [block.queries for block in whole] == [["q0", "q1", "q2"]]
    assert whole[0].ranks.tolist() == [*range(0, 30, 3), *range(1, 30, 3), *range(2, 30, 3)]


def test_a_query_that_comes_back_in_another_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LINES_PER_BLOCK", 2)
    monkeypatch.setattr(reading, "_plain_delimiter", lambda *_: None)
    content = "".join(f"q{q} Q0 d{i} {i} {-i} t\n" for i, q in enumerate([1, 1, 2, 2, 3, 3, 1, 1]))
    path = write(tmp_path / "run", content)
    with pytest.raises(UngroupedError, match="the lines of query 'q1' are not adjacent"):
        list(stream_run(path))
    assert list(read_run(path)["q1"]) == ["d0", "d1", "d6", "d7"]
    write(tmp_path / "run", content + "q1 Q0 d0 9 9 t\n")
    with pytest.raises(ValueError, match=r"line 9: document 'd0' occurs twice for query 'q1' \(first in line 1\)"):
        read_run(path)


def test_memory_is_bounded_by_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LINES_PER_BLOCK", 2000)
    monkeypatch.setattr(reading, "_plain_delimiter", lambda *_: None)  # tracemalloc sees Python's memory only

    def peak(queries: int) -> int:
        path = tmp_path / f"run{queries}"
        with path.open("w") as file:
            for q in range(queries):
                file.writelines(f"q{q} Q0 doc{q}-{d} {d} {-d} t\n" for d in range(500))
        tracemalloc.start()
        try:
            assert sum(len(block) for block in stream_run(path)) == 500 * queries
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(10), peak(80)
    assert large < 1.5 * small


def test_rows_of_a_block(tmp_path: Path) -> None:
    (block,) = stream_run(write(tmp_path / "run", TREC), whole=True)
    assert block.bounds.tolist() == [0, 2, 3]
    assert block.doc_list() == ["d1", "d2", "d1"]
    kept = block.take(np.array([1]))
    assert (kept.queries, kept.bounds.tolist(), kept.doc_list()) == (["q1"], [0, 1], ["d2"])


NAMES = st.lists(st.text("ab1é\U0001f600", max_size=20), min_size=1, max_size=30)


@given(NAMES, st.integers(0, 3))
def test_fingerprints_are_those_of_the_string_alone(names: list[str], skip: int) -> None:
    """Equal strings have equal hashes wherever they stand in an array, and others have others."""
    array = pa.array([*["x" * 9] * skip, *names]).slice(skip)
    alone = {name: int(fingerprints(pa.array([name]))[0]) for name in names}
    assert fingerprints(array).tolist() == [alone[name] for name in names]
    assert len(set(alone.values())) == len(alone)


def test_fingerprints_rarely_collide() -> None:
    names = [f"doc-{i}" for i in range(200_000)] + [f"{i}" for i in range(200_000)]
    hashes = fingerprints(pa.array(names))
    assert len(np.unique(hashes)) == len(names)
    pairs = with_query(np.tile(hashes[:1000], 100), np.repeat(np.arange(100), 1000))
    assert len(np.unique(pairs)) == 100_000
    low_bits = np.bincount((hashes & np.uint64(255)).astype(int), minlength=256)
    assert low_bits.min() > 0.8 * len(names) / 256


def test_where_hashes_collide_the_strings_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hash that is always the same, nothing changes: no false duplicates, no false judgments."""
    from cmp_rerank.evaluation import evaluate

    path = write(tmp_path / "run", TREC)
    qrels = {"q1": {"d2": 1, "d9": 2}, "q2": {"d2": 1}}
    expected = evaluate(path, qrels, "RR AP").values
    for module in ("cmp_rerank.ir.blocks", "cmp_rerank.evaluation.judgments"):
        target = sys.modules[module]
        monkeypatch.setattr(target, "fingerprints", lambda names: np.zeros(len(names), dtype=np.uint64))
    assert read_run(path) == RUN
    assert np.array_equal(evaluate(path, qrels, "RR AP").values, expected)
    one = {"q1": {"d2": 1}, "q2": {"d2": 1}}  # no collision among the judged, so rows meet them by hash
    assert evaluate(path, one, "RR").values.tolist() == [[0.5], [0.0]]
