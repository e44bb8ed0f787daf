"""`cmp-rerank evaluate`: what stdout, stderr and the exit status say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ir_measures
import pytest
from typer.testing import CliRunner

from cmp_rerank.cli.main import app

run_command = CliRunner().invoke


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "qrels").write_text("q1 0 a 1\nq1 0 b 0\nq2 0 a 2\nq3 0 c 1\n")
    (tmp_path / "run").write_text(
        "q1 Q0 b 1 2.0 t\nq1 Q0 a 2 1.0 t\nq2 Q0 a 1 1.0 t\nq2 Q0 b 2 1.0 t\nq9 Q0 a 1 1 t\n"
    )
    return str(tmp_path / "qrels"), str(tmp_path / "run")


def test_prints_means_and_notes(files: tuple[str, str]) -> None:
    result = run_command(app, ["evaluate", *files, "-m", "RR P@1", "-m", "MSMARCO-MRR@10"])
    assert result.exit_code == 0
    assert result.stdout == "RR\t0.3333\nP@1\t0.0000\nMSMARCO-MRR@10\t0.5000\n"
    assert result.stderr.splitlines() == [
        "cmp-rerank: note: 1 of 3 judged queries are not in the run",
        "cmp-rerank: note: 1 queries of the run have no judgment and do not count",
        "cmp-rerank: note: ties cross rank 1 in 1 of 3 queries: the document id decides what is above",
    ]


def test_per_query_as_ir_measures_prints_it(files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("q1 0 a 1\nq1 0 b 0\nq2 0 a 2\n")  # the same queries on both sides
    (tmp_path / "run").write_text("q1 Q0 b 1 2.0 t\nq1 Q0 a 2 1.0 t\nq2 Q0 a 1 1.5 t\nq2 Q0 b 2 1.0 t\n")
    ours = run_command(app, ["evaluate", *files, "-m", "nDCG@10", "-m", "RR", "-q"]).stdout
    theirs = subprocess.run(
        [sys.executable, "-m", "ir_measures", *files, "nDCG@10", "RR", "-q"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())
    assert ours.splitlines()[-2:] == theirs.splitlines()[-2:]
    assert (
        run_command(app, ["evaluate", *files, "-m", "RR", "-q", "--no-summary"]).stdout
        == "q1\tRR\t0.5000\nq2\tRR\t1.0000\n"
    )


def test_json_and_places(files: tuple[str, str]) -> None:
    data = json.loads(run_command(app, ["evaluate", *files, "-m", "RR", "--json", "-q"]).stdout)
    assert data["means"]["RR"] == pytest.approx(1 / 3)
    assert data["per_query"]["RR"] == {"q1": 0.5, "q2": 0.5, "q3": 0.0}
    assert data["missing"] == ["q3"]
    assert "per_query" not in json.loads(run_command(app, ["evaluate", *files, "-m", "RR", "--json"]).stdout)
    assert run_command(app, ["evaluate", *files, "-m", "RR", "-p", "7"]).stdout == "RR\t0.3333333\n"


def test_policies_reach_the_library(files: tuple[str, str], tmp_path: Path) -> None:
    assert run_command(app, ["evaluate", *files, "-m", "RR", "--missing", "skip"]).stdout == "RR\t0.5000\n"
    assert run_command(app, ["evaluate", *files, "-m", "RR", "--rank-order", "given"]).stdout == "RR\t0.5000\n"
    (tmp_path / "run").write_text("q1 Q0 a 1 nan t\nq1 Q0 b 2 1.0 t\nq1 Q0 b 2 3.0 t\n")
    assert run_command(app, ["evaluate", *files, "-m", "RR", "--nan", "lowest"]).exit_code == 2
    result = run_command(
        app, ["evaluate", *files, "-m", "RR", "--nan", "lowest", "--duplicates", "max", "--missing", "skip"]
    )
    assert result.stdout == "RR\t0.5000\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({3: "nDCX"}, "cmp-rerank: unknown measure 'nDCX'; did you mean nDCG?"),
        ({3: "ndcg_cut_10"}, "cmp-rerank: unknown measure 'ndcg_cut_10'; did you mean nDCG@10?"),
        ({3: "NDGC@5"}, "cmp-rerank: unknown measure 'NDGC@5'; did you mean nDCG@5?"),
        ({1: "/no/such/file"}, "cmp-rerank: /no/such/file: no such file"),
        ({0: "/no/such/file"}, "cmp-rerank: /no/such/file: no such file"),
    ],
)
def test_errors_are_one_line_and_status_2(files: tuple[str, str], change: dict[int, str], message: str) -> None:
    arguments = [change.get(i, value) for i, value in enumerate([*files, "-m", "RR"])]
    result = run_command(app, ["evaluate", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1


def test_malformed_line_and_usage(files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q1 Q0 a 1 2.0 t\nq1 Q0 b\n")
    result = run_command(app, ["evaluate", *files, "-m", "RR"])
    assert result.exit_code == 2
    assert f"{files[1]}, line 2: 3 fields" in result.stderr
    assert run_command(app, ["evaluate", files[0]]).exit_code == 2


def test_a_closed_pipe_is_no_error(files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("".join(f"q{i} 0 a 1\n" for i in range(50_000)))
    script = "import sys; sys.argv[0] = 'cmp-rerank'; from cmp_rerank.cli.main import app; app()"
    command = f"'{sys.executable}' -c \"{script}\" evaluate {files[0]} {files[1]} -m RR -q | head -n 1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert all(line.startswith("cmp-rerank: note:") for line in result.stderr.splitlines()), result.stderr
    assert result.stdout == "q0\tRR\t0.0000\n"


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from cmp_rerank.cli.main import app; "
        "heavy = {'torch', 'numpy', 'scipy', 'ir_measures', 'sentence_transformers', 'pyarrow'} & set(sys.modules); "
        "print(sorted(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_ir_measures_names_are_what_is_printed(files: tuple[str, str]) -> None:
    result = run_command(app, ["evaluate", *files, "-m", "AP(rel=2)@100", "-m", "NDCG@5"])
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        str(ir_measures.AP(rel=2) @ 100),
        "nDCG@5",
    ]
