"""`cmp-rerank train-reader` and `cmp-rerank answer`: files in, checkpoint, answers and measures out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from click.testing import Result
from processes import python
from tiny_models import PASSAGES, QUERIES
from transformers import AutoModelForQuestionAnswering, Trainer
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.ir import write_corpus, write_queries, write_run
from cmp_rerank.reader.prediction_files import read_predictions
from cmp_rerank.reader.reader import Reader, ReaderOptions

GOLD = ["bamboo", "Bees", "an hour", "The river rose"]


def run(*arguments: Any, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def answered(result: Result) -> list[dict[str, Any]]:
    """The rows that `answer` printed."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random reader, and questions."""
    folder = tmp_path_factory.mktemp("reader-commands")
    auto = AutoModelForQuestionAnswering
    tiny_models.save_checkpoint(folder / "model", tiny_models.bert_config(), tiny_models.wordpiece(), auto, 2)
    qas = [
        {"id": f"q{i}", "question": question, "answers": [{"text": gold, "answer_start": passage.index(gold)}]}
        for i, (question, passage, gold) in enumerate(zip(QUERIES, PASSAGES, GOLD, strict=True))
    ]
    paragraphs = [{"context": passage, "qas": [qa]} for passage, qa in zip(PASSAGES, qas, strict=True)]
    (folder / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    none = {"id": "q9", "question": "Who sleeps?", "is_impossible": True, "answers": []}
    paragraphs.append({"context": PASSAGES[0], "qas": [none]})
    (folder / "squad2.json").write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": paragraphs}]}))
    return folder


def test_a_training_that_has_diverged_saves_no_reader(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "reader"
    options = ["--model", folder / "model", "--out", out, "--max-steps", 20, "--batch", 2, "--max-length", 96]
    result = run("train-reader", folder / "squad.json", *options, "--rate", 1e30, "--ablations", "none")
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "the training has diverged: after step 20, " in said
    assert "no reader is saved; train again with a lower --rate than 1e+30, and another --out" in said
    assert not (out / "config.json").exists()
    assert not (out / "metrics.json").exists()


def test_a_logged_number_that_is_not_finite_is_null(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision a step may have a gradient that is not finite, and is left out."""
    log = Trainer.log
    monkeypatch.setattr(
        Trainer, "log", lambda own, logs, *given: log(own, logs | {"grad_norm": float("nan")}, *given)
    )
    options = ["--model", folder / "model", "--out", tmp_path, "--max-steps", 1, "--batch", 2, "--max-length", 96]
    result = run("train-reader", folder / "squad.json", *options)
    assert result.exit_code == 0, result.output
    (entry,) = json.loads((tmp_path / "metrics.json").read_text())["log"]
    assert entry["grad_norm"] is None
    assert entry["train_loss"] > 0


def test_train_then_answer(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "reader"
    options = ["--model", folder / "model", "--out", out, "--max-steps", 2, "--batch", 2, "--max-length", 96]
    result = run("train-reader", folder / "squad2.json", "--dev", folder / "squad2.json", *options, "--stride", 8)
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["settings"]["ablations"] == "[CmpCrop()]"
    assert metrics["settings"]["dropout"] is False  # as in the study, whose best arm is the default
    assert metrics["training"]["steps"] == 2
    assert "[CmpCrop()]" in (out / "README.md").read_text()
    assert metrics["dev"]["rules"] == "squad2"
    assert set(metrics["dev"]["measures"]) == {"all", "HasAns", "NoAns"}
    assert set(metrics["dev"]["per_question"]["EM"]) == {"q0", "q1", "q2", "q3", "q9"}
    printed = dict(line.split("\t")[:2] for line in result.stdout.splitlines() if line.count("\t") == 2)
    assert printed["F1"] == f"{metrics['dev']['measures']['all']['F1']['mean']:.4f}"
    assert "HasAns-EM" in printed
    found = read_predictions(out / "predictions.json")
    assert set(json.loads((out / "na_probs.json").read_text())) == set(found)
    reader = Reader.from_pretrained(out, "cpu")
    assert reader.options.threshold == metrics["dev"]["threshold"]["tuned on the same questions"]
    assert (reader.options.max_length, reader.options.stride, reader.options.pack) == (96, 8, False)

    again = tmp_path / "again.json"
    arguments = ["answer", out, "--questions", folder / "squad2.json", "--no-answer", "--device", "cpu"]
    rows = answered(run(*arguments, "--predictions", again))
    assert read_predictions(again) == found
    assert [row["id"] for row in rows] == ["q0", "q1", "q2", "q3", "q9"]
    assert all(len(row["answers"]) == 3 for row in rows)
    # The tuned threshold of the reader says as much as --no-answer does.
    assert answered(run(*[argument for argument in arguments if argument != "--no-answer"])) == rows


def test_questions_that_cannot_be_evaluated_are_refused_before_training(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"id": f"q{i}", "question": question, "context": passage, "answers": [gold]}
        for i, (question, passage, gold) in enumerate(zip(QUERIES, PASSAGES, GOLD, strict=True))
    ]
    del rows[2]["answers"]
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    arguments = ["train-reader", folder / "squad.json", "--dev", tmp_path / "dev.json", "--model", folder / "model"]
    result = run(*arguments, "-o", tmp_path / "out", "--max-steps", 1, "--max-length", 96, "--stride", 8)
    assert result.exit_code == 2
    assert "dev.json: question 'q2' has no gold answer; leave it out" in result.output
    assert not (tmp_path / "out").exists()


def test_what_was_trained_is_kept_when_the_evaluation_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr("cmp_rerank.cli.train_reader.evaluated", fail)
    arguments = ["train-reader", folder / "squad.json", "--dev", folder / "squad.json", "--model", folder / "model"]
    more = ["-o", tmp_path / "out", "--max-steps", 1, "--max-length", 96, "--stride", 8]
    result = run(*arguments, *more)
    assert result.exit_code == 2
    assert "no space left" in result.output
    assert Reader.from_pretrained(tmp_path / "out", "cpu").options.max_length == 96


def test_without_dropout_the_models_own_dropout_is_off_in_training(folder: Path, tmp_path: Path) -> None:
    """The log of a training without it is that of a checkpoint without it; the reader keeps its rates."""
    tiny_models.save_checkpoint(
        tmp_path / "quiet",
        tiny_models.bert_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        tiny_models.wordpiece(), AutoModelForQuestionAnswering, 2,
    )  # fmt: skip

    def losses(name: str, model: Path, *more: str) -> list[float]:
        arguments = ["train-reader", folder / "squad.json", "--model", model, "-o", tmp_path / name, "--rate", 1e-2]
        arguments += ["--batch", 2, "--epochs", 20, "--max-length", 96, "--stride", 8, "--ablations", "none", *more]
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert metrics["settings"]["dropout"] is ("--no-dropout" not in more)
        return [row["loss"] for row in metrics["log"] if "loss" in row]

    off, on = losses("off", folder / "model", "--no-dropout"), losses("on", folder / "model")
    assert off == losses("none", tmp_path / "quiet")
    assert off != on
    saved = [tmp_path / "off", *(tmp_path / "off" / "trainer").glob("checkpoint-*")]
    assert len(saved) > 1
    for checkpoint in saved:
        assert json.loads((checkpoint / "config.json").read_text())["hidden_dropout_prob"] == 0.1


def test_dropout_beside_drop_is_refused(folder: Path, tmp_path: Path) -> None:
    """Drop switches the model's own dropout off, so that the record would say what is not so."""
    arguments = ["train-reader", folder / "squad.json", "--model", folder / "model", "--max-steps", 1]
    arguments += ["--max-length", 96, "--stride", 8]
    for ablations, dropout in [("crop", "--dropout"), ("crop drop", "--no-dropout")]:
        result = run(*arguments, "-o", tmp_path / ablations, "--ablations", ablations, dropout)
        assert result.exit_code == 0, result.output
        metrics = json.loads((tmp_path / ablations / "metrics.json").read_text())
        assert metrics["settings"]["dropout"] is (dropout == "--dropout")
    result = run(*arguments, "-o", tmp_path / "out", "--ablations", "crop drop", "--dropout")
    assert result.exit_code == 2
    assert "--dropout must be left out where a step is drop, which switches it off; got --ablations" in result.output
    assert not (tmp_path / "out").exists()


def test_resume(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "reader"
    arguments = ["train-reader", folder / "squad2.json", "--model", folder / "model", "--out", out, "--batch", 2]
    arguments += ["--max-steps", 2, "--max-length", 96, "--stride", 8]

    def state() -> tuple[Any, dict[str, Any]]:
        model = AutoModelForQuestionAnswering.from_pretrained(out)
        return model.state_dict(), json.loads((out / "metrics.json").read_text())

    assert run(*arguments).exit_code == 0
    trained, metrics = state()
    assert metrics["training"]["resumed"] is False
    settings = metrics["settings"]
    expected = {"max_length": 96, "stride": 8, "pack": False, "yes_no": False, "format": "squad2", "p": 0.1}
    assert {name: settings[name] for name in expected} == expected
    assert settings["segments"] == "sentences"
    # Finished: evaluated once more, on other questions if need be, but not trained.
    result = run(*arguments, "--resume", "--dev", folder / "squad.json")
    assert result.exit_code == 0, result.output
    again, metrics = state()
    assert (metrics["training"]["steps"], metrics["training"]["resumed"]) == (2, True)
    assert set(metrics["dev"]["per_question"]["EM"]) == {"q0", "q1", "q2", "q3"}
    assert all(torch.equal(value, trained[name]) for name, value in again.items())
    # An incomplete checkpoint is not resumed.
    (out / "trainer" / "checkpoint-9").mkdir()
    assert run(*arguments, "--resume").exit_code == 0
    other = ["--rate", "1e-3", "--seed", 5, "--ablations", "none", "--max-steps", 4]
    result = run(*arguments, *other, "--resume")
    assert result.exit_code == 2
    for change in ("rate was 3e-05, now 0.001", "seed was 0, now 5", "now '[]'", "max_steps was 2, now 4"):
        assert change in result.output
    (tmp_path / "else").mkdir()
    few = json.loads((folder / "squad2.json").read_text())
    few["data"][0]["paragraphs"].pop()
    (tmp_path / "else" / "squad2.json").write_text(json.dumps(few))
    result = run("train-reader", tmp_path / "else" / "squad2.json", *arguments[2:], "--resume")
    assert result.exit_code == 2
    assert "questions was" in result.output
    # Without --resume an existing training is not overwritten.
    result = run(*arguments)
    assert result.exit_code == 2
    assert "checkpoint-2; resume it by --resume, or choose another --out" in result.output
    assert all(torch.equal(value, trained[name]) for name, value in state()[0].items())


def test_plans_crop_and_drop(folder: Path, tmp_path: Path) -> None:
    options = ["--model", folder / "model", "--out", tmp_path / "reader", "--max-steps", 1, "--batch", 2]
    more = ["--max-length", 96, "--stride", 8, "--ablations", "crop drop:top:1", "--p", 0.2]
    result = run("train-reader", folder / "squad.json", *options, *more)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "reader" / "metrics.json").read_text())
    assert metrics["settings"]["ablations"] == "[CmpCrop(), CmpDrop(p=0.2, layers='top:1')]"
    assert "dev" not in metrics
    AutoModelForQuestionAnswering.from_pretrained(tmp_path / "reader")


def test_objectives(folder: Path, tmp_path: Path) -> None:
    """Each is that of the trainer, by its log."""
    names = {
        "hinge": "PairwiseHinge(baseline='zero', reduction='mean')",
        "hinge --baseline full": "PairwiseHinge(baseline='full', reduction='mean')",
        "": "MeanOfSteps()",
        "mean": "MeanOfSteps()",
        "regularized": "HingeRegularized(weight=1.0, reduction='mean', task='mean', detached=False)",
    }
    logs = {}
    for number, (name, made) in enumerate(names.items()):
        out = tmp_path / str(number)
        options = ["--model", folder / "model", "--out", out, "--max-steps", 10, "--batch", 2, "--max-length", 96]
        options += ["--stride", 8, *(["--objective", *name.split()] if name else [])]
        result = run("train-reader", folder / "squad.json", *options)
        assert result.exit_code == 0, result.output
        metrics = json.loads((out / "metrics.json").read_text())
        assert metrics["settings"]["objective"] == made
        assert made in (out / "README.md").read_text()
        (logs[name],) = (row for row in metrics["log"] if "loss" in row)
    mean = logs["mean"]
    assert mean["loss"] == pytest.approx((mean["task_loss_full"] + mean["task_loss_step_1"]) / 2, rel=1e-5)
    assert len({log["loss"] for log in logs.values()}) == len(names) - 1
    assert logs[""]["loss"] == mean["loss"]


def test_one_question(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(PASSAGES[1])
    arguments = ["answer", folder / "model", "-q", QUERIES[0], "--device", "cpu"]
    (row,) = answered(run(*arguments, "-p", PASSAGES[0], "-f", tmp_path / "text.txt", "--top-k", 5))
    expected = Reader.from_pretrained(folder / "model", "cpu").answer(QUERIES[0], [PASSAGES[0], PASSAGES[1]], 5)
    assert row["answers"] == [answer._asdict() for answer in expected]


@pytest.mark.parametrize("where", ["file", "stdin"])
def test_a_byte_order_mark_is_no_part_of_a_text(where: str, folder: Path, tmp_path: Path) -> None:
    text = "熊猫 " + PASSAGES[0]
    arguments = ["answer", folder / "model", "-q", QUERIES[0], "--device", "cpu", "--top-k", 5]
    (expected,) = answered(run(*arguments, "-p", text))
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    source, stdin = ("-", b"\xef\xbb\xbf" + text.encode()) if where == "stdin" else (tmp_path / "text.txt", None)
    assert answered(run(*arguments, "-f", source, stdin=stdin)) == [expected]


def unread(*arguments: Any) -> None:
    """Run a command whose stdout nobody reads."""
    done = python("-m", "cmp_rerank", *arguments, unread=True)
    assert done.returncode == 0, done.stderr


def test_files_are_written_whether_or_not_somebody_reads_what_is_printed(folder: Path, tmp_path: Path) -> None:
    found, out = tmp_path / "found.json", tmp_path / "reader"
    unread("answer", folder / "model", "--questions", folder / "squad.json", "--predictions", found)
    assert set(read_predictions(found)) == {"q0", "q1", "q2", "q3"}
    options = ["--model", folder / "model", "--out", out, "--max-steps", 1, "--batch", 2, "--max-length", 96]
    unread("train-reader", folder / "squad2.json", "--dev", folder / "squad2.json", *options, "--stride", 8)
    metrics = json.loads((out / "metrics.json").read_text())
    assert Reader.from_pretrained(out, "cpu").options.threshold == next(iter(metrics["dev"]["threshold"].values()))


def test_half_an_emoji_does_no_harm(folder: Path, tmp_path: Path) -> None:
    row = {"id": "q", "question": "Who \ud83d?", "context": "Bees \ud83d do.", "answers": ["Bees"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    arguments = ["--questions", tmp_path / "questions.jsonl", "--predictions", tmp_path / "found.json"]
    (found,) = answered(run("answer", folder / "model", *arguments, "--top-k", 50, "--device", "cpu"))
    assert found["question"] == "Who \ud83d?"
    assert {"Bees", "\ud83d", "Bees \ud83d do."} <= {answer["text"] for answer in found["answers"]}
    assert read_predictions(tmp_path / "found.json") == {"q": found["answers"][0]["text"]}


def test_when_there_may_be_no_answer(folder: Path, tmp_path: Path) -> None:
    def first(model: Path, *more: Any) -> str:
        arguments = ["answer", model, "-q", QUERIES[0], "-p", PASSAGES[0], "--top-k", 1, "--device", "cpu"]
        (row,) = answered(run(*arguments, *more))
        return str(row["answers"][0]["text"])

    best = first(folder / "model")
    assert best
    # A threshold, given here or saved with the reader, means that there may be none.
    assert first(folder / "model", "--threshold", 1e9) == ""
    assert first(folder / "model", "--threshold", -1e9) == best
    reader = Reader.from_pretrained(folder / "model", "cpu", threshold=1e9)
    reader.save_pretrained(tmp_path)
    assert first(tmp_path) == ""
    assert first(tmp_path, "--always-answer") == best
    assert first(tmp_path, "--threshold", -1e9) == best


def test_the_passages_of_a_run(folder: Path, tmp_path: Path) -> None:
    write_queries(tmp_path / "queries.jsonl", {"a": QUERIES[0], "b": QUERIES[1], "c": "What?", "e": "When?"})
    write_corpus(tmp_path / "corpus.jsonl", {"d": "", **{f"d{i}": text for i, text in enumerate(PASSAGES)}})
    scores = {"a": {"d0": 3.0, "d1": 1.0, "d2": 2.0}, "b": {"d3": 1.0}, "e": {"d": 1.0}}
    write_run(tmp_path / "run.trec", scores)
    arguments = ["answer", folder / "model", "--queries", tmp_path / "queries.jsonl", "--run", tmp_path / "run.trec"]
    more = ["--k", 2, "--top-k", 20, "--predictions", tmp_path / "found.json", "--hotpotqa", "--device", "cpu"]
    result = run(*arguments, "--corpus", tmp_path / "corpus.jsonl", *more)
    assert result.exit_code == 0, result.output
    rows = {row["id"]: row for row in answered(result)}
    assert set(rows) == {"a", "b"}
    assert {answer["document"] for answer in rows["a"]["answers"]} == {"d0", "d2"}
    assert {answer["document"] for answer in rows["b"]["answers"]} == {"d3"}
    for answer in rows["a"]["answers"] + rows["b"]["answers"]:
        text = PASSAGES[int(answer["document"][1:])]
        assert text[answer["start"] : answer["end"]] == answer["text"] != ""
    assert "queries without passages: 1" in result.output
    assert "queries whose passages are empty: 1" in result.output
    assert set(json.loads((tmp_path / "found.json").read_text())["answer"]) == {"a", "b"}


@pytest.mark.parametrize("k", [1, 3])
def test_yes_and_no_stand_in_no_document(k: int, folder: Path, tmp_path: Path) -> None:
    options = ReaderOptions(max_length=96, stride=8, yes_no=True)
    reader = Reader.from_pretrained(folder / "model", "cpu")
    Reader(reader.model, reader.tokenizer, options).save_pretrained(tmp_path / "reader")
    write_queries(tmp_path / "queries.jsonl", {"a": QUERIES[0]})
    write_corpus(tmp_path / "corpus.jsonl", {f"d{i}": passage for i, passage in enumerate(PASSAGES)})
    write_run(tmp_path / "run.trec", {"a": {"d0": 3.0, "d1": 1.0, "d2": 2.0}})
    arguments = ["answer", tmp_path / "reader", "--queries", tmp_path / "queries.jsonl", "--device", "cpu"]
    more = ["--run", tmp_path / "run.trec", "--corpus", tmp_path / "corpus.jsonl", "--k", k, "--top-k", 3000]
    (row,) = answered(run(*arguments, *more, "--no-answer"))
    of: dict[int, set[Any]] = {number: set() for number in range(-2, k)}
    for answer in row["answers"]:
        of[answer["passage"]].add((answer.get("document"), answer["text"] if answer["passage"] < 0 else ""))
    assert of.pop(-2) == {(None, "yes"), (None, "no")}
    assert of.pop(-1) == {(None, "")}
    assert of == {i: {(name, "")} for i, name in enumerate(["d0", "d2", "d1"][:k])}


#: Refused before the file is read.
NO_FILE = ["train-reader", "no.json", "--model", "MODEL", "-o", "OUT"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["answer", "MODEL"], "--questions, or --queries; got none of them"),
        (["answer", "MODEL", "-q", "Who?", "--queries", "x"], "got --question and --queries"),
        (["answer", "MODEL", "-q", "Who?"], "needs at least one --passage or --file; got none"),
        (["answer", "MODEL", "-q", "Who?", "-f", "nothing.txt"], "nothing.txt: no such file"),
        (["answer", "MODEL", "--questions", "nothing.json"], "nothing.json: no such file"),
        (["answer", "MODEL", "--questions", "x", "-p", "text"], "--passage and --file go with --question"),
        (
            ["answer", "MODEL", "--queries", "x"],
            "--queries need a --run and its --corpus; got no --run and no --corpus",
        ),
        (["answer", "MODEL", "-q", "Who?", "-p", "text", "--run", "x"], "--run, --corpus and --k go with --queries"),
        (["answer", "MODEL", "--questions", "SQUAD", "--corpus", "x"], "--run, --corpus and --k go with --queries"),
        (["answer", "MODEL", "--questions", "SQUAD", "--k", "2"], "--run, --corpus and --k go with --queries"),
        (
            ["answer", "MODEL", "-q", "Who?", "-p", "text", "--hotpotqa"],
            "got no such file; give one by --predictions",
        ),
        (["answer", "MODEL", "-q", "Who?", "-p", "text", "--predictions", "no/x.json"], "no: no such directory"),
        (
            ["answer", "MODEL", "-q", "W?", "-p", "t", "--threshold", "1", "--always-answer"],
            "got --always-answer, too; leave one out",
        ),
        (["answer", "MODEL", "-q", "Who?", "-p", "text", "--threshold", "nan"], "threshold must be a finite number"),
        (["train-reader", "nothing.json", "--model", "MODEL", "-o", "OUT"], "nothing.json: no such file"),
        (["train-reader", "SQUAD", "--model", "MODEL", "-o", "OUT", "--ablations", "chop"], "got 'chop'"),
        (["train-reader", "SQUAD", "--model", "MODEL", "-o", "OUT", "--ablations", "drop:top:0"], "'top:0'"),
        (["train-reader", "SQUAD", "--model", "MODEL", "-o", "OUT", "--segments", "words"], "'words'"),
        (["train-reader", "SQUAD", "--model", "MODEL", "-o", "OUT", "--ablations", ""], "must name a step; got ''"),
        ([*NO_FILE, "--strategy", "quick"], "got 'quick'"),
        ([*NO_FILE, "--objective", "hinge", "--baseline", "none"], "got 'none'"),
        ([*NO_FILE, "--objective", "average"], "'average'"),
        (
            [*NO_FILE, "--objective", "mean", "--baseline", "full"],
            "--baseline goes with --objective hinge; got --objective mean and --baseline full",
        ),
        (
            [*NO_FILE, "--objective", "mean", "--ablations", "none"],
            "--ablations none has one pass, and no objective; got --objective mean",
        ),
        (
            ["train-reader", "SQUAD", "--model", "MODEL", "-o", "OUT", "--stride", "8", "--resume"],
            "--resume needs a training that was begun; got none",
        ),
        (
            ["train-reader", "SQUAD", "--model", "MODEL", "-o", "OUT", "--format", "hotpotqa"],
            "HotpotQA must be a list",
        ),
    ],
)
def test_what_is_refused(folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    names = {"MODEL": folder / "model", "SQUAD": folder / "squad.json", "OUT": tmp_path / "out"}
    result = run(*[names.get(argument, argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_help_teaches_by_examples() -> None:
    for command in ("train-reader", "answer"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert f"cmp-rerank {command} " in result.output
        assert all(ord(character) < 0x1F000 for character in result.output)  # a ":top:" would become an emoji
