"""Journals of rerankings and stages of runs that are damaged: what was in them is made again, the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from damage import damage_in_place, damaged

from cmp_rerank.pipeline.folder import RECORD, RunFolder
from cmp_rerank.reranking.journal import Journal, conclusion, groups_of
from cmp_rerank.reranking.result import Counts, Scored

SETTINGS = {"depth": 3, "model": "m"}
GROUPS = [Scored({f"q{i}": {f"d{j}": i + j / 7 for j in range(3)}}, Counts(queries=1, pairs=3)) for i in range(8)]


def write(path: Path) -> list[int]:
    """Write the groups that a journal lacks, as a reranking does; their numbers."""
    made = []
    with Journal(path, SETTINGS) as journal:
        for number, group in enumerate(GROUPS):
            if number not in journal.finished:
                journal.append(number, f"digest {number}", group)
                made.append(number)
        journal.end(len(GROUPS), "run")
    return made


def test_a_damaged_journal_goes_on_from_the_first_damaged_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.part"
    assert write(path) == list(range(8))
    whole = path.read_bytes()
    again = 0
    for seed in range(150):
        path.write_bytes(damaged(whole, f"journal {seed}"))
        conclusion(path)  # whatever it says, it is no error
        made = write(path)
        assert conclusion(path) == {**SETTINGS, "groups": 8, "run": "run"}
        assert made == list(range(8 - len(made), 8)), seed
        assert [each.run for each in groups_of(path)] == [each.run for each in GROUPS], seed
        again += bool(made)
    assert again > 75
    assert "a line of this file is damaged" in caplog.text


def test_a_number_that_is_another_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.part"
    write(path)
    path.write_text(path.read_text().replace("3.2857142857142856", "3.2857142857142857"))
    assert write(path) == []  # the same number
    path.write_text(path.read_text().replace("3.2857142857142857", "9.2857142857142857"))
    with pytest.raises(ValueError, match=r"run\.part: a line of this file is damaged"):
        list(groups_of(path))
    assert write(path) == [3, 4, 5, 6, 7]


def test_damaged_stages_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(bytes(range(256)))
        (folder / "scores").write_text("q d 1.5\n" * 20)

    settings = {"depth": 3}
    stage = RunFolder(tmp_path / "run").stage("runs", settings, make).folder
    shutil.copytree(stage, tmp_path / "whole")
    for seed in range(60):
        shutil.rmtree(stage)
        shutil.copytree(tmp_path / "whole", stage)
        damage_in_place(stage, f"stage {seed}")
        RunFolder(tmp_path / "run").stage("runs", settings, make)
        for name in ("scores", "model/weights"):
            assert (stage / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), seed
        assert list(RunFolder(tmp_path / "run").stages()) == ["runs"]
    assert "scores: this file is not as it was written; the stage is made again" in caplog.text
    assert f"{RECORD}: not the record of a stage" in caplog.text
