"""Predictions in the official formats: what is written, and read back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cmp_rerank.reader.answers import RankedAnswers
from cmp_rerank.reader.prediction_files import read_predictions, write_hotpotqa, write_no_answer, write_squad


def test_predictions(tmp_path: Path) -> None:
    given = {"q1": "Bären", "q2": ""}
    write_squad(tmp_path / "squad.json", given)
    assert json.loads((tmp_path / "squad.json").read_text("utf-8")) == given
    write_hotpotqa(tmp_path / "hotpot.json", given)
    assert json.loads((tmp_path / "hotpot.json").read_text("utf-8")) == {"answer": given, "sp": {}}
    write_hotpotqa(tmp_path / "facts.json", given, {"q1": [("Bees", 1)]})
    assert json.loads((tmp_path / "facts.json").read_text("utf-8"))["sp"] == {"q1": [["Bees", 1]]}
    assert read_predictions(tmp_path / "squad.json") == read_predictions(tmp_path / "hotpot.json") == given
    write_no_answer(tmp_path / "na.json", {"q1": 0.25})
    assert json.loads((tmp_path / "na.json").read_text()) == {"q1": 0.25}
    (tmp_path / "numbers.json").write_text('{"q1": 1}')
    with pytest.raises(ValueError, match=r"numbers\.json must be one JSON object of question ids and texts; got"):
        read_predictions(tmp_path / "numbers.json")


def test_half_an_emoji_is_written_as_an_escape(tmp_path: Path) -> None:
    given = {"q1": "Bären \ud83d"}
    write_squad(tmp_path / "squad.json", given)
    assert "Bären" in (tmp_path / "squad.json").read_text("utf-8")
    assert read_predictions(tmp_path / "squad.json") == given


def test_nothing_is_half_written(tmp_path: Path) -> None:
    write_squad(tmp_path / "squad.json", {"q1": "a"})
    bad: dict[str, Any] = {"q1": None}
    with pytest.raises(ValueError, match="'q1': a prediction must be a text; got None"):
        write_squad(tmp_path / "squad.json", bad)
    with pytest.raises(ValueError, match="'q1': a probability must be from 0 to 1; got nan"):
        write_no_answer(tmp_path / "na.json", {"q1": float("nan")})
    answers: Any = [RankedAnswers("q1", (), -math.inf, 1.0)]
    for write in (write_squad, write_hotpotqa):
        with pytest.raises(ValueError, match="must be a mapping of question ids to texts; got a list"):
            write(tmp_path / "other.json", answers)
    assert [path.name for path in tmp_path.iterdir()] == ["squad.json"]
    assert read_predictions(tmp_path / "squad.json") == {"q1": "a"}
