"""The experiment with readers, run as a user runs it, in its short form with a tiny model."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from processes import python
from tiny_models import PASSAGES, QUERIES
from transformers import AutoModel, AutoModelForQuestionAnswering

from cmp_rerank.training.complete import mark_complete

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "experiments" / "train_reader.py"
GOLD = ["bamboo", "Bees", "an hour", "The river rose"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data of both kinds, and an encoder without a head."""
    folder = tmp_path_factory.mktemp("reader-example")
    tiny_models.save_checkpoint(
        folder / "model", tiny_models.bert_config(), tiny_models.wordpiece(), AutoModel, num_labels=None
    )
    paragraphs, records = [], []
    for i, (question, passage, gold) in enumerate(zip(QUERIES, PASSAGES, GOLD, strict=True)):
        answer = {"text": gold, "answer_start": passage.index(gold)}
        paragraphs.append({"context": passage, "qas": [{"id": f"s{i}", "question": question, "answers": [answer]}]})
        # Ten paragraphs, two of which support the answer.
        context = [["gold", [passage]], ["other", [PASSAGES[i - 1]]]]
        context += [
            [f"distractor {j}", [f"It rained on day {j}.", f" Nobody saw bears on day {j}."]] for j in range(8)
        ]
        facts = [["gold", 0], ["other", 0]]
        record = {"_id": f"h{i}", "question": question, "answer": gold if i else "yes"}
        records.append(record | {"context": context, "supporting_facts": facts})
    for name, content in (("squad", {"data": [{"paragraphs": paragraphs}]}), ("hotpot", records)):
        (folder / name).mkdir()
        for split in ("train", "dev"):
            (folder / name / f"{split}.json").write_text(json.dumps(content))
    return folder


def arguments(folder: Path, data: str, *more: str) -> list[str]:
    command = [str(SCRIPT), "--train", str(folder / data / "train.json"), "--out", str(folder / "out")]
    command += ["--curve", str(folder / "hotpot" / "dev.json"), "--model", str(folder / "model")]
    return [*command, "--fast", "--max-length", "64", "--stride", "16", "--threads", "1", *more]


def run(folder: Path, data: str, *more: str) -> subprocess.CompletedProcess[str]:
    return python(*arguments(folder, data, *more))


def call(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Run the script in this process: where nothing is trained, most of the time would go to imports."""
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(SCRIPT), run_name="__main__")


def result(folder: Path, name: str) -> Any:
    return json.loads((folder / "out" / name).read_text())


def test_arms_of_separate_runs_are_merged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(folder, "squad", "--arms", "plain")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "comparison" not in result(folder, "metrics.json")
    done = run(folder, "squad")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "plain-0: complete already" in done.stdout
    metrics = result(folder, "metrics.json")
    assert metrics["comparison"]["systems"] == ["plain", "comparative"]
    assert metrics["comparison"]["queries"] == 4
    assert [config["ablations"] for config in metrics["config"]] == ["[CmpDrop(p=0.1, steps=2)]"] * 2
    assert list(metrics["curve"]) == [str(count) for count in range(2, 11)]
    assert set(metrics["curve"]["10"]) == {"plain", "comparative", "difference"}
    assert (folder / "out" / "curve.svg").stat().st_size > 1000
    for arm in ("plain", "comparative"):
        record = result(folder, f"{arm}-0/run.json")
        assert record["training"]["steps"] == len(record["training"]["losses"]) == 2
        assert set(record["dev"]["per_question"]["F1"]) == {"s0", "s1", "s2", "s3"}
        assert set(record["curve"]["2"]["F1"]) == {"h1", "h2", "h3"}  # a reader of spans is not asked for yes
        assert set(result(folder, f"{arm}-0/predictions.json")) == {"s0", "s1", "s2", "s3"}
        assert not (folder / "out" / f"{arm}-0" / "trainer").exists()
        AutoModelForQuestionAnswering.from_pretrained(folder / "out" / f"{arm}-0")
    logs = result(folder, "comparative-0/run.json")["training"]["logs"]
    assert {"task_loss_full", "task_loss_step_1", "task_loss_step_2", "violation_rate"} <= set(logs)
    call(monkeypatch, arguments(folder, "squad", "--merge"))
    assert result(folder, "metrics.json") == metrics
    with pytest.raises(SystemExit, match=r"was made with other settings \(rate\); choose another --out"):
        call(monkeypatch, arguments(folder, "squad", "--rate", "0.5"))


def test_other_settings_are_neither_resumed_nor_compared(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def case(arm: str, **changes: Any) -> None:
        config = {"arm": arm, "seed": 0, "rate": 1e-4, "weights": "a"} | changes
        per_question = {measure: {f"q{i}": i % 2 for i in range(20)} for measure in ("EM", "F1")}
        record = {"config": config, "versions": {}, "training": {"cpu_seconds": 1.0}, "curve": None}
        (tmp_path / f"{arm}-0").mkdir(exist_ok=True)
        run = record | {"dev": {"measures": {}, "per_question": per_question}}
        (tmp_path / f"{arm}-0" / "run.json").write_text(json.dumps(run))

    merge = [str(SCRIPT), "--out", str(tmp_path), "--merge"]
    case("plain")
    for changes in ({"rate": 2e-4}, {"weights": "b"}, {"stride": 3}):
        case("comparative", **changes)
        with pytest.raises(SystemExit, match=rf"were made with other settings \({next(iter(changes))}\)"):
            call(monkeypatch, merge)
    assert not (tmp_path / "metrics.json").exists()
    case("comparative", seed=1)
    call(monkeypatch, merge)
    # A training that was interrupted, and started with another rate.
    again = [*arguments(folder, "squad", "--arms", "plain"), "--out", str(tmp_path / "again")]
    checkpoint = tmp_path / "again" / "plain-0" / "trainer" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text('{"global_step": 1}')
    mark_complete(checkpoint)
    (tmp_path / "again" / "plain-0" / "settings.json").write_text('{"rate": 0.5}')
    with pytest.raises(SystemExit, match=r"started with other settings \(rate was 0.5, now 0.0001; "):
        call(monkeypatch, again)


def test_questions_that_cannot_be_evaluated_are_refused_before_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dev.json").write_text(json.dumps([{"id": "q1", "question": "Who?", "context": "Bees do."}]))
    command = [*arguments(folder, "squad"), "--dev", str(tmp_path / "dev.json"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"dev.json: question 'q1' has no gold answer"):
        call(monkeypatch, command)
    assert not (tmp_path / "out").exists()


def test_hotpotqa_is_cropped_then_dropped(folder: Path) -> None:
    done = run(folder, "hotpot", "--out", str(folder / "out" / "hotpot"))
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = result(folder, "hotpot/metrics.json")
    assert metrics["config"][0]["ablations"] == "[CmpCrop(segmenter=WholePassages()), CmpDrop(p=0.1)]"
    record = result(folder, "hotpot/comparative-0/run.json")
    assert set(record["curve"]["2"]["F1"]) == {"h0", "h1", "h2", "h3"}
    assert set(result(folder, "hotpot/plain-0/predictions.json")) == {"answer", "sp"}


def test_missing_data_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"train.json is missing; give SQuAD or HotpotQA files"):
        call(monkeypatch, arguments(folder, "nothing"))
