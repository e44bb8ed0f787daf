"""Windows: the inputs of a reader, token by token, each a question and a part of its passages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from cmp_rerank.ablations import Example
from cmp_rerank.text.segmenters import CharSpan, stripped

#: Passage numbers of tokens outside of all passages, and of the pseudo-passage.
OUTSIDE, YES_NO = -1, -2
#: The pseudo-passage in which "yes" and "no" are spans.
YES_NO_TEXT = "yes no"


@dataclass(frozen=True, eq=False)
class Window:
    """One input of a reader.

    Attributes:
        question: Index of the question in the list that the windows were made of.
        example: Its tokens, with segments and support where it can be cropped.
        passage: (T,) number of the passage of each token; -1 for the question, special tokens and separators, -2 for
            the pseudo-passage "yes no".
        offsets: (T, 2) characters of each token in that passage; (0, 0) outside of passages.
        start: Position of the first token of the first gold answer in it, in the whole window, not in a view; 0, the
            first token, if there is none.
        end: Position of that answer's last token, inclusive; 0 if there is none.
        spans: (n, 2) first and last token of all gold answers in it.

    Example:
        ::

            window = make_windows(tokenizer, questions, max_length=384)[0]
            tokenizer.decode(window.example.features["input_ids"][window.start : window.end + 1])  # the gold answer
    """

    question: int
    example: Example
    passage: np.ndarray
    offsets: np.ndarray
    start: int
    end: int
    spans: np.ndarray

    def __len__(self) -> int:
        """Tokens."""
        return len(self.passage)


@dataclass
class WindowCounts:
    """How many windows were made of questions, and what was split, truncated or removed.

    Attributes:
        questions: Questions.
        windows: Windows, without removed ones.
        answered: Windows that hold a gold answer.
        split: Passages that are longer than a window.
        questions_cut: Questions that were truncated to leave half of the window to the context.
        answers_cut: Windows that hold a part of a gold answer, but no whole one.
        removed: Those of them that were removed.
        answers_lost: Questions with a gold answer that no window holds whole.
        support_elsewhere: Windows with an answer that lack some of its support.
        unknown: Questions whose answer is not known, or is yes or no without ``yes_no=True``. Their label is that of
            questions without an answer.
        empty: Questions in whose context the tokenizer finds no token; they have no window.
    """

    questions: int = 0
    windows: int = 0
    answered: int = 0
    split: int = 0
    questions_cut: int = 0
    answers_cut: int = 0
    removed: int = 0
    answers_lost: int = 0
    support_elsewhere: int = 0
    unknown: int = 0
    empty: int = 0

    def add(self, other: WindowCounts) -> None:
        """Add the counts of others."""
        for each in fields(WindowCounts):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def notes(self) -> list[str]:
        """What a reader of the answers should know: what does not fit into a window, or cannot be read at all.

        Example:
            >>> WindowCounts(questions=9, split=2, questions_cut=1).notes()
            ['passages longer than a window, and read in parts: 2', 'questions truncated to half of a window: 1']
        """
        what = {
            "passages longer than a window, and read in parts": self.split,
            "questions truncated to half of a window": self.questions_cut,
            "questions without an answer, since their passages have no token": self.empty,
        }
        return [f"{text}: {number:,}" for text, number in what.items() if number]

    def __str__(self) -> str:
        return (
            f"{self.windows} windows of {self.questions} questions, {self.answered} with an answer; {self.split} "
            f"passages are longer than a window, {self.questions_cut} questions were truncated; {self.answers_cut} "
            f"windows hold only a part of an answer ({self.removed} were removed), {self.answers_lost} questions "
            f"have no window with a whole answer; {self.unknown} questions have no known answer, {self.empty} a "
            "context without tokens"
        )


class Windows(list[Window]):
    """A list of windows, to train on or to answer from, with counts.

    Args:
        windows: The windows.
        counts: What was split, truncated and removed.

    Example:
        ::

            windows = make_windows(tokenizer, questions, max_length=384)
            print(windows.counts)  # "120 windows of 100 questions, 97 with an answer; ..."
            trainer = ComparativeTrainer(
                model, train_dataset=windows, processing_class=tokenizer, ablations=[CmpDrop()]
            )
            trainer.train()
    """

    def __init__(self, windows: Iterable[Window] = (), counts: WindowCounts | None = None) -> None:
        super().__init__(windows)
        self.counts = counts or WindowCounts()

    def __getitem__(self, index: Any) -> Any:
        # Samplers also give tensors and numpy integers.
        return super().__getitem__(index if isinstance(index, slice) else int(index))


@dataclass(frozen=True)
class WholePassages:
    """A segmenter for `CmpCrop`: each passage is one segment, so that a crop removes whole passages.

    Example:
        >>> WholePassages()(" Bees make honey. It is sweet. ")
        [(1, 30)]
    """

    def __call__(self, text: str) -> list[CharSpan]:
        """The span of the text, without white space around it."""
        return stripped(text, [(0, len(text))])
