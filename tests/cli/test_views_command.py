"""`cmp-rerank views` prints what a plan leaves of an example."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmp_rerank.cli.main import app

QUERY, DOC = "what do pandas eat", "It rains. Pandas eat bamboo. It snows. They sleep."


def views(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ["views", "--query", QUERY, "--doc", DOC, *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_words_are_the_tokens_without_a_model() -> None:
    full, crop, drop, rate, again = views("--crops", "2")
    assert full == f"full     18 tokens  {QUERY} | {DOC}"
    assert crop.startswith("CmpCrop")
    for line in (crop, drop, again):
        assert "Pandas eat bamboo." in line
        assert "[…]" in line
    assert drop.split("tokens")[1] == crop.split("tokens")[1]
    assert rate == "p = 0.1"


def test_a_model_shows_its_own_tokens_and_what_its_window_cuts(tiny_checkpoint: Path) -> None:
    lines = views("--model", str(tiny_checkpoint), "--drops", "0", "--no-relevant")
    assert lines[0].endswith(
        "[CLS] what do pandas eat [SEP] it rains. pandas eat bamboo. it snows. they sleep. [SEP]"
    )
    assert "[CLS] what do pandas eat [SEP]" in lines[1]
    assert not any("truncated" in line for line in lines)
    long = CliRunner().invoke(
        app, ["views", "--query", QUERY, "--doc", DOC * 40, "--model", str(tiny_checkpoint)], env={"COLUMNS": "2000"}
    )
    assert "1 of 1 passages were truncated" in long.stdout


def test_another_seed_crops_other_segments() -> None:
    assert len({tuple(views("--seed", str(seed), "--drops", "0")) for seed in range(8)}) > 2


@pytest.mark.parametrize("segments", ["sentences:de", "paragraphs", "words:3", "words:4:2", "sentences"])
def test_segmenters(segments: str) -> None:
    assert views("--segments", segments)[0].startswith("full")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--segments", "lines"], "--segments must be"),
        (["--segments", "words:0"], "size must be at least 1"),
        (["--segments", "tokens:9"], None),
        (["--crops", "0", "--drops", "0"], "not both 0"),
        (["--p", "2"], "p must be"),
        (["--doc", " "], "The passage is empty"),
    ],
)
def test_bad_input_is_one_line_on_stderr(arguments: list[str], message: str | None) -> None:
    result = CliRunner().invoke(app, ["views", "--query", QUERY, "--doc", DOC, *arguments])
    if message is None:
        assert result.exit_code == 0  # words stand in for tokens
    else:
        assert result.exit_code == 2
        assert message in result.stderr
