"""Tests are skipped for want of a library where it may be needed, and fail where the package needs it unnoticed."""

from __future__ import annotations

import ast
import doctest
from pathlib import Path

import pytest
from optional_libraries import PACKAGE, USERS, datasets, needs_datasets


def missing(name: str, *files: Path) -> ModuleNotFoundError:
    """The error of an import in the last of these files, each of which calls the next."""
    code, scope = f"raise ModuleNotFoundError('none', name={name!r})", {}
    for file in reversed(files):
        exec(compile(f"def call(inner):\n exec({code!r}) if inner is None else inner()", str(file), "exec"), scope)
        inner, call = scope.get("chain"), scope["call"]
        scope["chain"] = lambda call=call, inner=inner: call(inner)
    try:
        scope["chain"]()
    except ModuleNotFoundError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "files", "skipped"),
    [
        ("datasets", [Path("test_some.py")], True),
        ("datasets", [PACKAGE / "cli" / "evaluate.py", min(USERS)], True),
        ("datasets", [Path("test_some.py"), PACKAGE / "ir" / "bm25.py"], False),
        ("datasets", [min(USERS), PACKAGE / "ir" / "bm25.py"], False),
        ("faiss", [min(USERS)], False),
    ],
)
def test_only_what_may_need_it_is_skipped(name: str, files: list[Path], skipped: bool) -> None:
    error = missing(name, *files)
    assert needs_datasets(error) == skipped
    example = doctest.Example("", "")
    assert needs_datasets(doctest.UnexpectedException(None, example, (type(error), error, None))) == skipped  # type: ignore[arg-type]
    assert not needs_datasets(ImportError("datasets"))


def imports_datasets(file: Path) -> bool:
    """Not in an example of a docstring."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition(".")[0] == "datasets" for name in names):
            return True
    return False


def test_the_list_of_users_is_true() -> None:
    assert {file for file in PACKAGE.rglob("*.py") if imports_datasets(file)} == USERS


def test_what_is_used_is_the_library() -> None:
    assert datasets.Dataset.from_dict({"a": [1]}).to_list() == [{"a": 1}]
