"""The pieces of the GPU table: each runs once, a call goes on where the last one ended, and failures are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu import __main__ as table

ROOT = Path(__file__).parents[2]
WRITES = (
    "import sys, json; json.dump({'time': 2.5}, open(sys.argv[1], 'w')); open(sys.argv[1] + '.ran', 'a').write('x')"
)
HALF = "import sys; open(sys.argv[1], 'w').write('{'); print('out of memory'); sys.exit(3)"


def piece(code: str, seconds: int = 10) -> table.Piece:
    return table.Piece(seconds, [], ["-c", code, "{out}"])


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", "--small", "--folder", str(folder), *arguments])
    return table.main()


def test_a_call_goes_on_where_the_last_one_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "PIECES", {"good": piece(WRITES), "bad": piece(HALF), "last": piece(WRITES)})
    assert call(monkeypatch, tmp_path, "--pieces", "good", "bad") == 1
    out = capsys.readouterr().out
    assert "good: done" in out
    assert "bad: failed (3)" in out
    assert "out of memory" in out
    assert out.endswith("Left: bad\n")
    assert not (tmp_path / "bad.json").exists()  # what is not whole has another name
    monkeypatch.setattr(table, "PIECES", table.PIECES | {"bad": piece(WRITES)})
    assert call(monkeypatch, tmp_path, "--pieces", "good", "bad", "last") == 0
    assert "good" not in capsys.readouterr().out
    assert (tmp_path / "good.part.ran").read_text() == "x"
    assert json.loads((tmp_path / "bad.json").read_text()) == {"time": 2.5}
    assert "## last\n\n| | |\n|---|---|\n| time | 2.5 |" in table.table(tmp_path)


def test_no_piece_is_started_that_would_not_end_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table.torch.cuda, "is_available", lambda: True)
    pieces = {"long": piece(WRITES, 100), "short": piece(WRITES, 5)}
    pieces = {name: table.Piece(each.seconds, each.small, []) for name, each in pieces.items()}
    monkeypatch.setattr(table, "PIECES", pieces)
    monkeypatch.setattr(sys, "argv", ["gpu", "--folder", str(tmp_path), "--seconds", "60", "--pieces", *pieces])
    assert table.main() == 1
    assert "Left: long" in capsys.readouterr().out
    assert (tmp_path / "short.json").exists()


def test_a_piece_that_hangs_is_broken_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "LIMIT", 0.5)
    monkeypatch.setattr(table, "PIECES", {"hangs": piece("import time; time.sleep(60)")})
    assert call(monkeypatch, tmp_path, "--pieces", "hangs") == 1
    assert "broken off after 0.5 s" in capsys.readouterr().out


def test_without_a_gpu_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit) as stopped:
        table.main()
    assert stopped.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_all_pieces_fit_into_their_time_and_name_what_is_there() -> None:
    assert all(each.seconds < table.LIMIT for each in table.PIECES.values())
    assert sum(each.seconds for each in table.PIECES.values()) <= 30 * 60
    for each in table.PIECES.values():
        for command in (each.command, each.small):
            assert "{out}" in command
            files: list[Any] = [word for word in command if word.endswith(".py")]
            modules = [word for word in command if word.startswith("benchmarks.")]
            assert all((ROOT / name).exists() for name in files)
            assert all((ROOT / f"{name.replace('.', '/')}.py").exists() for name in modules)
