"""`cmp-rerank retrieve`: runs, what is printed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from typer.testing import CliRunner

from cmp_rerank.cli import retrieve
from cmp_rerank.cli.main import app
from cmp_rerank.ir import ANSERINI, BM25, Dense, read_run, write_corpus, write_qrels, write_queries

run_command = CliRunner().invoke
CORPUS = {
    "d1": "Pandas eat bamboo.",
    "d2": "Bees make honey.",
    "d3": "Honey is sweet, and bears like it.",
    "d4": "Pandas are bears.",
}
QUERIES = {"q1": "who makes honey", "q2": "what do pandas eat", "q3": "nothing of this"}
QRELS = {"q1": {"d2": 1}, "q2": {"d1": 1}, "q3": {"d4": 1}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BEIR folder."""
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    write_corpus(tmp_path / "beir" / "corpus.jsonl", CORPUS)
    write_queries(tmp_path / "beir" / "queries.jsonl", QUERIES)
    write_qrels(tmp_path / "beir" / "qrels" / "test.tsv", QRELS)
    return tmp_path


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random bi-encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    transformer = Transformer(str(tiny_checkpoint))
    pooling = Pooling(transformer.get_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    return folder


def test_a_collection_becomes_a_run_with_its_measures(folder: Path) -> None:
    out = folder / "bm25.run"
    arguments = ["retrieve", f"beir:{folder / 'beir'}", "-o", str(out), "-m", "R@1", "-m", "RR", "--set", "k1=0.9"]
    result = run_command(app, arguments)
    assert result.exit_code == 0, result.output
    expected = BM25(CORPUS, k1=0.9).search(QUERIES)
    assert read_run(out) == {query: scores for query, scores in expected.items() if scores}
    assert result.stdout == "R@1\t0.6667\nRR\t0.6667\n"
    assert "1 of 3 queries found no document, and are not in the run" in result.stderr
    assert out.read_text().endswith(" bm25\n")


def test_a_run_whose_name_has_spaces_is_a_first_stage(folder: Path) -> None:
    given, out = folder / "my first stage.run", folder / "best.run"
    given.write_text("q1 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1.0 x\n")
    arguments = ["retrieve", f"beir:{folder / 'beir'}", "-o", str(out), "--first-stage", str(given), "--depth", "1"]
    result = run_command(app, arguments)
    assert result.exit_code == 0, result.output
    assert out.read_text() == "q1 Q0 d1 1 2.0 my_first_stage\n"


def test_plain_files_and_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieve, "_BLOCK", 2)
    beir, out = folder / "beir", folder / "run.json"
    files = ["--corpus", str(beir / "corpus.jsonl"), "--queries", str(beir / "queries.jsonl"), "--depth", "1"]
    result = run_command(app, ["retrieve", *files, "-o", str(out), "--first-stage", "anserini", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"run": str(out), "queries": 3, "without": 1, "documents": 2}
    expected = BM25(CORPUS, **ANSERINI).search(QUERIES, 1)
    assert read_run(out) == {query: scores for query, scores in expected.items() if scores}
    result = run_command(app, ["retrieve", *files, "-o", str(out)])
    assert result.stdout == f"2 documents for 3 queries written to {out}\n"
    qrels = ["--qrels", str(beir / "qrels" / "test.tsv"), "-m", "R@1"]
    result = run_command(app, ["retrieve", *files, *qrels, "-o", str(out), "--json"])
    assert json.loads(result.stdout)["means"] == {"R@1": pytest.approx(2 / 3)}


def test_an_index_is_built_once(folder: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, index = folder / "dense.run", folder / "index"
    arguments = ["retrieve", f"beir:{folder / 'beir'}", "-o", str(out), "--index", str(index), "--depth", "2"]
    arguments += ["--first-stage", "dense", "--model", str(encoder), "--set", "similarity=cosine"]
    assert run_command(app, arguments).exit_code == 0
    first = read_run(out)
    expected = Dense(CORPUS, SentenceTransformer(str(encoder), device="cpu")).search(QUERIES, 2)
    assert first == {query: pytest.approx(scores, abs=1e-5) for query, scores in expected.items()}
    monkeypatch.setattr("cmp_rerank.ir.dense.embed_to_file", lambda *_: pytest.fail("built again"))
    assert run_command(app, arguments).exit_code == 0
    assert read_run(out) == first
    queries = ["--queries", str(folder / "beir" / "queries.jsonl"), "--index", str(index), "--depth", "2"]
    stage = ["--first-stage", "dense", "--model", str(encoder)]
    assert run_command(app, ["retrieve", *queries, *stage, "-o", str(out)]).exit_code == 0
    assert read_run(out) == first


def test_an_interrupted_retrieval_leaves_the_old_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "bm25.run"
    out.write_text("old")
    monkeypatch.setattr(retrieve, "_BLOCK", 1)
    real, searched = BM25.search, []

    def search(self: BM25, queries: dict[str, str], depth: int = 100) -> object:
        searched.extend(queries)
        if len(searched) == 2:
            raise OSError("disk full")
        return real(self, queries, depth)

    monkeypatch.setattr(BM25, "search", search)
    result = run_command(app, ["retrieve", f"beir:{folder / 'beir'}", "-o", str(out)])
    assert (result.exit_code, result.stderr) == (2, "cmp-rerank: disk full\n")
    assert out.read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["beir", "bm25.run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a collection, or --corpus and --queries; got no --corpus and no --queries"),
        (["--corpus", "BEIR/corpus.jsonl"], "got no --queries"),
        (["--queries", "BEIR/queries.jsonl"], "got no --corpus"),
        (["--split", "test"], "--split goes with a collection; got --split test and none"),
        (["beir:BEIR", "--split", "train"], "train"),
        (["beir:nowhere"], "nowhere"),
        (["beir:BEIR", "--set", "k1"], "--set takes NAME=VALUE; got 'k1'"),
        (["beir:BEIR", "--set", "k1=1", "--set", "k1=2"], "got 'k1' twice"),
        (["beir:BEIR", "--set", "k=1"], "there is no option 'k' of the first stage 'bm25'; its options are b, k1"),
        (["beir:BEIR", "--set", "k1=high"], "k1 must be a number of at least 0; got 'high'"),
        (["beir:BEIR", "--first-stage", "bm52"], "got 'bm52'"),
        (["beir:BEIR", "--first-stage", "dense"], "name a model"),
        (["beir:BEIR", "--index", "BEIR"], "which holds something else"),
        (
            ["--corpus", "BEIR/corpus.jsonl", "--queries", "BEIR/queries.jsonl", "-m", "RR"],
            "--measure needs judgments; got none",
        ),
        (["beir:BEIR", "-m", "nDCQ"], "nDCQ"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(folder: Path, arguments: list[str], message: str) -> None:
    arguments = [argument.replace("BEIR", str(folder / "beir")) for argument in arguments]
    result = run_command(app, ["retrieve", *arguments, "-o", str(folder / "out.run")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (folder / "out.run").exists()


def test_a_tag_with_white_space_is_told_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmp_rerank.ir.first_stage", lambda *_, **__: pytest.fail("an index is built"))
    result = run_command(app, ["retrieve", f"beir:{folder / 'beir'}", "-o", str(folder / "out"), "--tag", "my tag"])
    assert result.exit_code == 2
    assert result.stderr.startswith("cmp-rerank: the tag 'my tag' cannot stand in a file of columns")


@pytest.mark.parametrize("out", ["-", "/dev/null"])
def test_what_cannot_be_read_again_is_not_measured(folder: Path, out: str) -> None:
    """Of a device or a pipe it read what it had written, for ever, or nothing: a measure of 0."""
    result = run_command(app, ["retrieve", f"beir:{folder / 'beir'}", "-o", out, "-m", "nDCG@10"])
    assert result.exit_code == 2
    assert f"--measure needs --out with a file, since the run is read again; got {out}; give a path" in result.stderr


def test_the_folder_of_the_run_must_exist(folder: Path) -> None:
    result = run_command(app, ["retrieve", f"beir:{folder / 'beir'}", "-o", str(folder / "no" / "out.run")])
    assert result.exit_code == 2
    assert "no: no such directory; create it before writing out.run" in result.stderr
