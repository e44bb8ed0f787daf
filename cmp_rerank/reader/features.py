"""From questions to windows: tokenise once, split or pack contexts, find answers and support.

Windows are put together from the tokens of question and passages. They equal what the tokenizer makes of the pair; a
test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from cmp_rerank.ablations import Example
from cmp_rerank.models.pairs import example_seed
from cmp_rerank.reader.checks import check_list, check_whole, described
from cmp_rerank.reader.records import Question
from cmp_rerank.reader.tokens import TextTokens, tokens_of
from cmp_rerank.reader.windows import OUTSIDE, YES_NO, YES_NO_TEXT, Window, WindowCounts, Windows
from cmp_rerank.text.segmenters import Segmenter, TokenSegmenter, check_segmenter, split, windows
from cmp_rerank.text.token_segments import segments_of_tokens

CutAnswers = Literal["unanswered", "remove"]

#: Questions whose passages are tokenised together.
_BLOCK = 512


def make_windows(
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    max_length: int = 384,
    stride: int = 128,
    pack: bool = False,
    yes_no: bool = False,
    segmenter: Segmenter | TokenSegmenter | None = None,
    cut_answers: CutAnswers = "unanswered",
) -> Windows:
    """Tokenise questions and their passages into inputs of a reader, each text once.

    An input is the question and a context, as the tokenizer joins two texts. A passage that is longer than the room
    that the question leaves is split into overlapping windows. An ablation never crops the question. A question of
    more than half of the window is truncated to that half, and counted.

    A window without a whole answer has its label at position 0, the first token; most tokenizers have a special token
    there. This includes a window in which an answer is cut in two, unless such windows are removed. It includes every
    window of a question whose answer is not known: leave such questions out of training data. All of them are
    counted. A question in whose context the tokenizer finds no token has no window, and is counted, too.

    Args:
        tokenizer: The fast tokenizer of the reader.
        questions: A list of questions whose ids differ; a generator is refused.
        max_length: Tokens of a window, at most.
        stride: Tokens by which two windows of one passage overlap, as in transformers; at most half of the room for
            the context.
        pack: Whether passages of a question are put into one input, as many as fit, with separators between them.
            Without it each passage has windows of its own.
        yes_no: Whether each context begins with the words "yes no", as a pseudo-passage (number -2), so that
            yes/no answers are spans. Where the support of such a question is known, only windows with some of it
            have the label; elsewhere all windows have it.
        segmenter: Splits passages into segments, for trainers with an ablation that needs them, such as `CmpCrop`.
            None: no window can be cropped. The questions say what the support is: the segments of answers and
            supporting facts.
        cut_answers: What to do with a window that holds a part of an answer, but none whole: "unanswered" keeps it
            as one without an answer; "remove" leaves it out (for training only: it may be the last of its question).

    Returns:
        A list of `Window`, in order of questions and passages, with ``counts``.

    Raises:
        ValueError: A tokenizer without offsets, no list of questions, an option of another type or out of its range,
            two questions of one id, or a question that leaves no room for its context.

    Example:
        ::

            windows = make_windows(tokenizer, questions, segmenter=Sentences())
            print(windows.counts)
    """
    layout = _Layout.of(tokenizer, max_length, stride, pack, yes_no)
    if cut_answers not in get_args(CutAnswers):
        raise ValueError(
            f"cut_answers must be one of {', '.join(map(repr, get_args(CutAnswers)))}; got {cut_answers!r:.80}"
        )
    if segmenter is not None:
        check_segmenter(segmenter)
    check_questions(questions)
    made = Windows()
    made.counts.questions = len(questions)
    for first in range(0, len(questions), _BLOCK):
        block = questions[first : first + _BLOCK]
        texts = _Texts(tokenizer, block, segmenter)
        for number, question in enumerate(block, start=first):
            read = _Reading(question, number, texts, layout, made.counts)
            for window, part_of_answer in read.windows():
                if part_of_answer:
                    made.counts.answers_cut += 1
                    if cut_answers == "remove":
                        made.counts.removed += 1
                        continue
                made.counts.answered += len(window.spans) > 0
                made.append(window)
    made.counts.windows = len(made)
    return made


def check_questions(questions: Sequence[Question]) -> None:
    """Check that these are questions in a list, whose ids differ.

    Raises:
        ValueError: No list, an item that is no question, or two questions of one id.
    """
    check_list("questions", questions, "Question objects")
    seen: set[str] = set()
    for number, question in enumerate(questions):
        if not isinstance(question, Question):
            raise ValueError(
                f"questions must be Question objects; got {question!r:.80} at place {number}; "
                "cmp_rerank.reader.files.read_table makes them of records"
            )
        if question.id in seen:
            raise ValueError(f"ids of questions must differ; got {question.id!r} again at place {number}")
        seen.add(question.id)


@dataclass(frozen=True)
class _Layout:
    """The special tokens that the tokenizer puts around two texts, and how many tokens a window holds.

    ``special`` are the ids before, between and behind the texts, ``types`` the token types of these three and of the
    two texts, in order of the input.
    """

    special: tuple[list[int], list[int], list[int]]
    types: tuple[int, int, int, int, int] | None
    separator: list[int]
    yes_no: np.ndarray
    yes_no_offsets: np.ndarray
    max_length: int
    stride: int
    pack: bool

    @classmethod
    def of(cls, tokenizer: Any, max_length: int, stride: int, pack: bool, yes_no: bool) -> _Layout:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                "a reader needs a fast tokenizer, which gives the characters of each token; got "
                f"{described(tokenizer)}; load it by AutoTokenizer.from_pretrained(..., use_fast=True)"
            )
        check_whole("stride", stride, 0)
        check_whole("max_length", max_length, 1)
        for name, value in (("pack", pack), ("yes_no", yes_no)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False; got {value!r:.80}")
        if max_length > tokenizer.model_max_length:
            raise ValueError(
                f"max_length must be at most {tokenizer.model_max_length}, the tokens that the model reads; got "
                f"{max_length}"
            )
        probe = tokenizer("a", "b", return_token_type_ids=True).encodings[0]
        sequence = [-1 if i is None else i for i in probe.sequence_ids]
        if 0 not in sequence or 1 not in sequence or sequence.index(1) < sequence.index(0):
            raise ValueError(
                "a reader needs a tokenizer that puts the second text behind the first one; got "
                f"{described(tokenizer)}"
            )
        edges = [sequence.index(0), len(sequence) - sequence[::-1].index(0)]
        edges += [sequence.index(1), len(sequence) - sequence[::-1].index(1)]
        parts = [slice(a, b) for a, b in zip([0, *edges], [*edges, len(sequence)], strict=True)]
        special = tuple(list(probe.ids[part]) for part in parts[::2])
        types = None
        if "token_type_ids" in tokenizer.model_input_names:
            types = tuple((probe.type_ids[part] or [0])[0] for part in parts)
        between = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if between is None and (pack or yes_no):
            raise ValueError(
                "pack=True and yes_no=True need a separator or end-of-text token between passages; got "
                f"{described(tokenizer)} without one; use pack=False and yes_no=False, or set tokenizer.sep_token"
            )
        words = tokens_of(tokenizer, [YES_NO_TEXT])[0] if yes_no else TextTokens.none()
        return cls(
            special,  # type: ignore[arg-type]
            types,  # type: ignore[arg-type]
            [] if between is None else [between],
            words.ids,
            words.offsets,
            max_length,
            stride,
            pack,
        )

    def room(self, question: Question, tokens: np.ndarray) -> tuple[np.ndarray, int]:
        """The tokens of the question that are used, and how many are left for passages."""
        left = self.max_length - sum(map(len, self.special))
        used = tokens[: max(left - self.max_length // 2, 1)] if len(tokens) > left - self.max_length // 2 else tokens
        room = left - len(used) - (len(self.yes_no) + 1 if len(self.yes_no) else 0)
        if room < 1:
            raise ValueError(
                f"max_length={self.max_length} leaves no room for the context of question {question.id!r}; got "
                f"{len(used)} tokens of the question and {sum(map(len, self.special))} special tokens; use a longer "
                "window"
            )
        return used, room


class _Texts:
    """The tokens of a block of questions, each different text tokenised once."""

    def __init__(
        self, tokenizer: Any, questions: Sequence[Question], segmenter: Segmenter | TokenSegmenter | None
    ) -> None:
        self.segmenter = segmenter
        asked = list(dict.fromkeys(question.question for question in questions))
        read = list(dict.fromkeys(passage for question in questions for passage in question.passages))
        self.questions = dict(zip(asked, tokens_of(tokenizer, asked), strict=True))
        self.passages = dict(zip(read, tokens_of(tokenizer, read), strict=True))
        if segmenter is not None:
            for text, tokens in self.passages.items():
                self._split(text, tokens, segmenter)

    def _split(self, text: str, tokens: TextTokens, segmenter: Segmenter | TokenSegmenter) -> None:
        spans = split(segmenter, text, tokens.offsets)
        tokens.segments = len(spans)
        tokens.first, tokens.last = segments_of_tokens(tokens.offsets, spans)


@dataclass(frozen=True)
class _Piece:
    """Tokens ``first`` to before ``after`` of a passage."""

    passage: int
    first: int
    after: int

    def __len__(self) -> int:
        return self.after - self.first


class _Reading:
    """One question, of which windows are made."""

    def __init__(self, question: Question, number: int, texts: _Texts, layout: _Layout, counts: WindowCounts) -> None:
        self.question, self.number, self.layout, self.counts = question, number, layout, counts
        self.croppable = texts.segmenter is not None
        self.passages = [texts.passages[passage] for passage in question.passages]
        whole = texts.questions[question.question].ids
        self.asked, self.room = layout.room(question, whole)
        counts.questions_cut += len(self.asked) < len(whole)
        #: Number of the first segment of each passage, counted over all of them.
        self.base = np.cumsum([0, *(tokens.segments for tokens in self.passages)])
        self.answers = self._token_spans([(a.passage, a.start, a.end) for a in question.answers])
        self.support = self._token_spans(question.support or ())
        counts.empty += not any(len(tokens.ids) for tokens in self.passages)
        # A label is known if it is a span of an answer, a word, or if the question has no answer.
        known = {"span": bool(question.answers), "none": True}.get(question.kind, len(layout.yes_no) > 0)
        counts.unknown += not known

    def _token_spans(self, spans: Sequence[tuple[int, int, int]]) -> list[_Piece]:
        """Spans of characters as spans of tokens; those without tokens are left out."""
        found = []
        for passage, start, end in spans:
            first, last = self.passages[passage].between(start, end)
            if last >= first:
                found.append(_Piece(passage, first, last + 1))
        return found

    def windows(self) -> Iterator[tuple[Window, bool]]:
        """The windows, each with whether it holds a part of an answer, but none whole."""
        answered = False
        for place, pieces in enumerate(self._contexts()):
            window, part = self._window(pieces, place)
            answered |= len(window.spans) > 0
            yield window, part
        self.counts.answers_lost += bool(self.question.answers) and not answered

    def _contexts(self) -> list[list[_Piece]]:
        """The pieces of passages in each window."""
        overlap = min(self.layout.stride, self.room // 2)
        contexts: list[list[_Piece]] = []
        held = 0
        for number, tokens in enumerate(self.passages):
            cuts = windows(len(tokens.ids), self.room, self.room - overlap)
            self.counts.split += len(cuts) > 1
            for piece in (_Piece(number, first, after) for first, after in cuts):
                if self.layout.pack and contexts and held + 1 + len(piece) <= self.room:
                    contexts[-1].append(piece)
                    held += 1 + len(piece)
                else:
                    contexts.append([piece])
                    held = len(piece)
        return contexts

    def _window(self, pieces: list[_Piece], place: int) -> tuple[Window, bool]:
        built = _Input(self.layout)
        built.add(self.layout.special[0], 0)
        built.add(self.asked, 1)
        asked = built.length
        built.add(self.layout.special[1], 2)
        if len(self.layout.yes_no):
            words = built.length
            built.add(self.layout.yes_no, 3, YES_NO, self.layout.yes_no_offsets)
            built.add(self.layout.separator, 3)
        starts = []
        for number, piece in enumerate(pieces):
            if number:
                built.add(self.layout.separator, 3)
            starts.append(built.length)
            tokens, part = self.passages[piece.passage], slice(piece.first, piece.after)
            built.add(tokens.ids[part], 3, piece.passage, tokens.offsets[part])
        built.add(self.layout.special[2], 4)

        spans, part_of_answer = _inside(self.answers, pieces, starts)
        supported, part_of_support = _inside(self.support, pieces, starts)
        seen = bool(supported) or part_of_support
        yes_or_no = len(self.layout.yes_no) > 0 and self.question.kind in ("yes", "no")
        if yes_or_no and (seen or not self.support):
            word = 0 if self.question.kind == "yes" else YES_NO_TEXT.index("no")
            where = np.flatnonzero(self.layout.yes_no_offsets[:, 1] > word)
            end = YES_NO_TEXT.index(" ") if not word else len(YES_NO_TEXT)
            tokens_of_word = where[self.layout.yes_no_offsets[where, 0] < end]
            spans = [(words + int(tokens_of_word[0]), words + int(tokens_of_word[-1]))]
        self.counts.support_elsewhere += bool(spans) and len(supported) < len(self.support)
        features: dict[str, np.ndarray] = {"input_ids": np.concatenate(built.ids, dtype=np.int32)}
        if self.layout.types is not None:
            features["token_type_ids"] = np.concatenate(built.types)
        attended = np.zeros(built.length, dtype=np.int8)
        attended[:asked] = 1  # the question and the first special token, as Longformer's readers are trained
        features["global_attention_mask"] = attended
        segment, until, support = self._segments(pieces, starts, built.length)
        example = Example(
            features,
            segment,
            support,
            example_seed(self.question.id, str(place), "window"),
            until=until,
            # Without known support a crop could remove the evidence for a yes or no.
            croppable=self.croppable and not (yes_or_no and bool(spans) and not seen),
        )
        gold = np.array(spans, dtype=np.int32).reshape(-1, 2)
        start, end = spans[0] if spans else (0, 0)
        passage, offsets = np.concatenate(built.passage), np.concatenate(built.offsets)
        window = Window(self.number, example, passage, offsets, int(start), int(end), gold)
        return window, part_of_answer and not spans

    def _segments(
        self, pieces: list[_Piece], starts: list[int], length: int
    ) -> tuple[np.ndarray, np.ndarray | None, frozenset[int]]:
        """First and last segment of each token, and the segments that hold an answer or support, or a part of one."""
        segment = np.full(length, -1, dtype=np.int32)
        if not self.croppable:
            return segment, None, frozenset()
        until = segment.copy()
        support: set[int] = set()
        for piece, at in zip(pieces, starts, strict=True):
            tokens, base = self.passages[piece.passage], int(self.base[piece.passage])
            if not tokens.segments:
                continue
            segment[at : at + len(piece)] = tokens.first[piece.first : piece.after] + base
            until[at : at + len(piece)] = tokens.last[piece.first : piece.after] + base
            for kept in (*self.answers, *self.support):
                first, after = max(kept.first, piece.first), min(kept.after, piece.after)
                if kept.passage == piece.passage and first < after:
                    support.update(range(int(tokens.first[first]) + base, int(tokens.last[after - 1]) + base + 1))
        return segment, until, frozenset(support)


def _inside(
    spans: Sequence[_Piece], pieces: Sequence[_Piece], starts: Sequence[int]
) -> tuple[list[tuple[int, int]], bool]:
    """Positions (first, last) of the spans that lie whole in a piece of the window; and whether one is cut."""
    found, cut = [], False
    for span in spans:
        for piece, at in zip(pieces, starts, strict=True):
            if piece.passage != span.passage:
                continue
            if piece.first <= span.first and span.after <= piece.after:
                found.append((at + span.first - piece.first, at + span.after - 1 - piece.first))
            elif piece.first < span.after and span.first < piece.after:
                cut = True
    return found, cut


class _Input:
    """An input of the model, put together part by part."""

    def __init__(self, layout: _Layout) -> None:
        self.layout = layout
        self.ids: list[np.ndarray] = []
        self.types: list[np.ndarray] = []
        self.passage: list[np.ndarray] = []
        self.offsets: list[np.ndarray] = []
        self.length = 0

    def add(self, ids: Any, part: int, passage: int = OUTSIDE, offsets: np.ndarray | None = None) -> None:
        """Append tokens of a part of the layout: 0 before, 1 question, 2 between, 3 context, 4 behind."""
        count = len(ids)
        self.ids.append(np.asarray(ids, dtype=np.int32))
        if self.layout.types is not None:
            self.types.append(np.full(count, self.layout.types[part], dtype=np.int8))
        self.passage.append(np.full(count, passage, dtype=np.int32))
        self.offsets.append(np.zeros((count, 2), dtype=np.int32) if offsets is None else offsets)
        self.length += count
