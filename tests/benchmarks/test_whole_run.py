"""A result file of one command: it goes on where it was broken off, and nothing of another run gets into it."""

from __future__ import annotations

import json
from pathlib import Path

from whole_run import WholeRun

ABOUT = {"command": "python benchmarks/engine.py --sparse", "machine": {"cores": 2}, "lengths": (20, 60)}


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    first = WholeRun(path, ABOUT)
    first.put("a", {"rounds": 5})
    first.put("b", {"rounds": 1})
    assert not path.exists()
    again = WholeRun(path, ABOUT)
    assert again.known("a") == {"rounds": 5}
    again.put("b", {"rounds": again.known("b")["rounds"] + 1})
    again.finish(["b", "a"])
    found = json.loads(path.read_text())["runs"]
    assert [run["rounds"] for run in found] == [2, 5]
    assert all(run["command"] == ABOUT["command"] for run in found)
    assert [each.name for each in tmp_path.iterdir()] == ["sparse.json"]


def test_another_run_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    path.write_text(json.dumps({"runs": [{"rounds": 9}]}))
    WholeRun(path, ABOUT).put("a", {"rounds": 5})
    for other in (ABOUT | {"command": "another"}, ABOUT | {"machine": {"cores": 4}}):
        assert WholeRun(path, other).known("a") is None
    other = WholeRun(path, ABOUT | {"command": "another"})
    other.put("b", {"rounds": 1})
    other.finish(["b"])
    assert [run["rounds"] for run in json.loads(path.read_text())["runs"]] == [1]


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    run = WholeRun(None, ABOUT)
    run.put("a", {"rounds": 5})
    run.finish(["a"])
    assert run.known("a") == {"rounds": 5}
    assert not list(tmp_path.iterdir())
