"""What pyproject.toml asks for is what the package imports: none is missing, and extras bring what is used."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib")  # of Python 3.11
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: They are no part of what is installed for use.
DEVELOPMENT = ("docs", "test", "test-export", "test-integrations")
#: Imported from the package that another one brings, and stands for: these two are released together.
TOGETHER = {
    "pydantic-core": "pydantic",
    "starlette": "fastapi",
    "pandas": "pyterrier",
    "haystack": "haystack-ai",
    "llama-index": "llama-index-core",
}
#: Read as text, not imported: its docstrings are part of the collection of the demo.
TEXTS = {"scikit-learn"}


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def asked_for(lines: list[str]) -> set[str]:
    return {canonical(Requirement(line).name) for line in lines} - {PROJECT["name"]}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@cache
def imported() -> set[str]:
    """The distributions that the package imports, anywhere."""
    names = {
        name.split(".")[0]
        for file in (ROOT / "cmp_rerank").rglob("*.py")
        for name in imports(ast.parse(file.read_text()))
    }
    known = packages_distributions()
    found = {canonical(one) for name in names - sys.stdlib_module_names for one in known.get(name, [name])}
    return {TOGETHER.get(name, name) for name in found - {PROJECT["name"], "cmp-rerank"}}


def test_what_is_imported_is_asked_for() -> None:
    extras = [line for name, lines in PROJECT["optional-dependencies"].items() for line in lines]
    assert imported() - asked_for([*PROJECT["dependencies"], *extras]) == set()


@pytest.mark.parametrize("extra", [None, *sorted(PROJECT["optional-dependencies"].keys() - set(DEVELOPMENT))])
def test_what_is_asked_for_is_used(extra: str | None) -> None:
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    assert asked_for(lines), "an extra that installs nothing"
    assert asked_for(lines) - imported() - TEXTS == set()
