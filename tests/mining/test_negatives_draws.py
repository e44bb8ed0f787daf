"""Draws from several sources, shares of a count, and documents at random."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.mining.negatives import Candidate, Draw, quotas, random_documents


@given(count=st.integers(1, 50), shares=st.lists(st.floats(0.01, 10), min_size=1, max_size=5))
def test_quotas_add_up_and_are_near_the_shares(count: int, shares: list[float]) -> None:
    found = quotas(count, shares)
    assert sum(found) == count
    for quota, share in zip(found, shares, strict=True):
        assert abs(quota - count * share / sum(shares)) < 1


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [(7, [2, 1, 1], [3, 2, 2]), (10, [1, 1, 1], [4, 3, 3]), (4, [0.6, 0.3, 0.1], [3, 1, 0]), (3, [1, 0], [3, 0])],
)
def test_the_largest_remainders_get_what_is_left(count: int, shares: list[float], expected: list[int]) -> None:
    assert quotas(count, shares) == expected


@pytest.mark.parametrize("taken", [0, 3, 9, 10])
def test_random_documents_are_all_that_are_free(taken: int) -> None:
    pool = [f"d{number}" for number in range(10)]
    out = set(pool[:taken])
    drawn = list(random_documents(pool, set(out), random.Random(0).random))
    assert len(drawn) == len(set(drawn)) == 10 - taken
    assert set(drawn) == set(pool) - out


def test_random_documents_are_equally_likely() -> None:
    pool = [f"d{number}" for number in range(8)]
    draw = random.Random(1).random
    places = dict.fromkeys(pool, 0)
    for _ in range(4000):
        for place, document in enumerate(random_documents(pool, {"d0"}, draw)):
            places[document] += place
    # The mean place of each of 7 is 3; its standard error here is 0.03.
    assert places.pop("d0") == 0
    assert all(abs(total / 4000 - 3) < 0.15 for total in places.values())


def test_a_large_pool_is_not_copied() -> None:
    class Ids(list[str]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise AssertionError("the pool is read whole")

    found = random_documents(Ids(f"d{number}" for number in range(1000)), {"d1"}, random.Random(0).random)
    assert len({next(found) for _ in range(50)}) == 50


def test_a_rejected_candidate_is_replaced_from_its_own_source_first() -> None:
    def stream(source: int, names: str) -> list[Candidate]:
        return [Candidate(name, source, 1.0) for name in names]

    first, second, chance = stream(0, "abc"), stream(1, "xyz"), stream(2, "12345")
    draw = Draw([iter(first), iter(second), iter(chance)], [1, 1, 1], fill=True)
    proposed = draw.propose()
    assert [candidate.document for candidate in proposed] == ["a", "x", "1"]
    draw.reject(proposed[1])
    assert [candidate.document for candidate in draw.propose()] == ["y"]
    for candidate in [*first, *second]:
        draw.reject(candidate)
    # 3 of the first and 3 of the second: these have b, c and z left, then random ones stand in.
    assert [candidate.document for candidate in draw.propose()] == ["b", "c", "z", "2", "3", "4"]
    draw.reject(chance[0])
    draw.reject(chance[0])
    assert [candidate.document for candidate in draw.propose()] == ["5"]
