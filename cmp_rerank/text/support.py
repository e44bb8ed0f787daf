"""What supports a label: the segments of a passage that a crop must keep.

A support rule is one of two kinds of objects:

- A scorer: a callable ``(query, segments) -> scores``, such as `LexicalSupport` or a bi-encoder. The segments with
  the best scores are the support.
- Known support: an object with a method ``segments(query, passage, spans)``, such as `GivenSupport`. See
  `KnownSupport`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeGuard, cast

import numpy as np

from cmp_rerank.text.checks import refuse_class, refuse_mask
from cmp_rerank.text.digest import content_digest
from cmp_rerank.text.segmenters import CharSpan, check_spans
from cmp_rerank.text.terms import terms

#: Scores the segments of a passage for a query.
SupportScorer = Callable[[str, Sequence[str]], Sequence[float]]


class KnownSupport(Protocol):
    """Support that does not depend on scores, such as `GivenSupport`.

    An object of this kind may also have an attribute ``fallback``: a scorer for pairs without known support.
    Then it needs ``__contains__`` too: whether the support of the pair ``(query, passage)`` is known.

    Example:
        >>> class FirstSegment:
        ...     def segments(self, query, passage, spans):
        ...         return {0}
        >>> check_support(FirstSegment())
        >>> known_support(FirstSegment(), "what do pandas eat", "Bamboo. It rains.", [(0, 7), (8, 17)])
        frozenset({0})
    """

    def segments(self, query: str, passage: str, spans: Sequence[CharSpan]) -> Collection[int]:
        """The numbers of the segments, given by their ``spans``, that support the label of a relevant passage."""
        ...


SupportRule = SupportScorer | KnownSupport


@dataclass(frozen=True)
class LexicalSupport:
    """Score the segments of one passage by the query's terms in them, weighted by rarity in the passage.

    The score of a segment is the sum of idf(t) = log(1 + N / n_t) over the distinct terms t of the query that
    it holds. N is the number of segments, n_t how many of them hold t. A term that occurs in every segment
    does not discriminate between them.

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
            numbers of its segments, or answers in the format of SQuAD (``{"text": [...], "answer_start": [...]}``).
            An empty list means that no part of the passage supports the label.
        fallback: scores the segments of a relevant passage that is not in ``support`` (see `LexicalSupport`);
            None: such a pair is an error.

    Raises:
        ValueError: for spans outside of their passage, anything else than the forms above, or a ``fallback`` that is
            no scorer.

    Example:
        >>> support = GivenSupport({("what do pandas eat", "It rains. They eat bamboo."): [(10, 26)]})
        >>> sorted(support.segments("what do pandas eat", "It rains. They eat bamboo.", [(0, 9), (10, 26)]))
        [1]
    """

    def __init__(self, support: Mapping[tuple[str, str], Any], fallback: SupportScorer | None = None) -> None:
        if not isinstance(support, Mapping):
            raise ValueError(
                f"GivenSupport takes a mapping of (query, passage) to support; got {support!r:.80}. For a dataset "
                "use GivenSupport.from_dataset(dataset)."
            )
        if fallback is not None:
            refuse_class("fallback", fallback)
            if not callable(fallback):
                raise ValueError(f"fallback must be a scorer or None; got {fallback!r}. Pass LexicalSupport().")
        self._support = {_checked_pair(pair): _normalised(*pair, value) for pair, value in support.items()}
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
        """Read support from a column of a dataset. The trainer must not see this column: remove it afterwards.

        Args:
            dataset: rows with these columns, such as a ``datasets.Dataset``, of any format.
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
                raise ValueError(f"Row {number} has no column {missing[0]!r}, but {sorted(row)}: name the columns.")
            texts, values = _plain(row[passage]), _plain(row[support])
            if isinstance(texts, str):
                texts, values = [texts], [values]
            if values is None or len(texts) != len(values):
                raise ValueError(
                    f"Row {number}: {len(texts)} passages, but support for {len(values or ())}: give one list "
                    "for each passage."
                )
            for text, value in zip(texts, values, strict=True):
                if value is None:
                    continue  # not known
                pair = (_plain(row[query]), text)
                if pair in known and known[pair] != value:
                    raise ValueError(
                        f"Row {number}: the same query and passage as in an earlier row, with other support "
                        f"({known[pair]!r}, then {value!r}): keep one of the rows."
                    )
                known[pair] = value
        return cls(known, fallback)

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return pair in self._support

    def __len__(self) -> int:
        return len(self._support)

    def __repr__(self) -> str:
        # Prepared examples are cached under this repr, so it has to depend on the contents.
        fallback = "" if self.fallback is None else f", fallback {self.fallback!r}"
        return f"<GivenSupport of {len(self)} pairs, {self._digest}{fallback}>"

    @cached_property
    def _digest(self) -> str:
        return content_digest(self._support)

    def segments(self, query: str, passage: str, spans: Sequence[CharSpan]) -> frozenset[int]:
        """The segments of a passage that overlap what supports its label.

        Raises:
            ValueError: for a pair that is not known, a segment that does not exist, or a span in no segment.
        """
        given = self._support.get((query, passage))
        if given is None:
            raise ValueError(
                f"The data gives no support for the relevant passage {passage[:60]!r}... of {query[:60]!r}: add it "
                "(an empty list if nothing supports the label), or pass a scorer as `fallback`."
            )
        numbers, wanted = given
        outside = [number for number in numbers if not 0 <= number < len(spans)]
        if outside:
            raise ValueError(
                f"Segment {outside[0]} is given as support of {passage[:60]!r}..., which has only {len(spans)} "
                "segments: they are numbered from 0, as the segmenter splits the passage."
            )
        found = set(numbers)
        for start, end in wanted:
            touched = [i for i, (left, right) in enumerate(spans) if left < end and start < right]
            if not touched and passage[start:end].strip():
                raise ValueError(
                    f"The supporting span ({start}, {end}) of {passage[:60]!r}... is in none of its segments: use a "
                    "segmenter that does not leave that part out."
                )
            found.update(touched)
        return frozenset(found)


def is_known_support(support: object) -> TypeGuard[KnownSupport]:
    """Whether a support rule has a method ``segments``; else it is a scorer."""
    return callable(getattr(support, "segments", None))


def check_support(support: Any) -> None:
    """Check that an object can be a support rule.

    Args:
        support: the object; None means no support.

    Raises:
        ValueError: for a class instead of an object, for what is neither a callable nor has a method ``segments``,
            and for known support that has a fallback, but no ``__contains__``.

    Example:
        >>> check_support(LexicalSupport)
        Traceback (most recent call last):
        ...
        ValueError: support must be an object; got the class LexicalSupport. Pass LexicalSupport(...) instead.
    """
    refuse_class("support", support)
    if is_known_support(support):
        if getattr(support, "fallback", None) is not None and not hasattr(support, "__contains__"):
            raise ValueError(
                f"support with a fallback must define __contains__; got {support!r}. It says which pairs are known."
            )
    elif support is not None and not callable(support):
        raise ValueError(
            f"support must be GivenSupport, a scorer or None; got {support!r}. A scorer is a callable "
            "(query, segments) -> scores, such as LexicalSupport()."
        )


def known_support(
    support: SupportRule | None, query: str, passage: str, spans: Sequence[CharSpan]
) -> frozenset[int] | None:
    """The supporting segments by a rule that needs no scores.

    Args:
        support: the rule.
        query: the query.
        passage: the relevant passage, whole.
        spans: its segments.

    Returns:
        The numbers of the segments; None where a scorer decides, see `support_scorer`.

    Raises:
        ValueError: as `GivenSupport.segments`, and if an own rule returns anything else than numbers of segments.
    """
    if not is_known_support(support):
        return None
    if getattr(support, "fallback", None) is not None and (query, passage) not in support:  # type: ignore[operator]
        return None
    found = support.segments(query, passage, spans)
    if isinstance(found, (str, bytes)) or not isinstance(found, (Iterable, np.ndarray)):
        found, right = [], False
    else:
        found = list(found)
        refuse_mask(f"{support!r} for {passage[:60]!r}...", found)
        right = all(isinstance(i, (int, np.integer)) and 0 <= i < len(spans) for i in found)
    if not right:
        raise ValueError(
            f"{support!r} must return numbers of segments, from 0 to {len(spans) - 1} for {passage[:60]!r}...; got "
            f"{found!r}."
        )
    return frozenset(int(i) for i in found)


def support_scorer(support: SupportRule | None) -> SupportScorer | None:
    """What scores the segments where `known_support` returns None; None: such a passage has no support."""
    if is_known_support(support):
        return cast("SupportScorer | None", getattr(support, "fallback", None))
    return cast("SupportScorer | None", support)


def best_segments(scorer: SupportScorer, query: str, segments: Sequence[str], best: int) -> list[int]:
    """The segments with the highest scores, only those above 0; ties go to the earlier one.

    Args:
        scorer: scores the segments.
        query: the query.
        segments: the texts of the segments.
        best: how many to return at most.

    Returns:
        Numbers of segments, best first. At least one: where no score is above 0, the first of the highest.

    Raises:
        ValueError: if the scorer does not give one finite number for each segment.

    Example:
        >>> best_segments(LexicalSupport(), "pandas eat", ["It rains.", "Pandas eat bamboo.", "They eat."], best=2)
        [1, 2]
    """
    returned = scorer(query, list(segments))
    try:
        scores = np.asarray(returned, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        scores = np.array([])
    if len(scores) != len(segments) or not np.isfinite(scores).all():
        raise ValueError(
            f"The support scorer must return one finite score for each of {len(segments)} segments; got {returned!r}."
        )
    order = np.argsort(-scores, kind="stable")
    return [int(i) for rank, i in enumerate(order[:best]) if rank == 0 or scores[i] > 0]


def _checked_pair(pair: Any) -> tuple[str, str]:
    if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise ValueError(f"Support is given for pairs (query, passage) of strings; got {pair!r:.80}.")
    return pair


def _plain(value: Any) -> Any:
    """Arrays and tensors, as the rows of a formatted dataset have them, as lists: these can be compared."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _normalised(query: str, passage: str, value: Any) -> tuple[list[int], list[CharSpan]]:
    """Numbers of segments, and spans."""
    what = f"Support of {passage[:40]!r}... for {query[:40]!r}"
    if isinstance(value, Mapping):
        if not {"text", "answer_start"} <= value.keys():
            raise ValueError(f"{what}: answers must have the keys 'text' and 'answer_start'; got {sorted(value)}.")
        answers = zip(value["text"], value["answer_start"], strict=True)
        spans = check_spans(passage, [(start, start + len(text)) for text, start in answers], what)
        for (start, end), text in zip(spans, value["text"], strict=True):
            if passage[start:end] != text:
                raise ValueError(
                    f"{what}: the answer {text!r} does not stand at {start}, {passage[start:end]!r} does: count "
                    "characters of the passage as it is given."
                )
        return [], spans
    if isinstance(value, (str, bytes)) or not isinstance(value, (Iterable, np.ndarray)):
        raise ValueError(f"{what}: expected spans, numbers of segments or answers; got {value!r}.")
    items = list(value)
    refuse_mask(what, items)
    numbers = [int(item) for item in items if isinstance(item, (int, np.integer))]
    return numbers, check_spans(passage, [item for item in items if not isinstance(item, (int, np.integer))], what)
