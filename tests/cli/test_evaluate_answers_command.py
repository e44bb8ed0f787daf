"""The command that scores predicted answers: values of the official rules, parts, comparisons, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cmp_rerank.cli.main import app
from cmp_rerank.reader.files import read_questions

PASSAGE = "The busy bees make honey. Rain fell."


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate-answers", *map(str, arguments)])


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def squad(folder: Path, version: str) -> Path:
    """Three questions; with version 2 the last one has no answer."""
    answers = [{"text": "busy bees", "answer_start": 4}]
    qas = [{"id": f"q{i}", "question": "Who?", "answers": answers} for i in range(3)]
    if version.startswith("v2"):
        qas[2] = {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True}
    paragraphs = [{"context": PASSAGE, "qas": qas}]
    return write(folder / "squad.json", {"version": version, "data": [{"title": "Bees", "paragraphs": paragraphs}]})


def hotpotqa(folder: Path) -> Path:
    context = [["Bees", ["The busy bees make honey.", " Rain fell."]]]
    records = [
        {"_id": f"q{i}", "question": "Who?", "answer": answer, "context": context, "supporting_facts": [["Bees", 0]]}
        for i, answer in enumerate(["busy bees", "no", "bees"])
    ]
    return write(folder / "hotpot.json", records)


def values(result: Result) -> dict[str, float]:
    assert result.exit_code == 0, result.output
    return {line.split("\t")[0]: float(line.split("\t")[1]) for line in result.stdout.splitlines()}


def test_squad(tmp_path: Path) -> None:
    found = write(tmp_path / "found.json", {"q0": "The busy bees!", "q1": "bees", "q2": "wasps"})
    assert values(call(squad(tmp_path, "1.1"), found)) == {
        "EM": 0.3333,
        "F1": pytest.approx((1 + 2 / 3) / 3, abs=1e-4),
    }


def test_squad_2_has_parts(tmp_path: Path) -> None:
    found = write(tmp_path / "found.json", {"q0": "busy bees", "q1": "", "q2": ""})
    expected = {"EM": 0.6667, "F1": 0.6667, "HasAns-EM": 0.5, "HasAns-F1": 0.5, "NoAns-EM": 1.0, "NoAns-F1": 1.0}
    assert values(call(squad(tmp_path, "v2.0"), found)) == expected


def test_hotpotqa_and_its_rules(tmp_path: Path) -> None:
    """A "no" has no words in common with "no doubt" by the rules of HotpotQA, but by those of SQuAD."""
    found = write(tmp_path / "found.json", {"answer": {"q0": "busy bees", "q1": "no doubt", "q2": "bees"}, "sp": {}})
    questions = hotpotqa(tmp_path)
    assert values(call(questions, found)) == {"EM": 0.6667, "F1": 0.6667}
    assert values(call(questions, found, "--rules", "squad")) == {"EM": 0.6667, "F1": 0.8889}


def test_values_of_every_question_and_json(tmp_path: Path) -> None:
    found = write(tmp_path / "found.json", {"q0": "busy bees", "q1": "bees", "other": "wasps"})
    questions = squad(tmp_path, "1.1")
    result = call(questions, found, "-q", "-p", 2)
    assert result.stdout.splitlines()[:4] == ["q0\tEM\t1.00", "q0\tF1\t1.00", "q1\tEM\t0.00", "q1\tF1\t0.67"]
    assert "1 of 3 questions have no prediction, and count 0 ('q2')" in result.stderr
    assert "1 predictions are of no question here" in result.stderr
    assert "quer" not in result.stderr
    content = json.loads(call(questions, found, "-q", "--json").stdout)
    assert (content["rules"], content["questions"], content["missing"], content["unknown"]) == ("squad", 3, ["q2"], 1)
    assert content["per_question"]["EM"] == {"q0": 1.0, "q1": 0.0, "q2": 0.0}
    assert content["measures"]["all"]["EM"]["mean"] == pytest.approx(1 / 3)


def test_several_are_compared(tmp_path: Path) -> None:
    right = write(tmp_path / "right.json", {f"q{i}": "busy bees" for i in range(3)})
    wrong = write(tmp_path / "wrong.json", {"q0": "bees", "q1": "bees"})
    questions = squad(tmp_path, "1.1")
    shown = call(questions, f"[/x]={wrong}", f"right={right}")
    assert shown.exit_code == 0, shown.output
    assert "3 questions. Intervals:" in shown.stdout
    assert "[/x]: 1 of 3 questions have no prediction" in " ".join(shown.stdout.split())
    assert "quer" not in shown.stdout
    content = json.loads(call(questions, wrong, right, "--json").stdout)
    assert content["questions"] == 3
    by_measure = {(c["system"], c["measure"]): c["difference"] for c in content["contrasts"]}
    assert by_measure["right", "EM"] == 1.0
    assert by_measure["right", "F1"] == pytest.approx(1 - (2 / 3 + 2 / 3 + 0) / 3)
    seeds = json.loads(call(questions, wrong, f"both={right}", f"both={wrong}", "--json").stdout)
    assert seeds["means"][1]["seeds"] == 2


@pytest.mark.parametrize(
    ("predictions", "more", "message"),
    [
        ({"x": "bees"}, (), "there is no id in common; got 3 questions ('q0', 'q1', 'q2') and 1 predictions ('x')"),
        (
            {"q0": "bees"},
            ("--missing", "error"),
            "each question needs a prediction; got none for 2 of 3 ('q1', 'q2')",
        ),
        ({"q0": 1}, (), "found.json must be one JSON object of question ids and texts"),
        ({"q0": "bees"}, ("--rules", "squadd"), "--rules must be one of 'auto', 'squad', 'squad2', 'hotpotqa'"),
    ],
)
def test_what_is_refused(tmp_path: Path, predictions: Any, more: tuple[str, ...], message: str) -> None:
    result = call(squad(tmp_path, "1.1"), write(tmp_path / "found.json", predictions), *more)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_question_without_gold_answers_is_told_with_its_file_and_the_key_that_says_so(tmp_path: Path) -> None:
    content = json.loads(squad(tmp_path, "v2.0").read_text())
    qas = content["data"][0]["paragraphs"][0]["qas"]
    del qas[2]["is_impossible"], qas[2]["answers"]
    found = write(tmp_path / "found.json", {"q0": "busy bees"})
    result = call(write(tmp_path / "mine.json", content), found)
    assert result.exit_code == 2
    assert "mine.json: question 'q2' has no gold answer; leave it out, or say that it has none" in result.stderr
    assert "is_impossible in the format of SQuAD" in result.stderr
    for said in ({"is_impossible": True}, {"answers": []}):
        content["data"][0]["paragraphs"][0]["qas"] = [*qas[:2], qas[2] | said, *qas[3:]]
        assert values(call(write(tmp_path / "mine.json", content), found))["NoAns-EM"] == 0.0


def test_the_gold_answers_of_real_questions_are_right(shared_data: Path, tmp_path: Path) -> None:
    for name in ("squad/dev.json", "hotpotqa/dev.json"):
        asked = read_questions(shared_data / name)
        found = write(tmp_path / "found.json", {question.id: question.texts[-1] for question in asked})
        measured = values(call(shared_data / name, found, "--resamples", 10))
        # An answer of an article only has no word left, and F1 0 by the rules of SQuAD 1.1.
        assert measured == {"EM": 1.0, "F1": pytest.approx(1.0, abs=0.001)}
