"""`cmp-rerank mine`: files in, training data out, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from optional_libraries import datasets
from tiny_models import PASSAGES, QUERIES
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.ir import write_corpus, write_qrels, write_queries, write_run
from cmp_rerank.mining import mine, take_support

run_command = CliRunner().invoke

CORPUS = {f"d{number}": passage for number, passage in enumerate(PASSAGES)}
TRAIN = {"q0": {"d0": 1}, "q1": {"d1": 2}, "q2": {"d2": 1}}
TEXTS = {f"q{number}": query for number, query in enumerate(QUERIES)} | {"t0": "What do pandas eat?"}
RUN = {query: {document: float(len(document) + place) for place, document in enumerate(CORPUS)} for query in TRAIN}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BEIR folder, and a run of it."""
    monkeypatch.chdir(tmp_path)
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    write_corpus(beir / "corpus.jsonl", CORPUS)
    write_queries(beir / "queries.jsonl", TEXTS)
    write_qrels(beir / "qrels" / "train.tsv", TRAIN, format="beir")
    write_qrels(beir / "qrels" / "test.tsv", {"t0": {"d0": 1}}, format="beir")
    write_run(tmp_path / "bm25.trec", RUN)
    return tmp_path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_writes_what_the_library_mines_without_the_test_queries(folder: Path) -> None:
    result = run_command(app, ["mine", "beir:beir", "--run", "bm25.trec", "--negatives", "2", "-o", "train.jsonl"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        "2 rows from 2 of 3 queries: 2 positives, 4 negatives (bm25 4); written to train.jsonl\n"
    )
    assert result.stderr.splitlines() == [
        "cmp-rerank: note: queries left out, in the test split or nearly: 1",
    ]
    expected = mine(TEXTS, CORPUS, TRAIN, RUN, negatives=2, test_queries=["What do pandas eat?"]).dataset
    assert read(folder / "train.jsonl") == expected.to_list()  # type: ignore[attr-defined]
    about = json.loads((folder / "train.mining.json").read_text(encoding="utf-8"))
    assert about["options"]["negatives"] == 2
    assert about["counts"]["leaked"] == 1
    assert set(about["versions"]) == {"cmp-rerank", "datasets", "pyarrow"}
    assert sorted(path.name for path in folder.iterdir()) == ["beir", "bm25.trec", "train.jsonl", "train.mining.json"]


def test_each_file_holds_the_same(folder: Path) -> None:
    command = ["mine", "beir:beir", "--run", "first=bm25.trec", "--negatives", "2", "--keep-leaks", "--ids"]
    for name in ("a.jsonl", "b.parquet", "c"):
        result = run_command(app, [*command, "-o", name])
        assert result.exit_code == 0, result.stderr
        assert "(first 6)" in result.stdout
        assert result.stderr == ""
    rows = read(folder / "a.jsonl")
    assert len(rows) == 3
    assert (
        datasets.load_dataset("parquet", data_files="b.parquet", split="train", cache_dir="cache").to_list() == rows
    )
    assert datasets.load_from_disk("c").to_list() == rows
    result = run_command(app, [*command, "-o", "c"])
    assert result.exit_code == 2
    assert result.stderr == "cmp-rerank: c: there is such a folder already; remove it, or choose another name\n"


def test_json_and_the_options_reach_the_library(folder: Path) -> None:
    write_run(folder / "other.trec", RUN)
    result = run_command(
        app,
        [
            *(
                "mine",
                "beir:beir",
                "--run",
                "bm25.trec",
                "--run",
                "other.trec",
                "--shares",
                "3,1",
                "--format",
                "tuples",
            ),
            *("--negatives", "2", "--ranks", "1-3", "--pick", "top", "--random", "0.5", "--held-out", "train"),
            *("--seed", "4", "--margin", "0.5", "--short", "drop", "-o", "t.jsonl", "--json"),
        ],
    )
    # All training queries are held out here.
    assert result.exit_code == 2
    assert "in the test split or nearly: 3" in result.stderr
    result = run_command(
        app,
        [
            *(
                "mine",
                "beir:beir",
                "--run",
                "bm25.trec",
                "--run",
                "other.trec",
                "--shares",
                "3,1",
                "--format",
                "tuples",
            ),
            *("--negatives", "2", "--ranks", "1-3", "--pick", "top", "--random", "0.5", "--keep-leaks"),
            *("--seed", "4", "--labels", "auto", "-o", "t.jsonl", "--json"),
        ],
    )
    assert result.exit_code == 0, result.stderr
    about = json.loads(result.stdout)
    assert about == json.loads((folder / "t.mining.json").read_text(encoding="utf-8"))
    assert {name: about["options"][name] for name in ("shares", "ranks", "pick", "random", "seed", "format")} == {
        "shares": [3.0, 1.0], "ranks": [1, 3], "pick": "top", "random": 0.5, "seed": 4, "format": "tuples",
    }  # fmt: skip
    assert about["counts"]["negatives"] == {"bm25": 3, "other": 0, "random": 3}
    assert set(read(folder / "t.jsonl")[0]) == {"query", "positive", "negative_1", "negative_2"}


def test_a_teacher_and_a_filter_are_loaded_by_path(folder: Path, tiny_checkpoint: Path) -> None:
    command = ["mine", "beir:beir", "--run", "bm25.trec", "--negatives", "2", "--keep-leaks", "-o"]
    result = run_command(
        app,
        [
            *(*command, "a.jsonl", "--teacher", str(tiny_checkpoint)),
            *("--filter-model", str(tiny_checkpoint), "--min-score", "-1000"),
        ],
    )
    assert result.exit_code == 0, result.stderr
    labels = [label for row in read(folder / "a.jsonl") for label in row["labels"]]  # type: ignore[attr-defined]
    assert len(set(labels)) > 3
    result = run_command(app, [*command, "b.jsonl", "--teacher", "bm25.trec", "--labels", "reciprocal"])
    assert result.exit_code == 0, result.stderr
    assert [row["labels"] for row in read(folder / "b.jsonl")] == [[1, 1 / 2, 1 / 3]] * 3


def test_the_teacher_alone_labels_a_run(folder: Path) -> None:
    result = run_command(
        app,
        [
            *(
                "mine",
                "beir:beir",
                "--run",
                "bm25.trec",
                "--teacher",
                "bm25.trec",
                "--labels",
                "linear",
                "--pick",
                "top",
            ),
            *("--teacher-only", "--negatives", "4", "--keep-leaks", "-o", "d.jsonl"),
        ],
    )
    assert result.exit_code == 0, result.stderr
    rows = read(folder / "d.jsonl")
    assert [row["labels"] for row in rows] == [[1.0, 0.75, 0.5, 0.25]] * 3
    assert rows[0]["docs"] == [CORPUS[document] for document in ("d3", "d2", "d1", "d0")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["beir:beir", "--run", "no.trec", "-o", "a.jsonl"], "no.trec: no such file"),
        (
            ["beir:beir", "-o", "a.csv"],
            "a.csv: training data is written as .jsonl, .parquet or a folder; got the suffix",
        ),
        (["beir:beir", "-o", "no/a.jsonl"], "no: no such directory; create it before writing a.jsonl"),
        (["beir:nowhere", "-o", "a.jsonl"], "nowhere"),
        (["beir:beir", "--split", "trian", "-o", "a.jsonl"], "did you mean 'train'?"),
        (
            ["beir:beir", "--ranks", "all", "-o", "a.jsonl"],
            "--ranks must be two ranks; got 'all'; write them like 1-100",
        ),
        (["beir:beir", "--shares", "a", "-o", "a.jsonl"], "--shares must be numbers with commas; got 'a'"),
        (["beir:beir", "--format", "tuple", "-o", "a.jsonl"], "did you mean tuples?"),
        (["beir:beir", "--run", "bm25.trec", "--run", "bm25.trec", "-o", "a.jsonl"], "two runs are called 'bm25'"),
        (["beir:beir", "--run", "bm25.trec", "--teacher", "no.trec", "-o", "a.jsonl"], "no.trec: no such checkpoint"),
        (["beir:beir", "--margin", "1", "-o", "a.jsonl"], "a filter needs scores; got neither a run nor a model"),
        (["beir:beir", "--labels", "scores", "-o", "a.jsonl"], "labels='scores' come from a teacher; got none"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(folder: Path, arguments: list[str], message: str) -> None:
    before = sorted(folder.iterdir())
    result = run_command(app, ["mine", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def test_random_negatives_alone(folder: Path) -> None:
    """Nothing is said of runs, since there are none."""
    result = run_command(app, ["mine", "beir:beir", "--negatives", "2", "--keep-leaks", "-o", "train.jsonl"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert (
        result.stdout == "3 rows from 3 of 3 queries: 3 positives, 6 negatives (random 6); written to train.jsonl\n"
    )


def test_a_split_by_its_other_name_does_not_leak_into_itself(folder: Path) -> None:
    (folder / "beir" / "qrels" / "train.tsv").rename(folder / "beir" / "qrels" / "dev.tsv")
    texts = [
        run_command(app, ["mine", "beir:beir", "--split", split, "--negatives", "2", "-o", f"{split}.jsonl"]).stdout
        for split in ("dev", "validation")
    ]
    assert texts[0].startswith("2 rows from 2 of 3 queries")
    assert texts[1] == texts[0].replace("dev.jsonl", "validation.jsonl")


def test_support_is_a_column_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmp_rerank.collections import Collection

    monkeypatch.setattr(Collection, "support", {"q0": {"d0": [(0, 17)]}})
    result = run_command(
        app, ["mine", "beir:beir", "--run", "bm25.trec", "--negatives", "2", "--keep-leaks", "-o", "a.jsonl"]
    )
    assert result.exit_code == 0, result.stderr
    data = datasets.Dataset.from_list(read(folder / "a.jsonl"))
    assert data[0]["support"] == [[[0, 17]], None, None]
    dataset, support = take_support(data)
    assert dataset.column_names == ["query", "docs", "labels"]
    assert support is not None
    assert (QUERIES[0], CORPUS["d0"]) in support
