"""The list of mutants is up to date, and the runner tells what is killed from what is not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutant_list import MUTANTS, Mutant
from run_mutants import BROKEN, FAILED_BEFORE, KILLED, NOT_FOUND, ROOT, SURVIVED, run_all


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_a_mutant_is_there_once_and_its_tests_exist(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    changed = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))  # it is Python, and no change of layout
    for test in mutant.tests:
        file, _, function = test.partition("::")
        assert (ROOT / file).exists()
        assert not function or f"\ndef {function}(" in (ROOT / file).read_text(encoding="utf-8")


def test_there_are_enough_of_them() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 60


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package of one function, with a test that sees its sign, but not its scale."""
    (tmp_path / "cmp_rerank").mkdir()
    (tmp_path / "cmp_rerank/__init__.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_double.py").write_text(
        "from cmp_rerank import double\n\ndef test_double():\n    assert double(3) > 0\n"
    )
    return tmp_path


def test_what_becomes_of_mutants(project: Path) -> None:
    def mutant(old: str, new: str, test: str = "tests/test_double.py") -> Mutant:
        return Mutant(f"{old}->{new}", "cmp_rerank/__init__.py", old, new, (test,), "")

    mutants = [
        mutant("2 * x", "-2 * x"),
        mutant("2 * x", "3 * x"),
        mutant("4 * x", "5 * x"),
        mutant("x", "y"),
        mutant("def double", "def triple"),
    ]
    results = run_all(mutants, jobs=2, root=project)
    outcomes = [result.outcome for result in results]
    assert outcomes == [KILLED, SURVIVED, NOT_FOUND, NOT_FOUND, BROKEN]
    assert results[0].by == "tests/test_double.py::test_double"
    assert (project / "cmp_rerank/__init__.py").read_text() == "def double(x):\n    return 2 * x\n"


def test_tests_that_fail_anyway_kill_nothing(project: Path) -> None:
    (project / "tests/test_double.py").write_text("def test_double():\n    assert False\n")
    mutant = Mutant("any", "cmp_rerank/__init__.py", "2 * x", "3 * x", ("tests/test_double.py",), "")
    assert [result.outcome for result in run_all([mutant], 1, project)] == [FAILED_BEFORE]
