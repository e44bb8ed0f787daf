"""Stages of a run folder: whole or not at all, made once, made again with other settings, waited for."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from cmp_rerank.ir.abandoned import UNFINISHED
from cmp_rerank.pipeline.folder import RECORD, RunFolder, digest_of, file_digest, write_json


def maker(text: str, fail: bool = False):
    def make(folder: Path) -> None:
        (folder / "result").write_text(text)
        (folder / "inner").mkdir()
        if fail:
            raise KeyboardInterrupt

    return make


def visible(path: Path) -> list[str]:
    return sorted(each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file())


def test_a_stage_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.stage("a", {"n": 1}, maker("one", fail=True))
    assert visible(run.path) == []
    assert run.done("a", {"n": 1}) is None
    made = run.stage("a", {"n": 1}, maker("one"))
    assert (made.folder / "result").read_text() == "one"
    with pytest.raises(KeyboardInterrupt):
        run.stage("a", {"n": 2}, maker("two", fail=True))
    assert (made.folder / "result").read_text() == "one"
    assert [each.name for each in run.path.iterdir()] == ["a"]
    assert run.done("a", {"n": 1}) == made


def test_other_settings_make_a_stage_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    first = run.stage("a/b", {"n": 1}, maker("one"))
    assert run.stage("a/b", {"n": 1}, maker("never")) == first
    second = run.stage("a/b", {"n": 2}, maker("two"))
    assert (second.folder / "result").read_text() == "two"
    assert first.digest != second.digest
    assert run.stages()["a/b"]["settings"] == {"n": 2}
    assert run.stages()["a/b"]["seconds"] >= 0


def test_a_record_that_was_damaged_is_no_record(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    record = run.stage("a", {}, maker("one")).folder / RECORD
    written = record.read_text()
    for text in ("", written[: len(written) // 2], "{}"):
        record.write_text(text)
        assert run.done("a", {}) is None


def test_a_stage_with_a_damaged_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = RunFolder(tmp_path).stage("a", {}, maker("one"))
    (made.folder / "result").write_text("onf")
    again = RunFolder(tmp_path)  # what a run has looked at once, it does not look at again
    assert again.done("a", {}) is None
    assert "result: this file is not as it was written; the stage is made again" in caplog.text
    assert (again.stage("a", {}, maker("one")).folder / "result").read_text() == "one"


def test_left_overs_of_a_kill_go_away(tmp_path: Path) -> None:
    left, other = tmp_path / f".a.x1y2{UNFINISHED}", tmp_path / f".ab.x1y2{UNFINISHED}"
    for each in (left, other):
        each.mkdir()
        (each / "half").write_text("written")
        os.utime(each, (0, 0))
    RunFolder(tmp_path).stage("a", {}, maker("one"))
    assert not left.exists()
    assert other.exists()


def test_a_process_that_does_not_make_waits(tmp_path: Path) -> None:
    waits = RunFolder(tmp_path, makes=False, wait=0.01)
    found: list[str] = []
    asked = threading.Thread(target=lambda: found.append(waits.stage("a", {"n": 1}, maker("never")).digest))
    asked.start()
    RunFolder(tmp_path).stage("a", {"n": 0}, maker("other settings"))
    asked.join(0.1)
    assert found == []
    RunFolder(tmp_path).stage("a", {"n": 1}, maker("one"))
    asked.join(10)
    assert found == [digest_of({"n": 1})]
    assert (tmp_path / "a" / "result").read_text() == "one"


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
    with pytest.raises(ValueError, match="no such file"):
        file_digest(tmp_path / "c")
    assert digest_of([1, 2]) != digest_of([2, 1])
    assert digest_of({"depth": 10, "kind": "bm25"}) == digest_of({"kind": "bm25", "depth": 10})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()
    write_json(tmp_path / "x.json", {"word": "ä"})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"word": "ä"}
