"""Negatives for training: documents that are not judged relevant, from a band of ranks or at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from cmp_rerank.ir.arguments import check_count, check_id, check_run, kind
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.ir.files import Qrels, Run
from cmp_rerank.ir.mappings import Texts
from cmp_rerank.ir.ranking import rank
from cmp_rerank.mining.options import check_ranks


class Candidate(NamedTuple):
    """A document that may become a negative.

    Attributes:
        document: Its id.
        source: The number of its stream: that of its run, or the number after the last run for a random document.
        score: Its score in that run; None for a random document.
    """

    document: str
    source: int
    score: float | None


def sample_negatives(
    qrels: Qrels,
    documents: Sequence[str] | Mapping[str, str],
    count: int,
    run: Run | None = None,
    ranks: tuple[int, int] = (1, 100),
    seed: int = 0,
) -> dict[str, list[str]]:
    """Draw documents that are not judged relevant, for every query of ``qrels``.

    With a run they are drawn from a band of its ranks (hard negatives), without one from all documents (random
    ones). The relevant documents do not count when ranks are counted. A band with too few documents is filled
    up with random ones. What a query gets depends on the seed and on its id only, not on the other queries.

    Args:
        qrels: relevance by document id, by query id; grades above 0 are relevant.
        documents: ids of the documents to draw random ones from, or their texts by id.
        count: negatives for each query; at least 1.
        run: the first stage's run, for hard negatives.
        ranks: first and last rank of the band, counted from 1, both included.
        seed: any integer.

    Returns:
        ``count`` distinct document ids by query id.

    Raises:
        ValueError: an argument is out of its range, an id is not a string, or there are too few documents.

    Example:
        >>> run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
        >>> sample_negatives({"q": {"b": 1}}, ["a", "b", "c", "d"], 1, run, ranks=(2, 2))
        {'q': ['c']}
    """
    band = check_ranks(ranks)
    check_count("count", count)
    check_run("qrels", qrels)
    if run is not None:
        check_run("run", run)
    if isinstance(documents, str):
        raise ValueError(f"documents must be a list of ids, or texts by id; got {kind(documents)}; write [id, ...]")
    pool = ids_of(as_texts("documents", documents))
    negatives: dict[str, list[str]] = {}
    for query, judged in qrels.items():
        draw = generator(seed, query)
        relevant = {document for document, grade in judged.items() if grade > 0}
        found = run.get(query, {}) if run is not None else {}
        ranked = (document for document, _ in rank(found) if document not in relevant)
        chosen = list(islice(band_order(ranked, band, draw), count))
        chosen += islice(random_documents(pool, relevant | set(chosen), draw), count - len(chosen))
        if len(chosen) < count:
            raise ValueError(
                f"query {query!r} needs {count} negatives; got {len(set(pool) - relevant)} documents that are not "
                "relevant; give more documents, or lower count"
            )
        negatives[query] = chosen
    return negatives


def ids_of(documents: Sequence[str] | Mapping[str, str]) -> Sequence[str]:
    """The ids to draw random documents from; those of a store of texts stay on disk.

    Raises:
        ValueError: An id is not a string.
    """
    if isinstance(documents, Texts):
        return documents.ids
    pool = list(documents)
    for document in pool:
        check_id("documents", "document", document)
    return pool


def generator(seed: int, query: str) -> Callable[[], float]:
    """The random numbers of one query, whatever the other queries are."""
    # Of Python's generators, only random() promises the same numbers in every version.
    return random.Random(f"{seed} {query}").random


def band_order(ranked: Iterable[str], band: tuple[int, int], draw: Callable[[], float] | None) -> Iterator[str]:
    """The documents at these ranks, shuffled by ``draw``; None: in their order.

    Example:
        >>> list(band_order("abcd", (2, 3), None))
        ['b', 'c']
    """
    inside = list(islice(ranked, band[0] - 1, band[1]))
    if draw is None:
        return iter(inside)
    return (document for _, document in sorted([(draw(), document) for document in inside]))


def random_documents(pool: Sequence[str], taken: set[str], draw: Callable[[], float]) -> Iterator[str]:
    """Distinct documents of ``pool`` that are not in ``taken``, in random order, until there is none left.

    Nothing is copied while most documents are free, so that a pool of millions costs nothing.

    Args:
        pool: The ids.
        taken: Ids to leave out; what is drawn is added.
        draw: Gives numbers from 0 to below 1.
    """
    while 2 * len(taken) < len(pool):
        document = pool[int(draw() * len(pool))]
        if document not in taken:
            taken.add(document)
            yield document
    for _, document in sorted([(draw(), document) for document in dict.fromkeys(pool) if document not in taken]):
        if document not in taken:
            taken.add(document)
            yield document


class Draw:
    """The candidates of one query, from several sources that stand in for each other.

    Args:
        streams: Candidates of each run, then the random ones; each is read only as far as it is needed.
        quotas: How many each of them should give.
        fill: Whether random candidates stand in where the runs have no more.

    Example:
        >>> first, second = ([Candidate(d, i, 1.0) for d in band] for i, band in enumerate(["ab", "bcd"]))
        >>> draw = Draw([iter(first), iter(second), iter(())], [1, 2, 0], fill=False)
        >>> [candidate.document for candidate in draw.propose()]
        ['a', 'b', 'c']
        >>> draw.reject(first[0])
        >>> [candidate.document for candidate in draw.propose()]  # 'b' is taken: the second run stands in
        ['d']
        >>> draw.propose()
        []
    """

    def __init__(self, streams: Sequence[Iterator[Candidate]], quotas: Sequence[int], fill: bool) -> None:
        self._streams = streams
        self._missing = list(quotas)
        self._seen: set[str] = set()
        last = len(streams) - 1
        self._substitutes = range(last + 1) if fill else range(last)

    def propose(self) -> list[Candidate]:
        """As many further candidates as negatives are missing; fewer where there are no more."""
        found: list[Candidate] = []
        lack = 0
        for source, wanted in enumerate(self._missing):
            drawn = self._take(source, wanted)
            found += drawn
            lack += wanted - len(drawn)
        for source in self._substitutes:
            drawn = self._take(source, lack)
            found += drawn
            lack -= len(drawn)
        self._missing = [0] * len(self._streams)
        return found

    def reject(self, candidate: Candidate) -> None:
        """Ask the candidate's source for another one."""
        self._missing[candidate.source] += 1

    def _take(self, source: int, count: int) -> list[Candidate]:
        drawn: list[Candidate] = []
        while len(drawn) < count:
            candidate = next(self._streams[source], None)
            if candidate is None:
                break
            if candidate.document not in self._seen:
                self._seen.add(candidate.document)
                drawn.append(candidate)
        return drawn


def quotas(count: int, shares: Sequence[float]) -> list[int]:
    """Split a count by shares: whole numbers that add up to it, none off by 1 or more.

    Example:
        >>> quotas(7, [2, 1, 1])
        [3, 2, 2]
        >>> quotas(3, [1, 0])
        [3, 0]
    """
    total = sum(shares)
    exact = [count * share / total for share in shares]
    whole = [int(value) for value in exact]
    # The largest remainders get what is left over; of equal ones the first.
    by_remainder = sorted(range(len(shares)), key=lambda i: (whole[i] - exact[i], i))
    for place in by_remainder[: count - sum(whole)]:
        whole[place] += 1
    return whole
