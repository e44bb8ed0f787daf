"""A process is killed anywhere; the same command again ends as if nothing had happened, and leaves nothing behind.

Kills come of two kinds, both chosen by a seed: before the n-th file that is opened for writing, renamed, synced or
removed, so that every state of the disk comes up; and after a share of the time, so that files are cut anywhere. A
command that writes no file is killed in the second way only, and says the same again.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_demo
from pipeline_data import settings
from typer.testing import CliRunner
from usages import USAGES, Usage, make_world

from cmp_rerank import RerankerTrainer  # noqa: F401, what is loaded here is not loaded in each process that is killed
from cmp_rerank.cli.main import app
from cmp_rerank.demo import job, recipe  # noqa: F401
from cmp_rerank.ir.abandoned import UNFINISHED
from cmp_rerank.pipeline.document import dump

#: What is killed, by name: as users run it.
KILLED = {
    "rerank": USAGES["rerank"][0],
    "mine": USAGES["mine"][0],
    "mine rows": USAGES["mine"][2],
    "report": USAGES["report"][0],
    "curves": USAGES["curves"][0],
    "guard": USAGES["guard"][0],
    "retrieve": USAGES["retrieve"][1],
    "fuse": USAGES["fuse"][0],
    "answer": USAGES["answer"][0],
    "evaluate": USAGES["evaluate"][0],
    "compare": USAGES["compare"][0],
    "evaluate-answers": USAGES["evaluate-answers"][1],
    "views": USAGES["views"][0],
    "train": Usage("train", "{long} -o {out}", "run", "--resume"),
    "train-reader": replace(
        USAGES["train-reader"][0],
        arguments="{questions} --dev {questions} --model {encoder} --max-steps 3 --batch 2 --save-minutes 1e-9 "
        "-o {out}",
    ),
    "demo": Usage("demo", "--fast --model {encoder} --out {out} --cache {out}/cache", "demo"),
}
#: Kills of each kind: in the usual tests, and in the long ones.
FEW, MANY = {"rerank": 1, "mine": 1, "report": 1, "evaluate": 1}, 10
#: Seconds that one command may take.
PATIENCE = 240
#: Keys of what differs from run to run: times, and the mean loss of the steps since a resume. Sizes differ with them.
TIMES = re.compile(
    r"seconds|runtime|per_second|^made$|^start|^time|wall|cpu|environment|^resumed|flos|fingerprint|train_loss"
    r"|^marks$|^sizes?$|^files$|^is_local$|^local_files_only$"
)
#: Bars of progress, on a line that they write again and again.
BARS = re.compile(r"\r[^\r\n]*")
#: Files of nothing else.
TOLD = ("log.txt", "environment.json", "training_args.bin", "README.md", "seconds.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good files of every kind, and a configuration of a training with checkpoints and evaluations."""
    folder = tmp_path_factory.mktemp("world")
    made = make_world(folder)
    made["long"] = folder / "long.yaml"
    data = {"collection": f"beir:{made['beir']}"}
    ablations: list[Any] = ["crop", {"kind": "drop", "p": 0.2}]
    made["long"].write_text(dump(settings(made["model"], data=data, ablations=ablations)))
    return made


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "FAST", replace(tiny_demo.RECIPE, name="fast"))
        yield


def watched(folder: Path, kill: int | None, number: int) -> list[int]:
    """Counts what is done to the files of a folder, from now on; before the n-th, this process gets the signal."""
    seen = [0]
    changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}

    def count() -> None:
        seen[0] += 1
        if seen[0] == kill:
            os.kill(os.getpid(), number)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, flags = args[0], args[2]
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in changes:
            path = args[0]
        else:
            return
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(str(folder)):
            count()

    sys.addaudithook(hook)
    fsync = os.fsync

    def counted(handle: int) -> None:
        count()
        fsync(handle)

    os.fsync = counted
    return seen


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, the seconds it took, what it said, and how often it changed a file."""

    status: int
    seconds: float
    said: str
    changes: int


def run(
    arguments: list[str],
    folder: Path,
    kill: int | None = None,
    after: float | None = None,
    number: int = signal.SIGKILL,
) -> Ended:
    """Run a command in a process of its own, which is killed before a change of a file, or after so many seconds."""
    told = folder.with_name("told.json")
    told.unlink(missing_ok=True)
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(PATIENCE)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background process has none
            seen = watched(folder, kill, number)
            result = CliRunner().invoke(app, arguments)
            said = f"{result.output}\n{result.exception!r}"
            part = told.with_suffix(".part")
            part.write_text(json.dumps({"status": result.exit_code, "said": said, "changes": seen[0]}))
            part.replace(told)  # a kill may come here, too
        finally:
            os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = json.loads(told.read_text()) if told.exists() else {"status": -9, "said": "", "changes": 0}
    return Ended(seconds=time.monotonic() - begin, **found)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if not TIMES.search(key)}
    if isinstance(value, str):
        return re.sub(r"\d+\.\d+ s\b", "", value)
    return [without_times(each) for each in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, Any]:
    """What each file says, by its path; without times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name in TOLD:
            found[name] = None
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [without_times(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".html":
            found[name] = re.sub(r"\d+[-:.]\d[\d:.\-]*", "", path.read_text())
        else:
            found[name] = path.read_bytes()
    return found


def differences(name: str, expected: Any, found: Any) -> list[str]:
    """Where two contents of a file differ."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return [each for key in expected for each in differences(f"{name}: {key}", expected[key], found[key])]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        both = enumerate(zip(expected, found, strict=True))
        return [each for place, pair in both for each in differences(f"{name}: {place}", *pair)]
    return [] if expected == found else [f"{name}: {str(expected)[:100]} is now {str(found)[:100]}"]


def goes_on(usage: Usage, world: Mapping[str, Path], out: Path) -> str:
    """The same command completes, with what it takes to go on; what it says then."""
    for left in out.rglob(f"*{UNFINISHED}"):
        os.utime(left, (0, 0))  # the second run comes later
    arguments = usage.call(world, out / usage.out)
    ended = run(arguments, out)
    if ended.status and usage.again:
        assert usage.again in ended.said, ended.said
        ended = run([*arguments, *usage.again.split()], out)
    if ended.status and re.search("there is such a folder already|this exists already", ended.said):
        return ""  # it was killed when all was done
    assert ended.status == 0, ended.said
    return ended.said


def results(usage: Usage, world: Mapping[str, Path], out: Path, said: str) -> dict[str, Any]:
    """What a command has made: files, or else what it says, beside the files that it reads."""
    found = contents(out)
    if usage.out:
        return found
    read = {name: world[name].read_bytes() for name in usage.files(world) if world[name].is_file()}
    return found | read | {"said": BARS.sub("", said)}


def survives(usage: Usage, world: Mapping[str, Path], folder: Path, kills: int) -> None:
    """However it is killed, a command that is run again ends as one that was not."""
    out, whole = folder / "out", folder / "whole"
    out.mkdir()
    ended = run(usage.call(world, out / usage.out), out)
    assert ended.status == 0, ended.said
    expected = results(usage, world, out, ended.said)
    out.rename(whole)  # each run writes to the same place: some files name it
    draw = random.Random(f"{usage.command} {kills}")
    points: list[Callable[[], Ended]] = []
    for _ in range(kills):
        change, share = draw.randint(1, max(ended.changes, 1)), draw.random() * ended.seconds
        if ended.changes:
            points.append(lambda change=change: run(usage.call(world, out / usage.out), out, kill=change))
        else:
            other = draw.random() * ended.seconds
            points.append(lambda share=other: run(usage.call(world, out / usage.out), out, after=share))
        points.append(lambda share=share: run(usage.call(world, out / usage.out), out, after=share))
    assert bool(ended.changes) == bool(usage.out)
    for number, point in enumerate(points):
        out.mkdir()
        killed = point()
        assert killed.status in (0, -9), killed.said
        found = results(usage, world, out, goes_on(usage, world, out))
        assert sorted(found) == sorted(expected), f"kill {number}"
        assert [each for name in expected for each in differences(name, expected[name], found[name])] == []
        shutil.rmtree(out)


@pytest.mark.parametrize("name", FEW)
def test_a_kill(name: str, world: Mapping[str, Path], tmp_path: Path) -> None:
    survives(KILLED[name], world, tmp_path, FEW[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_twenty_kills(name: str, world: Mapping[str, Path], tmp_path: Path) -> None:
    survives(KILLED[name], world, tmp_path, MANY)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("name", "before"), [("mine", 3), ("guard", 6), ("train-reader", 30)])
def test_an_interrupted_command_takes_back_what_is_half_written(
    name: str, before: int, number: int, status: int, world: dict[str, Path], tmp_path: Path
) -> None:
    usage, out = KILLED[name], tmp_path / "out"
    out.mkdir()
    ended = run(usage.call(world, out / usage.out), out, kill=before, number=number)
    assert (ended.status, ended.changes >= before) == (status, True), ended.said
    assert "Traceback" not in ended.said
    assert not list(tmp_path.rglob(f"*{UNFINISHED}"))
    assert ("the same command with --resume goes on" in ended.said) == bool(usage.again)
