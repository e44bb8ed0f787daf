"""Questions and answers: what is refused, and how offsets are set right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.reader.records import GoldAnswer, Question, find, repair

PASSAGES = ("Honey is made by bees.", "Bears like it.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "needs an id"),
        ({"id": 7}, "needs an id.*7"),
        ({"question": "  "}, "'q': the question must be a text that is not empty; got '  '"),
        ({"passages": "Honey"}, "'q': passages must be a tuple; got a str; put it into a tuple"),
        ({"passages": (text for text in PASSAGES)}, r"'q': passages must be a tuple; got a generator; pass tuple\(p"),
        ({"passages": ("a", None)}, "'q': passages must be texts; got None at place 1"),
        ({"passages": ("", " \n")}, "'q': the context is empty; got 2 passages"),
        ({"passages": ()}, "'q': the context is empty"),
        ({"kind": "maybe"}, "'q': kind must be one of.*'maybe'"),
        (
            {"kind": "none", "answers": (GoldAnswer("bees", 0, 17),)},
            "'q': a question of kind 'none' has no answer span; got 1",
        ),
        ({"titles": ("one",)}, "'q': each passage needs a title; got 2 passages, 1 titles"),
        ({"answers": GoldAnswer("bees", 0, 17)}, "'q': answers must be a tuple; got a GoldAnswer; put it into a t"),
        ({"answers": ("bees",)}, "'q': answers must be GoldAnswer objects; got 'bees'"),
        ({"answers": (GoldAnswer("bees", 0, 17.0),)}, r"'q': an answer needs whole numbers .* got \(0, 17.0, 21.0\)"),
        ({"texts": "bees"}, "'q': texts must be a tuple; got a str; put it into a tuple"),
        ({"texts": (7,)}, "'q': texts must be texts; got 7 at place 0"),
        ({"titles": ("one", None)}, "'q': titles must be texts; got None at place 1"),
        ({"support": 3}, "'q': support must be a tuple; got an int; pass tuple"),
        ({"support": (1, 0, 4)}, r"'q': support must be spans \(passage, start, end\); got 1"),
        ({"answers": (GoldAnswer("bees", 2, 17),)}, "'q': an answer is in passage 2; got 2 passages"),
        ({"answers": (GoldAnswer("bees", -1, 17),)}, "'q': an answer is in passage -1; got 2 passages"),
        (
            {"answers": (GoldAnswer("bees", 0, 16),)},
            "'q': the answer 'bees' must be at 16 of passage 0; got ' bee' there",
        ),
        ({"answers": (GoldAnswer("bees", 0, -5),)}, "'q': an answer from -5 to -1"),
        ({"answers": (GoldAnswer("", 0, 3),)}, "'q': an answer from 3 to 3 is empty"),
        ({"support": ((1, 0, 15),)}, "'q': support from 0 to 15 .*passage 1, which has 14"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"id": "q", "question": "Who?", "passages": PASSAGES} | changes
    with pytest.raises(ValueError, match=message):
        Question(**arguments)


def test_gold_texts() -> None:
    answers = (GoldAnswer("bees", 0, 17), GoldAnswer("Honey", 0, 0))
    assert Question("q", "Who?", PASSAGES, answers).texts == ("bees", "Honey")
    assert Question("q", "Who?", PASSAGES, answers, texts=("wasps",)).texts == ("wasps",)
    assert Question("q", "Is it?", PASSAGES, kind="yes").texts == ("yes",)
    assert Question("q", "Is it?", PASSAGES, kind="none").texts == ()


def test_repair_moves_to_the_nearest() -> None:
    passage = "bees, bees and bees"
    assert repair("q", [passage], [GoldAnswer("bees", 0, 6)]) == ((GoldAnswer("bees", 0, 6),), 0)
    assert repair("q", [passage], [GoldAnswer("bees", 0, 13)]) == ((GoldAnswer("bees", 0, 15),), 1)
    assert repair("q", [passage], [GoldAnswer("bees", 0, 9)]) == ((GoldAnswer("bees", 0, 6),), 1)
    # White space around an answer is no part of it, and no error of the offset.
    assert repair("q", [passage], [GoldAnswer(" bees ", 0, 5)]) == ((GoldAnswer("bees", 0, 6),), 0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (GoldAnswer("bees", 0, 8), "'q': the answer 'bees' must be at 8 of passage 0, .*; got ' mad' there"),
        (GoldAnswer("wasps", 0, 17), "must be at 17 of passage 0, or within 8 characters of it; got 'bees.' there"),
        (GoldAnswer("bees", 0, -3), "must be at -3"),
        (GoldAnswer(" ", 0, 5), "must be at 5"),
        (GoldAnswer("bees", 5, 0), "an answer is in passage 5; got 2 passages"),
    ],
)
def test_what_is_beyond_repair(answer: GoldAnswer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        repair("q", PASSAGES, [answer])


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=3), st.integers(0, 35), st.integers(0, 10))
def test_find_is_the_nearest_occurrence(passage: str, text: str, start: int, reach: int) -> None:
    places = [i for i in range(len(passage)) if passage[i : i + len(text)] == text and abs(i - start) <= reach]
    assert find(text, passage, start, reach) == min(places, key=lambda i: abs(i - start), default=None)


def test_keeping_some_passages() -> None:
    passages = ("Rain.", "Honey is made by bees.", "Nothing.", "Bees do.")
    answers = (GoldAnswer("bees", 1, 17), GoldAnswer("Bees", 3, 0))
    support = ((3, 0, 8), (0, 0, 5))
    question = Question("q", "Who?", passages, answers, support, titles=("a", "b", "c", "d"))
    less = question.keeping([3, 0, 3])
    assert less.passages == ("Rain.", "Bees do.")
    assert less.answers == (GoldAnswer("Bees", 1, 0),)
    assert less.support == ((1, 0, 8), (0, 0, 5))
    assert (less.titles, less.texts) == (("a", "d"), ("bees", "Bees"))
    assert question.keeping(range(4)) == question
    none = question.keeping([2])
    assert (none.answers, none.support, none.texts) == ((), (), ("bees", "Bees"))
    with pytest.raises(ValueError, match=r"'q': there is no passage 4; got 4 passages, numbered from 0"):
        question.keeping([4])
    with pytest.raises(ValueError, match="'q': the context is empty"):
        question.keeping([])
