"""What trec_eval 10 reads: comments, text after the last column, ranks that are none, grades written 1.0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmp_rerank.evaluation import evaluate
from cmp_rerank.ir import read_qrels, read_run, reading, stream_run

LINES = [f"q{i // 3} Q0 d{i} {i % 3 + 1} {9.5 - i} tag" for i in range(9)]
RUN = {f"q{i}": {f"d{j}": 9.5 - j for j in range(3 * i, 3 * i + 3)} for i in range(3)}


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("place", [0, 1, 5, 9])
@pytest.mark.parametrize("comment", ["# written by hand", "#", "#q7 Q0 d1 1 2.0 tag", "#\tq\td"])
def test_comments(tmp_path: Path, place: int, comment: str) -> None:
    """Also one that looks like a line to the fast reader."""
    path = write(tmp_path / "run", [*LINES[:place], comment, *LINES[place:]])
    assert read_run(path) == RUN
    lines = [f"q{i} 0 d{i} {i % 2}" for i in range(9)]
    path = write(tmp_path / "qrels", [*lines[:place], comment, *lines[place:]])
    assert read_qrels(path) == {f"q{i}": {f"d{i}": i % 2} for i in range(9)}


def test_the_fast_reader_reads_what_has_no_comment(tmp_path: Path) -> None:
    block, _ = stream_run(write(tmp_path / "run", LINES))
    assert not isinstance(block.docs, list)  # canary of the test above


@pytest.mark.parametrize("rest", ["more", "and more text", "# a remark"])
def test_text_after_the_sixth_column(tmp_path: Path, rest: str) -> None:
    assert read_run(write(tmp_path / "run", [f"{line} {rest}" for line in LINES])) == RUN
    assert read_run(write(tmp_path / "run", [*LINES[:4], f"{LINES[4]} {rest}", *LINES[5:]])) == RUN


@pytest.mark.parametrize("rank", ["-", "first", "1.5", "9" * 400])
def test_a_rank_that_is_none_is_not_looked_at(tmp_path: Path, rank: str) -> None:
    lines = [" ".join([*line.split()[:3], rank, *line.split()[4:]]) for line in LINES]
    path = write(tmp_path / "run", [*LINES[:3], *lines[3:]])
    assert read_run(path) == RUN
    qrels = {"q0": {"d1": 1}, "q2": {"d8": 1}}
    assert evaluate(path, qrels, "RR").means == {"RR": pytest.approx((1 / 2 + 1 / 3) / 2)}
    with pytest.raises(ValueError, match="run, line 4: the rank is not an integer"):
        read_run(path, rank_order="given")
    for needed in ({"measures": "MSMARCO-MRR@10"}, {"measures": "RR", "rank_order": "given"}):
        with pytest.raises(ValueError, match="run, line 4: the rank is not an integer"):
            evaluate(path, qrels, **needed)


@pytest.mark.parametrize("written", ["1.0", "1.", "+1", "1e0", "01"])
def test_grades_that_are_whole(tmp_path: Path, written: str) -> None:
    assert read_qrels(write(tmp_path / "qrels", [f"q 0 d {written}"])) == {"q": {"d": 1}}
    assert read_qrels(write(tmp_path / "qrels.tsv", [f"q\td\t{written}"])) == {"q": {"d": 1}}


def test_grades_of_json_that_are_whole(tmp_path: Path) -> None:
    found = read_qrels(write(tmp_path / "qrels.json", ['{"q": {"d": 1.0, "e": -2}}']))
    assert found == {"q": {"d": 1, "e": -2}}
    assert type(found["q"]["d"]) is int


@pytest.mark.parametrize("written", ["0.5", "nan", "inf", "-inf", "1000001", "9" * 400, "9" * 5000, "true"])
def test_grades_that_are_none(tmp_path: Path, written: str) -> None:
    """trec_eval reads 0.5 as 0; and takes gigabytes, or ends, where a grade is large."""
    with pytest.raises(ValueError, match="qrels, line 1: a grade must be "):
        read_qrels(write(tmp_path / "qrels", [f"q 0 d {written}"]))
    with pytest.raises(ValueError, match=r"qrels.json(: query 'q', document 'd': a grade|, line 1|: a number has)"):
        read_qrels(write(tmp_path / "qrels.json", [f'{{"q": {{"d": {written}}}}}']))


def test_equal_judgments_are_no_conflict(tmp_path: Path) -> None:
    assert read_qrels(write(tmp_path / "qrels", ["q 0 d 1", "q 0 d 1.0"])) == {"q": {"d": 1}}


# Three columns ---------------------------------------------------------------------------------------------------


def three(scores: list[list[int]]) -> list[str]:
    return [f"q{q}\td{i}\t{score}" for q, found in enumerate(scores) for i, score in enumerate(found)]


@pytest.mark.parametrize("scores", [[[15, 12, 7]], [[3, 3, 1], [9]], [[7], [5, 4], [8, 8]], [[-1, -2]]])
def test_scores_in_three_columns_are_refused(tmp_path: Path, scores: list[list[int]]) -> None:
    path = write(tmp_path / "run.tsv", three(scores))
    with pytest.raises(
        ValueError, match=r"run\.tsv: the third column falls from line to line in every query, as scores do"
    ):
        read_run(path)
    with pytest.raises(ValueError, match="six: query Q0 document rank score tag"):
        evaluate(path, {"q0": {"d0": 1}}, "RR")
    assert read_run(path, "msmarco")["q0"]["d0"] == -scores[0][0]  # who says so has ranks


@pytest.mark.parametrize("scores", [[[3, 7, 5]], [[1, 2], [12, 40, 7]], [[1, 2], [-3]], [[2, 3, 1, 5]], [[0, 9, 4]]])
def test_scores_without_an_order_are_refused(tmp_path: Path, scores: list[list[int]]) -> None:
    path = write(tmp_path / "run.tsv", three(scores))
    with pytest.raises(
        ValueError, match=rf"the third column has no ranks of query 'q{len(scores) - 1}'; a run of three"
    ):
        read_run(path)
    with pytest.raises(ValueError, match="the third column has no ranks"):
        evaluate(path, {"q0": {"d0": 1}}, "RR")
    assert read_run(path, "msmarco")["q0"]["d0"] == -scores[0][0]  # who says so has ranks


@pytest.mark.parametrize(
    "ranks",
    [
        [[1, 2, 3]],
        [[3, 1, 2]],
        [[10, 20, 30], [2, 0, 1]],
        [[2, 1], [1, 2]],
        [[0, 1]],
        [[4, 4]],
        [[7]],
        [[3], [1], [2]],
        [[1, 1]],
    ],
)
def test_ranks_in_three_columns(tmp_path: Path, ranks: list[list[int]]) -> None:
    found = read_run(write(tmp_path / "run.tsv", three(ranks)))
    assert found == {f"q{q}": {f"d{i}": -float(rank) for i, rank in enumerate(r)} for q, r in enumerate(ranks)}


# Numbers and texts that no program can hold ----------------------------------------------------------------------


def test_numbers_of_hundreds_of_digits(tmp_path: Path) -> None:
    many = "9" * 400
    assert np.isinf(read_run(write(tmp_path / "run", [f"q Q0 d 1 {many} tag"]))["q"]["d"])
    with pytest.raises(ValueError, match="line 1: the rank is not an integer"):
        read_run(write(tmp_path / "run.tsv", [f"q\td\t{many}"]))
    with pytest.raises(ValueError, match=r"run\.json: query 'q': a score is too large"):
        read_run(write(tmp_path / "run.json", [f'{{"q": {{"d": {many}}}}}']))
    with pytest.raises(ValueError, match=r"run\.json: a number has too many digits"):
        read_run(write(tmp_path / "run.json", [f'{{"q": {{"d": {many * 20}}}}}']))


def test_json_that_is_nested_too_deeply(tmp_path: Path) -> None:
    path = write(tmp_path / "deep.json", ["[" * 200_000])
    with pytest.raises(ValueError, match=r"deep\.json: the JSON is nested too deeply"):
        reading.read_json(path)
