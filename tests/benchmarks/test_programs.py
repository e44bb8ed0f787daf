"""Whoever looks for a measurement finds its program in the table."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("program", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_the_page_of_the_benchmarks_names_every_program(program: str) -> None:
    assert f"`{program}" in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
