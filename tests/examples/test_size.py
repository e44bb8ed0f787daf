"""What holds for every example: it is short, says how it is run, and has a test of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    assert f"    python examples/{path.name} " in (ast.get_docstring(ast.parse(text)) or "")
    assert (Path(__file__).parent / f"test_{path.stem}.py").is_file()
