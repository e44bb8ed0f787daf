"""The ranking rule, against a loop that is obviously trec_eval's and against trec_eval's code itself."""

from __future__ import annotations

import math
from functools import cmp_to_key

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.ir import rank, rank_rows

# Few values and short ids, so that ties are common; "é" and an emoji since ids are compared as UTF-8 bytes.
SCORES = st.dictionaries(
    st.text("ab1é\U0001f600", min_size=1, max_size=3),
    st.sampled_from([-2.0, -0.0, 0.0, 1.0, 1.0 + 1e-9, 1e300, 2e300, math.inf, -math.inf]),
    max_size=8,
)


def by_insertion(scores: dict[str, float], precision: str) -> list[str]:
    """The rule as a comparison of two documents, on UTF-8 bytes as strcmp has them."""

    def compare(a: str, b: str) -> int:
        x, y = scores[a], scores[b]
        if precision == "single":
            with np.errstate(over="ignore"):
                x, y = np.float32(x), np.float32(y)
        if x != y:
            return -1 if x > y else 1
        return -1 if a.encode() > b.encode() else 1

    ranking: list[str] = []
    for doc in scores:
        place = next((i for i, other in enumerate(ranking) if compare(doc, other) < 0), len(ranking))
        ranking.insert(place, doc)
    return sorted(ranking, key=cmp_to_key(compare))


@given(SCORES, st.sampled_from(["double", "single"]))
def test_rank_is_trec_evals_rule(scores: dict[str, float], precision: str) -> None:
    assert [doc for doc, _ in rank(scores, precision=precision)] == by_insertion(scores, precision)


@given(st.lists(SCORES, max_size=5), st.sampled_from(["double", "single"]))
def test_rank_rows_is_rank(queries: list[dict[str, float]], precision: str) -> None:
    docs = [doc for scores in queries for doc in scores]
    values = np.array([score for scores in queries for score in scores.values()], dtype=np.float64)
    query = np.repeat(np.arange(len(queries)), [len(scores) for scores in queries])
    order, tied = rank_rows(query, values, docs.__getitem__, precision)
    expected = [rank(scores, precision=precision) for scores in queries]
    assert [docs[row] for row in order] == [doc for ranking in expected for doc, _ in ranking]
    dtype = {"double": np.float64, "single": np.float32}[precision]
    with np.errstate(over="ignore"):
        ties = [
            i + 1 < len(ranking) and dtype(ranking[i][1]) == dtype(ranking[i + 1][1])
            for ranking in expected
            for i in range(len(ranking))
        ]
    assert tied.tolist() == ties


@given(SCORES, st.randoms())
def test_order_of_input_means_nothing(scores: dict[str, float], random: object) -> None:
    items = list(scores.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert rank(dict(items)) == rank(scores)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(-3, 3), min_size=2))
def test_single_precision_is_the_order_that_pytrec_eval_sees(scores: dict[str, int]) -> None:
    close = {doc: 1.0 + score * 2e-8 for doc, score in scores.items()}  # many of these are one 32-bit number
    for place, (doc, _) in enumerate(rank(close, precision="single"), 1):
        theirs = pytrec_eval.RelevanceEvaluator({"q": {doc: 1}}, {"recip_rank"}).evaluate({"q": close})
        assert theirs["q"]["recip_rank"] == 1 / place


def test_precision_changes_only_what_32_bits_cannot_tell_apart() -> None:
    scores = {"a": 1.0 + 1e-9, "b": 1.0, "c": 1.0 + 1e-3}
    assert [doc for doc, _ in rank(scores)] == ["c", "a", "b"]
    assert rank(scores, precision="single") == [("c", 1.0 + 1e-3), ("b", 1.0), ("a", 1.0 + 1e-9)]


def test_given_order_is_kept() -> None:
    assert rank({"a": 0.0, "c": 5.0, "b": 1.0}, rank_order="given") == [("a", 0.0), ("c", 5.0), ("b", 1.0)]


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="'b' is NaN"):
        rank({"a": 1.0, "b": math.nan})
    with pytest.raises(ValueError, match="rank_order must be one of 'score', 'given'; got 'scores'"):
        rank({}, rank_order="scores")
    with pytest.raises(ValueError, match="precision must be one of"):
        rank({}, precision="half")
