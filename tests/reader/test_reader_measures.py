"""EM and F1: against another implementation, and by hand where the official scripts differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.reader.answers import RankedAnswers
from cmp_rerank.reader.measures import evaluate_answers, exact_match, f1, normalise, score, summary
from cmp_rerank.reader.records import Question

WORDS = ["the", "a", "An", "bee", "Bee", "bees,", "U.S.", "yes", "no", "‘q’", "…", "-", "1,000", "naïve", " "]
texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)


def question(name: str, *golds: str, kind: str = "span") -> Question:
    return Question(name, "Who?", ("Bees.",), texts=golds, kind=kind)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_against_torchmetrics(prediction: str, golds: list[str]) -> None:
    from torchmetrics.functional.text import squad

    target = {"id": "1", "answers": {"answer_start": [0] * len(golds), "text": golds}}
    expected = squad([{"id": "1", "prediction_text": prediction}], [target])
    found = score(prediction, golds)
    assert found[0] == float(expected["exact_match"]) / 100
    # It has the rule of 2.0 where nothing is left of an answer, and keeps such gold answers.
    by_rule = max(f1(prediction, gold, "squad2") for gold in golds)
    assert by_rule == pytest.approx(float(expected["f1"]) / 100, abs=1e-6)
    if all(map(normalise, [prediction, *golds])):
        assert found[1] == by_rule


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The U.S. Army", "us army"),
        ("an  apple a\tday", "apple day"),
        ("1,000", "1000"),
        ("Théâtre", "théâtre"),
        ("theatre", "theatre"),
        ("co-operate", "cooperate"),
        ("the", ""),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation goes
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_f1_counts_words_as_often_as_they_are() -> None:
    # 2 common of 3 and 4 words: P = 2/3, R = 2/4
    assert f1("bee bee wasp", "bee bee fly moth") == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert f1("wasp", "bee") == 0.0


@pytest.mark.parametrize(
    ("prediction", "gold", "rules", "value"),
    [
        ("the", "a", "squad", 0.0),
        ("the", "a", "squad2", 1.0),
        ("the", "bee", "squad2", 0.0),
        ("yes", "yes", "hotpotqa", 1.0),
        ("yes", "no", "hotpotqa", 0.0),
        ("yes sir", "yes", "hotpotqa", 0.0),
        ("noanswer", "noanswer bee", "hotpotqa", 0.0),
        ("yes sir", "yes", "squad", 2 / 3),
        ("bee hive", "bee", "hotpotqa", 2 / 3),
    ],
)
def test_rules(prediction: str, gold: str, rules: str, value: float) -> None:
    assert f1(prediction, gold, rules) == pytest.approx(value)


def test_the_best_gold_answer_counts_for_each_measure() -> None:
    assert score("red bee", ["bee", "red bees", "one red bee hive"]) == (0.0, 2 / 3)
    assert score("bee", ["wasp", "the bee"]) == (1.0, 1.0)
    # SQuAD 2.0 leaves gold answers out of which nothing is left.
    assert score("", ["the", "bee"], "squad2") == (0.0, 0.0)
    assert score("", ["the"], "squad2") == (1.0, 1.0)
    assert exact_match("", "the") == 1.0
    # A prediction of which nothing is left is right where there is no answer.
    assert score("the", []) == (1.0, 1.0)
    assert score("bee", []) == (0.0, 0.0)


def test_evaluation() -> None:
    questions = [question("1", "bee"), question("2", "red bee"), question("3", kind="none"), question("4", "x")]
    predictions = {"1": "Bee", "2": "bee", "3": "bee", "9": "unknown"}
    evaluation = evaluate_answers(questions, predictions, rules="squad2")
    assert evaluation.queries == ("1", "2", "3", "4")
    np.testing.assert_allclose(evaluation.values, [[1, 1], [0, 2 / 3], [0, 0], [0, 0]])
    assert evaluation.missing == ("4",)
    assert evaluation.unjudged == 1
    parts = summary(questions, evaluation, resamples=100)
    assert {name: part["questions"] for name, part in parts.items()} == {"all": 4, "HasAns": 3, "NoAns": 1}
    assert parts["HasAns"]["F1"]["mean"] == pytest.approx((1 + 2 / 3) / 3)
    assert parts["NoAns"]["EM"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert parts["all"]["EM"]["mean"] == 0.25
    assert parts["all"]["EM"]["low"] < 0.25 < parts["all"]["EM"]["high"]
    assert list(summary(questions[:2], evaluate_answers(questions[:2], predictions))) == ["all"]


def test_what_has_an_answer_is_said_by_the_gold_texts() -> None:
    """Not by the kind: the passages that were read may lack an answer that the question has."""
    questions = [question("1", "bee", kind="none"), question("2", kind="none"), question("3", "bee")]
    evaluation = evaluate_answers(questions, {"1": "bee", "2": "", "3": "wasp"}, rules="squad2")
    parts = summary(questions, evaluation, resamples=10)
    assert {name: part["questions"] for name, part in parts.items()} == {"all": 3, "HasAns": 2, "NoAns": 1}
    assert (parts["HasAns"]["EM"]["mean"], parts["NoAns"]["EM"]["mean"]) == (0.5, 1.0)


def test_what_cannot_be_evaluated() -> None:
    with pytest.raises(ValueError, match="an evaluation needs questions; got none"):
        evaluate_answers([], {})
    with pytest.raises(ValueError, match="question '1' has no gold answer; leave it out"):
        evaluate_answers([question("1")], {"1": "bee"})
    with pytest.raises(ValueError, match="got none for 1 of 2 \\('2'\\)"):
        evaluate_answers([question("1", "a"), question("2", "b")], {"1": "a"}, missing="error")
    assert evaluate_answers([question("1", "bee")], {"1": "bee"}, missing="error").means == {"EM": 1.0, "F1": 1.0}
    with pytest.raises(ValueError, match="'squad3'"):
        evaluate_answers([question("1", "a")], {}, rules="squad3")
    wrong: list[tuple[Any, str]] = [
        ([RankedAnswers("1", (), -np.inf, 1.0)], "must be a mapping of question ids to texts; got a list"),
        ({"1": None}, "question '1': a prediction must be a text; got None"),
    ]
    for predictions, message in wrong:
        with pytest.raises(ValueError, match=message):
            evaluate_answers([question("1", "a")], predictions)
    with pytest.raises(ValueError, match="questions must be Question objects; got '1'"):
        evaluate_answers(["1"], {"1": "a"})  # type: ignore[list-item]
    evaluation = evaluate_answers([question("1", "a")], {})
    with pytest.raises(
        ValueError, match="the questions that were evaluated, in the same order; got 1 questions, 1 were"
    ):
        summary([question("2", "a")], evaluation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 95}, "level must be between 0 and 1; got 95"),
        ({"level": 0.0}, "level must be between 0 and 1"),
        ({"resamples": 0}, "resamples must be a whole number of at least 1; got 0"),
        ({"resamples": 10**12}, "resamples must be at most 1,000,000"),
    ],
)
def test_intervals_that_cannot_be(options: dict[str, Any], message: str) -> None:
    """As a comparison refuses them."""
    asked = [question("1", "a")]
    with pytest.raises(ValueError, match=message):
        summary(asked, evaluate_answers(asked, {"1": "a"}), **options)
