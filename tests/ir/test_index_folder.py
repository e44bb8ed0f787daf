"""Folders of indexes: whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmp_rerank.ir.index_folder import is_index, read_manifest, replacing_index, write_manifest


def write(folder: Path, content: str) -> None:
    with replacing_index(folder) as new:
        (new / "content").write_text(content)
        write_manifest(new, "bm25", {"content": content})


def test_an_index_takes_the_place_of_another(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    for content in ("first", "second"):
        write(folder, content)
        assert is_index(folder)
        assert json.loads((folder / "first_stage.json").read_text())["kind"] == "bm25"
        assert read_manifest(folder, "bm25") == {"content": content}
        assert (folder / "content").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    (tmp_path / "made").mkdir()
    assert folder.stat().st_mode == (tmp_path / "made").stat().st_mode


def test_what_is_interrupted_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    write(folder, "first")

    def interrupted() -> None:
        with replacing_index(folder) as new:
            (new / "content").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (folder / "content").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_what_cannot_take_its_place_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    write(folder, "first")

    def full(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space left"):
        write(folder, "second")
    assert (folder / "content").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_folder_of_something_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one").touch()
    (tmp_path / "file").touch()
    for name in ("photos", "file"):
        with pytest.raises(ValueError, match=f"needs a folder of its own; got .*{name}, which holds something else"):
            write(tmp_path / name, "index")
    assert (tmp_path / "photos" / "one").exists()
    with pytest.raises(ValueError, match=r"nowhere: no such directory; create it before writing index"):
        write(tmp_path / "nowhere" / "index", "index")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "index")


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(ValueError, match=r"index: no such folder; build the index first"):
        read_manifest(folder, "bm25")
    folder.mkdir()
    with pytest.raises(ValueError, match=r"must hold a whole index; got a folder without first_stage\.json"):
        read_manifest(folder, "bm25")
    folder.rmdir()
    write(folder, "content")
    with pytest.raises(ValueError, match="must hold an index of kind 'dense'; got 'bm25'"):
        read_manifest(folder, "dense")
    for text, message in (
        ("half", "not the description of an index"),
        ('{"kind": "bm25"}', "not the description of an index"),
        ('{"kind": "bm25", "format": 9, "settings": {}}', "the format must be 2; got 9"),
    ):
        (folder / "first_stage.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_manifest(folder, "bm25")
