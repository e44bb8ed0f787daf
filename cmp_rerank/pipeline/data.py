"""The data of a training: what it trains on, what chooses, and what is looked at once, at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from cmp_rerank.collections import Collection, Split, load, open_texts
from cmp_rerank.collections.splits import divide
from cmp_rerank.ir import Qrels, read_qrels, read_queries
from cmp_rerank.pipeline.config import Data

#: The parts of the data by their task.
TRAIN, VALIDATION, TEST = "train", "validation", "test"
#: The share of the training queries that is held out where there is no split for validation.
HELD_OUT = 0.2


@dataclass(frozen=True)
class Part:
    """Queries with a task in the pipeline.

    Attributes:
        source: the split of the collection that they come from; the part may be some of its queries.
        split: the queries with what is known of them.
    """

    source: str
    split: Split

    @property
    def queries(self) -> Mapping[str, str]:
        """Text by query id."""
        return self.split.queries

    @property
    def qrels(self) -> Qrels:
        """Grade by document id, by query id."""
        return self.split.qrels


@dataclass(frozen=True)
class Task:
    """A collection, with the parts that are trained, chosen and tested on.

    Attributes:
        collection: corpus and runs.
        parts: by their task: "train", "validation", and "test" where there is one.
        notes: what was decided where nothing was said, in words.
    """

    collection: Collection
    parts: Mapping[str, Part]
    notes: tuple[str, ...] = ()

    @property
    def corpus(self) -> Mapping[str, str]:
        """Text by document id."""
        return self.collection.corpus

    def digest(self, part: str) -> str:
        """16 hexadecimal digits that stand for the queries and judgments of a part, and for the corpus by its size.

        Not for its texts: a corpus may be larger than memory. Which texts are trained on, the training data says.
        """
        found = self.parts[part]
        content: list[Any] = [self.collection.name, len(self.corpus)]
        content += [
            [query, found.queries[query], sorted(found.qrels[query].items())] for query in sorted(found.qrels)
        ]
        text = json.dumps(content, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def open_collection(data: Data) -> Collection:
    """The collection that a configuration names, or the files.

    Raises:
        ValueError: there is none of this name, a file is missing, or its content is no such data.
    """
    options = data.options.build()
    if data.collection is not None:
        return load(data.collection, **vars(options))
    corpus, queries = str(data.corpus), cache(partial(read_queries, str(data.queries)))

    def split(path: str) -> Split:
        qrels, texts = read_qrels(path), queries()
        return Split({query: texts[query] for query in qrels if query in texts}, qrels)

    files = Collection(
        corpus,
        lambda: open_texts(corpus, titles=options.titles, cache_dir=options.cache_dir),
        {name: partial(split, path) for name, path in data.qrels.items()},
        missing_texts=options.missing_texts,
    )
    return load(files, **vars(options))


def task_of(data: Data, collection: Collection | None = None) -> Task:
    """The parts of a collection, as a configuration says.

    Args:
        data: the section of the configuration.
        collection: a collection in place of the one that the section names.

    Raises:
        ValueError: a split is missing, two tasks have the same one, or a part has no judged query or no
            relevant document.

    Example:
        >>> queries = {animal: f"the {animal} eats honey" for animal in ("panda", "bear", "cat", "dog", "ox")}
        >>> split = Split(queries, {query: {"d": 1} for query in queries})
        >>> tiny = Collection("tiny", {"d": "honey"}, {"train": split})
        >>> task = task_of(Data(collection="tiny"), tiny)
        >>> {name: len(part.qrels) for name, part in task.parts.items()}
        {'train': 4, 'validation': 1}
        >>> task.notes[0]
        "no split for validation: 0.2 of the queries of 'train' are held out"
    """
    collection = open_collection(data) if collection is None else collection
    notes = []
    validation, test = data.validation, data.test
    if validation is None:
        validation = next((name for name in ("dev", "validation") if name in collection.splits), HELD_OUT)
        if validation == HELD_OUT:
            notes.append(f"no split for validation: {HELD_OUT} of the queries of {data.train!r} are held out")
    if test is None:
        test = "test" if "test" in collection.splits and TEST not in (data.train, validation) else None
        if test is None:
            notes.append("no split for a test: what is reported is on the queries that the choice was made on")
    named = {TRAIN: data.train, VALIDATION: validation, TEST: test}
    sources = {task: collection.split_name(name) for task, name in named.items() if isinstance(name, str)}
    for name in sources.values():
        if (tasks := [task for task, other in sources.items() if other == name])[1:]:
            raise ValueError(
                f"{' and '.join(tasks)} must be different splits; got {name!r} for both; a share of the training "
                "queries is held out by data.validation: 0.2"
            )
    parts = {task: Part(name, collection.part(name)) for task, name in sources.items()}
    if isinstance(validation, float):
        parts = dict(_held_out(parts, validation))
    parts = {task: Part(part.source, _some(part.split, data.limit)) for task, part in parts.items()}
    for task, part in parts.items():
        if not part.qrels:
            raise ValueError(f"the {task} split {part.source!r} of {collection.name} has no judged query; got none")
        if not any(grade > 0 for grades in part.qrels.values() for grade in grades.values()):
            raise ValueError(
                f"the {task} split {part.source!r} of {collection.name} has no relevant document; got "
                f"{len(part.qrels):,} judged queries with grades of 0 and below; check the judgments"
            )
    return Task(collection, {task: parts[task] for task in (TRAIN, VALIDATION, TEST) if task in parts}, tuple(notes))


def _held_out(parts: Mapping[str, Part], share: float) -> Iterator[tuple[str, Part]]:
    """The parts, where the training queries are divided; near-duplicates stay together."""
    train = parts[TRAIN]
    judged = {query: train.queries[query] for query in train.qrels}
    divided = divide(judged, {VALIDATION: share})
    for task in (TRAIN, VALIDATION):
        yield task, Part(train.source, _only(train.split, divided[task]))
    yield from ((task, part) for task, part in parts.items() if task != TRAIN)


def _some(split: Split, limit: int | None) -> Split:
    """At most so many judged queries, the same ones for the same ids."""
    judged = list(split.qrels)
    if limit is not None and len(judged) > limit:
        order = sorted(judged, key=lambda query: hashlib.sha256(query.encode(errors="surrogatepass")).digest())
        chosen = set(order[:limit])
        judged = [query for query in judged if query in chosen]
    return _only(split, judged)


def _only(split: Split, judged: list[str]) -> Split:
    """A split of some judged queries only."""
    queries = {query: split.queries[query] for query in judged}
    qrels = {query: split.qrels[query] for query in judged}
    weights = None if split.weights is None else {query: split.weights[query] for query in judged}
    support = None if split.support is None else {q: split.support[q] for q in judged if q in split.support}
    return Split(queries, qrels, weights, support)
