"""Questions and answers as plain records, correct by construction: an offset that does not match is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

Kind = Literal["span", "yes", "no", "none"]
REACH = 8


@dataclass(frozen=True)
class GoldAnswer:
    """A gold answer in a passage.

    Attributes:
        text: The answer as it stands in the passage.
        passage: Number of the passage in its question, from 0.
        start: Where it begins, in characters of that passage.
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
        id: Its name, by which predictions are written and measured.
        question: The text; never cropped.
        passages: The context: one text, or several.
        answers: Gold answers found in the passages; several are alternatives.
        support: Spans (passage, start, end), in characters, that the answer rests on, such as supporting facts;
            None: not known.
        texts: Gold answers for the measures, those not found in a passage too; by default those of `answers`,
            "yes" or "no".
        titles: Titles of the passages, where the data has them.
        kind: "span", "yes", "no", or "none" for a question without an answer in its passages.

    Raises:
        ValueError: With the id: no id or question, no passage with text, an answer whose text does not stand
            where it says, support outside its passage, or parts that contradict each other.

    Example:
        >>> question = Question("q1", "Who makes honey?", ("Honey is made by bees.",), (GoldAnswer("bees", 0, 17),))
        >>> question.texts, question.answers[0].end
        (('bees',), 21)
        >>> Question("q2", "Who?", ("Bees do.",), (GoldAnswer("bees", 0, 0),))
        Traceback (most recent call last):
        ValueError: question 'q2': the answer 'bees' does not stand at 0 of passage 0, where there is 'Bees'
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
            raise self._wrong(f"the question is empty: {self.question!r:.80}")
        if isinstance(self.passages, str):
            raise self._wrong("passages are a tuple of texts; got one string")
        for i, passage in enumerate(self.passages):
            if not isinstance(passage, str):
                raise self._wrong(f"passage {i} is not a text: {passage!r:.80}")
        if not any(passage.strip() for passage in self.passages):
            raise self._wrong(f"the context is empty: {len(self.passages)} passages without text")
        if self.kind not in get_args(Kind):
            raise self._wrong(f"kind must be one of {get_args(Kind)}, got {self.kind!r}")
        if self.answers and self.kind != "span":
            raise self._wrong(f"kind {self.kind!r} has no answer span, got {len(self.answers)}")
        if self.titles and len(self.titles) != len(self.passages):
            raise self._wrong(f"there are {len(self.passages)} passages and {len(self.titles)} titles")
        for answer in self.answers:
            self._check_place("answer", answer.passage, answer.start, answer.end)
            there = self.passages[answer.passage][answer.start : answer.end]
            if there != answer.text:
                raise self._wrong(
                    f"the answer {answer.text!r:.80} does not stand at {answer.start} of passage {answer.passage}, "
                    f"where there is {there!r:.80}"
                )
        for place in self.support or ():
            self._check_place("support", *place)
        if not self.texts:
            # Frozen for users; here it is still being made.
            given = (self.kind,) if self.kind in ("yes", "no") else tuple(answer.text for answer in self.answers)
            object.__setattr__(self, "texts", given)

    def keeping(self, passages: Iterable[int]) -> Question:
        """The same question with some of its passages only, in the order of the question.

        Answers and support in the other passages are left out; a question that loses all its answers stays of kind
        "span", and keeps its gold texts.

        Args:
            passages: Numbers of those to keep.

        Raises:
            ValueError: With the id: there is no such passage, or none with text is left.

        Example:
            >>> question = Question("q", "Who makes honey?", ("Rain.", "Dry.", "Bees."), (GoldAnswer("Bees", 2, 0),))
            >>> question.keeping([2, 0]).passages, question.keeping([2, 0]).answers
            (('Rain.', 'Bees.'), (GoldAnswer(text='Bees', passage=1, start=0),))
        """
        kept = sorted(set(passages))
        if wrong := [i for i in kept if not 0 <= i < len(self.passages)]:
            raise self._wrong(f"there is no passage {wrong[0]}, but {len(self.passages)} (from 0)")
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

    def _check_place(self, what: str, passage: int, start: int, end: int) -> None:
        if not 0 <= passage < len(self.passages):
            raise self._wrong(f"{what} in passage {passage}, but there are {len(self.passages)} (from 0)")
        if not 0 <= start < end <= len(self.passages[passage]):
            raise self._wrong(
                f"{what} from {start} to {end} is empty or outside of passage {passage}, which has "
                f"{len(self.passages[passage])} characters"
            )

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"question {self.id!r}: {what}")


class Repaired(NamedTuple):
    """Answers whose offsets are right.

    Attributes:
        answers: The answers, in the order given.
        moved: How many of them stood elsewhere than was said.
    """

    answers: tuple[GoldAnswer, ...]
    moved: int


def find(text: str, passage: str, start: int, reach: int = REACH) -> int | None:
    """Where a text really begins: the occurrence nearest to `start`, at most `reach` characters away.

    The earlier one wins where two are equally near.

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


def repair(id: str, passages: Sequence[str], answers: Iterable[GoldAnswer], *, reach: int = REACH) -> Repaired:
    """Set right answers whose offset is a few characters off.

    Offsets of published data are off where text was normalised after they were taken. An answer that stands
    within `reach` characters of where it should is moved there; an answer with white space around it is
    stripped; anything else is refused.

    Args:
        id: Of the question, for the message.
        passages: Of the question.
        answers: As the data has them.
        reach: How many characters an answer may be moved.

    Returns:
        The right answers, and how many were moved.

    Raises:
        ValueError: With the id: the answer is empty, its passage does not exist, or it does not stand near where
            it should.

    Example:
        >>> repair("q1", ["Honey is made by bees."], [GoldAnswer("bees", 0, 15)])
        Repaired(answers=(GoldAnswer(text='bees', passage=0, start=17),), moved=1)
    """
    right: list[GoldAnswer] = []
    moved = 0
    for answer in answers:
        if not 0 <= answer.passage < len(passages):
            raise ValueError(
                f"question {id!r}: an answer in passage {answer.passage}, but there are {len(passages)} (from 0)"
            )
        text = answer.text.strip()
        expected = answer.start + len(answer.text) - len(answer.text.lstrip())
        passage = passages[answer.passage]
        place = find(text, passage, expected, reach)
        if place is None:
            there = passage[max(0, answer.start) : max(0, answer.end)]
            raise ValueError(
                f"question {id!r}: the answer {answer.text!r:.80} should stand at {answer.start} of passage "
                f"{answer.passage}, where there is {there!r:.80}, nor is it within {reach} characters of it"
            )
        moved += place != expected
        right.append(GoldAnswer(text, answer.passage, place))
    return Repaired(tuple(right), moved)
