"""Ablations whose rate and number of steps follow the training step."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from cmp_rerank import HingeRegularized, LinearSchedule, ScheduledObjective, TrainingProgress
from cmp_rerank.ablations import (
    CmpCrop,
    CmpDrop,
    Example,
    FixedCounts,
    IndependentCopies,
    Plan,
    ScheduledAblation,
    alternate,
)
from cmp_rerank.testing import check_ablation

EXAMPLE = Example({"input_ids": np.arange(12)}, segment=np.array([-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1]), seed=3)
UP = LinearSchedule(0.0, 0.4)


def levels(plan: Plan, progress: TrainingProgress | None) -> list[tuple[float, ...]]:
    return [view.levels for view in plan.views(EXAMPLE, progress)]


def test_the_rate_of_every_level_is_that_of_an_ablation_with_that_rate() -> None:
    drop = CmpDrop(p=0.2, steps=3)
    plan = Plan([ScheduledAblation(drop, rate=UP)])
    for step in range(11):
        rate = 0.4 * step / 10
        found = [drop.rate(level) for (level,) in levels(plan, TrainingProgress(step, 10))]
        assert found == pytest.approx([1 - (1 - rate) ** k for k in range(4)], abs=1e-12)
    assert levels(plan, None) == levels(Plan([drop]), None) == [(0,), (1,), (2,), (3,)]


def test_at_rate_0_all_steps_are_the_full_model() -> None:
    plan = Plan([ScheduledAblation(CmpDrop(steps=2), rate=UP)])
    views = plan.views(EXAMPLE, TrainingProgress(0, 10))
    assert len(views) == 3
    assert all(view.same_as(views[0]) for view in views)
    later = plan.views(EXAMPLE, TrainingProgress(1, 10))
    assert not later[1].same_as(later[0])


def test_the_number_of_steps() -> None:
    count = LinearSchedule(0.0, 2.0, until=10)
    plan = Plan([ScheduledAblation(CmpDrop(steps=2), count=count)])
    found = [len(plan.views(EXAMPLE, TrainingProgress(step))) - 1 for step in range(12)]
    assert found == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2]  # round() of 0, 0.2, 0.4, ...
    assert len(plan) == 2
    beyond = Plan([ScheduledAblation(CmpDrop(steps=2), count=lambda progress: 5 - 9 * progress.step)])
    assert [len(beyond.views(EXAMPLE, TrainingProgress(step))) for step in (0, 1)] == [3, 1]


def test_the_mildest_steps_of_each_ablation_stay_in_their_order() -> None:
    crop, drop = CmpCrop(schedule=FixedCounts((3, 1))), CmpDrop(p=0.2)
    scheduled = ScheduledAblation(drop, count=LinearSchedule(0, 2, until=2))
    plan = Plan([*alternate(2, 0, crop=crop)[:1], *[scheduled], *alternate(2, 0, crop=crop)[:1], *[scheduled]])
    whole = plan.views(EXAMPLE)
    assert [(len(view), view.levels) for view in whole] == [(12, (0,)), (8, (0,)), (8, (1,)), (4, (1,)), (4, (2,))]
    for step, kept in ((0, [0, 1, 3]), (1, [0, 1, 2, 3]), (2, [0, 1, 2, 3, 4])):
        views = plan.views(EXAMPLE, TrainingProgress(step))
        assert [len(view) for view in views] == [len(whole[k]) for k in kept]
        assert [view.levels for view in views] == [(min(step, whole[k].levels[0]),) for k in kept]


def test_crops_by_number() -> None:
    plan = Plan(
        [ScheduledAblation(CmpCrop(schedule=FixedCounts((3, 1)), steps=2), count=LinearSchedule(1, 2, until=4))]
    )
    assert [len(view) for view in plan.views(EXAMPLE, TrainingProgress(0))] == [12, 8]
    assert [len(view) for view in plan.views(EXAMPLE, TrainingProgress(4))] == [12, 8, 4]
    assert plan.preparing is not None


def test_copies_with_another_rate_keep_their_own_choices() -> None:
    copies = IndependentCopies(CmpDrop(p=0.2), steps=2)
    plan = Plan([ScheduledAblation(copies, rate=UP, count=LinearSchedule(1, 2))])
    views = plan.views(EXAMPLE, TrainingProgress(8, 10))
    assert [view.copy for view in views] == [0, 1, 2]
    assert [CmpDrop(p=0.2).rate(view.level(0)) for view in views] == pytest.approx([0, 0.32, 0.32])
    inside = Plan([IndependentCopies(CmpDrop(p=0.2), steps=2)])
    assert [view.levels for view in inside.views(EXAMPLE, TrainingProgress(8, 10))] == [(0,), (1,), (1,)]


def test_it_conforms_and_its_settings_go_to_the_repr() -> None:
    scheduled = ScheduledAblation(CmpDrop(p=0.2), rate=LinearSchedule(0.0, 0.2))
    check_ablation(scheduled)
    assert repr(scheduled) == (
        "ScheduledAblation(ablation=CmpDrop(p=0.2), rate=LinearSchedule(start=0.0, end=0.2, until=1.0), count=None)"
    )
    assert Plan([scheduled, scheduled]) == Plan(
        [ScheduledAblation(CmpDrop(p=0.2, steps=2), rate=LinearSchedule(0.0, 0.2))]
    )


def lines(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(text))]


def test_functions_go_to_the_repr_by_their_names() -> None:
    """An address would differ from run to run, on the model card and elsewhere."""
    count = lambda progress: 1 + (progress.step >= 500)  # noqa: E731
    scheduled = ScheduledAblation(CmpDrop(p=0.2, steps=2), rate=UP, count=count)
    check_ablation(scheduled)
    name = "<function test_functions_go_to_the_repr_by_their_names.<locals>.<lambda>>"
    assert repr(scheduled) == f"ScheduledAblation(ablation=CmpDrop(p=0.2, steps=2), rate={UP!r}, count={name})"
    objective = ScheduledObjective(HingeRegularized(), {"weight": UP, "detached": count})
    assert repr(objective) == (
        f"ScheduledObjective(objective={HingeRegularized()!r}, schedules={{'weight': {UP!r}, 'detached': {name}}})"
    )
    crop = CmpCrop(segmenter=lines, support=lambda query, segments: [float(len(each)) for each in segments])
    check_ablation(crop)
    check_ablation(ScheduledAblation(crop, count=count))
    assert repr(crop) == f"CmpCrop(segmenter=<function lines>, support={name})"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ScheduledAblation(CmpDrop()), "There is nothing to change: give a schedule as rate or as count"),
        (lambda: ScheduledAblation(CmpDrop, rate=UP), "ablation must be an object; got the class CmpDrop"),  # type: ignore[arg-type]
        (lambda: ScheduledAblation("drop", rate=UP), "ablation must be one such as CmpDrop(); got 'drop'"),  # type: ignore[arg-type]
        (lambda: ScheduledAblation(CmpCrop(), rate=UP), "CmpCrop() has no rate that could change during training"),
        (lambda: ScheduledAblation(IndependentCopies(), rate=UP), "has no rate that could change during training"),
        (lambda: ScheduledAblation(CmpDrop(), rate=0.1), "The schedule of rate must be LinearSchedule(start, end)"),  # type: ignore[arg-type]
        (lambda: ScheduledAblation(CmpDrop(), count=2), "The schedule of count must be LinearSchedule(start, end)"),  # type: ignore[arg-type]
        (
            lambda: Plan([ScheduledAblation(CmpDrop(p=0.2), rate=UP), CmpDrop()]),
            "All CmpDrop steps of a plan must have the same settings",
        ),
        (
            lambda: levels(Plan([ScheduledAblation(CmpDrop(), rate=lambda p: 1.0)]), TrainingProgress(1)),
            "rate must be at least 0 and below 1; got 1.0",
        ),
        (
            lambda: levels(Plan([ScheduledAblation(CmpDrop(), rate=UP)]), TrainingProgress(1)),
            "needs the number of training steps; got none",
        ),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_crop_and_drop_may_both_be_scheduled() -> None:
    count = LinearSchedule(0, 1, until=4)
    plan = Plan(
        [
            ScheduledAblation(CmpCrop(), count=count),
            ScheduledAblation(CmpDrop(), rate=LinearSchedule(0, 0.1, until=4)),
        ]
    )
    assert len(plan.views(EXAMPLE, TrainingProgress(0))) == 2
    assert len(plan.views(EXAMPLE, TrainingProgress(4))) == 3
