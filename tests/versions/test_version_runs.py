"""The versions that are promised are those that are tested, and the runner says what the tests said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import run_versions
from packaging.requirements import Requirement
from packaging.version import Version
from uv_environments import Uv

HERE = Path(__file__).parent
EXTRAS = run_versions.EXTRAS.split(",")
tomllib = pytest.importorskip("tomllib")  # of Python 3.11
PROJECT = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def promised() -> dict[str, Version]:
    """The lower bound of each dependency, those of the extras included."""
    lines = [
        *PROJECT["dependencies"],
        # Search stacks are tested in an environment of their own.
        *(line for name, extra in PROJECT["optional-dependencies"].items() if name in EXTRAS for line in extra),
    ]
    found = {}
    for requirement in requirements(lines):
        if requirement.name != PROJECT["name"]:
            (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
            found[canonical(requirement.name)] = Version(bound)
    return found


def pinned(file: str) -> dict[str, set[Version]]:
    found: dict[str, set[Version]] = {}
    for requirement in requirements((HERE / file).read_text().splitlines()):
        (pin,) = (part.version for part in requirement.specifier if part.operator == "==")
        found.setdefault(canonical(requirement.name), set()).add(Version(pin))
    return found


def test_the_lowest_versions_are_those_that_are_promised() -> None:
    lowest, bounds = pinned("lowest.txt"), promised()
    assert {name: min(lowest.get(name, {Version("0")})) for name in bounds} == bounds


@pytest.mark.parametrize("file", ["../../constraints.txt", "without-datasets.txt"])
def test_what_is_tested_is_promised(file: str) -> None:
    bounds, pins = promised(), pinned(file)
    assert {name: pin for name, pin in pins.items() if name in bounds and min(pin) < bounds[name]} == {}
    assert {"torch", "transformers", "sentence-transformers"} <= set(pins)


def test_another_torch_takes_the_place_of_the_pinned_one() -> None:
    environment = run_versions.ENVIRONMENTS["without-datasets"]
    first, *others = run_versions.constraints(environment, None).splitlines()
    assert first == "torch==2.11.0"
    assert run_versions.constraints(environment, "2.13.0").splitlines() == ["torch==2.13.0", *others]
    assert run_versions.constraints(environment, run_versions.PRESENT).splitlines() == others


TESTS = """
import pytest

def test_good(): pass
def test_bad(): assert False
def test_left_out(): pytest.skip("not here")
@pytest.fixture
def broken(): raise OSError
def test_broken(broken): pass
"""


def test_results_are_what_pytest_counts(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        f"--rootdir={tmp_path}",
        f"--junitxml={tmp_path / 'results.xml'}",
    ]
    assert subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, check=False).returncode == 1
    passed, skipped, failed = run_versions.read_results(tmp_path / "results.xml")
    assert (passed, skipped) == (1, 1)
    assert [name.split("::")[1] for name in failed] == ["test_bad", "test_broken"]
    result = run_versions.Result("lowest", {"python": "3.11.7", "torch": "2.6.0"}, passed, skipped, failed, 1, 90.0)
    head, _, row, *below = run_versions.table([result]).splitlines()
    assert row.split(" | ")[:4] == ["| lowest", "3.11.7", "2.6.0", "none"]
    assert head.count("|") == row.count("|")
    assert row.endswith("| 1 | 1 | 2 | 1.5 |")
    assert below == [f"lowest: {name}" for name in failed]


def test_results_of_other_environments_stay(tmp_path: Path) -> None:
    def result(environment: str, passed: int) -> run_versions.Result:
        return run_versions.Result(environment, {"python": "3.11.7"}, passed, 0, (), 0, 1.0)

    file = tmp_path / "versions.json"
    for each in (result("pinned", 1), result("lowest", 2), result("pinned", 3)):
        run_versions.keep(each, file)
    found = [(each["environment"], each["passed"]) for each in json.loads(file.read_text())]
    assert found == [("lowest", 2), ("pinned", 3)]
    assert list(tmp_path.iterdir()) == [file]


def test_a_build_for_cuda_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = tmp_path / "uv"
    uv.write_text(
        f"#!/bin/sh\necho $* >> {tmp_path}/log\necho ' + nvidia-nccl-cu13==2.30'\necho ' + torch==2.11.0'\n"
    )
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PIP_FIND_LINKS", "/some/wheels")
    with pytest.raises(ValueError, match=r"torch==2\.11\.0: what the registry has is a build for CUDA.*--torch"):
        Uv(tmp_path).install(tmp_path / "python", "torch")
    (planned,) = (tmp_path / "log").read_text().splitlines()
    assert planned.endswith("--find-links=/some/wheels torch --dry-run")
    Uv(tmp_path).install(tmp_path / "python", "torch", cuda=True)
    assert len((tmp_path / "log").read_text().splitlines()) == 3
