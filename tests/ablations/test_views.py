"""Plans and views: nested selections of tokens, the same rule as a slow loop over sets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.ablations import (  # noqa: F401, what a repr may name
    CmpCrop,
    CmpDrop,
    Example,
    FeedbackCounts,
    FixedCounts,
    Fractions,
    Plan,
    RandomCounts,
    alternate,
)
from cmp_rerank.text.segmenters import WordWindows

token = st.tuples(st.integers(-1, 6), st.integers(0, 2))
plans = st.sampled_from(
    [
        Plan([CmpCrop()]),
        Plan([CmpCrop(steps=2), CmpDrop(steps=2)]),
        Plan([CmpDrop(), CmpCrop(), CmpDrop(), CmpCrop()]),
        Plan(alternate(crops=3, drops=1)),
        Plan([CmpDrop(steps=3)]),
    ]
)


@st.composite
def examples(draw: Any) -> Example:
    tokens = draw(st.lists(token, min_size=1, max_size=20))
    segment = np.array([first for first, _ in tokens])
    until = np.where(segment < 0, -1, segment + np.array([more for _, more in tokens]))
    support = draw(st.frozensets(st.integers(0, 8)))
    return Example({}, segment, support, draw(st.integers(0, 2**62)), until=until, croppable=draw(st.booleans()))


@given(examples(), plans)
def test_views_are_nested_and_keep_what_no_crop_may_take(example: Example, plan: Plan) -> None:
    views = plan.views(example)
    assert len(views) == 1 + len(plan)
    assert views[0].tokens.tolist() == list(range(len(example)))
    assert views[0].level(0) == 0
    spread = [set(range(a, b + 1)) for a, b in zip(example.segment, example.until, strict=True)]  # type: ignore[arg-type]
    for before, after in pairwise(views):
        assert set(after.tokens) <= set(before.tokens)
        assert after.tokens.tolist() == sorted(set(after.tokens))
        assert before.level(0) <= after.level(0) <= before.level(0) + 1
    for view in views:
        kept = set(view.tokens.tolist())
        assert {i for i, first in enumerate(example.segment) if first < 0} <= kept
        assert {i for i, of in enumerate(spread) if of & example.support and example.segment[i] >= 0} <= kept
    for step, view, before in zip(plan.steps, views[1:], views, strict=False):
        if isinstance(step, CmpDrop) or not example.croppable:
            assert view.tokens.tolist() == before.tokens.tolist()
        assert (view.level(0) > before.level(0)) == isinstance(step, CmpDrop)


@given(examples(), st.sets(st.integers(0, 9)))
def test_keeping_segments_against_a_slow_loop(example: Example, segments: set[int]) -> None:
    assert example.until is not None
    expected = [
        i
        for i, (first, last) in enumerate(zip(example.segment, example.until, strict=True))
        if first < 0 or any(first <= segment <= last for segment in segments)
    ]
    assert example.keeping(sorted(segments)).tolist() == expected
    inside = [range(a, b + 1) for a, b in zip(example.segment, example.until, strict=True) if a >= 0]
    assert example.segments() == sorted({segment for of in inside for segment in of})


def test_effects_accumulate_in_the_given_order() -> None:
    example = Example({}, segment=np.array([-1, 0, 0, 1, 1, 2, -1]), support=frozenset({1}), seed=4)
    views = Plan([CmpDrop(), CmpCrop(), CmpDrop(), CmpCrop()]).views(example)
    assert [view.level(0) for view in views] == [0, 1, 1, 2, 2]
    assert [len(view) for view in views][:2] == [7, 7]
    assert len(views[2]) == len(views[3]) > len(views[4]) == 4  # the special tokens and the support
    assert views[4].tokens.tolist() == [0, 3, 4, 6]


def test_identical_views_are_told_apart_from_different_ones() -> None:
    example = Example({}, segment=np.array([-1, 0, 0]), seed=4)  # one segment: a crop takes nothing
    full, cropped, dropped = Plan([CmpCrop(), CmpDrop()]).views(example)
    assert cropped.same_as(full)
    assert not dropped.same_as(cropped)


def test_repr_builds_the_plan_again() -> None:
    for plan in (
        Plan(
            alternate(crops=2, drops=3, crop=CmpCrop(segmenter=WordWindows(9)), drop=CmpDrop(p=0.2, layers="top:2"))
        ),
        Plan([CmpCrop(steps=2, schedule=FixedCounts((4, 1))), CmpDrop(layers=[0, 2])]),
        Plan([CmpCrop(schedule=Fractions((0.5,)), support=None)]),
        Plan([CmpCrop(schedule=FeedbackCounts(), lost_support="move")]),
        Plan([]),
    ):
        assert eval(repr(plan)) == plan
        assert hash(eval(repr(plan))) == hash(plan)
    assert Plan([CmpCrop(steps=2)]) == Plan([CmpCrop(), CmpCrop()])
    assert Plan([CmpCrop(), CmpDrop()]) != Plan([CmpDrop(), CmpCrop()])
    assert Plan([CmpCrop()]) != Plan([CmpCrop(best=2)])


def test_alternate() -> None:
    assert alternate() == [CmpCrop(), CmpDrop()]
    assert alternate(crops=1, drops=3) == [CmpCrop(), CmpDrop(), CmpDrop(), CmpDrop()]
    assert alternate(crops=0, drops=2, drop=CmpDrop(p=0.3, steps=5)) == [CmpDrop(p=0.3)] * 2
    for crops, drops in ((-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="crops and drops must be whole numbers, at least 0 and not both 0"):
            alternate(crops, drops)


@pytest.mark.parametrize(
    ("ablations", "message"),
    [
        (["crop"], "must be Ablation objects such as CmpDrop\\(\\); got 'crop'"),
        ([CmpCrop(), CmpCrop(best=2)], "must have the same settings"),
        ([CmpDrop(p=0.1), CmpDrop(p=0.2)], "must have the same settings"),
        ([CmpCrop(steps=2, schedule=FixedCounts((4,)))], "is for 1 crops, but the plan has 2"),
        ([CmpCrop(schedule=Fractions((0.5, 0.2)))], "is for 2 crops, but the plan has 1"),
    ],
)
def test_bad_plans_are_refused_in_words(ablations: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(ablations)
