"""What supports a label: the segments of a passage that a crop must keep.

Support is given by the data (`GivenSupport`), or it is the segments that match the query best, by `LexicalSupport`
or by any callable ``(query, segments) -> scores``, for instance a bi-encoder.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cmp_rerank.text.segmenters import CharSpan, check_spans
from cmp_rerank.text.terms import terms

SupportScorer = Callable[[str, Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class LexicalSupport:
    """Score the segments of one passage by the query's terms in them, weighted by rarity in the passage.

    The score of a segment is the sum of idf(t) = log(1 + N / n_t) over the distinct terms t of the query that
    it holds, where N is the number of segments and n_t how many of them hold t: a term of every segment tells
    little about which of them answers.

    Example:
        >>> segments = ["The panda is a bear.", "The panda eats bamboo.", "It rains."]
        >>> [round(score, 2) for score in LexicalSupport()("what does the panda eat: bamboo?", segments)]
        [1.83, 3.22, 0.0]
    """

    def __call__(self, query: str, segments: Sequence[str]) -> list[float]:
        """Return one score for each segment, 0 where it shares no term with the query."""
        # In the query's own order: the sum of floats must not depend on the hashes of strings.
        wanted = list(dict.fromkeys(terms(query)))
        known = frozenset(wanted)
        held = [known.intersection(terms(segment)) for segment in segments]
        frequency = Counter(term for segment in held for term in segment)
        return [
            math.fsum(math.log1p(len(held) / frequency[term]) for term in wanted if term in segment)
            for segment in held
        ]


class GivenSupport:
    """Support that the data gives, by (query, passage).

    Args:
        support: (query, passage) -> what supports its label: spans ``(start, end)`` of characters of the passage,
            numbers of its segments, or answers as SQuAD has them (``{"text": [...], "answer_start": [...]}``).
            Nothing, an empty list, means that no part of the passage supports the label.
        fallback: scores the segments of a relevant passage that the data says nothing about (see
            `LexicalSupport`); None: such a pair is an error.

    Raises:
        ValueError: for spans outside of their passage, or anything else than the forms above.

    Example:
        >>> support = GivenSupport({("what do pandas eat", "It rains. They eat bamboo."): [(10, 26)]})
        >>> sorted(support.segments("what do pandas eat", "It rains. They eat bamboo.", [(0, 9), (10, 26)]))
        [1]
    """

    def __init__(self, support: Mapping[tuple[str, str], Any], fallback: SupportScorer | None = None) -> None:
        self._support = {pair: _normalised(*pair, value) for pair, value in support.items()}
        self.fallback = fallback

    @classmethod
    def from_dataset(
        cls,
        dataset: Iterable[Mapping[str, Any]],
        query: str = "query",
        passage: str = "passage",
        support: str = "support",
        fallback: SupportScorer | None = None,
    ) -> GivenSupport:
        """Read support from a column of a dataset, of which the trainer then sees only texts and labels.

        Args:
            dataset: rows with these columns, such as a ``datasets.Dataset``.
            query: name of the column of queries.
            passage: name of the column of passages, or of lists of passages.
            support: name of the column of support; where passages are lists, so is this.
            fallback: see the class.

        Raises:
            ValueError: for a missing column, lists of different lengths, or two rows of one pair that disagree.
        """
        known: dict[tuple[str, str], Any] = {}
        for number, row in enumerate(dataset):
            missing = [name for name in (query, passage, support) if name not in row]
            if missing:
                raise ValueError(f"Row {number} has no column {missing[0]!r}; there are {sorted(row)}.")
            texts, values = row[passage], row[support]
            if isinstance(texts, str):
                texts, values = [texts], [values]
            if values is None or len(texts) != len(values):
                raise ValueError(f"Row {number}: {len(texts)} passages, but support for {len(values or ())}.")
            for text, value in zip(texts, values, strict=True):
                if value is None:
                    continue  # the data says nothing
                pair = (row[query], text)
                if pair in known and known[pair] != value:
                    raise ValueError(f"Row {number}: the same query and passage as before, with other support.")
                known[pair] = value
        return cls(known, fallback)

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return pair in self._support

    def __len__(self) -> int:
        return len(self._support)

    def __repr__(self) -> str:
        # What is made with it is kept under its description, which therefore has to tell its contents.
        fallback = "" if self.fallback is None else f", fallback {self.fallback!r}"
        return f"<GivenSupport of {len(self)} pairs, {self._digest}{fallback}>"

    @cached_property
    def _digest(self) -> str:
        content = repr(sorted(self._support.items())).encode(errors="surrogatepass")
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def segments(self, query: str, passage: str, spans: Sequence[CharSpan]) -> frozenset[int]:
        """The segments of a passage that overlap what supports its label.

        Raises:
            ValueError: for a pair that is not known, a segment that does not exist, or a span in no segment.
        """
        given = self._support.get((query, passage))
        if given is None:
            raise ValueError(
                f"The data gives no support for the relevant passage {passage[:60]!r}... of {query[:60]!r}: give it "
                "(an empty list if nothing supports the label), or a scorer as `fallback`."
            )
        numbers, wanted = given
        outside = [number for number in numbers if not 0 <= number < len(spans)]
        if outside:
            raise ValueError(
                f"Segment {outside[0]} is said to support the label of {passage[:60]!r}..., which has only "
                f"{len(spans)} segments."
            )
        found = set(numbers)
        for start, end in wanted:
            touched = [i for i, (left, right) in enumerate(spans) if left < end and start < right]
            if not touched and passage[start:end].strip():
                raise ValueError(
                    f"The supporting span ({start}, {end}) of {passage[:60]!r}... is in none of its segments: the "
                    "segmenter leaves that part out."
                )
            found.update(touched)
        return frozenset(found)


def best_segments(scorer: SupportScorer, query: str, segments: Sequence[str], best: int) -> list[int]:
    """The ``best`` segments by score, those above 0 only; of equals the earlier. At least one: the first one.

    Raises:
        ValueError: if the scorer does not give one finite number for each segment.
    """
    scores = np.asarray(scorer(query, list(segments)), dtype=np.float64).reshape(-1)
    if len(scores) != len(segments) or not np.isfinite(scores).all():
        raise ValueError(
            f"The support scorer must return one finite score for each of {len(segments)} segments, got {scores!r}."
        )
    order = np.argsort(-scores, kind="stable")
    return [int(i) for rank, i in enumerate(order[:best]) if rank == 0 or scores[i] > 0]


def _normalised(query: str, passage: str, value: Any) -> tuple[list[int], list[CharSpan]]:
    """Numbers of segments, and spans."""
    what = f"Support of {passage[:40]!r}... for {query[:40]!r}"
    if isinstance(value, Mapping):
        if not {"text", "answer_start"} <= value.keys():
            raise ValueError(f"{what}: a mapping must have 'text' and 'answer_start', got {sorted(value)}.")
        answers = zip(value["text"], value["answer_start"], strict=True)
        spans = check_spans(passage, [(start, start + len(text)) for text, start in answers], what)
        for (start, end), text in zip(spans, value["text"], strict=True):
            if passage[start:end] != text:
                raise ValueError(
                    f"{what}: the answer {text!r} does not stand at {start}, {passage[start:end]!r} does."
                )
        return [], spans
    if isinstance(value, (str, bytes)) or not isinstance(value, (Iterable, np.ndarray)):
        raise ValueError(f"{what}: expected spans, numbers of segments or answers, got {value!r}.")
    items = list(value)
    numbers = [int(item) for item in items if isinstance(item, (int, np.integer))]
    return numbers, check_spans(passage, [item for item in items if not isinstance(item, (int, np.integer))], what)
