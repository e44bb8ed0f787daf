"""The journal of a reranking: what counts after a kill or damage, and what is cut off."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cmp_rerank.reranking.journal import Journal, conclusion, groups_of
from cmp_rerank.reranking.result import Counts, Scored


def scored(number: int) -> Scored:
    return Scored({f"q{number}": {"a": number + 0.5, "b": float(number)}}, Counts(queries=1, pairs=2))


def written(path: Path, groups: int) -> list[bytes]:
    """Write a journal; its lines: the settings, the groups, the end."""
    with Journal(path, {"depth": 2}) as journal:
        for number in range(groups):
            journal.append(number, f"digest {number}", scored(number))
        assert conclusion(path) is None
        journal.end(groups, "run")
    assert conclusion(path) == {"depth": 2, "groups": groups, "run": "run"}
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("damaged", [1, 2, 3])
@pytest.mark.parametrize("change", [(b".5", b".25"), (b"digest ", b"dugest "), (b'"pairs":2', b'"pairs":3')])
def test_a_line_that_was_changed_does_not_count_nor_those_behind_it(
    damaged: int, change: tuple[bytes, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.part"
    lines = written(path, 3)
    assert lines[damaged].count(change[0]) == 1
    lines[damaged] = lines[damaged].replace(*change)
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="a line of this file is damaged"):
        list(groups_of(path))
    with caplog.at_level(logging.WARNING), Journal(path, {"depth": 2}) as journal:
        assert list(journal.finished) == list(range(damaged - 1))
        assert journal.counts == Counts(queries=damaged - 1, pairs=2 * (damaged - 1))
    assert "what comes from there on is done again" in caplog.text


def test_lines_that_have_changed_places_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "run.part"
    lines = written(path, 3)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with Journal(path, {"depth": 2}) as journal:
        assert journal.finished == {}


@pytest.mark.parametrize("tail", [b"", b'{"group":1,', b"x" * 10_000, b"\n\n"])
def test_what_a_kill_has_left_is_cut_off(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.part"
    whole = b"".join(written(path, 2))
    settings_and_first = b"".join(path.read_bytes().splitlines(keepends=True)[:2])
    path.write_bytes(settings_and_first + tail)
    with Journal(path, {"depth": 2}) as journal:
        assert journal.finished == {0: "digest 0"}
        journal.append(1, "digest 1", scored(1))
        journal.end(2, "run")
    assert path.read_bytes() == whole
    assert [each.run for each in groups_of(path)] == [scored(0).run, scored(1).run]
