"""What is released holds what it should, and installs by the words of the README where nothing else is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from uv_environments import Uv, run

pytest.importorskip("build", reason="the package build is not installed")

ROOT = Path(__file__).parents[2]
NAME = "cmp_rerank"
#: What a source tree says that has neither git nor the metadata of an sdist.
UNTAGGED = "0.1.0.dev0"
#: As in the README: each line is one way to install.
INSTALLS = re.findall(r"^pip install ([^\n#]+)", (ROOT / "README.md").read_text(), re.M)
QRELS, RUN = "q1 0 d1 1\nq1 0 d2 0\n", "q1 Q0 d2 1 2.0 some\nq1 Q0 d1 2 1.0 some\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the version comes from git, and this is no clone"),
]


def build(source: Path, out: Path, *options: str) -> list[Path]:
    run([sys.executable, "-m", "build", "--outdir", out, *options, source])
    return sorted(out.iterdir())


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of this checkout."""
    wheel, sdist = build(ROOT, tmp_path_factory.mktemp("dist"))
    return wheel, sdist


@pytest.fixture(scope="module")
def unpacked(dist: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody has who has no git: the sdist, unpacked."""
    with tarfile.open(dist[1]) as archive:
        archive.extractall(folder := tmp_path_factory.mktemp("sdist"), filter="data")
    (source,) = folder.iterdir()
    return source


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Uv:
    return Uv(tmp_path_factory.mktemp("uv"))


def version(file: Path) -> str:
    return file.name.split("-")[1].removesuffix(".tar.gz")


def tracked(*folders: str) -> set[str]:
    return set(run(["git", "ls-files", *folders], cwd=ROOT).split())


def test_the_wheel_holds_the_package_and_nothing_else(dist: tuple[Path, Path]) -> None:
    files = set(zipfile.ZipFile(dist[0]).namelist())
    package = {file for file in files if not file.startswith(f"{NAME}-{version(dist[0])}.dist-info/")}
    assert package == tracked(NAME)
    run([sys.executable, "-m", "twine", "check", "--strict", *dist])


def test_the_sdist_holds_what_the_tests_need(dist: tuple[Path, Path], unpacked: Path) -> None:
    found = {str(file.relative_to(unpacked)) for file in unpacked.rglob("*") if file.is_file()}
    kept = tracked(
        NAME, "tests", "docs", "examples", "benchmarks", "pyproject.toml", "README.md", "LICENSE", "Makefile"
    )
    assert kept - found == set()
    assert found - tracked() <= {"PKG-INFO"}


def test_the_version_is_that_of_the_tag(unpacked: Path, dist: tuple[Path, Path], tmp_path: Path) -> None:
    run(["git", "clone", "-q", "--depth=1", ROOT.as_uri(), tmp_path / "clone"])
    run(["git", "tag", "v9.8.7"], cwd=tmp_path / "clone")
    assert version(build(tmp_path / "clone", tmp_path / "tagged", "--wheel")[0]) == "9.8.7"
    # An sdist knows its version without git; a bare source tree has none, and is built all the same.
    assert version(build(unpacked, tmp_path / "of-sdist", "--wheel")[0]) == version(dist[0])
    run(["cp", "-r", unpacked, tmp_path / "bare"])
    (tmp_path / "bare" / "PKG-INFO").unlink()
    assert version(build(tmp_path / "bare", tmp_path / "of-bare", "--wheel")[0]) == UNTAGGED


@pytest.mark.parametrize("words", INSTALLS)
def test_it_installs_by_the_words_of_the_readme(
    words: str, unpacked: Path, uv: Uv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The torch of this environment is known to have a build for this machine.
    (tmp_path / "constraints.txt").write_text(f"torch=={torch.__version__.split('+')[0]}\n")
    python = uv.venv(tmp_path / "env", sys.executable)
    uv.install(python, "--constraints", tmp_path / "constraints.txt", *shlex.split(words), cwd=unpacked)
    command = python.with_name("cmp-rerank")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "qrels").write_text(QRELS)
    (folder / "run").write_text(RUN)

    assert "evaluate" in run([command, "--help"], cwd=folder)
    assert run([command, "--version"], cwd=folder).split()[-1] == version(Path(f"x-{unpacked.name.split('-')[1]}"))
    assert re.search(r"nDCG@10\D+0\.6309", run([command, "evaluate", "qrels", "run", "-m", "nDCG@10"], cwd=folder))
    demo = subprocess.run(
        [command, "demo", "--fast", "--out", "demo", "--cache", "cache"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "demo" in words:
        assert demo.returncode == 0, demo.stderr
        assert list(folder.glob("demo/fast/**/report.html"))
    else:
        assert demo.returncode == 2
        assert "pip install 'cmp-rerank[" in " ".join(demo.stderr.split())
