"""Names of systems, measures and models are printed as they are, also where they look like rich's markup."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.evaluation import compare, evaluate
from cmp_rerank.ir import write_qrels, write_run

NAMES = ["bm25[k1=0.9]", "[/x]", "[bold]loud[/bold]"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        write_run(tmp_path / f"{number}.run", {f"q{i}": {"a": 1.0, "b": float(i * number)} for i in range(5)})
        (tmp_path / name.replace("/", "_")).write_bytes((tmp_path / f"{number}.run").read_bytes())
    write_qrels(tmp_path / "qrels", {f"q{i}": {"a": 1} for i in range(6)})
    return tmp_path


@pytest.mark.parametrize("form", [[], ["--tsv"], ["--json"]])
def test_compare(files: Path, form: list[str]) -> None:
    """The notes name the systems, too: a query of the judgments is in no run."""
    runs = [f"{name}={files / f'{number}.run'}" for number, name in enumerate(NAMES)]
    result = CliRunner().invoke(app, ["compare", str(files / "qrels"), *runs, *form])
    assert result.exit_code == 0, result.output
    for name in NAMES:
        assert name in result.stdout
        assert f"{name}: 1 of 6 judged queries are not in the run" in result.output


def test_report(files: Path) -> None:
    runs = [f"{name}={files / f'{number}.run'}" for number, name in enumerate(NAMES)]
    page = files / "[page].html"
    result = CliRunner().invoke(app, ["report", str(files / "qrels"), *runs, "-o", str(page), "--title", "[/x]"])
    assert result.exit_code == 0, result.output
    assert all(f"{name}: 1 of 6 judged queries" in result.stderr for name in NAMES)
    assert f"{page}: " in result.stdout


def test_paths_in_errors(files: Path) -> None:
    for path in (files / "[/x].run", files / "[bold]"):
        result = CliRunner().invoke(app, ["evaluate", str(files / "qrels"), str(path)])
        assert (result.exit_code, result.stderr) == (2, f"cmp-rerank: {path}: no such file\n")


class Measure:
    name = "Own[/x]"

    def per_query(self, grades: dict, ranking: list) -> float:
        return 1.0


def test_measures(files: Path) -> None:
    run = {"q1": {"a": 1.0}, "q2": {"a": 1.0}}
    console = Console(width=200, record=True, file=(files / "shown").open("w"))
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}}
    console.print(evaluate(run, qrels, [Measure()]))
    console.print(compare({NAMES[0]: run, NAMES[1]: run}, qrels, [Measure()]))
    shown = console.export_text()
    assert shown.count("Own[/x]") == 2
    assert all(name in shown for name in NAMES[:2])
