"""`cmp-rerank doctor`: what it says is what is there, and what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cmp_rerank import diagnosis
from cmp_rerank.cli.main import app
from cmp_rerank.diagnosis import Package, attention_kernels, diagnose, required_packages, speed_advice, usable_cores


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_the_versions_are_those_that_run() -> None:
    found = json.loads(run("--no-measure", "--json").stdout)
    packages = {package["name"]: package for package in found["packages"]}
    assert packages["torch"]["installed"].split("+")[0] == torch.__version__.split("+")[0]
    assert packages["torch"]["wanted"].startswith(">=")
    assert "pytest" not in packages  # not of a user's
    assert packages["matplotlib"]["extra"] == "report"
    assert packages["bm25s"]["extra"] == "retrieval"
    assert packages["scikit-learn"]["extra"] == "demo"
    assert found["devices"]["cpu"]["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("installed", "wanted", "fits"),
    [("2.4", ">=2.4", True), ("2.3.1", ">=2.4", False), (None, "", False), ("6.0", "<6,>=5", False), ("9", "", True)],
)
def test_fits(installed: str | None, wanted: str, fits: bool) -> None:
    assert Package("torch", installed, wanted).fits is fits


def test_what_is_missing_is_a_problem_or_an_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    there = required_packages()
    old = [
        Package("torch", "2.0", ">=2.4"),
        Package("scipy", None, ">=1.11"),
        Package("bm25s", None, "", "retrieval"),
    ]
    monkeypatch.setattr(diagnosis, "required_packages", lambda: there + old)
    result = run("--no-measure")
    assert result.exit_code == 1
    assert "torch>=2.4 is needed, but version 2.0 is installed; run: pip install 'torch>=2.4'" in result.stdout
    assert "scipy>=1.11 is needed, but it is not installed" in result.stdout
    assert "bm25s: not installed, needed for BM25, dense indexes, ir_datasets" in result.stdout
    assert "bm25s is needed" not in result.stdout


@pytest.mark.parametrize(
    ("cores", "threads", "words"), [(1, 2, "=1"), (2, 2, ""), (4, 2, ""), (8, 2, "=8"), (8, 1, "=8"), (1, 1, "")]
)
def test_threads_are_compared_with_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, words: str
) -> None:
    monkeypatch.setattr(diagnosis, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    advice = [line for line in diagnose(measure=False).advice if "OMP_NUM_THREADS" in line]
    assert len(advice) == bool(words)
    assert all(f"OMP_NUM_THREADS{words}" in line for line in advice)


def test_a_quota_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = Path

    def path(name: str) -> Path:
        return tmp_path / "cpu.max" if name.endswith("cpu.max") else real(name)

    monkeypatch.setattr(diagnosis, "Path", path)
    monkeypatch.setattr(diagnosis.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for text, cores in (("max 100000", 8), ("250000 100000", 2), ("10000 100000", 1), ("9999999 100000", 8)):
        (tmp_path / "cpu.max").write_text(text)
        assert usable_cores() == cores


def test_attention_and_speeds_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    found = diagnose()
    assert "math" in found.attention["cpu"]["float32"]
    assert attention_kernels("cpu") == found.attention["cpu"]
    assert all(speed > 0 for speed in found.speeds["cpu"].values())
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(diagnosis, "diagnose", lambda *, measure: found if measure else None)
    assert "GFLOPS" in run().stdout


def test_advice_follows_from_what_was_measured() -> None:
    assert list(speed_advice("cuda:0", {"float32": 100.0, "bf16": 110.0, "fp16": 800.0})) == []
    (line,) = speed_advice("cuda:0", {"float32": 100.0, "bf16": 800.0, "fp16": 800.0})
    assert "8.0x" in line
