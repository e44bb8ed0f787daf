"""Schedules: how many distractors each crop keeps, by those of the package and by any object of the same shape."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.ablations.schedules import (
    FeedbackCounts,
    FixedCounts,
    Fractions,
    RandomCounts,
    check_schedule,
    checked_counts,
)

RNG = random.Random(0)
SCHEDULES = [RandomCounts(), FixedCounts((4, 2, 0)), Fractions((0.8, 0.5, 0.0)), FeedbackCounts()]


@given(st.integers(1, 100), st.integers(0, 400))
def test_a_fraction_is_rounded_up_as_if_numbers_were_exact(percent: int, distractors: int) -> None:
    (kept,) = Fractions((percent / 100,)).counts(distractors, 1, 0, RNG)
    assert kept == math.ceil(Fraction(percent, 100) * distractors)


def test_a_product_that_floating_point_makes_too_large_is_not_rounded_up() -> None:
    assert 0.07 * 100 > 7  # otherwise this shows nothing
    assert Fractions((0.55, 0.07)).counts(100, 2, 0, RNG) == [55, 7]
    assert Fractions((0.07,)).counts(101, 1, 0, RNG) == [8]


@pytest.mark.parametrize("schedule", [Fractions((0.5, 0.0)), FixedCounts((2, 0)), RandomCounts()])
def test_a_passage_without_support_keeps_a_segment(schedule: Any) -> None:
    assert schedule.counts(1, 2, 1, random.Random(3)) == [1, 1]
    assert schedule.counts(4, 2, 1, random.Random(3))[1] >= 1
    # no more than there are
    assert schedule.counts(0, 2, 1, random.Random(3)) == [0, 0]


def test_with_support_no_distractor_need_stay() -> None:
    assert Fractions((0.5, 0.0)).counts(4, 2, 0, RNG) == [2, 0]
    assert FixedCounts((2, 0)).counts(4, 2, 0, RNG) == [2, 0]


@given(st.sampled_from(SCHEDULES), st.integers(0, 30), st.integers(0, 1), st.integers(0, 2**62))
def test_those_of_the_package_keep_to_the_rules(schedule: Any, distractors: int, least: int, seed: int) -> None:
    check_schedule(schedule, steps=3)
    counts = checked_counts(schedule, distractors, 3, least, random.Random(seed))
    assert counts == schedule.counts(distractors, 3, least, random.Random(seed))
    if not isinstance(schedule, FeedbackCounts):
        assert min(counts) >= min(least, distractors)


class Returns:
    """An own schedule: it shares no class with those of the package."""

    def __init__(self, counts: Any) -> None:
        self.returned = counts

    def __repr__(self) -> str:
        return "Returns(...)"

    def counts(self, distractors: int, steps: int, least: int, rng: random.Random) -> Any:
        return self.returned


def test_any_object_with_counts_is_a_schedule() -> None:
    check_schedule(Returns([3, 1]), steps=2)  # its own check is optional
    assert checked_counts(Returns([3, 3]), 3, 2, 0, RNG) == [3, 3]
    counts = checked_counts(Returns(np.array([2, 0])), 3, 2, 0, RNG)
    assert counts == [2, 0]
    assert all(type(count) is int for count in counts)
    assert checked_counts(Returns(iter([2, 0])), 3, 2, 0, RNG) == [2, 0]


def test_what_a_schedule_is_asked() -> None:
    asked = []

    class Spy:
        def counts(self, *arguments: Any) -> list[int]:
            asked.append(arguments)
            return [0]

    checked_counts(Spy(), 5, 1, 1, RNG)
    assert asked == [(5, 1, 1, RNG)]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([2], "It must return one count for each crop"),
        ([2, 1, 0], "It must return one count for each crop"),
        ([1, 2], "No count may be above the one before it"),
        ([4, 2], "Every count must lie between 0 and the number of distractors"),
        ([2, -1], "Every count must lie between 0 and the number of distractors"),
        ([2, 1.0], "Its method counts must return a list of whole numbers"),
        ([True, False], "Its method counts must return a list of whole numbers"),
        (["2", "1"], "Its method counts must return a list of whole numbers"),
        (None, "Its method counts must return a list of whole numbers"),
        (2, "Its method counts must return a list of whole numbers"),
    ],
)
def test_wrong_counts_are_refused_by_the_name_of_the_schedule(returned: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        checked_counts(Returns(returned), 3, 2, 0, RNG)
    assert str(caught.value).startswith(f"Returns(...) returned {returned!r} for 3 distractors and 2 crops")


@pytest.mark.parametrize("name", ["RandomCounts", "FixedCounts", "Fractions", "FeedbackCounts"])
def test_a_class_is_no_schedule(name: str) -> None:
    schedule = globals()[name]
    with pytest.raises(ValueError, match=rf"got the class {name}. Pass {name}\(\.\.\.\) instead"):
        check_schedule(schedule)


@pytest.mark.parametrize("schedule", [[3, 2], None, "random", lambda distractors: [1]])
def test_an_object_without_counts_is_no_schedule(schedule: Any) -> None:
    with pytest.raises(ValueError, match=r"schedule must be RandomCounts\(\) .* got .*For fixed counts pass Fixed"):
        check_schedule(schedule)


@pytest.mark.parametrize("schedule", [FixedCounts((3, 1)), Fractions((0.5, 0.2))])
def test_values_for_another_number_of_crops_are_refused(schedule: Any) -> None:
    check_schedule(schedule)
    check_schedule(schedule, steps=2)
    for steps in (1, 3):
        with pytest.raises(ValueError, match=f"is for 2 crops, but the plan has {steps}. Give one value for each"):
            check_schedule(schedule, steps)
