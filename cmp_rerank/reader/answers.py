"""From start and end logits to ranked answers: the best spans of each question, over all its windows and passages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.reader.checks import check_list, check_threshold, check_whole
from cmp_rerank.reader.measures import MEASURES, score
from cmp_rerank.reader.records import Question
from cmp_rerank.reader.windows import OUTSIDE, YES_NO, YES_NO_TEXT

SCALES = ("null", "raw")
_CELLS = 500_000  # numbers in the arrays of one block of windows


class WindowLike(Protocol):
    """What `best_answers` needs of a window: where its tokens come from."""

    @property
    def question(self) -> int:
        """Index of the question."""

    @property
    def passage(self) -> np.ndarray:
        """(T,) Passage of each token; -1: none; -2: the words yes and no."""

    @property
    def offsets(self) -> np.ndarray:
        """(T, 2) Characters of each token in its passage."""


class AnswerSpan(NamedTuple):
    """A predicted answer: a span of a passage.

    Attributes:
        text: The text of the passage between `start` and `end`; "yes", "no", or "" for "no answer".
        score: See `best_answers`.
        probability: Softmax of the scores of all candidates of the question and of "no answer".
        passage: Number of the passage; -2 for yes and no, which are in no passage; -1 for "no answer".
        start: First character in that passage.
        end: The character after the last one.
    """

    text: str
    score: float
    probability: float
    passage: int
    start: int
    end: int


@dataclass(frozen=True)
class RankedAnswers:
    """The predicted answers to one question.

    Attributes:
        id: Id of the question.
        spans: Candidates, best first; see `best_answers` for the order of ties.
        margin: Score of the best candidate minus the score of "no answer"; -inf without any candidate.
        no_answer: Probability of "no answer", by the same softmax as the probabilities of the candidates.
    """

    id: str
    spans: tuple[AnswerSpan, ...]
    margin: float
    no_answer: float

    def text(self, threshold: float | None = None) -> str:
        """The best answer; "" if there is none, or if the margin does not exceed the threshold.

        A margin equal to the threshold does not exceed it: "no answer" wins that tie.

        Raises:
            ValueError: The threshold is no number.
        """
        check_threshold(threshold)
        if not self.spans or (threshold is not None and not self.margin > threshold):
            return ""
        return self.spans[0].text


def predictions(answers: Iterable[RankedAnswers], threshold: float | None = None) -> dict[str, str]:
    """Question id -> best answer, as the measures and the files take them; see `RankedAnswers.text`."""
    return {answer.id: answer.text(threshold) for answer in answers}


def best_answers(
    windows: Sequence[WindowLike],
    questions: Sequence[Question],
    start_logits: Sequence[Any] | np.ndarray,
    end_logits: Sequence[Any] | np.ndarray,
    *,
    n_best: int = 20,
    max_tokens: int = 30,
    scale: str = "null",
) -> list[RankedAnswers]:
    """The best spans of each question, over all its windows and passages.

    A span lies in one passage: never in the question, in special tokens or across passages. It has at most
    `max_tokens` tokens. Its score is the sum of its start logit and its end logit. Every span is considered, not only
    those of the best starts and ends. A span that several windows contain counts once, with its best score.

    A softmax does not see a constant that is added to all its logits. So the logits of two windows cannot simply be
    compared. With ``scale="null"`` the score of "no answer" in the same window (its first token as start and end) is
    subtracted. What is left is log p(span) - log p(no answer), both given the window, which is free of that constant;
    "no answer" then has score 0. This suits readers that were trained with windows without an answer, whose label is
    the first token. With ``scale="raw"`` sums of logits are compared as they are, for readers that were trained
    without such windows. The score of "no answer" is then its lowest one over the windows, as in the reference code
    of BERT for SQuAD 2.0. With one window for a question both scales give the same order and margin.

    Spans of equal score are ordered by passage, then start, then end, each ascending; this order also decides which
    of them are among the `n_best`. Yes and no (passage -2) come before spans of passages. The tokens of a window are
    expected in order of passage and characters, as `make_windows` makes them.

    Args:
        windows: What the reader read: for each window the index of its question, and the passage and the characters
            of each token.
        questions: The questions that the windows were made of.
        start_logits: For each window its T start logits, or an array (windows, T or more); what is beyond T is
            ignored.
        end_logits: The same for the end.
        n_best: How many candidates of each question.
        max_tokens: The longest answer, in tokens.
        scale: "null" or "raw", see above.

    Returns:
        For each question its candidates, best first.

    Raises:
        ValueError: An argument is out of its range, windows or logits do not fit each other or the questions, or
            logits are NaN or infinite. A logit of -inf says that no answer begins, or ends, at that token; the first
            token must have finite logits.

    References:
        - BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, section 4.3 (SQuAD v2.0),
          https://arxiv.org/abs/1810.04805

    Example:
        >>> from types import SimpleNamespace
        >>> question = Question("q", "Who makes honey?", ("Bees do.",))
        >>> passage, offsets = np.array([-1, 0, 0]), np.array([[0, 0], [0, 4], [5, 7]])
        >>> window = SimpleNamespace(question=0, passage=passage, offsets=offsets)
        >>> (found,) = best_answers([window], [question], [[1.0, 3.0, 0.0]], [[1.0, 2.0, 1.0]])
        >>> [(span.text, span.score) for span in found.spans], found.margin
        ([('Bees', 3.0), ('Bees do', 2.0), ('do', -1.0)], 3.0)
    """
    check_whole("n_best", n_best, 1)
    check_whole("max_tokens", max_tokens, 1)
    check_choice("scale", scale, SCALES)
    check_list("windows", windows, "windows")
    check_list("questions", questions, "Question objects")
    check_list("start_logits", start_logits, "one array a window")
    check_list("end_logits", end_logits, "one array a window")
    if not len(windows) == len(start_logits) == len(end_logits):
        raise ValueError(
            f"each window needs start and end logits; got {len(windows)} windows, {len(start_logits)} rows of start "
            f"logits and {len(end_logits)} rows of end logits"
        )
    null = np.zeros(len(windows))
    parts = list(_blocks(windows, start_logits, end_logits, n_best, max_tokens, null, scale == "null"))
    of = np.array([window.question for window in windows], dtype=np.int64)
    if (wrong := (of < 0) | (of >= len(questions))).any():
        i = int(wrong.argmax())
        raise ValueError(
            f"window {i} is of question {of[i]}; got {len(questions)} questions, numbered from 0; pass the questions "
            "that the windows were made of"
        )
    lowest = np.full(len(questions), np.inf)
    np.minimum.at(lowest, of, null)
    lowest[np.isinf(lowest)] = 0.0  # a question without windows has nothing to compare
    table = np.concatenate([table for table, _ in parts]) if parts else np.zeros((0, 4), dtype=np.int64)
    scores = np.concatenate([scores for _, scores in parts]) if parts else np.zeros(0)
    if scale == "null":
        lowest = np.zeros(len(questions))
    table[:, 0] = of[table[:, 0]]
    _check_passages(table, questions)
    table, scores = _distinct(table, scores)
    return _collect(questions, table, scores, lowest, n_best)


def _check_passages(table: np.ndarray, questions: Sequence[Question]) -> None:
    """Raise ValueError for candidates of passages that their questions do not have."""
    number, passage = table[:, 0], table[:, 1]
    held = np.array([len(question.passages) for question in questions], dtype=np.int64)
    wrong = (passage < YES_NO) | (passage >= held[number])
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"a window has a token of passage {passage[i]} of question {questions[number[i]].id!r}; got "
            f"{held[number[i]]} passages, numbered from 0; pass the questions that the windows were made of"
        )


def _distinct(table: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each span of a question once, with its best score; by question, then best first."""
    question, passage, start, end = table.T
    order = np.lexsort((-scores, end, start, passage, question))
    table, scores = table[order], scores[order]
    new = np.ones(len(table), dtype=bool)
    new[1:] = np.any(table[1:] != table[:-1], axis=1)
    table, scores = table[new], scores[new]
    # The sort is stable: ties stay in order of passage, start and end.
    order = np.lexsort((-scores, table[:, 0]))
    return table[order], scores[order]


def _collect(
    questions: Sequence[Question], table: np.ndarray, scores: np.ndarray, null: np.ndarray, n_best: int
) -> list[RankedAnswers]:
    bounds = np.searchsorted(table[:, 0], np.arange(len(questions) + 1))
    rank = np.arange(len(table)) - bounds[table[:, 0]]
    table, scores = table[rank < n_best], scores[rank < n_best]
    bounds = np.searchsorted(table[:, 0], np.arange(len(questions) + 1))
    first, last = bounds[:-1], bounds[1:]
    some = first < last
    top = null.copy()  # of the softmax; a question without candidates has "no answer" only
    top[some] = np.maximum(scores[first[some]], null[some])
    weights = np.exp(scores - top[table[:, 0]])
    rest = np.where(some, np.exp(np.where(some, null - top, 0.0)), 1.0)
    total = rest + np.bincount(table[:, 0], weights, minlength=len(questions))
    probabilities = (weights / total[table[:, 0]]).tolist()
    no_answer = (rest / total).tolist()
    plain = scores.tolist()
    passages, starts, ends = (table[:, i].tolist() for i in (1, 2, 3))
    result = []
    for i, question in enumerate(questions):
        spans = []
        for j in range(first[i], last[i]):
            passage, start, end = passages[j], starts[j], ends[j]
            source = YES_NO_TEXT if passage == YES_NO else question.passages[passage]
            spans.append(AnswerSpan(source[start:end], plain[j], probabilities[j], passage, start, end))
        margin = spans[0].score - float(null[i]) if spans else -np.inf
        result.append(RankedAnswers(question.id, tuple(spans), margin, no_answer[i]))
    return result


def _blocks(
    windows: Sequence[WindowLike],
    start_logits: Sequence[Any] | np.ndarray,
    end_logits: Sequence[Any] | np.ndarray,
    n_best: int,
    max_tokens: int,
    null: np.ndarray,
    above_null: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The best spans of each window, for blocks of windows of similar length: (window, passage, start, end), score.

    The score of "no answer" of each window goes to `null`; with `above_null` it is subtracted from the other scores.
    """
    lengths = np.array([len(window.passage) for window in windows], dtype=np.int64)
    repeats = np.array([_repeats(window) for window in windows], dtype=np.int64)
    order = np.lexsort((-lengths, repeats))
    begin = 0
    while begin < len(order):
        # The first one of a block is the longest, so that no block has more cells than it should.
        longest, copies = int(lengths[order[begin]]), int(repeats[order[begin]])
        size = max(1, int(_CELLS // max(longest * max_tokens, 1)))
        block = order[begin : begin + size]
        block = block[repeats[block] == copies]
        begin += len(block)
        start, end = np.full((2, len(block), longest), -np.inf)
        passage = np.full((len(block), longest), OUTSIDE, dtype=np.int64)
        offsets = np.zeros((len(block), longest, 2), dtype=np.int64)
        for row, i in enumerate(block.tolist()):
            length = int(lengths[i])
            for what, logits, into in (("start", start_logits[i], start), ("end", end_logits[i], end)):
                if len(logits) < length:
                    raise ValueError(f"window {i} has {length} tokens; got {len(logits)} {what} logits")
                into[row, :length] = logits[:length]
            passage[row, :length] = windows[i].passage
            offsets[row, :length] = windows[i].offsets
        # -inf excludes a token from all answers; "no answer" itself must have a score.
        wrong = ~(start < np.inf) | ~(end < np.inf)
        wrong[:, :1] |= np.isneginf(start[:, :1]) | np.isneginf(end[:, :1])
        if wrong.any():
            row = int(wrong.any(axis=1).argmax())
            i = int(block[row])
            raise ValueError(
                f"the logits of window {i} are NaN or infinite; they must be finite, or -inf behind the first token, "
                "for tokens that no answer begins or ends at"
            )
        if longest:
            null[block] = start[:, 0] + end[:, 0]
            shift = null[block] if above_null else np.zeros(len(block))
            rows, first, last, scores = _top_spans(start, end, shift, passage, offsets, n_best * copies, max_tokens)
            found = (block[rows], passage[rows, first], offsets[rows, first, 0], offsets[rows, last, 1])
            yield np.stack(found, axis=1), scores


def _repeats(window: WindowLike) -> int:
    """How often one span of characters may occur among the spans of tokens, at most.

    Byte-level tokenizers split a rare character into several tokens, each with the offsets of the whole character.
    The n best spans of characters are among the n * repeats best spans of tokens.
    """
    passage = np.asarray(window.passage)
    offsets = np.asarray(window.offsets)
    one = (passage[1:] == passage[:-1]) & (passage[1:] != OUTSIDE)
    result = 1
    for column in (0, 1):
        same = one & (offsets[1:, column] == offsets[:-1, column])
        if same.any():
            edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]])))
            result *= 1 + int((edges[1::2] - edges[::2]).max())
    return result


def _top_spans(
    start: np.ndarray,
    end: np.ndarray,
    shift: np.ndarray,
    passage: np.ndarray,
    offsets: np.ndarray,
    n_best: int,
    max_tokens: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best spans of each row of (rows, T) logits: row, first and last token, score; exact.

    Spans of equal score are taken in order of their first, then of their last token. In that order the n best spans
    of a row begin at the n starts whose best span is best. So the best span of each start is found first, in a band
    of `max_tokens`, and only the spans of n starts are compared. `shift` (rows,) is subtracted before scores are
    compared: rounding can make ties of scores that differ.
    """
    rows, tokens = start.shape
    width = min(max_tokens, tokens)
    reach, begins, closes = _limits(passage, offsets)
    start = np.where(begins, start, -np.inf)
    end = np.where(closes, end, -np.inf)
    best = np.full((rows, tokens), -np.inf)
    for more in range(width):
        inside = reach[:, : tokens - more] > more
        ends = np.where(inside, end[:, more:], -np.inf)
        np.maximum(best[:, : tokens - more], ends, out=best[:, : tokens - more])
    best += start
    best -= shift[:, None]
    starts = _highest(best, n_best)  # (rows, n)
    band = np.arange(width)
    last = np.minimum(starts[:, :, None] + band, tokens - 1)  # (rows, n, width)
    row = np.arange(rows)[:, None, None]
    scores = start[row, starts[:, :, None]] + end[row, last] - shift[:, None, None]
    scores[reach[row, starts[:, :, None]] <= band] = -np.inf
    flat = scores.reshape(rows, -1)
    chosen = _highest(flat, n_best)  # (rows, count)
    scores = np.take_along_axis(flat, chosen, axis=1)
    which, column = np.nonzero(scores > -np.inf)
    place = chosen[which, column]
    first = starts[which, place // width]
    return which, first, first + place % width, scores[which, column]


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the `count` highest scores of each row, in ascending order; of equal scores the first ones."""
    rows, columns = scores.shape
    if columns <= count:
        return np.broadcast_to(np.arange(columns), (rows, columns))
    lowest = np.partition(scores, columns - count, axis=1)[:, columns - count, None]
    above, equal = scores > lowest, scores == lowest
    room = count - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return np.nonzero(chosen)[1].reshape(rows, count)


def _limits(passage: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many tokens a span may have that begins at each token; which tokens may begin one, and which end one."""
    begins = closes = (passage != OUTSIDE) & (offsets[:, :, 1] > offsets[:, :, 0])
    words = passage == YES_NO
    run = passage
    if words.any():
        # Each of the words is a passage of its own, and an answer as a whole only.
        second = offsets[:, :, 0] >= len("yes")
        run = np.where(words & second, YES_NO - 1, passage)
        begins = begins & (~words | np.isin(offsets[:, :, 0], (0, YES_NO_TEXT.index("no"))))
        closes = closes & (~words | np.isin(offsets[:, :, 1], (len("yes"), len(YES_NO_TEXT))))
    tokens = passage.shape[1]
    last = np.ones(passage.shape, dtype=bool)
    last[:, :-1] = run[:, :-1] != run[:, 1:]
    after = np.where(last, np.arange(1, tokens + 1), tokens + 1)
    reach = np.minimum.accumulate(after[:, ::-1], axis=1)[:, ::-1] - np.arange(tokens)
    return reach, begins, closes


class Threshold(NamedTuple):
    """A threshold for unanswerable questions, and the value of the measure on the questions it was tuned on."""

    threshold: float
    value: float


def best_threshold(
    questions: Sequence[Question],
    answers: Sequence[RankedAnswers],
    *,
    measure: str = "F1",
    rules: str = "squad2",
) -> Threshold:
    """The margin above which it is best to answer, on a development set with unanswerable questions.

    All thresholds are tried. Of equally good ones the one nearest to 0 is taken, where "no answer" and the best
    span have the same score; of two that are equally near, the positive one. Tune on other questions than those that
    are reported.

    Args:
        questions: Questions with their gold answers.
        answers: Ranked answers to the same questions, in the same order.
        measure: "F1" or "EM".
        rules: As for `cmp_rerank.reader.measures.f1`.

    Returns:
        The threshold for `RankedAnswers.text`, and the mean of the measure with it.

    Raises:
        ValueError: No questions, others than were answered, or a margin that is NaN.

    References:
        - Know What You Don't Know: Unanswerable Questions for SQuAD, https://arxiv.org/abs/1806.03822, whose
          evaluation script searches the best threshold of no-answer probabilities

    Example:
        >>> right = Question("1", "Who?", ("Bees do.",), texts=("Bees",))
        >>> none = Question("2", "Why?", ("Bees do.",), kind="none")
        >>> span = AnswerSpan("Bees", 0, 0, 0, 0, 4)
        >>> answers = [RankedAnswers("1", (span,), 3.0, 0.1), RankedAnswers("2", (span,), 1.0, 0.2)]
        >>> best_threshold([right, none], answers)
        Threshold(threshold=2.0, value=1.0)
    """
    check_choice("measure", measure, MEASURES)
    check_list("questions", questions, "Question objects")
    check_list("answers", answers, "RankedAnswers objects")
    if not len(questions) or [question.id for question in questions] != [answer.id for answer in answers]:
        raise ValueError(
            "a threshold needs questions and the ranked answers to the same questions, in the same order; got "
            f"{len(questions)} questions and {len(answers)} ranked answers"
        )
    which = MEASURES.index(measure)
    answered = np.array([score(a.text(), q.texts, rules)[which] for q, a in zip(questions, answers, strict=True)])
    abstained = np.array([score("", q.texts, rules)[which] for q in questions])
    margins = np.array([answer.margin for answer in answers])
    if np.isnan(margins).any():
        raise ValueError(f"the margin of question {questions[int(np.isnan(margins).argmax())].id!r} is NaN")
    # Without any candidate the answer is "" with every threshold.
    gains, finite = (answered - abstained)[np.isfinite(margins)], margins[np.isfinite(margins)]
    cuts, place = np.unique(-finite, return_inverse=True)
    if not len(cuts):
        return Threshold(0.0, float(abstained.mean()))
    edges = -cuts  # margins, descending, each once
    sums = np.concatenate([[0.0], np.cumsum(np.bincount(place, gains))])  # answering the k highest margins
    between = (edges[:-1] + edges[1:]) / 2
    # Between neighbouring floats there is no middle; the lower one itself does not exceed itself.
    between = np.where(between < edges[:-1], between, edges[1:])
    thresholds = np.concatenate([[edges[0] + 1], between, [edges[-1] - 1]])
    best = np.flatnonzero(sums >= sums.max() - 1e-9)
    # The value of 0 is a threshold too: it gives the same answers as the cut it falls between.
    zero = int((edges > 0).sum())
    if zero in best:
        chosen = 0.0
    else:
        chosen = float(min(thresholds[best], key=abs))
    return Threshold(chosen, float((abstained.sum() + sums.max()) / len(questions)))
