"""`cmp-rerank guard`: files and collections, output forms, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
from tiny_collection import tiny_collection
from typer.testing import CliRunner
from unread import read_and_unread

from cmp_rerank.cli.main import app
from cmp_rerank.guard import load_guard
from cmp_rerank.ir import write_corpus, write_qrels, write_queries, write_run

run_command = CliRunner().invoke
FEW = ["--interpolation", "0", "--score-weight", "0.5", "-m", "RR", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder with the splits dev and test, two models, and a run for each split."""
    folder = tmp_path_factory.mktemp("guard")
    start = tiny_models.cross_encoder(folder / "start")
    tiny = tiny_collection(start)
    tiny.good.save_pretrained(str(folder / "good"))
    tiny.bad.save_pretrained(str(folder / "bad"))
    write_corpus(folder / "corpus.jsonl", tiny.corpus)
    write_queries(folder / "queries.jsonl", tiny.queries)
    (folder / "qrels").mkdir()
    names = list(tiny.queries)
    for split, part in (("dev", names[:30]), ("test", names[30:])):
        write_run(folder / f"{split}.run", {query: tiny.first_stage[query] for query in part})
        write_qrels(folder / f"{split}.qrels", {query: tiny.qrels[query] for query in part})
        lines = [f"{q}\t{d}\t{g}" for q in part for d, g in tiny.qrels[q].items()]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder


def by_files(folder: Path, tuned: str, *more: str) -> list[str]:
    return [
        "guard", str(folder / "start"), str(folder / tuned), "--queries", str(folder / "queries.jsonl"), "--corpus",
        str(folder / "corpus.jsonl"), "--qrels", str(folder / "dev.qrels"), "--run",
        str(folder / "dev.run"), *FEW, *more,
    ]  # fmt: skip


def test_files_and_a_collection_give_the_same(folder: Path, tmp_path: Path) -> None:
    tested = ["--test-qrels", str(folder / "test.qrels"), "--run", str(folder / "test.run"), "--json", "-q"]
    first = run_command(app, by_files(folder, "good", *tested, "-o", str(tmp_path / "out")))
    assert first.exit_code == 0, first.stderr
    arguments = ["guard", str(folder / "start"), str(folder / "good"), "--collection", f"beir:{folder}", *FEW]
    runs = ["--run", str(folder / "dev.run"), "--run", str(folder / "test.run")]
    second = run_command(app, [*arguments, *runs, "--test-split", "test", "--json", "-q"])
    assert second.exit_code == 0, second.stderr
    results = [json.loads(result.stdout) for result in (first, second)]
    assert results[0]["per_query"] == results[1]["per_query"]
    assert results[0]["test"] == results[1]["test"]
    assert (results[0]["outcome"], results[0]["chosen"], results[0]["queries"]) == ("helped", "tuned", 30)
    assert load_guard(tmp_path / "out", device="cpu").mix.weight == 1
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["sentence"] == results[0]["sentence"]


def test_judgments_of_the_test_need_no_split(folder: Path) -> None:
    arguments = ["guard", str(folder / "start"), str(folder / "good"), "--collection", f"beir:{folder}", *FEW, "-q"]
    arguments += ["--run", str(folder / "dev.run"), "--run", str(folder / "test.run"), "--json"]
    named = run_command(app, [*arguments, "--test-split", "test"])
    given = run_command(app, [*arguments, "--test-qrels", str(folder / "test.qrels")])
    assert given.exit_code == 0, given.stderr
    assert json.loads(given.stdout)["test"] == json.loads(named.stdout)["test"] is not None


def test_what_is_printed_and_the_status(folder: Path, tmp_path: Path) -> None:
    good = run_command(app, by_files(folder, "good", "--fail-if-kept"))
    assert good.exit_code == 0
    assert "Fine-tuning helped" in good.stdout
    bad = run_command(app, by_files(folder, "bad", "--fail-if-kept", "-o", str(tmp_path / "out")))
    assert bad.exit_code == 3
    assert "would have hurt and was not used" in " ".join(bad.stdout.split())
    assert f"written to {tmp_path / 'out'}" in bad.stdout.replace("\n", "")
    assert max(map(len, bad.stdout.splitlines()[:-2])) <= 80


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_status_does_not_depend_on_whether_somebody_reads(form: list[str], folder: Path) -> None:
    for done in read_and_unread(by_files(folder, "bad", "--fail-if-kept", *form)):
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "{}/dev.run", "--qrels", "{}/dev.qrels"], "got no --queries and no --corpus; see --help"),
        (["--run", "{}/nothing.run", "--collection", "beir:{}"], "nothing.run: no such file"),
        (["--run", "{}/dev.run", "--run", "{}/dev.run", "--collection", "beir:{}"], "is in another run, too"),
        (["--run", "{}/test.run", "--collection", "beir:{}"], "has no candidate for any judged query"),
        (["--run", "{}/dev.run", "--collection", "beir:{}", "--split", "train"], "split"),
        (["--run", "{}/dev.run", "--collection", "beir:{}", "--had", "tuned"], "had must be one of 'best', 'first"),
        (["--run", "{}/dev.run", "--collection", "beir:{}", "-o", "{}"], "exists already and is not an empty folder"),
        (
            ["--run", "{}/dev.run", "--collection", "beir:{}", "--interpolation", "2"],
            "interpolations must be a number",
        ),
    ],
)
def test_wrong_input_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    given = [argument.format(folder) for argument in arguments]
    result = run_command(app, ["guard", str(folder / "start"), str(folder / "good"), *given])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("cmp-rerank: ")
    assert len(result.stderr.splitlines()) == 1
