"""A run as groups of queries, of about the same number of pairs: what is scored, written and resumed as one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from cmp_rerank.ir import Run, UngroupedError, rank, stream_run
from cmp_rerank.ir.lines import PathLike


@dataclass(frozen=True)
class Group:
    """Neighbouring queries of a run.

    Attributes:
        number: Its place among all groups of the run, from 0.
        ranked: Query -> document -> score of the first stage, best first.
        depth: How many documents of each query are scored; None: all.
    """

    number: int
    ranked: dict[str, dict[str, float]]
    depth: int | None

    @property
    def candidates(self) -> list[tuple[str, str]]:
        """The (query, document) ids that are scored, in the order of the run."""
        return [(query, doc) for query, scores in self.ranked.items() for doc in islice(scores, self.depth)]

    def pairs(self, queries: Mapping[str, str], corpus: Mapping[str, str]) -> list[tuple[str, str]]:
        """The texts of the candidates."""
        texts = {query: queries[query] for query in self.ranked}
        return [(texts[query], corpus[doc]) for query, doc in self.candidates]

    def digest(self, pairs: list[tuple[str, str]]) -> str:
        """A digest of ids, first stage and texts: whether a group that was finished before is the same one."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (*((query, [*scores.items()]) for query, scores in self.ranked.items()), *pairs):
            digest.update(repr(part).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def ranked_queries(run: Run | PathLike) -> Iterator[tuple[str, dict[str, float]]]:
    """Query after query of a run or a run file, with its documents and their scores, best first.

    A file is read as a stream: only a block of it is in memory. Where its lines are not grouped by query, it is read
    whole; that is found out before the first query is given.

    Example:
        >>> list(ranked_queries({"q": {"a": 1.0, "b": 2.0}}))
        [('q', {'b': 2.0, 'a': 1.0})]
    """
    if not isinstance(run, str | os.PathLike):
        for query, scores in run.items():
            yield query, dict(rank(scores))
        return
    for block in stream_run(run, whole=not _is_grouped(run)):
        docs, scores, bounds = block.doc_list(), block.scores.tolist(), block.bounds.tolist()
        for query, start, stop in zip(block.queries, bounds[:-1], bounds[1:], strict=True):
            found = dict(zip(docs[start:stop], scores[start:stop], strict=True))
            yield query, dict(rank(found))


def groups(run: Run | PathLike, depth: int | None, pairs: int) -> Iterator[Group]:
    """Cut a run into groups.

    A group ends with the query that fills it. So where it begins and ends depends on the run, the depth and ``pairs``
    alone: every process and every restart cuts in the same places.

    Args:
        run: A run, or the path of a run file.
        depth: How many documents of each query are scored; None: all.
        pairs: How many pairs fill a group.

    Example:
        >>> run = {"q1": {"a": 1.0, "b": 2.0}, "q2": {"a": 1.0}, "q3": {"c": 1.0}}
        >>> [list(group.ranked) for group in groups(run, depth=None, pairs=3)]
        [['q1', 'q2'], ['q3']]
    """
    number, count, ranked = 0, 0, dict[str, dict[str, float]]()
    for query, scores in ranked_queries(run):
        ranked[query] = scores
        count += len(scores) if depth is None else min(depth, len(scores))
        if count >= pairs:
            yield Group(number, ranked, depth)
            number, count, ranked = number + 1, 0, {}
    if ranked:
        yield Group(number, ranked, depth)


def _is_grouped(path: PathLike) -> bool:
    try:
        for _ in stream_run(path):
            pass
    except UngroupedError:
        return False
    return True
