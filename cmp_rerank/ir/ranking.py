"""The one ranking rule: score descending, ties by document id descending, as trec_eval does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cmp_rerank.text.suggest import did_you_mean

PRECISIONS = {"double": np.float64, "single": np.float32}
RANK_ORDERS = ("score", "given")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError with the value and the choices when an option is not one of its choices."""
    if value not in choices:
        meant = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}{meant}")


def rank(
    scores: Mapping[str, float], *, precision: str = "double", rank_order: str = "score"
) -> list[tuple[str, float]]:
    """Rank the documents of one query.

    The rule is trec_eval's: score descending, ties by document id descending, where ids are compared as
    strings (by code point, which is the byte order of UTF-8). Every measure, every file that is written and
    every report of this package ranks with it.

    Args:
        scores: Document id -> score. ``inf`` and ``-inf`` are ordinary scores here; NaN has no rank.
        precision: "double" compares scores as they are, which is what trec_eval 10 does; "single" rounds them
            to 32 bits first, which is what trec_eval 9 and pytrec_eval do, so that scores that differ only
            after about 7 digits are tied. The scores that are returned are never rounded.
        rank_order: "score" applies the rule; "given" keeps the order of the mapping.

    Returns:
        (document id, score) pairs, best first.

    Raises:
        ValueError: A score is NaN, an id is not a string, or an option is unknown.

    Example:
        >>> rank({"d1": 0.5, "d2": 2.0, "d3": 0.5})
        [('d2', 2.0), ('d3', 0.5), ('d1', 0.5)]
        >>> rank({"a": 1.00000001, "b": 1.0})
        [('a', 1.00000001), ('b', 1.0)]
        >>> rank({"a": 1.00000001, "b": 1.0}, precision="single")
        [('b', 1.0), ('a', 1.00000001)]
    """
    check_choice("precision", precision, tuple(PRECISIONS))
    check_choice("rank_order", rank_order, RANK_ORDERS)
    pairs = [(doc, float(score)) for doc, score in scores.items()]
    for doc, score in pairs:
        if not isinstance(doc, str):
            raise ValueError(f"document ids are strings; got {doc!r}; convert ids everywhere: str(id)")
        if math.isnan(score):
            raise ValueError(f"the score of document {doc!r} is NaN; a ranking needs numbers")
    if rank_order == "given":
        return pairs
    if precision == "single":
        with np.errstate(over="ignore"):
            return sorted(pairs, key=lambda pair: (np.float32(pair[1]), pair[0]), reverse=True)
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]), reverse=True)


def rank_rows(
    query: np.ndarray, scores: np.ndarray, doc_of: Callable[[int], str], precision: str = "double"
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the rows of many queries at once, by the same rule as :func:`rank`.

    Args:
        query: (rows,) Number of the query of each row; rows of one query are adjacent, ascending.
        scores: (rows,) Scores without NaN.
        doc_of: Gives the document id of a row; called for tied rows only.
        precision: As in :func:`rank`.

    Returns:
        order: (rows,) Row numbers, query after query, best first.
        tied: (rows,) In ranked order, whether the score is the same as that of the next row of the query.

    Example:
        >>> scores = np.array([0.5, 2.0, 0.5, 1.0])
        >>> order, tied = rank_rows(np.array([0, 0, 0, 1]), scores, "abcd".__getitem__)
        >>> order.tolist(), tied.tolist()
        ([1, 2, 0, 3], [False, True, False, False])
    """
    check_choice("precision", precision, tuple(PRECISIONS))
    with np.errstate(over="ignore"):
        scores = scores.astype(PRECISIONS[precision], copy=False)
    rows = len(scores)
    tied = np.zeros(rows, dtype=bool)
    if rows < 2:
        return np.arange(rows), tied
    same_query = query[1:] == query[:-1]
    # A run file is nearly always sorted already, and looking costs far less than sorting.
    if np.any(same_query & (scores[1:] > scores[:-1])):
        order = np.lexsort((-scores, query))
        ranked = scores[order]
    else:
        order, ranked = np.arange(rows), scores
    tied[:-1] = same_query & (ranked[1:] == ranked[:-1])
    edges = np.flatnonzero(np.diff(np.concatenate(([False], tied, [False])).astype(np.int8)))
    for start, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        group = order[start : last + 1].tolist()
        order[start : last + 1] = sorted(group, key=doc_of, reverse=True)
    return order, tied


def best_documents(scores: np.ndarray, rows: np.ndarray, ids: Sequence[str], depth: int) -> dict[str, float]:
    """The ``depth`` best documents; ties across the cut are decided by id, too.

    Args:
        scores: (n,) Scores without NaN.
        rows: (n,) The row of each score in ``ids``.
        ids: Document ids by row; only those of the best documents are looked up, and of those tied with the last.
        depth: At most how many.

    Returns:
        Score by document id, best first.

    Example:
        >>> best_documents(np.array([0.5, 2.0, 0.5]), np.array([7, 3, 5]), "abcdefgh", 2)
        {'d': 2.0, 'h': 0.5}
    """
    if len(scores) > depth:
        kept = scores >= np.partition(scores, len(scores) - depth)[len(scores) - depth]
        scores, rows = scores[kept], rows[kept]
    found = [(score, ids[row]) for score, row in zip(scores.tolist(), rows.tolist(), strict=True)]
    return {document: score for score, document in sorted(found, reverse=True)[:depth]}
