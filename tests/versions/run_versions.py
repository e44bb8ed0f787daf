"""Run the tests against other versions of what the package stands on, and make a table of what came out.

An environment is a file of constraints, less the packages that it goes without. Each is made in a folder of its own,
and made anew only when its constraints or pyproject.toml have changed:

    make test-versions
    python tests/versions/run_versions.py lowest -- tests/ir tests/evaluation
    python tests/versions/run_versions.py lowest --python python3.13 --torch present

``--torch`` is for machines where a version of torch has no build for the CPU; the table says what was installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from uv_environments import Uv, run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

EXTRAS = "demo,retrieval,report,serve,test"
SHOWN = ("torch", "transformers", "sentence-transformers", "datasets", "numpy")
#: Torch is that of the interpreter which the environment is made from.
PRESENT = "present"


@dataclass(frozen=True)
class Environment:
    """Versions to test against, and the packages that are taken out."""

    constraints: Path
    without: tuple[str, ...] = ()


ENVIRONMENTS: dict[str, Environment] = {
    "lowest": Environment(HERE / "lowest.txt"),
    "without-datasets": Environment(HERE / "without-datasets.txt", without=("datasets",)),
    "pinned": Environment(ROOT / "constraints.txt"),
}


@dataclass(frozen=True)
class Result:
    """What the tests said in one environment."""

    environment: str
    versions: Mapping[str, str]  # of Python and the packages that matter; none for those that are not there
    passed: int
    skipped: int
    failed: tuple[str, ...]
    status: int  # of pytest: 0 where all passed
    seconds: float


def constraints(environment: Environment, torch: str | None) -> str:
    """The lines of the file, with another torch where one is asked for.

    >>> print(constraints(ENVIRONMENTS["without-datasets"], "2.13.0"))  # doctest: +ELLIPSIS
    torch==2.13.0
    ...
    """
    lines = [line for line in environment.constraints.read_text().splitlines() if line and not line.startswith("#")]
    if torch is not None:
        lines = [line for line in lines if not line.startswith("torch==")]
    if torch not in (None, PRESENT):
        lines = [f"torch=={torch}", *lines]
    return "\n".join(lines) + "\n"


def build(environment: Environment, folder: Path, uv: Uv, python: str, torch: str | None, cuda: bool) -> Path:
    """Make the environment, unless it is there as it should be; its interpreter."""
    lines = constraints(environment, torch)
    recipe = repr((lines, environment.without, python, torch, (ROOT / "pyproject.toml").read_text()))
    stamp, key = folder / ".made-by", hashlib.sha256(recipe.encode()).hexdigest()
    interpreter = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == key:
        return interpreter
    uv.venv(folder, python, *(["--system-site-packages"] if torch == PRESENT else []))
    (folder / "constraints.txt").write_text(lines)
    options: list[str | Path] = ["--constraints", folder / "constraints.txt"]
    if torch == PRESENT:
        (folder / "present.txt").write_text("torch\n")
        options += ["--excludes", folder / "present.txt"]
    uv.install(interpreter, *options, "--editable", f"{ROOT}[{EXTRAS}]", cuda=cuda)
    if environment.without:
        uv.uninstall(interpreter, *environment.without)
    stamp.write_text(key)
    return interpreter


def versions(python: Path) -> dict[str, str]:
    """The versions that are installed, the interpreter's among them."""
    code = f"""
import importlib.metadata, json, platform
found = {{"python": platform.python_version()}}
for name in {SHOWN!r}:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
    return dict(json.loads(run([python, "-I", "-c", code])))


def read_results(file: Path) -> tuple[int, int, tuple[str, ...]]:
    """How many tests passed and were skipped, and the names of those that failed, of a JUnit file of pytest."""
    passed, skipped, failed = 0, 0, []
    for case in ElementTree.parse(file).iter("testcase"):
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"}:
            failed.append("::".join(filter(None, (case.get("classname"), case.get("name")))))
        elif "skipped" in outcomes:
            skipped += 1
        else:
            passed += 1
    return passed, skipped, tuple(failed)


def test(name: str, python: Path, arguments: Sequence[str]) -> Result:
    """Run the tests in an environment."""
    report = python.parents[1] / "results.xml"
    report.unlink(missing_ok=True)
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    status = subprocess.run(command, cwd=ROOT, env=settings, check=False).returncode
    seconds = time.perf_counter() - start
    passed, skipped, failed = read_results(report) if report.is_file() else (0, 0, ())
    return Result(name, versions(python), passed, skipped, failed, status, round(seconds, 1))


def table(results: Sequence[Result]) -> str:
    """One line for each environment, in Markdown, and the tests that failed below."""
    columns = ("environment", "python", *SHOWN, "passed", "skipped", "failed", "minutes")
    rows = [
        (
            result.environment,
            *(result.versions.get(name, "none") for name in ("python", *SHOWN)),
            *map(str, (result.passed, result.skipped, len(result.failed))),
            f"{result.seconds / 60:.1f}",
        )
        for result in results
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (columns, ("---",) * len(columns), *rows)]
    return "\n".join(
        [*lines, *(f"{result.environment}: {test}" for result in results for test in result.failed)],
    )


def keep(result: Result, file: Path) -> None:
    """Write a result, beside those of the other environments that the file has."""
    found = json.loads(file.read_text()) if file.is_file() else []
    by_name = {each["environment"]: each for each in found} | {result.environment: asdict(result)}
    part = file.with_suffix(".part")
    part.write_text(json.dumps([by_name[name] for name in ENVIRONMENTS if name in by_name], indent=1) + "\n")
    part.replace(file)


def main() -> None:
    """Build, test, report; the exit status is 1 where a test failed, or none ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="*", metavar="ENVIRONMENT", help=f"of {', '.join(ENVIRONMENTS)}; all")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that environments are made from")
    parser.add_argument("--torch", metavar="VERSION", help=f"instead of the constraint's, or '{PRESENT}'")
    parser.add_argument("--cuda", action="store_true", help="accept builds of torch for CUDA, of several gigabytes")
    parser.add_argument("--cache", type=Path, default=ROOT / ".versions", help="folder of the environments")
    parser.add_argument("--out", type=Path, help="JSON file of the results; those of other environments stay")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options, arguments = parser.parse_args(given[:end]), given[end + 1 :] or ["-n", "2", "--dist", "worksteal"]
    if unknown := [name for name in options.environments if name not in ENVIRONMENTS]:
        parser.error(f"no such environment: {', '.join(unknown)}; there are {', '.join(ENVIRONMENTS)}")
    uv = Uv(options.cache)
    results = []
    for name in options.environments or ENVIRONMENTS:
        try:
            python = build(ENVIRONMENTS[name], options.cache / name, uv, options.python, options.torch, options.cuda)
        except (ValueError, subprocess.CalledProcessError) as error:
            parser.exit(2, f"{name}: {error}\n")
        results.append(test(name, python, arguments))
        print(table(results), flush=True)
        if options.out:
            keep(results[-1], options.out)
    raise SystemExit(any(result.status for result in results))


if __name__ == "__main__":
    main()
