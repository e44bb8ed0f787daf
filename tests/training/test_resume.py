"""Settings and weights of a training that is resumed: the same ones, or it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_readers import questions, reader

from cmp_rerank.reader.digest import questions_digest
from cmp_rerank.reader.records import GoldAnswer, Question
from cmp_rerank.training.resume import check_settings, weights_digest


def test_a_training_is_resumed_with_the_same_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    settings = {"rate": 0.1, "steps": 3, "layers": (1, 2)}
    check_settings(path, settings, resume=False)
    assert json.loads(path.read_text()) == {"rate": 0.1, "steps": 3, "layers": [1, 2]}
    check_settings(path, settings, resume=True)
    for changes, message in [
        ({"rate": 0.2}, r"settings.json: .*\(rate was 0.1, now 0.2\)"),
        ({"steps": 4, "seed": 1}, r"\(steps was 3, now 4; seed was None, now 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_settings(path, settings | changes, resume=True)
    check_settings(path, settings | {"seed": 1}, resume=False)
    with pytest.raises(ValueError, match="seed was 1, now None"):
        check_settings(path, settings, resume=True)
    with pytest.raises(ValueError, match=r"none\.json: no such file"):
        check_settings(tmp_path / "none.json", settings, resume=True)


def test_digests_tell_weights_and_questions_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        reader("bert", seed)[0].save_pretrained(tmp_path / str(seed) / "model")
    reader("bert", 0)[0].save_pretrained(tmp_path / "copy", max_shard_size="20KB")
    first, other = (weights_digest(str(tmp_path / str(seed) / "model")) for seed in (0, 1))
    assert first != other
    assert weights_digest(str(tmp_path / "0" / "model")) == first
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) > 1
    shard = max((tmp_path / "copy").glob("*.safetensors"))
    before = weights_digest(str(tmp_path / "copy"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert weights_digest(str(tmp_path / "copy")) != before
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty must be a checkpoint with weights"):
        weights_digest(str(tmp_path / "empty"))
    asked = questions()
    assert questions_digest(asked) == questions_digest(questions())
    moved = Question("q", "Who?", ("bees, bees",), (GoldAnswer("bees", 0, 0),))
    variants = [asked, asked[::-1], [*asked, moved], [*asked, replace(moved, answers=(GoldAnswer("bees", 0, 6),))]]
    odd = replace(moved, question="Who \ud83d?")
    assert len({questions_digest(some) for some in [*variants, [odd], [moved]]}) == 6


def test_digests_of_questions_stay_what_they_were() -> None:
    """A training that was interrupted can be resumed by a later version."""
    passages = ("Rain.", "Honey is made by bees.")
    first = Question(
        "q", "Who makes honey?", passages, (GoldAnswer("bees", 1, 17),), ((1, 0, 22),), titles=("a", "b")
    )
    second = Question("r", "Is it?", ("Bär \ud83d",), kind="none")
    assert (questions_digest([first]), questions_digest([first, second])) == ("d2b856313b83eea9", "1cad6591d4562e7d")
