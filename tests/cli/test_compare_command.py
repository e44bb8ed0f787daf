"""`cmp-rerank compare` and `cmp-rerank report`: names of systems, output forms, exit status."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner
from unread import read_and_unread

from cmp_rerank.cli.main import app
from cmp_rerank.evaluation import compare
from cmp_rerank.ir import write_corpus, write_qrels, write_queries, write_run

run_command = CliRunner().invoke


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("systems")
    rng = np.random.default_rng(0)
    queries = [f"q{i}" for i in range(30)]
    write_qrels(folder / "qrels", {q: {"d0": 1} for q in queries})
    for name, skill in (("good", 3.0), ("bad", 0.0), ("good2", 3.0)):
        run = {q: {f"d{j}": float(rng.normal() + skill * (j == 0)) for j in range(9)} for q in queries}
        write_run(folder / f"{name}.trec", run)
    write_queries(folder / "queries.jsonl", {q: f"text of {q}" for q in queries})
    write_corpus(folder / "corpus.jsonl", {f"d{j}": f"text of d{j}" for j in range(9)})
    return folder


def paths(folder: Path, *names: str) -> list[str]:
    return [str(folder / "qrels"), *(str(folder / f"{name}.trec") for name in names)]


def test_json_is_that_of_the_library(folder: Path) -> None:
    arguments = [*paths(folder, "bad", "good"), "-m", "RR", "-m", "nDCG@5", "--resamples", "200"]
    result = run_command(app, ["compare", *arguments, "--json", "-q"])
    assert result.exit_code == 0, result.stderr
    runs = {name: folder / f"{name}.trec" for name in ("bad", "good")}
    expected = compare(
        runs, folder / "qrels", "RR nDCG@5", resamples=200, rank_order="score", precision="double", missing="zero",
        no_relevant="keep", duplicates="error", nan="error", empty="error",
    )  # fmt: skip
    assert json.loads(result.stdout) == json.loads(expected.to_json())
    assert "per_query" not in json.loads(run_command(app, ["compare", *arguments, "--json"]).stdout)


def test_baseline_and_table(folder: Path) -> None:
    arguments = ["compare", *paths(folder, "good", "bad"), "-m", "RR", "--baseline", "bad", "--resamples", "200"]
    lines = run_command(app, arguments).stdout.splitlines()
    assert any("good" in line and "+0." in line and "*" in line for line in lines)
    rows = [line.split("\t") for line in run_command(app, [*arguments, "--tsv"]).stdout.splitlines()]
    assert len({len(row) for row in rows}) == 1
    table = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert table["bad"]["verdict"] == "baseline"
    assert table["good"]["verdict"] == "better"
    wins, ties, losses = (int(table["good"][name]) for name in ("wins", "ties", "losses"))
    assert wins + ties + losses == 30
    assert float(table["good"]["difference"]) == pytest.approx(
        float(table["good"]["mean"]) - float(table["bad"]["mean"]), abs=2e-6
    )


def test_a_name_given_twice_is_one_system_with_seeds(folder: Path) -> None:
    qrels, *runs = paths(folder, "bad", "good", "good2")
    named = [runs[0], f"tuned={runs[1]}", f"tuned={runs[2]}"]
    result = run_command(app, ["compare", qrels, *named, "-m", "RR", "--json", "--resamples", "100"])
    means = {entry["system"]: entry for entry in json.loads(result.stdout)["means"]}
    assert means["bad"]["seeds"] == 1
    assert means["tuned"]["seeds"] == 2


def test_exit_status_for_scripts(folder: Path) -> None:
    options = ["-m", "RR", "--resamples", "100", "--fail-if-worse"]
    worse = run_command(app, ["compare", *paths(folder, "good", "bad"), *options])
    assert worse.exit_code == 3
    assert "cmp-rerank: bad is worse than good in RR by 0." in worse.stderr
    assert run_command(app, ["compare", *paths(folder, "bad", "good"), *options]).exit_code == 0
    assert run_command(app, ["compare", *paths(folder, "good", "good2"), *options]).exit_code == 0
    alone = run_command(app, ["compare", *paths(folder, "good"), "-m", "RR"])
    assert (alone.exit_code, alone.stderr) == (
        2,
        "cmp-rerank: a comparison needs at least two systems; got 1: good\n",
    )
    assert "nDCG@10" in run_command(app, ["compare", *paths(folder, "good", "bad"), "--resamples", "100"]).stdout
    twice = run_command(app, ["compare", *paths(folder, "good", "good"), "-m", "RR"])
    assert twice.exit_code == 2
    assert "give them names: NAME=PATH" in twice.stderr
    bad, good, other = paths(folder, "bad", "good", "good2")[1:]
    for runs in ([good, f"good={other}"], [f"good={other}", good]):  # not two seeds of one system
        same = run_command(app, ["compare", paths(folder)[0], bad, *runs, "-m", "RR"])
        assert (same.exit_code, same.stdout) == (2, "")
        assert "two runs are called 'good'; give them names: NAME=PATH" in same.stderr
    missing = run_command(app, ["compare", *paths(folder, "good"), "x=/no/file", "-m", "RR"])
    assert (missing.exit_code, missing.stderr) == (2, "cmp-rerank: /no/file: no such file\n")


def test_report(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "curve_results.csv").write_text("epoch,steps,RR\n0,1,0.5\n1,2,0.6\n")
    texts = ["--queries", str(folder / "queries.jsonl"), "--corpus", str(folder / "corpus.jsonl")]
    curves = ["--curves", str(tmp_path / "curve_results.csv")]
    output = tmp_path / "page.html"
    arguments = [*paths(folder, "bad", "good"), "-m", "RR", "-o", str(output), "--title", "My page", *texts, *curves]
    result = run_command(app, ["report", *arguments, "--depth", "3", "--resamples", "100"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{output}: {output.stat().st_size / 1e6:.1f} MB, 30 queries\n"
    html = output.read_text()
    assert "<h1>My page</h1>" in html
    assert '"text of q7"' in html
    assert '{"RR":{"curve":[[1.0,0.5],[2.0,0.6]]}}' in html
    piped = run_command(app, ["report", *paths(folder, "bad", "good"), "-m", "RR", "-o", "-", "--resamples", "100"])
    assert piped.exit_code == 0, piped.stderr
    assert piped.stdout.strip().endswith("</html>")
    assert piped.stderr == "-: 30 queries\n"
    bad = run_command(app, ["report", *paths(folder, "bad", "good"), "-m", "RR", "-o", "/no/such/folder/x.html"])
    assert bad.exit_code == 2
    assert "no such directory" in bad.stderr


@pytest.mark.parametrize("width", [80, 100, 160])
def test_tables_cut_no_figure(folder: Path, width: int) -> None:
    """On 80 columns the tests stand in a table of their own; only names may be broken."""
    name = "a [bold] name of a system, which is too long for any table of 80 columns [/x]"
    qrels, bad, good = paths(folder, "bad", "good")
    result = compare({"bad": bad, name: good}, qrels, "RR nDCG@5", resamples=100)
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(result)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
    for measure in result.measures:
        contrast, mean = result.contrast(name, measure), result.mean(name, measure)
        for figure in (
            f"{mean.low:.4f}..{mean.high:.4f}",
            f"{contrast.low:+.4f}..{contrast.high:+.4f}",
            f"{contrast.minimum_detectable_effect:.4f}",
            f"{contrast.wins}/{contrast.ties}/{contrast.losses}",
        ):
            assert figure in shown
    assert "[bold]" in shown


def test_debug_shows_where_an_error_is_from(folder: Path) -> None:
    plain = run_command(app, ["compare", *paths(folder, "good"), "-m", "RR"])
    traced = run_command(app, ["compare", *paths(folder, "good"), "-m", "RR", "--debug"])
    assert "Traceback" not in plain.stderr
    assert "Traceback" in traced.stderr
    assert traced.stderr.endswith(plain.stderr)
    again = run_command(app, ["compare", *paths(folder, "good"), "-m", "RR"])
    assert again.stderr == plain.stderr


@pytest.mark.parametrize("form", [[], ["--json", "-q"], ["--tsv"]])
def test_the_status_does_not_depend_on_whether_somebody_reads(form: list[str], folder: Path) -> None:
    arguments = ["compare", *paths(folder, "good", "bad"), "-m", "RR", "--resamples", "200", "--fail-if-worse", *form]
    for done in read_and_unread(arguments):
        assert done.returncode == 3, done.stderr
        assert "bad is worse than good in RR" in done.stderr
        assert "Traceback" not in done.stderr
