"""The best spans: against a loop over all spans, and what holds for every answer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmp_rerank.reader.answers import AnswerSpan, RankedAnswers, best_answers, best_threshold, predictions
from cmp_rerank.reader.measures import score
from cmp_rerank.reader.records import Question

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789" * 3


def window(
    question: int, *passages: tuple[int, int, int], lead: int = 2, tokens: Callable[[], int] = lambda: 1
) -> SimpleNamespace:
    """A window: `lead` tokens of a question, then of each (passage, first, last) letters "a b c", `tokens` each.

    Passages follow each other without separator, which is the hardest case.
    """
    numbers, offsets = [-1] * lead, [(0, 0)] * lead
    for number, first, last in passages:
        letters = [(2 * i, 2 * i + 1) for i in range(first, last) for _ in range(tokens())]
        numbers += [number] * len(letters)
        offsets += letters
    return SimpleNamespace(question=question, passage=np.array([*numbers, -1]), offsets=np.array([*offsets, (0, 0)]))


def text(letters: int) -> str:
    return " ".join(LETTERS[:letters])


def loop(windows: Any, starts: Any, ends: Any, questions: int, max_tokens: int, scale: str) -> list[dict]:
    """Every span of every window, one by one: for each question (passage, start, end) -> best score."""
    found: list[dict] = [{} for _ in range(questions)]
    for i, one in enumerate(windows):
        null = starts[i][0] + ends[i][0] if scale == "null" else 0.0
        for s in range(len(one.passage)):
            for e in range(s, min(s + max_tokens, len(one.passage))):
                if one.passage[s] == -1 or any(one.passage[j] != one.passage[s] for j in range(s, e + 1)):
                    continue
                key = (int(one.passage[s]), int(one.offsets[s][0]), int(one.offsets[e][1]))
                value = float(starts[i][s]) + float(ends[i][e]) - null
                found[one.question][key] = max(found[one.question].get(key, -math.inf), value)
    return found


@st.composite
def readings(draw: st.DrawFn) -> tuple[list[Any], list[Question], list[Any], list[Any]]:
    """Questions of up to 3 passages, in windows that overlap or hold several passages; logits without ties.

    A letter may have several tokens, as rare characters of byte-level tokenizers have.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = draw(st.integers(1, 4))
    questions, windows = [], []
    for i in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
        questions.append(Question(f"q{i}", "Who?", tuple(map(text, lengths))))
        for _ in range(draw(st.integers(0, 3))):
            parts = []
            for number, length in enumerate(lengths):
                if draw(st.booleans()):
                    first = draw(st.integers(0, length - 1))
                    parts.append((number, first, draw(st.integers(first + 1, length))))
            tokens = partial(lambda high: int(rng.integers(1, high + 1)), draw(st.integers(1, most)))
            windows.append(window(i, *parts, lead=draw(st.integers(1, 5)), tokens=tokens))
    logits = [[rng.normal(size=len(one.passage)) * 3 for one in windows] for _ in range(2)]
    return windows, questions, logits[0], logits[1]


@settings(max_examples=200, deadline=None)
@given(readings(), st.integers(1, 7), st.integers(1, 5), st.sampled_from(["null", "raw"]))
def test_against_a_loop_over_all_spans(reading: Any, max_tokens: int, n_best: int, scale: str) -> None:
    windows, questions, starts, ends = reading
    answers = best_answers(windows, questions, starts, ends, n_best=n_best, max_tokens=max_tokens, scale=scale)
    expected = loop(windows, starts, ends, len(questions), max_tokens, scale)
    assert [answer.id for answer in answers] == [question.id for question in questions]
    for number, (answer, question, all_spans) in enumerate(zip(answers, questions, expected, strict=True)):
        best = sorted(all_spans.items(), key=lambda item: -item[1])[:n_best]
        assert [(span.passage, span.start, span.end) for span in answer.spans] == [key for key, _ in best]
        np.testing.assert_allclose([span.score for span in answer.spans], [value for _, value in best])
        for span in answer.spans:
            assert question.passages[span.passage][span.start : span.end] == span.text
            assert 1 <= len(span.text.split()) <= max_tokens
        assert len({span[3:] for span in answer.spans}) == len(answer.spans)
        nulls = [s[0] + e[0] for one, s, e in zip(windows, starts, ends, strict=True) if one.question == number]
        null = 0.0 if scale == "null" else min(nulls, default=0.0)
        if not best:
            assert (answer.margin, answer.no_answer, answer.text()) == (-math.inf, 1.0, "")
            continue
        assert answer.margin == pytest.approx(best[0][1] - null)
        weights = np.exp(np.array([value for _, value in best]) - null)
        total = weights.sum() + 1
        np.testing.assert_allclose([span.probability for span in answer.spans], weights / total)
        assert answer.no_answer == pytest.approx(1 / total)


@settings(max_examples=50, deadline=None)
@given(readings(), st.floats(-50, 50))
def test_a_constant_of_a_window_changes_nothing_on_the_null_scale(reading: Any, constant: float) -> None:
    windows, questions, starts, ends = reading
    moved = [values + constant * (i % 2) for i, values in enumerate(starts)]
    before, after = (best_answers(windows, questions, s, ends) for s in (starts, moved))
    for one, other in zip(before, after, strict=True):
        assert [span[4:] for span in one.spans] == [span[4:] for span in other.spans]
        np.testing.assert_allclose([s.score for s in one.spans], [s.score for s in other.spans], atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(readings(), st.integers(1, 7), st.integers(1, 5), st.sampled_from(["null", "raw"]), st.integers(1, 3))
def test_tied_spans_are_in_order_of_passage_start_and_end(
    reading: Any, max_tokens: int, n_best: int, scale: str, levels: int
) -> None:
    """Logits of few levels: most scores are tied, those at the last place, too."""
    windows, questions, starts, ends = reading
    starts, ends = ([np.round(row).clip(0, levels - 1) for row in rows] for rows in (starts, ends))
    answers = best_answers(windows, questions, starts, ends, n_best=n_best, max_tokens=max_tokens, scale=scale)
    expected = loop(windows, starts, ends, len(questions), max_tokens, scale)
    for answer, all_spans in zip(answers, expected, strict=True):
        best = sorted(all_spans.items(), key=lambda item: (-item[1], item[0]))[:n_best]
        assert [((span.passage, span.start, span.end), span.score) for span in answer.spans] == best


def test_ties_that_rounding_makes_are_ties() -> None:
    """Scores that differ in one window, until a large score of "no answer" is subtracted."""
    one = window(0, (0, 0, 3), lead=1)
    starts = [[2.0**60, -1e6, 0.25, 0.5, 0.0]]
    ends = [[0.0, 0.25, 0.25, 0.25, 0.0]]
    (answer,) = best_answers([one], [Question("q", "Who?", (text(3),))], starts, ends, n_best=1, max_tokens=1)
    assert (answer.spans[0].text, answer.margin) == ("b", -(2.0**60))


@pytest.mark.parametrize("scale", ["null", "raw"])
@pytest.mark.parametrize("logit", [1000.0, -1000.0])
def test_probabilities_do_not_overflow(scale: str, logit: float) -> None:
    one = window(0, (0, 0, 1), lead=1)
    logits = [[0.0, logit, 0.0]]
    (answer,) = best_answers([one], [Question("q", "Who?", (text(1),))], logits, logits, scale=scale)
    assert answer.margin == 2 * logit
    assert (answer.spans[0].probability, answer.no_answer) == ((1.0, 0.0) if logit > 0 else (0.0, 1.0))


def test_yes_and_no_come_first_among_ties() -> None:
    passage = np.array([-1, -2, -2, -1, 1, 1, 0])
    offsets = np.array([(0, 0), (0, 3), (4, 6), (0, 0), (0, 1), (2, 3), (0, 1)])
    one = SimpleNamespace(question=0, passage=passage, offsets=offsets)
    logits = [np.zeros(7)]
    (answer,) = best_answers([one], [Question("q", "Is it?", ("a", "b c"))], logits, logits)
    assert [span.text for span in answer.spans] == ["yes", "no", "a", "b", "b c", "c"]
    # "No answer" has the same score as all of them.
    assert (answer.margin, answer.no_answer) == (0.0, answer.spans[0].probability)


def test_the_scales_differ_where_windows_do() -> None:
    question = Question("q", "Who?", (text(2),))
    windows = [window(0, (0, 0, 1), lead=1), window(0, (0, 1, 2), lead=1)]
    # The second window has the higher logits, but an even higher one for "no answer here".
    starts = [[0.0, 2.0, 0.0], [9.0, 8.0, 0.0]]
    ends = [[0.0, 2.0, 0.0], [9.0, 8.0, 0.0]]
    (by_null,) = best_answers(windows, [question], starts, ends)
    (raw,) = best_answers(windows, [question], starts, ends, scale="raw")
    assert (by_null.text(), by_null.margin) == ("a", 4.0)
    assert (raw.text(), raw.margin) == ("b", 16.0)


def test_padding_and_order_of_windows_change_nothing() -> None:
    rng = np.random.default_rng(0)
    questions = [Question(f"q{i}", "Who?", (text(60),)) for i in range(40)]
    windows = [window(i % 40, (0, i % 7, 20 + i % 31)) for i in range(300)]
    starts, ends = rng.normal(size=(2, 300, 64))
    plain = best_answers(windows, questions, [s[:60] for s in starts], list(ends))
    assert best_answers(windows, questions, starts, ends) == plain
    order = rng.permutation(300).tolist()
    mixed = best_answers([windows[i] for i in order], questions, starts[order], ends[order])
    assert mixed == plain


def test_yes_and_no_are_whole_words_and_nothing_between() -> None:
    question = Question("q", "Is it?", ("a b",))
    # "yes" in two tokens, "no" in one, then the passage
    passage = np.array([-1, -2, -2, -2, -1, 0, 0, -1])
    offsets = np.array([(0, 0), (0, 2), (2, 3), (4, 6), (0, 0), (0, 1), (2, 3), (0, 0)])
    one = SimpleNamespace(question=0, passage=passage, offsets=offsets)
    starts, ends = np.arange(8.0), 10 - np.arange(8.0)
    (answer,) = best_answers([one], [question], [starts], [ends])
    found = {(span.passage, span.text) for span in answer.spans}
    assert found == {(-2, "yes"), (-2, "no"), (0, "a"), (0, "b"), (0, "a b")}
    scores = {span.text: span.score for span in answer.spans}
    assert scores["yes"] == starts[1] + ends[2] - 10
    assert scores["no"] == starts[3] + ends[3] - 10


def test_a_character_of_several_tokens_is_one_candidate() -> None:
    passage = np.array([-1, 0, 0, 0, 0])
    offsets = np.array([(0, 0), (0, 1), (0, 1), (0, 1), (3, 4)])  # three tokens of one emoji
    one = SimpleNamespace(question=0, passage=passage, offsets=offsets)
    logits = [[0.0, 5.0, 5.0, 5.0, 1.0]]
    (answer,) = best_answers([one], [Question("q", "Who?", ("x cd",))], logits, logits, n_best=3)
    assert [(span.text, span.score) for span in answer.spans] == [("x", 10.0), ("x cd", 6.0), ("d", 2.0)]


def test_tokens_without_characters_begin_and_end_nothing() -> None:
    one = SimpleNamespace(
        question=0, passage=np.array([-1, 0, 0, 0]), offsets=np.array([(0, 0), (0, 1), (1, 1), (2, 3)])
    )
    (answer,) = best_answers([one], [Question("q", "Who?", ("a b",))], [[0, 0, 9, 1]], [[0, 0, 9, 1]])
    assert [(span.text, span.score) for span in answer.spans] == [("b", 2), ("a b", 1), ("a", 0)]


def test_infinite_logits_are_no_candidates() -> None:
    one = window(0, (0, 0, 3), lead=1)
    starts = [[0.0, 1.0, -math.inf, -math.inf, 0.0]]
    (answer,) = best_answers([one], [Question("q", "Who?", ("a b c",))], starts, [[0.0, 1.0, 2.0, -math.inf, 0.0]])
    assert [span.text for span in answer.spans] == ["a b", "a"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_best": 0}, "n_best must be a whole number, 1 or more; got 0"),
        ({"n_best": 2.5}, "n_best must be a whole number, 1 or more; got 2.5"),
        ({"max_tokens": 0}, "max_tokens must be a whole number, 1 or more; got 0"),
        ({"max_tokens": True}, "max_tokens must be a whole number, 1 or more; got True"),
        ({"scale": "soft"}, "'soft'"),
        ({"windows": (x for x in ())}, r"windows must be a list .* got a generator; pass list\(windows\)"),
        ({"questions": Question("q", "Who?", ("a b",))}, "questions must be a list .* got a Question; put it into"),
        ({"end_logits": None}, "end_logits must be a list of one array a window; got None"),
        ({"start_logits": []}, "got 1 windows, 0 rows of start logits and 1 rows of end logits"),
        ({"start_logits": [[0.0] * 3]}, "window 0 has 5 tokens; got 3 start logits"),
        ({"end_logits": [[0.0] * 4]}, "window 0 has 5 tokens; got 4 end logits"),
        ({"end_logits": [[0.0, math.nan, 0.0, 0.0, 0.0]]}, "the logits of window 0 are NaN or infinite"),
        ({"start_logits": [[0.0, math.inf, 0.0, 0.0, 0.0]]}, "the logits of window 0 are NaN or infinite"),
        ({"end_logits": [[math.inf, 0.0, 0.0, 0.0, 0.0]]}, "the logits of window 0 are NaN or infinite"),
        ({"start_logits": [[-math.inf, 0.0, 0.0, 0.0, 0.0]]}, "the logits of window 0 are NaN or infinite"),
        ({"end_logits": [[-math.inf, 0.0, 0.0, 0.0, 0.0]]}, "the logits of window 0 are NaN or infinite"),
        ({"questions": []}, "window 0 is of question 0; got 0 questions"),
        ({"windows": [window(1, (0, 0, 2))]}, "window 0 is of question 1; got 1 questions"),
        ({"windows": [window(-1, (0, 0, 2))]}, "window 0 is of question -1; got 1 questions"),
        ({"windows": [window(0, (1, 0, 2))]}, "a token of passage 1 of question 'q'; got 1 passages"),
        ({"windows": [window(0, (-3, 0, 2))]}, "a token of passage -3 of question 'q'; got 1 passages"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "windows": [window(0, (0, 0, 2))],
        "questions": [Question("q", "Who?", ("a b",))],
        "start_logits": [[0.0] * 5],
        "end_logits": [[0.0] * 5],
    } | changes
    with pytest.raises(ValueError, match=message):
        best_answers(**arguments)


def answered(name: str, margin: float, words: str = "bees") -> RankedAnswers:
    spans = (AnswerSpan(words, margin, 0.5, 0, 0, 4),) if math.isfinite(margin) else ()
    return RankedAnswers(name, spans, margin, 0.5)


def test_threshold_decides_what_is_answered() -> None:
    answers = [answered("1", 2.0), answered("2", 1.0), answered("3", -math.inf)]
    assert predictions(answers) == {"1": "bees", "2": "bees", "3": ""}
    assert predictions(answers, 1.0) == {"1": "bees", "2": "", "3": ""}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([-2.5, -1.0, 0.0, 0.5, 3.0, -math.inf]), st.booleans(), st.booleans()), min_size=1
    )
)
def test_the_threshold_is_the_best_of_all(cases: list[tuple[float, bool, bool]]) -> None:
    questions, answers = [], []
    for i, (margin, answerable, right) in enumerate(cases):
        golds = ("bees wild",) if answerable else ()
        questions.append(Question(str(i), "Who?", ("Bees.",), texts=golds, kind="span" if answerable else "none"))
        answers.append(answered(str(i), margin, "wild bees" if right else "wasps"))
    for number, measure in enumerate(("EM", "F1")):

        def mean(threshold: float, number: int = number) -> float:
            pairs = zip(questions, answers, strict=True)
            return float(np.mean([score(a.text(threshold), q.texts, "squad2")[number] for q, a in pairs]))

        threshold, value = best_threshold(questions, answers, measure=measure)
        assert math.isfinite(threshold)
        assert mean(threshold) == pytest.approx(value)
        tried = [mean(t) for t in (-9.0, -2.5, -2, -1.0, -0.5, 0.0, 0.2, 0.5, 1, 3.0, 9)]
        assert value == pytest.approx(max(tried))
        if mean(0.0) == pytest.approx(value):
            assert threshold == 0.0


def test_a_threshold_needs_its_questions() -> None:
    question = Question("1", "Who?", ("a",))
    with pytest.raises(ValueError, match="to the same questions, in the same order; got 1 questions and 1 ranked"):
        best_threshold([question], [answered("2", 1.0)])
    with pytest.raises(ValueError, match="to the same questions, in the same order; got 0 questions and 0 ranked"):
        best_threshold([], [])
    with pytest.raises(ValueError, match="the margin of question '1' is NaN"):
        best_threshold([question], [RankedAnswers("1", answered("1", 1.0).spans, math.nan, 0.5)])


def test_of_equally_good_thresholds_the_nearest_to_0_is_taken_and_of_two_the_positive_one() -> None:
    questions = [
        Question("1", "Who?", ("Bees.",), texts=("bees",)),
        Question("2", "Who?", ("Bees.",), kind="none"),
        Question("3", "Who?", ("Bees.",), texts=("bees",)),
        Question("4", "Who?", ("Bees.",), kind="none"),
    ]
    # Answering one or three of them is right as often, the thresholds in between are 2 and -2.
    answers = [answered("1", 3.0), answered("2", 1.0), answered("3", -1.0), answered("4", -3.0)]
    assert best_threshold(questions, answers) == (2.0, 0.75)
    assert best_threshold(questions[1:], answers[1:]) == (2.0, pytest.approx(2 / 3))
    assert best_threshold(questions[2:], answers[2:]) == (-2.0, 1.0)
    # Neither the highest nor the lowest of them.
    shifted = [answered(answer.id, answer.margin + 4) for answer in answers[1:]]
    assert best_threshold(questions[1:], shifted) == (2.0, pytest.approx(2 / 3))
    # 0 itself, where it gives the same answers as the best threshold.
    assert best_threshold(questions[:2], [answered("1", 3.0), answered("2", -1.0)]) == (0.0, 1.0)


def test_a_threshold_separates_neighbouring_floats() -> None:
    """There is no middle between them, only the lower one."""
    questions = [Question("1", "Who?", ("Bees.",), texts=("bees",)), Question("2", "Who?", ("Bees.",), kind="none")]
    answers = [answered("1", 1.0), answered("2", math.nextafter(1.0, 0.0))]
    threshold, value = best_threshold(questions, answers)
    assert (predictions(answers, threshold), value) == ({"1": "bees", "2": ""}, 1.0)


@pytest.mark.parametrize("threshold", [math.nan, "1", True])
def test_a_threshold_is_a_number(threshold: Any) -> None:
    with pytest.raises(ValueError, match="threshold must be a number or None; got"):
        predictions([answered("1", 2.0)], threshold)


def test_ties_are_ordered_by_passage_then_start_then_end() -> None:
    """In every order of the windows."""
    question = Question("q", "Who?", (text(3), text(2)))
    parts = [(1, 0, 2), (0, 1, 3), (0, 0, 3)]  # windows of one question; two of them overlap
    expected = [(0, 0, 1), (0, 0, 3), (0, 0, 5), (0, 2, 3), (0, 2, 5), (0, 4, 5), (1, 0, 1), (1, 0, 3), (1, 2, 3)]
    for order in itertools.permutations(parts):
        windows = [window(0, part) for part in order]
        logits = [[0.5] * len(one.passage) for one in windows]
        (answer,) = best_answers(windows, [question], logits, logits)
        assert [(span.passage, span.start, span.end) for span in answer.spans] == expected
        assert {span.score for span in answer.spans} == {0.0}
    # One of them is better by a little, and comes first.
    windows = [window(0, part) for part in parts]
    logits = [[0.5] * len(one.passage) for one in windows]
    logits[0][3] += 1e-3  # the second letter of passage 1
    (answer,) = best_answers(windows, [question], logits, logits)
    assert [(span.passage, span.start, span.end) for span in answer.spans][:3] == [(1, 2, 3), (1, 0, 3), (0, 0, 1)]


def test_tokens_of_no_passage_are_never_answers() -> None:
    """Whatever characters are given for them: those of a question are not those of a passage."""
    one = SimpleNamespace(
        question=0, passage=np.array([-1, -1, 0, -1]), offsets=np.array([(0, 0), (0, 3), (0, 1), (4, 5)])
    )
    logits = [[0.0, 9.0, 1.0, 9.0]]
    (answer,) = best_answers([one], [Question("q", "Who?", ("a b c",))], logits, logits)
    assert [(span.text, span.score) for span in answer.spans] == [("a", 2.0)]
