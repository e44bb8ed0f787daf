"""What a collection is: texts, queries, judgments and runs that belong together, read when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cmp_rerank.collections.matching import check_choice_of, ids_without, some
from cmp_rerank.collections.writing import write_beir
from cmp_rerank.ir import Qrels, Run, read_run
from cmp_rerank.ir.arguments import check_run, check_texts
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.ranking import check_choice

T = TypeVar("T")
MISSING_TEXTS = ("error", "drop")
#: Support: query id -> document id -> (start, end) of the characters that support the answer.
Support = Mapping[str, Mapping[str, Sequence[tuple[int, int]]]]
# Two names of one thing: BEIR and MS MARCO say dev, sentence-transformers and the hub say validation.
_SAME_SPLIT = {"dev": "validation", "validation": "dev"}


@dataclass(frozen=True)
class Split:
    """The queries of one split, with what is known of them.

    Args:
        queries: Text by query id.
        qrels: Grade by document id, by query id; its queries are among ``queries``.
        weights: How much a query counts in means of your own, by query id; None: all the same. Measures, tests and
            training of this package count every query once.
        support: Characters of the documents that support the answer, by document id, by query id; None: not known.

    Example:
        >>> dev = Split({"q1": "who eats"}, {"q1": {"d1": 1}})
        >>> list(dev.queries), dev.qrels["q1"]["d1"]
        (['q1'], 1)
    """

    queries: Mapping[str, str]
    qrels: Qrels = field(default_factory=dict)
    weights: Mapping[str, float] | None = None
    support: Support | None = None


class Collection:
    """Corpus, queries, judgments, splits and runs behind one interface; each is read on first use.

    Args:
        name: Of the collection, for messages.
        corpus: Document texts by id: a mapping, or a function without arguments that gives one.
        splits: By name: a :class:`Split`, or a function without arguments that gives one.
        runs: By name: a run, the path of one, or a function without arguments that gives one.
        missing_texts: Judged documents and judged queries without a text: "error", or "drop" leaves their judgments
            out and counts them (:meth:`notes`).
        metadata: How it was made; must be writable as JSON.

    Example:
        >>> collection = Collection(
        ...     "tiny",
        ...     {"d1": "Pandas eat bamboo.", "d2": "Bees make honey."},
        ...     {"test": Split({"q1": "what do pandas eat"}, {"q1": {"d1": 1, "d9": 0}})},
        ...     missing_texts="drop",
        ... )
        >>> collection
        Collection('tiny', splits=('test',))
        >>> collection.queries("test"), collection.qrels("test"), collection.corpus["d2"]
        ({'q1': 'what do pandas eat'}, {'q1': {'d1': 1}}, 'Bees make honey.')
        >>> collection.notes()
        ["1 of 2 judgments of split 'test' left out: their documents have no text ('d9')"]
    """

    def __init__(
        self,
        name: str,
        corpus: Mapping[str, str] | Callable[[], Mapping[str, str]],
        splits: Mapping[str, Split | Callable[[], Split]],
        *,
        runs: Mapping[str, Run | str | os.PathLike[str] | Callable[[], Run]] | None = None,
        missing_texts: str = "error",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("missing_texts", missing_texts, MISSING_TEXTS)
        self.name = name
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._missing_texts = missing_texts
        self._corpus, self._splits, self._runs = corpus, dict(splits), dict(runs or {})
        self._read: dict[str, Split] = {}
        self._notes: dict[str, list[str]] = {}

    def __repr__(self) -> str:
        runs = f", runs={self.runs}" if self._runs else ""
        return f"Collection({self.name!r}, splits={self.splits}{runs})"

    @cached_property
    def corpus(self) -> Mapping[str, str]:
        """Document texts by id; it may be larger than memory, so do not make a list of it."""
        corpus = as_texts("documents", _value(self._corpus))
        check_texts("documents", corpus)
        return corpus

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self._splits)

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the runs that come with the collection."""
        return tuple(self._runs)

    def split_name(self, split: str) -> str:
        """The name that the collection has for a split; "dev" and "validation" are one name.

        Raises:
            ValueError: There is no such split.
        """
        name = split if split in self._splits else _SAME_SPLIT.get(split, split)
        if name not in self._splits:
            check_choice_of(f"{self.name}: split", split, self.splits)
        return name

    def part(self, split: str) -> Split:
        """All that is known of one split; "dev" and "validation" are one name.

        Raises:
            ValueError: As :meth:`qrels`.
        """
        name = self.split_name(split)
        if name not in self._read:
            self._read[name] = self._checked(name, _value(self._splits[name]))
        return self._read[name]

    def with_splits(self, splits: Mapping[str, Split]) -> Collection:
        """The same corpus and runs with other splits, for example of fewer queries."""
        other = Collection(
            self.name,
            lambda: self.corpus,
            splits,
            runs=self._runs,
            missing_texts=self._missing_texts,
            metadata=self.metadata,
        )
        other._notes = dict(self._notes)
        return other

    def queries(self, split: str | None = None) -> Mapping[str, str]:
        """Query texts by id, of one split or (None) of all of them.

        Raises:
            ValueError: There is no such split, or a query has another text in another split.
        """
        if split is not None:
            return self.part(split).queries
        together: dict[str, str] = {}
        for name in self.splits:
            for query, text in self.part(name).queries.items():
                if together.setdefault(query, text) != text:
                    raise ValueError(
                        f"{self.name}: a query id stands for one query; got two texts for {query!r}, one in split "
                        f"{name!r}: {text!r:.60} and {together[query]!r:.60}; rename one of them"
                    )
        return together

    def qrels(self, split: str) -> Qrels:
        """Grade by document id, by query id, of one split; queries without a judgment are not in it.

        Raises:
            ValueError: There is no such split; a judged query or document has no text (with counts and examples), and
                ``missing_texts`` is not "drop"; or no judged query is left.
        """
        return self.part(split).qrels

    def weights(self, split: str) -> Mapping[str, float] | None:
        """How much each query of a split counts in means of your own; None: all the same."""
        return self.part(split).weights

    @property
    def support(self) -> Support | None:
        """Supporting characters, query id -> document id -> [(start, end)], of all splits; None: not known."""
        known = [found.support for found in map(self.part, self.splits) if found.support is not None]
        return {query: spans for support in known for query, spans in support.items()} if known else None

    def run(self, name: str) -> Run:
        """A run that comes with the collection, read from its file where it is one.

        Raises:
            ValueError: There is no such run, or its file cannot be read.
        """
        check_choice_of(f"{self.name}: run", name, self.runs)
        run = self._runs[name]
        run = read_run(run) if isinstance(run, str | os.PathLike) else _value(run)
        check_run(f"run {name!r}", run)
        return run

    def documents_of(self, split: str) -> dict[str, str]:
        """The documents that are relevant for a query of one split, text by id.

        Candidates for training that are taken from these hold no text of another split.
        """
        relevant = {doc: None for grades in self.qrels(split).values() for doc, grade in grades.items() if grade > 0}
        return {document: self.corpus[document] for document in relevant}

    def notes(self) -> list[str]:
        """What was left out while the collection was read so far, in words and with counts."""
        return [note for notes in self._notes.values() for note in notes]

    def summary(self) -> str:
        """How many documents and queries there are, in words; reads all queries.

        Example:
            >>> Collection("tiny", {"d": "me"}, {"test": Split({"q": "who"}, {"q": {"d": 1}})}).summary()
            'tiny: 1 documents; queries: test 1'
        """
        sizes = ", ".join(f"{name} {len(self.queries(name)):,}" for name in self.splits)
        return f"{self.name}: {len(self.corpus):,} documents; queries: {sizes}"

    def write_beir(self, folder: str | os.PathLike[str]) -> Path:
        """Write a BEIR folder, whole or not at all. Titles are part of the texts; runs are not written.

        Args:
            folder: A folder that is not there yet.

        Returns:
            The folder.

        Raises:
            ValueError: ``folder`` exists already, or an id holds white space.
        """
        weights = {query: weight for name in self.splits for query, weight in (self.weights(name) or {}).items()}
        return write_beir(
            folder,
            self.corpus,
            self.queries(),
            {name: self.qrels(name) for name in self.splits},
            weights=weights,
            metadata={"name": self.name, **self.metadata},
        )

    def _checked(self, name: str, split: Split) -> Split:
        queries = as_texts("queries", split.queries)
        check_texts("queries", queries, empty=True)
        check_run(f"qrels of split {name!r}", split.qrels)
        notes: list[str] = []
        kept = {query: grades for query, grades in split.qrels.items() if query in queries}
        if len(kept) < len(split.qrels):
            missing = [query for query in split.qrels if query not in queries]
            self._refuse(f"{len(missing):,} of {len(split.qrels):,} judged queries of split {name!r}", missing)
            notes.append(
                f"{len(missing):,} of {len(split.qrels):,} judged queries of split {name!r} left out: they have no "
                f"text ({some(missing)})"
            )
        unknown = ids_without(self.corpus, (doc for grades in kept.values() for doc in grades))
        if unknown:
            self._refuse(f"{len(unknown):,} judged documents of split {name!r}", list(unknown))
            judged = sum(map(len, kept.values()))
            kept = {query: _without(grades, unknown) for query, grades in kept.items()}
            left = sum(map(len, kept.values()))
            notes.append(
                f"{judged - left:,} of {judged:,} judgments of split {name!r} left out: their documents have no text "
                f"({some(list(unknown))})"
            )
            kept = {query: grades for query, grades in kept.items() if grades}
        if split.qrels and not kept:
            raise ValueError(
                f"{self.name}: split {name!r} must have a judged query with texts; got none of "
                f"{len(split.qrels):,} (judged: {some(list(split.qrels))}; texts: {some(list(queries))}); do the ids "
                "of the files belong together?"
            )
        self._notes[name] = [*self._notes.get(name, []), *notes]
        return Split(queries, kept, split.weights, split.support)

    def _refuse(self, what: str, missing: list[str]) -> None:
        if self._missing_texts == "error":
            raise ValueError(
                f"{self.name}: every judged query and document needs a text; got none for {what}, for example "
                f"{some(missing)}; add the texts, or leave these judgments out: missing_texts='drop'"
            )


def _without(grades: Mapping[str, int], left_out: Iterable[str]) -> Mapping[str, int]:
    return {document: grade for document, grade in grades.items() if document not in left_out}


def _value(given: T | Callable[[], T]) -> T:
    return given() if callable(given) and not isinstance(given, Mapping) else given  # type: ignore[return-value]
