"""A reader in use: a model, its tokenizer, and the options that it was trained with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from cmp_rerank.engine import Scorer
from cmp_rerank.engine.inference import whole_scores
from cmp_rerank.ir.checkpoints import loading_checkpoint
from cmp_rerank.ir.lines import replacing
from cmp_rerank.ir.ranking import check_choice
from cmp_rerank.models.span_reader import SpanReaderAdapter
from cmp_rerank.reader.answers import SCALES, AnswerSpan, RankedAnswers, best_answers
from cmp_rerank.reader.checks import check_list, check_threshold, check_whole, described
from cmp_rerank.reader.features import check_questions, make_windows
from cmp_rerank.reader.records import Question
from cmp_rerank.reader.windows import OUTSIDE, Window, WindowCounts, Windows
from cmp_rerank.reranking.loading import read_checkpoint
from cmp_rerank.text.segmenters import Segmenter, TokenSegmenter

OPTIONS_FILE = "reader_options.json"
_BLOCK = 1024  # questions that are tokenised together


@dataclass(frozen=True)
class ReaderOptions:
    """How a reader makes windows and chooses answers; it should read as it was trained.

    Attributes:
        max_length: Tokens of a window, question included.
        stride: Tokens that windows of one passage share.
        pack: Whether one window may hold several passages.
        yes_no: Whether the words yes and no can be answers.
        scale: How windows are compared, see `cmp_rerank.reader.answers.best_answers`.
        max_tokens: The longest answer, in tokens.
        threshold: The margin that an answer must exceed over "no answer", where no answer is allowed. None: it was
            not tuned; then 0 is used.

    Raises:
        ValueError: An option is of another type or out of its range.

    Example:
        >>> ReaderOptions(max_length=256, stride=64).max_tokens
        30
        >>> ReaderOptions(max_length=True)
        Traceback (most recent call last):
        ValueError: max_length must be a whole number, 1 or more; got True
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
            check_whole(name, getattr(self, name), lowest)
            object.__setattr__(self, name, int(getattr(self, name)))  # a numpy integer cannot be saved as JSON
        for name in ("pack", "yes_no"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; got {getattr(self, name)!r:.80}")
        check_choice("scale", self.scale, SCALES)
        check_threshold(self.threshold, finite=True)
        if self.threshold is not None:
            object.__setattr__(self, "threshold", float(self.threshold))

    def windows(
        self, tokenizer: Any, questions: Sequence[Question], segmenter: Segmenter | TokenSegmenter | None = None
    ) -> Windows:
        """The windows of questions with these options, see `cmp_rerank.reader.make_windows`."""
        return make_windows(
            tokenizer,
            questions,
            max_length=self.max_length,
            stride=self.stride,
            pack=self.pack,
            yes_no=self.yes_no,
            segmenter=segmenter,
        )


class Reader:
    """Answer questions from passages.

    Args:
        model: An `AutoModelForQuestionAnswering` of transformers.
        tokenizer: Its tokenizer; a fast one, since offsets are needed.
        options: How it reads.
        tokens_per_chunk: Tokens of one forward pass, padding included. Default: 4,096 on a CPU, 65,536 elsewhere.

    Raises:
        ValueError: An argument is of another type or out of its range.

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
        self.options = ReaderOptions() if options is None else options
        if not isinstance(self.options, ReaderOptions):
            raise ValueError(f"options must be a ReaderOptions object or None; got {described(options)}")
        if not isinstance(model, torch.nn.Module):
            raise ValueError(
                f"model must be a model of PyTorch; got {described(model)}; Reader.from_pretrained loads a checkpoint"
            )
        if tokens_per_chunk is not None:
            check_whole("tokens_per_chunk", tokens_per_chunk, 1)
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
            options: Fields of `ReaderOptions` that replace those saved with the checkpoint.

        Returns:
            The reader. Without saved options it has the default ones, and windows of at most the length that the
            tokenizer allows.

        Raises:
            ValueError: An option is unknown or out of its range, or the model has no trained head for question
                answering.
        """
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        read_checkpoint(path)
        with loading_checkpoint(path):
            tokenizer = AutoTokenizer.from_pretrained(os.fspath(path))
            model, loading = AutoModelForQuestionAnswering.from_pretrained(os.fspath(path), output_loading_info=True)
            saved = _saved_options(os.fspath(path), tokenizer)
        # Parts of the encoder may be missing for good reasons, such as a pooler that no reader has.
        encoder = model.base_model_prefix + "."
        untrained = sorted(name for name in loading["missing_keys"] if not name.startswith(encoder))
        if untrained:
            raise ValueError(
                f"{os.fspath(path)} must be an extractive reader; got a checkpoint without {', '.join(untrained)}; "
                "train it first"
            )
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        unknown = set(options) - {field.name for field in fields(ReaderOptions)}
        if unknown:
            names = ", ".join(field.name for field in fields(ReaderOptions))
            raise ValueError(f"options of a reader must be among {names}; got {', '.join(sorted(unknown))}")
        return cls(model.to(device), tokenizer, replace(saved, **options), tokens_per_chunk=tokens_per_chunk)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write an ordinary checkpoint, with the options in a file beside it.

        `AutoModelForQuestionAnswering` loads it without this package.

        Args:
            folder: Where to write; the options go to `reader_options.json`.
        """
        self.model.save_pretrained(os.fspath(folder))
        self.tokenizer.save_pretrained(os.fspath(folder))
        self.save_options(folder)

    def save_options(self, folder: str | os.PathLike[str]) -> None:
        """Write the options alone, beside a checkpoint that exists already."""
        with replacing(Path(folder) / OPTIONS_FILE) as file:
            json.dump(asdict(self.options), file, indent=1)
            file.write("\n")

    @overload
    def answer(  # type: ignore[overload-overlap]  # a str is an iterable of str, too
        self,
        question: str,
        passages: str | Iterable[str],
        top_k: int = 3,
        *,
        no_answer: bool = False,
        show_progress_bar: bool = False,
    ) -> list[AnswerSpan]: ...

    @overload
    def answer(
        self,
        question: Iterable[str],
        passages: Iterable[str | Iterable[str]],
        top_k: int = 3,
        *,
        no_answer: bool = False,
        show_progress_bar: bool = False,
    ) -> list[list[AnswerSpan]]: ...

    def answer(
        self,
        question: str | Iterable[str],
        passages: str | Iterable[str] | Iterable[str | Iterable[str]],
        top_k: int = 3,
        *,
        no_answer: bool = False,
        show_progress_bar: bool = False,
    ) -> list[AnswerSpan] | list[list[AnswerSpan]]:
        """The best answers to a question, or to each of several questions.

        Args:
            question: A question, or a list of them.
            passages: The context: one text of any length or a list of texts; for a list of questions, one such
                context for each. A generator is read into a list.
            top_k: How many answers.
            no_answer: Whether "no answer" is one of them: an empty text of passage -1. It comes before all answers
                whose score does not exceed its own by more than the threshold of the options; see `top`.
            show_progress_bar: Whether to show one.

        Returns:
            For a question its answers, best first: text, score, probability, number of the passage, and where the
            answer begins and ends there, in characters. Answers may overlap each other. There is none where the
            tokenizer finds no token in the context. For a list of questions, a list of such lists.

        Raises:
            ValueError: An empty question, a context without text, other numbers of contexts than questions, or an
                argument is of another type or out of its range.
        """
        check_whole("top_k", top_k, 1)
        one = isinstance(question, str)
        asked = [question] if one else _listed("question", question, "questions")
        if not one and isinstance(passages, str):
            raise ValueError(f"each of {len(asked)} questions needs a text or a list of passages; got one text")
        read = [passages] if one else _listed("passages", passages, "texts or of lists of passages")
        if len(asked) != len(read):
            raise ValueError(f"each of {len(asked)} questions needs a text or a list of passages; got {len(read)}")
        questions = [
            Question(
                str(i), text, (context,) if isinstance(context, str) else tuple(_listed("passages", context, "texts"))
            )
            for i, (text, context) in enumerate(zip(asked, read, strict=True))
        ]
        found = self.predict(questions, n_best=max(20, top_k), show_progress_bar=show_progress_bar)
        results = [self.top(answers, top_k, no_answer) for answers in found]
        return results[0] if one else results

    def top(self, answers: RankedAnswers, top_k: int = 3, no_answer: bool = False) -> list[AnswerSpan]:
        """The best candidates of one question, "no answer" among them if that is allowed.

        "No answer" comes first if the margin does not exceed the threshold, exactly as `RankedAnswers.text` decides.
        Otherwise it comes behind the candidates whose score exceeds its own by more than the threshold. So it comes
        before a candidate that exceeds it by exactly the threshold.

        Args:
            answers: The ranked answers to the question.
            top_k: How many answers.
            no_answer: Whether "no answer" is one of them.

        Returns:
            At most `top_k` answers, best first; "no answer" is an empty text of passage -1.

        Raises:
            ValueError: `top_k` is no whole number, or below 1.
        """
        check_whole("top_k", top_k, 1)
        spans = list(answers.spans)
        if no_answer:
            threshold = self.options.threshold or 0.0
            null = spans[0].score - answers.margin if spans else 0.0
            # As the margin is computed: a sum of "no answer" and threshold would be rounded in another way.
            place = sum(span.score - null > threshold for span in spans)
            spans.insert(place, AnswerSpan("", null, answers.no_answer, OUTSIDE, 0, 0))
        return spans[:top_k]

    def predict(
        self,
        questions: Sequence[Question],
        *,
        n_best: int = 20,
        show_progress_bar: bool = False,
        counts: WindowCounts | None = None,
    ) -> list[RankedAnswers]:
        """The best spans of each question, see `cmp_rerank.reader.answers.best_answers`.

        Args:
            questions: A list of questions; a generator is refused.
            n_best: How many candidates of each question.
            show_progress_bar: Whether to show one.
            counts: Gets what did not fit into a window added.

        Returns:
            For each question its candidates, best first; none where the tokenizer finds no token in its passages.

        Raises:
            ValueError: No list of questions, two questions of one id, `n_best` out of its range, or a question that
                leaves no room for its context.
        """
        from tqdm.auto import tqdm

        check_questions(questions)
        check_whole("n_best", n_best, 1)
        options = self.options
        answers: list[RankedAnswers] = []
        with tqdm(total=len(questions), desc="Questions", disable=not show_progress_bar) as bar:
            for first in range(0, len(questions), _BLOCK):
                block = questions[first : first + _BLOCK]
                windows = self.windows(block)
                if counts is not None:
                    counts.add(windows.counts)
                done = bar.n

                def report(share: float, done: int = done, many: int = len(block)) -> None:
                    bar.update(done + int(share * many) - bar.n)

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
        """The windows of questions with the options of this reader, see `cmp_rerank.reader.make_windows`."""
        return self.options.windows(self.tokenizer, questions)

    def logits(
        self, windows: Sequence[Window], report: Callable[[float], None] | None = None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Start and end logits of each window, one array (T,) each, in float32.

        Windows are read in order of length, so that batches have little padding, without gradients and dropout.

        Args:
            windows: A list of windows.
            report: Called with the share that is done, from 0 to 1.

        Returns:
            Start logits and end logits, in order of the windows.

        Raises:
            ValueError: No list of windows.
        """
        check_list("windows", windows, "windows")
        examples = [window.example for window in windows]
        order = sorted(range(len(windows)), key=lambda i: len(windows[i]), reverse=True)
        start: list[Any] = [None] * len(windows)
        end: list[Any] = [None] * len(windows)
        for i, row in whole_scores(self._scorer, self.model, examples, order, report):
            start[i], end[i] = self._adapter.trimmed(row, examples[i])
        return start, end


def _saved_options(path: str, tokenizer: Any) -> ReaderOptions:
    """The options beside a checkpoint; without any the default ones, with windows that the tokenizer allows."""
    from transformers.utils import cached_file

    # From a folder or from the hub, like the checkpoint itself. Many readers have no such file. Offline, a missing
    # file looks the same as one that was never downloaded.
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
        raise ValueError(f"{found} must hold the options of a reader ({error})") from error


def _listed(name: str, value: Any, of: str) -> list[Any]:
    """The items of any iterable but a text or a mapping."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a text or a list of {of}; got {described(value)}")
    return list(value)
