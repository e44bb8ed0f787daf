"""Dividing the queries of a collection into splits, so that near-duplicates are on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cmp_rerank.collections.base import Collection, Split
from cmp_rerank.ir.arguments import check_number
from cmp_rerank.ir.as_texts import as_texts
from cmp_rerank.text.near_duplicates import near_duplicates

#: Queries with as many word pairs in common are near-duplicates; minhash misses one pair in a hundred at it.
THRESHOLD = 0.7


def check_shares(split: Any) -> dict[str, float]:
    """The share of each split that is held out.

    Args:
        split: A number is the share of "dev", and as much again of "test"; a mapping has a share for each name; None
            holds nothing out.

    Returns:
        Share by name.

    Raises:
        ValueError: A share is not between 0 and 1, or nothing would be left for "train".

    Example:
        >>> check_shares(0.2), check_shares({"dev": 0.1})
        ({'dev': 0.2, 'test': 0.2}, {'dev': 0.1})
    """
    if split is None:
        return {}
    shares = dict(split) if isinstance(split, Mapping) else {"dev": split, "test": split}
    for name, share in shares.items():
        check_number(f"the share of split {name!r}", share, 0, 1)
        if not isinstance(name, str) or name == "train":
            raise ValueError(f"shares are for splits other than 'train', which gets the rest; got {name!r}")
    if sum(shares.values()) >= 1:
        raise ValueError(f"the shares of splits must sum below 1, the rest is 'train'; got {shares!r}; lower them")
    return shares


def divide(
    queries: Mapping[str, str], shares: Mapping[str, float], *, seed: int = 0, threshold: float = THRESHOLD
) -> dict[str, list[str]]:
    """Divide queries into splits. Those that are nearly the same are in one split.

    Which queries are held out depends on the seed, the ids and the texts; not on their order.

    Args:
        queries: Text by query id.
        shares: Share of the queries by name of split; the rest is in "train". A split gets the nearest number that
            whole groups of near-duplicates allow, at least one query where its share is above 0.
        seed: Any integer.
        threshold: The least overlap of word pairs (Jaccard) of two near-duplicates, in (0, 1].

    Returns:
        Query ids by name of split, "train" first, in the order of ``queries``.

    Raises:
        ValueError: There are too few groups of queries for all the splits.

    Example:
        >>> queries = {f"q{i}": f"the {word} eats bamboo" for i, word in enumerate(["panda", "bear", "cat", "Cat"])}
        >>> divide(queries, {"test": 0.3}, threshold=0.9)
        {'train': ['q1', 'q2', 'q3'], 'test': ['q0']}
    """
    queries = as_texts("queries", queries)
    # By id, so that which texts are compared does not depend on the order.
    names = sorted(queries)
    groups = [
        [names[i] for i in group]
        for group in near_duplicates([queries[name] for name in names], threshold=threshold, size=2)
    ]
    grouped = {name for group in groups for name in group}
    groups += [[name] for name in names if name not in grouped]
    groups.sort(key=lambda group: hashlib.sha256(f"{seed}:{group[0]}".encode(errors="surrogatepass")).digest())
    wanted = {name: max(1, round(share * len(names))) for name, share in shares.items() if share > 0}
    if len(groups) <= len(wanted):
        raise ValueError(
            f"{len(wanted) + 1} splits need as many queries that are not nearly the same; got {len(groups)}; give "
            "more queries, or fewer splits"
        )
    owner: dict[str, str] = {}
    for place, (split, count) in enumerate(wanted.items()):
        # One group stays for each later split and for "train".
        taken = _fill(groups, count, at_most=len(groups) - (len(wanted) - place))
        owner.update({name: split for group in taken for name in group})
        groups = [group for group in groups if group[0] not in owner]
    return {split: [name for name in queries if owner.get(name, "train") == split] for split in ("train", *shares)}


def _fill(groups: list[list[str]], count: int, at_most: int) -> list[list[str]]:
    """Groups with ``count`` members together or a few less, in order; the smallest one where none is small enough."""
    taken: list[list[str]] = []
    for group in groups:
        if len(group) <= count and len(taken) < at_most:
            taken.append(group)
            count -= len(group)
    return taken or [min(groups, key=len)]


def divided(collection: Collection, split: float | Mapping[str, float], *, seed: int = 0) -> Collection:
    """The same collection, with all its judged queries divided anew.

    Args:
        collection: Any; what its splits were does not matter.
        split: As :func:`check_shares` takes it.
        seed: Any integer.

    Returns:
        A collection with the splits "train" and those of ``split``, of the same corpus and runs.

    Raises:
        ValueError: As :func:`divide`, and where queries of two splits contradict each other.

    Example:
        >>> from cmp_rerank.collections import Collection
        >>> words = ["panda", "bear", "cat", "bee", "mill"]
        >>> asked = {f"q{i}": f"who feeds the {word} of {i} {word}s" for i, word in enumerate(words)}
        >>> tiny = Collection("tiny", {"d": "a text"}, {"test": Split(asked, {query: {"d": 1} for query in asked})})
        >>> {name: len(part.queries(name)) for part in [divided(tiny, {"dev": 0.2})] for name in part.splits}
        {'train': 4, 'dev': 1}
    """
    shares = check_shares(split)
    parts = [collection.part(name) for name in collection.splits]
    queries = collection.queries()
    qrels: dict[str, dict[str, int]] = {}
    weights: dict[str, float] = {}
    support: dict[str, Mapping[str, Sequence[tuple[int, int]]]] = {}
    for part in parts:
        for query, grades in part.qrels.items():
            known = qrels.setdefault(query, {})
            for document, grade in grades.items():
                if known.setdefault(document, grade) != grade:
                    raise ValueError(
                        f"{collection.name}: a pair has one grade; got {known[document]} and {grade} in two splits, "
                        f"for query {query!r} and document {document!r}; correct one of them"
                    )
        weights.update(part.weights or {})
        support.update(part.support or {})
    members = divide({query: queries[query] for query in qrels}, shares, seed=seed)
    return collection.with_splits(
        {
            name: Split(
                {query: queries[query] for query in found},
                {query: qrels[query] for query in found},
                {query: weights.get(query, 1.0) for query in found} if weights else None,
                {query: support[query] for query in found if query in support} if support else None,
            )
            for name, found in members.items()
        }
    )
