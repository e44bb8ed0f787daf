"""Exact match and F1 of answers, as the official scripts of SQuAD 1.1, SQuAD 2.0 and HotpotQA compute them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmp_rerank.collections.matching import nothing_in_common, some
from cmp_rerank.evaluation.compare import check_intervals
from cmp_rerank.evaluation.result import Evaluation
from cmp_rerank.evaluation.statistics import bootstrap_means, interval
from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.reader.checks import check_predictions
from cmp_rerank.reader.records import Question

if TYPE_CHECKING:
    from cmp_rerank.reader.files import Questions

RULES = ("squad", "squad2", "hotpotqa")
MEASURES = ("EM", "F1")
MISSING = ("zero", "error")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = ("yes", "no", "noanswer")


def normalise(text: str) -> str:
    """Normalise an answer for comparison: lower case, no ASCII punctuation, no English articles, single spaces.

    Example:
        >>> normalise("The  Bees' (a hive)")
        'bees hive'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """1 if both are the same after normalisation, else 0.

    Example:
        >>> exact_match("the bees", "Bees."), exact_match("bee", "bees")
        (1.0, 0.0)
    """
    return float(normalise(prediction) == normalise(gold))


def f1(prediction: str, gold: str, rules: str = "squad") -> float:
    """F1 of the words of two answers after normalisation; a word counts as often as it occurs.

    Args:
        prediction: The predicted answer.
        gold: The gold answer.
        rules: Whose rules decide where an answer is empty after normalisation, or is no span. "squad": F1 is 0 if
            either is empty. "squad2": F1 is 1 if both are empty. "hotpotqa": as "squad", but F1 is also 0 if one of
            them is yes, no or noanswer and the other differs.

    Returns:
        F1, from 0 to 1.

    References:
        - SQuAD: 100,000+ Questions for Machine Comprehension of Text, https://arxiv.org/abs/1606.05250

    Example:
        >>> f1("the busy bees", "busy wild bees")
        0.8
        >>> f1("no", "no doubt"), f1("no", "no doubt", "hotpotqa")
        (0.6666666666666666, 0.0)
    """
    check_choice("rules", rules, RULES)
    one, other = normalise(prediction), normalise(gold)
    if rules == "hotpotqa" and one != other and (one in _WORDS or other in _WORDS):
        return 0.0
    predicted, right = one.split(), other.split()
    if rules == "squad2" and not (predicted and right):
        return float(predicted == right)
    same = sum((Counter(predicted) & Counter(right)).values())
    # 2 P R / (P + R), with P = same / predicted and R = same / right
    return 2 * same / (len(predicted) + len(right)) if same else 0.0


def score(prediction: str, texts: Sequence[str], rules: str = "squad") -> tuple[float, float]:
    """Exact match and F1 against the best of several gold answers.

    Args:
        prediction: The predicted answer; "" for none.
        texts: Gold answers; none: the question has no answer, and "" is right.
        rules: See `f1`. With "squad2", gold answers that are empty after normalisation are left out, as in its
            script.

    Returns:
        Exact match and F1, each the best over the gold answers.

    Example:
        >>> score("busy bees", ["bees", "wild bees"]), score("", []), score("bees", [])
        ((0.0, 0.6666666666666666), (1.0, 1.0), (0.0, 0.0))
    """
    if rules == "squad2":
        texts = [text for text in texts if normalise(text)]
    if not texts:
        right = float(not normalise(prediction))
        return right, right
    return max(exact_match(prediction, text) for text in texts), max(f1(prediction, text, rules) for text in texts)


def check_gold(questions: Iterable[Question]) -> None:
    """Check that questions can be evaluated: best done before a long training.

    Args:
        questions: Questions with their gold answers.

    Raises:
        ValueError: With the id of a question of another kind than "none" that has no gold answer.

    Example:
        >>> check_gold([Question("q1", "Who?", ("Bees.",), kind="none"), Question("q2", "Who?", ("Bees.",))])
        Traceback (most recent call last):
        ValueError: question 'q2' has no gold answer; leave it out, or say that it has none: kind='none', or ...
    """
    for question in questions:
        if not isinstance(question, Question):
            raise ValueError(f"questions must be Question objects; got {question!r:.80}")
        if question.kind != "none" and not question.texts:
            raise ValueError(
                f"question {question.id!r} has no gold answer; leave it out, or say that it has none: kind='none', "
                "or is_impossible in the format of SQuAD"
            )


def rules_of(questions: Questions) -> str:
    """Whose rules questions are evaluated by: those of their format; of SQuAD 2.0 where one has no answer.

    Example:
        >>> from cmp_rerank.reader.files import Questions
        >>> answered = Question("q1", "Who?", ("Bees.",), texts=("bees",))
        >>> rules_of(Questions([answered], "table", {}))
        'squad'
        >>> rules_of(Questions([answered, Question("q2", "Who?", ("Bees.",), kind="none")], "table", {}))
        'squad2'
    """
    if any(not question.texts for question in questions):
        return "squad2"
    return questions.format if questions.format in RULES else "squad"


class AnswerEvaluation(Evaluation):
    """Values of EM and F1 by question, as :class:`cmp_rerank.evaluation.Evaluation` has values by query.

    ``queries`` are the ids of the questions, ``missing`` those without a prediction, and ``unjudged`` is the number
    of predictions of other questions.
    """

    unit = "questions"

    def notes(self) -> list[str]:
        """Questions without a prediction, and predictions of other questions."""
        notes = []
        if self.missing:
            number = f"{len(self.missing):,} of {len(self.queries):,} questions"
            notes.append(f"{number} have no prediction, and count 0 ({some(self.missing)})")
        if self.unjudged:
            notes.append(f"{self.unjudged:,} predictions are of no question here, and do not count")
        return notes


def evaluate_answers(
    questions: Iterable[Question],
    predictions: Mapping[str, str],
    *,
    rules: str = "squad",
    missing: str = "zero",
) -> AnswerEvaluation:
    """Evaluate predictions for questions.

    Args:
        questions: Questions with their gold answers; a question of kind "span" without any is refused.
        predictions: Question id -> answer; "" for no answer. Those of other questions are ignored, and counted.
        rules: See `f1`.
        missing: A question without a prediction counts 0 ("zero", as in the official scripts), or is an "error".

    Returns:
        The values per question, EM and F1, from 0 to 1; its `queries` are the ids of the questions.

    Raises:
        ValueError: No question, a question without gold answers, predictions that are no mapping to texts, or a
            missing prediction where that is an error.

    Example:
        >>> question = Question("q1", "Who makes honey?", ("Bees.",), texts=("bees", "wild bees"))
        >>> evaluate_answers([question], {"q1": "the bees"}).means
        {'EM': 1.0, 'F1': 1.0}
    """
    check_choice("rules", rules, RULES)
    check_choice("missing", missing, MISSING)
    check_predictions(predictions)
    questions = list(questions)
    check_gold(questions)
    ids, values, lacking = [], [], []
    for question in questions:
        ids.append(question.id)
        if question.id in predictions:
            values.append(score(predictions[question.id], question.texts, rules))
        else:
            lacking.append(question.id)
            values.append((0.0, 0.0))
    if not ids:
        raise ValueError("an evaluation needs questions; got none")
    if len(lacking) == len(ids) and predictions:
        raise nothing_in_common("questions", ids, "predictions", list(predictions))
    if lacking and missing == "error":
        raise ValueError(
            f"each question needs a prediction; got none for {len(lacking)} of {len(ids)} ({some(lacking)}); "
            "missing='zero' counts them as 0"
        )
    unknown = len(predictions.keys() - set(ids))
    return AnswerEvaluation(MEASURES, tuple(ids), np.array(values), tuple(lacking), unknown)


def summary(
    questions: Iterable[Question],
    evaluation: Evaluation,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Means with bootstrap intervals: of all questions, and of those with and without an answer.

    Args:
        questions: The questions that were evaluated, in the same order.
        evaluation: What `evaluate_answers` returned.
        level: Level of the intervals.
        resamples: Resamples of the bootstrap over questions.
        seed: Seed of the bootstrap.

    Returns:
        "all", and maybe "HasAns" and "NoAns" (the names of SQuAD 2.0's script) -> {"questions": their number,
        "EM": {"mean", "low", "high"}, "F1": ...}.

    Raises:
        ValueError: The questions are not those of the evaluation, or the level or the resamples are out of range.

    Example:
        >>> questions = [Question(str(i), "Who?", ("Bees.",), texts=("bees",)) for i in range(20)]
        >>> evaluation = evaluate_answers(questions, {str(i): "bees" if i % 2 else "wasps" for i in range(20)})
        >>> summary(questions, evaluation)["all"]["EM"]
        {'mean': 0.5, 'low': 0.3, 'high': 0.7}
    """
    check_intervals(level, resamples)
    questions = list(questions)
    if tuple(question.id for question in questions) != evaluation.queries:
        raise ValueError(
            f"a summary needs the questions that were evaluated, in the same order; got {len(questions)} questions, "
            f"{len(evaluation.queries)} were evaluated"
        )
    # As in the official script, a question has an answer if it has a gold answer, even if no passage here holds it.
    answerable = np.array([bool(question.texts) for question in questions])
    parts = {"all": np.ones(len(questions), dtype=bool)}
    if not answerable.all():
        parts |= {"HasAns": answerable, "NoAns": ~answerable}
    result: dict[str, dict[str, Any]] = {}
    for name, mask in parts.items():
        if not mask.any():
            continue
        values = evaluation.values[mask]
        (means,) = bootstrap_means([values[None]], resamples=resamples, seed=seed)
        result[name] = {"questions": int(mask.sum())}
        for i, measure in enumerate(evaluation.measures):
            low, high = interval(means[:, i], level)
            result[name][measure] = {"mean": float(values[:, i].mean()), "low": low, "high": high}
    return result
