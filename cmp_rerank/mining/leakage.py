"""Queries of the test split in training data: the same words, or nearly the same.

Test queries are often written twice, and splits made at random have each wording on both sides. A model that has seen
the answer in training is not tested by it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from cmp_rerank.ir.arguments import check_number
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.text.near_duplicates import shingles


class Leak(NamedTuple):
    """A training query that is in the test split, or nearly.

    Attributes:
        query: Id of the training query.
        test_query: The test query's text.
        similarity: Share of their word pairs that they have in common (Jaccard), from the threshold to 1.

    Example:
        >>> (leak,) = find_leaks({"7": "who eats all the bamboo"}, ["Who eats all the bamboo?"])
        >>> leak.query, leak.similarity
        ('7', 1.0)
    """

    query: str
    test_query: str
    similarity: float


def find_leaks(
    queries: Mapping[str, str], test_queries: Mapping[str, str] | Iterable[str], threshold: float = 0.6
) -> list[Leak]:
    """Find training queries that a test split has, too, in the same or nearly the same words.

    Two queries are near-duplicates where their sets of word pairs (runs of two words, case and punctuation aside)
    have a Jaccard similarity of ``threshold`` or more. Each such pair of queries is found: of a set of pairs in a
    fixed order, rare ones first, two sets that are so similar share one among their first few (Chaudhuri et al. 2006,
    Bayardo et al. 2007). So it takes no comparison of all with all. Of a query without a word, such as one of emoji,
    what stands between its spaces is taken for words.

    Args:
        queries: Training query id -> text.
        test_queries: The texts of the test split, or test query id -> text.
        threshold: The least similarity, in (0, 1]; 1 finds equal sets of word pairs only.

    Returns:
        One leak for each training query that has one, with its most similar test query, in the order of ``queries``.

    Raises:
        ValueError: The threshold is out of its range.

    Example:
        >>> train = {"1": "Who is the president of France?", "2": "who eats bamboo", "3": "what do pandas eat"}
        >>> find_leaks(train, ["who is president of france", "What do pandas eat?"], threshold=0.5)
        [Leak(query='1', test_query='who is president of france', similarity=0.5), Leak(query='3', ...)]
    """
    check_number("threshold", threshold, 0, 1)
    if threshold == 0:
        raise ValueError("threshold must be above 0, which every pair of queries reaches; got 0")
    queries, test_queries = as_texts("queries", queries), as_texts("queries", test_queries)
    texts = list(test_queries.values() if isinstance(test_queries, Mapping) else test_queries)
    sets = [_pairs(text) for text in texts]
    frequency = Counter(pair for pairs in sets for pair in pairs)
    index: dict[int, list[int]] = defaultdict(list)
    for number, pairs in enumerate(sets):
        for pair in _prefix(pairs, frequency, threshold):
            index[pair].append(number)
    return list(_found(queries, texts, sets, index, frequency, threshold))


def _found(
    queries: Mapping[str, str],
    texts: list[str],
    sets: list[frozenset[int]],
    index: Mapping[int, list[int]],
    frequency: Counter[int],
    threshold: float,
) -> Iterator[Leak]:
    for query, text in queries.items():
        pairs = _pairs(text)
        candidates = {number for pair in _prefix(pairs, frequency, threshold) for number in index.get(pair, ())}
        similar = [(len(pairs & sets[n]) / len(pairs | sets[n]), -n) for n in candidates]
        if similar and max(similar)[0] >= threshold:
            similarity, place = max(similar)
            yield Leak(query, texts[-place], similarity)


def _pairs(text: str) -> frozenset[int]:
    """Hashes of the pairs of neighbouring words; of the word itself where there is only one."""
    return frozenset(shingles(text, 2).tolist())


def _prefix(pairs: frozenset[int], frequency: Counter[int], threshold: float) -> list[int]:
    """The first pairs, rare ones first: all but ceil(threshold * n) - 1 of n.

    Two sets with a Jaccard similarity of t or more have t * n or more members of each in common. Were none of these
    among the first of both, at least one set had fewer than that left.
    """
    ordered = sorted(pairs, key=lambda pair: (frequency[pair], pair))
    # A little less, so that rounding never leaves a pair out.
    return ordered[: len(ordered) - math.ceil(threshold * len(ordered) - 1e-9) + 1]
