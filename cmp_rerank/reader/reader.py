"""A reader in use: a model, its tokenizer, and how it was trained to read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from cmp_rerank.ablations import CmpCrop
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.inference import whole_scores
from cmp_rerank.ir.lines import replacing
from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.models.span_reader import SpanReaderAdapter
from cmp_rerank.reader.answers import SCALES, AnswerSpan, RankedAnswers, best_answers
from cmp_rerank.reader.features import check_ids, make_windows
from cmp_rerank.reader.records import Question
from cmp_rerank.reader.windows import OUTSIDE, Window, Windows

OPTIONS_FILE = "reader_options.json"
_BLOCK = 1024  # questions that are tokenised together


@dataclass(frozen=True)
class ReaderOptions:
    """How a reader reads; it should read as it was trained.

    Attributes:
        max_length: Tokens of a window, question included.
        stride: Tokens that windows of one passage share.
        pack: Whether several passages stand in one window.
        yes_no: Whether the words yes and no can be answers.
        scale: How windows are compared, see `cmp_rerank.reader.answers.best_answers`.
        max_tokens: The longest answer, in tokens.
        threshold: The margin that an answer must exceed over "no answer", where no answer is allowed. None: it was
            not tuned, and is 0.

    Raises:
        ValueError: An option is of another type or out of its range.
    """

    max_length: int = 384
    stride: int = 128
    pack: bool = False
    yes_no: bool = False
    scale: str = "null"
    max_tokens: int = 30
    threshold: float | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("max_length", 1), ("stride", 0), ("max_tokens", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"{name} must be a whole number, {lowest} or more, got {value!r}")
        for name in ("pack", "yes_no"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        check_choice("scale", self.scale, SCALES)
        if self.threshold is not None and not (
            isinstance(self.threshold, int | float)
            and not isinstance(self.threshold, bool)
            and math.isfinite(self.threshold)
        ):
            raise ValueError(f"threshold must be a finite number or None, got {self.threshold!r}")

    def windows(self, tokenizer: Any, questions: Sequence[Question], crop: CmpCrop | None = None) -> Windows:
        """What a reader with these options reads of questions, see `cmp_rerank.reader.make_windows`."""
        return make_windows(
            tokenizer,
            questions,
            max_length=self.max_length,
            stride=self.stride,
            pack=self.pack,
            yes_no=self.yes_no,
            crop=crop,
        )


class Reader:
    """Answer questions from passages.

    Args:
        model: An `AutoModelForQuestionAnswering` of transformers.
        tokenizer: Its tokenizer; a fast one, since offsets are needed.
        options: How it reads.
        tokens_per_chunk: Tokens of one forward pass, padding included. Default: 4,096 on a CPU, 65,536 elsewhere.

    Example:
        ::

            reader = Reader.from_pretrained("path/to/reader")
            reader.answer("Who makes honey?", ["Rain fell all day.", "Honey is made by bees."], top_k=1)
            # [AnswerSpan(text='bees', score=9.1, probability=0.98, passage=1, start=17, end=21)]
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        options: ReaderOptions | None = None,
        *,
        tokens_per_chunk: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.options = options or ReaderOptions()
        if tokens_per_chunk is not None and tokens_per_chunk < 1:
            raise ValueError(f"tokens_per_chunk must be at least 1, got {tokens_per_chunk!r}")
        self._adapter = SpanReaderAdapter.of(model, tokenizer)
        self._scorer = Scorer(self._adapter, tokens_per_chunk=tokens_per_chunk)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device | None = None,
        *,
        tokens_per_chunk: int | None = None,
        **options: Any,
    ) -> Reader:
        """Load a reader.

        Args:
            path: A folder, or a name on the hub, of any extractive question answering model of transformers.
            device: Where it runs; None: on a GPU where there is one.
            tokens_per_chunk: See the class.
            options: Of `ReaderOptions`, where they should be others than those the checkpoint was saved with.

        Raises:
            ValueError: An option is unknown, or the model has no head for question answering.
        """
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(os.fspath(path))
        model, loading = AutoModelForQuestionAnswering.from_pretrained(os.fspath(path), output_loading_info=True)
        # Parts of the encoder may be missing for good reasons, such as a pooler that no reader has.
        encoder = model.base_model_prefix + "."
        untrained = sorted(name for name in loading["missing_keys"] if not name.startswith(encoder))
        if untrained:
            raise ValueError(f"{os.fspath(path)} is no reader: {', '.join(untrained)} are missing. Train it first.")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen = _saved_options(os.fspath(path), tokenizer)
        unknown = set(options) - {field.name for field in fields(ReaderOptions)}
        if unknown:
            names = ", ".join(field.name for field in fields(ReaderOptions))
            raise ValueError(f"unknown options {', '.join(sorted(unknown))}; there are {names}")
        return cls(model.to(device), tokenizer, replace(chosen, **options), tokens_per_chunk=tokens_per_chunk)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write an ordinary checkpoint, with the options in a file beside it.

        `AutoModelForQuestionAnswering` loads it without this package.
        """
        self.model.save_pretrained(os.fspath(folder))
        self.tokenizer.save_pretrained(os.fspath(folder))
        self.save_options(folder)

    def save_options(self, folder: str | os.PathLike[str]) -> None:
        """Write the options alone, beside a checkpoint that is there already."""
        with replacing(Path(folder) / OPTIONS_FILE) as file:
            json.dump(asdict(self.options), file, indent=1)
            file.write("\n")

    @overload
    def answer(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        question: str,
        passages: str | Sequence[str],
        top_k: int = 3,
        *,
        no_answer: bool = False,
        show_progress_bar: bool = False,
    ) -> list[AnswerSpan]: ...

    @overload
    def answer(
        self,
        question: Sequence[str],
        passages: Sequence[str | Sequence[str]],
        top_k: int = 3,
        *,
        no_answer: bool = False,
        show_progress_bar: bool = False,
    ) -> list[list[AnswerSpan]]: ...

    def answer(
        self,
        question: str | Sequence[str],
        passages: str | Sequence[str] | Sequence[str | Sequence[str]],
        top_k: int = 3,
        *,
        no_answer: bool = False,
        show_progress_bar: bool = False,
    ) -> list[AnswerSpan] | list[list[AnswerSpan]]:
        """The best answers to a question, or to each of several questions.

        Args:
            question: A question, or a list of them.
            passages: What is read: one text of any length or a list of texts; for a list of questions, one such
                for each.
            top_k: How many answers.
            no_answer: Whether "there is no answer" is one of them: an empty text of passage -1, before all answers
                whose score does not exceed it by more than the threshold of the options.
            show_progress_bar: Whether to show one.

        Returns:
            For a question its answers, best first: text, score, probability, number of the passage, and where the
            answer begins and ends there, in characters. Answers may overlap each other. For a list of questions, a
            list of such lists.

        Raises:
            ValueError: An empty question, no passage with text, or numbers that do not match.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k!r}")
        one = isinstance(question, str)
        asked: Sequence[Any] = [question] if one else question
        read: Sequence[Any] = [passages] if one else passages
        if not one and (isinstance(passages, str) or len(asked) != len(read)):
            got = "one text" if isinstance(passages, str) else f"{len(read)} of them"
            raise ValueError(f"a list of {len(asked)} questions needs as many texts or lists of passages, got {got}")
        questions = [
            Question(str(i), text, (context,) if isinstance(context, str) else tuple(context))
            for i, (text, context) in enumerate(zip(asked, read, strict=True))
        ]
        found = self.predict(questions, n_best=max(20, top_k), show_progress_bar=show_progress_bar)
        results = [self.top(answers, top_k, no_answer) for answers in found]
        return results[0] if one else results

    def top(self, answers: RankedAnswers, top_k: int = 3, no_answer: bool = False) -> list[AnswerSpan]:
        """The best candidates of one question, "there is no answer" among them if that is allowed; see `answer`."""
        spans = list(answers.spans)
        if no_answer:
            null = spans[0].score - answers.margin if spans else 0.0
            bar = null + (self.options.threshold or 0.0)
            place = sum(span.score > bar for span in spans)
            spans.insert(place, AnswerSpan("", null, answers.no_answer, OUTSIDE, 0, 0))
        return spans[:top_k]

    def predict(
        self, questions: Sequence[Question], *, n_best: int = 20, show_progress_bar: bool = False
    ) -> list[RankedAnswers]:
        """The best spans of each question, see `cmp_rerank.reader.answers.best_answers`.

        Args:
            questions: What to read.
            n_best: How many candidates of each.
            show_progress_bar: Whether to show one.

        Returns:
            For each question its candidates; none where the tokenizer finds no token in its passages.

        Raises:
            ValueError: Two questions of one id, or a question that leaves no room for its context.
        """
        from tqdm.auto import tqdm

        check_ids(questions)
        options = self.options
        answers: list[RankedAnswers] = []
        with tqdm(total=len(questions), desc="Questions", disable=not show_progress_bar) as bar:
            for first in range(0, len(questions), _BLOCK):
                block = questions[first : first + _BLOCK]
                windows = self.windows(block)
                begun = bar.n

                def report(share: float, begun: int = begun, many: int = len(block)) -> None:
                    bar.update(begun + int(share * many) - bar.n)

                start, end = self.logits(windows, report)
                answers += best_answers(
                    windows,
                    block,
                    start,
                    end,
                    n_best=n_best,
                    max_tokens=options.max_tokens,
                    scale=options.scale,
                )
        return answers

    def windows(self, questions: Sequence[Question]) -> Windows:
        """What the model reads of the questions."""
        return self.options.windows(self.tokenizer, questions)

    def logits(
        self, windows: Sequence[Window], report: Callable[[float], None] | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Start and end logits of each window, one array (T,) each, in float32.

        Windows are read in order of length, so that little is padded, without gradients and dropout.

        Args:
            windows: What to read.
            report: Called with the share that is done.
        """
        examples = [window.example for window in windows]
        order = sorted(range(len(windows)), key=lambda i: len(windows[i]), reverse=True)
        start: list[Any] = [None] * len(windows)
        end: list[Any] = [None] * len(windows)
        for i, row in whole_scores(self._scorer, self.model, examples, order, report):
            start[i], end[i] = self._adapter.trimmed(row, examples[i])
        return start, end


def _saved_options(path: str, tokenizer: Any) -> ReaderOptions:
    """The options beside a checkpoint; without, the default ones, as far as the tokenizer's window goes."""
    from transformers.utils import cached_file

    # Of a folder or of the hub, like the checkpoint itself; many readers have no such file, and offline a missing
    # one cannot be told from one that was never fetched.
    found = cached_file(
        path,
        OPTIONS_FILE,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        default = ReaderOptions()
        length = min(default.max_length, tokenizer.model_max_length)
        return replace(default, max_length=length, stride=min(default.stride, length // 3))
    try:
        return ReaderOptions(**json.loads(Path(found).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{found}: these are no options of a reader ({error})") from error
