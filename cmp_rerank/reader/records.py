"""Questions and gold answers as plain records. A record whose parts do not fit each other is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal, NamedTuple, get_args

from cmp_rerank.reader.checks import described

Kind = Literal["span", "yes", "no", "none"]
REACH = 8  # characters that an offset of published data may be off


@dataclass(frozen=True)
class GoldAnswer:
    """A gold answer in a passage.

    Attributes:
        text: The answer, exactly as in the passage.
        passage: Number of the passage in its question, from 0.
        start: Where it begins, in characters of that passage.

    Example:
        >>> answer, passage = GoldAnswer("bees", passage=0, start=17), "Honey is made by bees."
        >>> passage[answer.start : answer.end]
        'bees'
    """

    text: str
    passage: int
    start: int

    @property
    def end(self) -> int:
        """Where it ends: the first character after it."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Question:
    """A question, the passages to be read for it, and what is known of its answer.

    Attributes:
        id: Id of the question, by which predictions are written and measured.
        question: The text; never cropped.
        passages: The context: a tuple of one text, or of several.
        answers: Gold answers with their place in the passages; several are alternatives.
        support: Spans (passage, start, end), in characters, that support the answer, such as supporting facts;
            None: not known.
        texts: Gold answers for the measures, also those that are in no passage. Default: the texts of `answers`, or
            "yes" or "no".
        titles: Titles of the passages, where the data has them.
        kind: "span", "yes", "no", or "none" for a question without an answer in its passages.

    Raises:
        ValueError: With the id: no id or question, no passage with text, an answer whose text is not at its offset,
            support outside its passage, a part of another type, or parts that contradict each other.

    Example:
        >>> question = Question("q1", "Who makes honey?", ("Honey is made by bees.",), (GoldAnswer("bees", 0, 17),))
        >>> question.texts, question.answers[0].end
        (('bees',), 21)
        >>> Question("q2", "Who?", ("Bees do.",), (GoldAnswer("bees", 0, 0),))
        Traceback (most recent call last):
        ValueError: question 'q2': the answer 'bees' must be at 0 of passage 0; got 'Bees' there
    """

    id: str
    question: str
    passages: tuple[str, ...]
    answers: tuple[GoldAnswer, ...] = ()
    support: tuple[tuple[int, int, int], ...] | None = None
    texts: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    kind: Kind = "span"

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ValueError(f"a question needs an id, a string that is not empty; got {self.id!r:.80}")
        if not isinstance(self.question, str) or not self.question.strip():
            raise self._wrong(f"the question must be a text that is not empty; got {self.question!r:.80}")
        for name in ("passages", "answers", "texts", "titles"):
            self._check_tuple(name)
        for name in ("passages", "texts", "titles"):
            for i, text in enumerate(getattr(self, name)):
                if not isinstance(text, str):
                    raise self._wrong(f"{name} must be texts; got {text!r:.80} at place {i}")
        if not any(passage.strip() for passage in self.passages):
            raise self._wrong(f"the context is empty; got {len(self.passages)} passages without text")
        if self.kind not in get_args(Kind):
            raise self._wrong(f"kind must be one of {', '.join(map(repr, get_args(Kind)))}; got {self.kind!r:.80}")
        if self.answers and self.kind != "span":
            raise self._wrong(f"a question of kind {self.kind!r} has no answer span; got {len(self.answers)}")
        if self.titles and len(self.titles) != len(self.passages):
            raise self._wrong(
                f"each passage needs a title; got {len(self.passages)} passages, {len(self.titles)} titles"
            )
        for answer in self.answers:
            if not isinstance(answer, GoldAnswer):
                raise self._wrong(f"answers must be GoldAnswer objects; got {answer!r:.80}")
            self._check_place("an answer", answer.passage, answer.start, answer.end)
            found = self.passages[answer.passage][answer.start : answer.end]
            if found != answer.text:
                raise self._wrong(
                    f"the answer {answer.text!r:.80} must be at {answer.start} of passage {answer.passage}; got "
                    f"{found!r:.80} there"
                )
        if self.support is not None:
            self._check_tuple("support")
            for span in self.support:
                if not isinstance(span, tuple | list) or len(span) != 3:
                    raise self._wrong(f"support must be spans (passage, start, end); got {span!r:.80}")
                self._check_place("support", *span)
        if not self.texts:
            # The dataclass is frozen, but still under construction.
            given = (self.kind,) if self.kind in ("yes", "no") else tuple(answer.text for answer in self.answers)
            object.__setattr__(self, "texts", given)

    def keeping(self, passages: Iterable[int]) -> Question:
        """The same question with some of its passages only, in the order of the question.

        Answers and support in the other passages are left out. A question that loses all its answers stays of kind
        "span" and keeps its gold texts.

        Args:
            passages: Numbers of the passages to keep.

        Returns:
            The new question; its passages are numbered from 0 again.

        Raises:
            ValueError: With the id: there is no such passage, or no passage with text is left.

        Example:
            >>> question = Question("q", "Who makes honey?", ("Rain.", "Dry.", "Bees."), (GoldAnswer("Bees", 2, 0),))
            >>> question.keeping([2, 0]).passages, question.keeping([2, 0]).answers
            (('Rain.', 'Bees.'), (GoldAnswer(text='Bees', passage=1, start=0),))
        """
        kept = sorted(set(passages))
        if wrong := [i for i in kept if not 0 <= i < len(self.passages)]:
            raise self._wrong(f"there is no passage {wrong[0]}; got {len(self.passages)} passages, numbered from 0")
        new = {old: i for i, old in enumerate(kept)}
        support = self.support
        if support is not None:
            support = tuple((new[i], start, end) for i, start, end in support if i in new)
        return replace(
            self,
            passages=tuple(self.passages[i] for i in kept),
            answers=tuple(replace(a, passage=new[a.passage]) for a in self.answers if a.passage in new),
            support=support,
            titles=tuple(self.titles[i] for i in kept) if self.titles else (),
        )

    def _check_tuple(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, tuple | list):
            advice = "put it into a tuple" if isinstance(value, str | GoldAnswer) else f"pass tuple({name})"
            raise self._wrong(f"{name} must be a tuple; got {described(value)}; {advice}")

    def _check_place(self, what: str, passage: int, start: int, end: int) -> None:
        for number in (passage, start, end):
            if isinstance(number, bool) or not isinstance(number, Integral):
                raise self._wrong(
                    f"{what} needs whole numbers (passage, start, end); got {(passage, start, end)!r:.80}"
                )
        if not 0 <= passage < len(self.passages):
            raise self._wrong(f"{what} is in passage {passage}; got {len(self.passages)} passages, numbered from 0")
        if not 0 <= start < end <= len(self.passages[passage]):
            raise self._wrong(
                f"{what} from {start} to {end} is empty or outside of passage {passage}, which has "
                f"{len(self.passages[passage])} characters"
            )

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"question {self.id!r}: {what}")


class Repaired(NamedTuple):
    """Gold answers whose offsets are right.

    Attributes:
        answers: The answers, in the order given.
        moved: How many of their offsets were corrected.
    """

    answers: tuple[GoldAnswer, ...]
    moved: int


def find(text: str, passage: str, start: int, reach: int = REACH) -> int | None:
    """Where a text begins: its occurrence nearest to `start`, at most `reach` characters away.

    Of two that are equally near the earlier one is taken.

    Args:
        text: What is looked for.
        passage: Where it is looked for.
        start: Where it should begin, in characters.
        reach: How many characters it may be away.

    Returns:
        Where it begins; None where it is not found.

    Example:
        >>> find("bees", "bees and bees", 7), find("bees", "bees and bees", 4), find("wasps", "bees", 0)
        (9, 0, None)
    """
    if not text or start < 0:
        return None
    low, high = max(0, start - reach), min(len(passage), start + reach + len(text))
    found = []
    place = passage.find(text, low, high)
    while place >= 0:
        found.append(place)
        place = passage.find(text, place + 1, high)
    return min(found, key=lambda place: (abs(place - start), place), default=None)


def repair(id: str, passages: Sequence[str], answers: Iterable[GoldAnswer]) -> Repaired:
    """Correct the offsets of gold answers that are a few characters off.

    Offsets of published data are off where text was normalised after they were taken. An answer that is found within
    8 characters of its offset gets the right one. White space around an answer is removed. Anything else is
    refused.

    Args:
        id: Id of the question, for the message.
        passages: The passages of the question.
        answers: The answers as the data has them.

    Returns:
        The answers with right offsets, and how many were corrected.

    Raises:
        ValueError: With the id: an answer is empty, its passage does not exist, or it is not found near its offset.

    Example:
        >>> repair("q1", ["Honey is made by bees."], [GoldAnswer("bees", 0, 15)])
        Repaired(answers=(GoldAnswer(text='bees', passage=0, start=17),), moved=1)
    """
    right: list[GoldAnswer] = []
    moved = 0
    for answer in answers:
        if not 0 <= answer.passage < len(passages):
            raise ValueError(
                f"question {id!r}: an answer is in passage {answer.passage}; got {len(passages)} passages, numbered "
                "from 0"
            )
        text = answer.text.strip()
        expected = answer.start + len(answer.text) - len(answer.text.lstrip())
        passage = passages[answer.passage]
        place = find(text, passage, expected)
        if place is None:
            found = passage[max(0, answer.start) : max(0, answer.end)]
            raise ValueError(
                f"question {id!r}: the answer {answer.text!r:.80} must be at {answer.start} of passage "
                f"{answer.passage}, or within {REACH} characters of it; got {found!r:.80} there"
            )
        moved += place != expected
        right.append(GoldAnswer(text, answer.passage, place))
    return Repaired(tuple(right), moved)
