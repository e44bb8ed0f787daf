"""The limits of scores: what lies exactly on one, and on which side it counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.mining.filters import ScoreFilter


@pytest.mark.parametrize(
    ("options", "kept", "refused"),
    [
        ({"min_score": 2.0}, [2.0, 3.0], [1.75]),
        ({"max_score": 2.0}, [2.0, -1.0], [2.25]),
        ({"absolute_margin": 1.5}, [6.5, 0.0], [6.75, 8.0, 9.0]),  # below 8, the lowest positive
        ({"absolute_margin": 0.0}, [8.0], [8.25]),
        ({"relative_margin": 0.25}, [6.0, 5.0], [6.25, 8.0]),
        ({"relative_margin": 0.0}, [8.0], [8.25]),
        ({"absolute_margin": 1.0, "relative_margin": 0.5}, [4.0], [4.25, 7.0]),
        ({"absolute_margin": 4.5, "relative_margin": 0.25}, [3.5], [3.75, 6.0]),
        ({"min_score": 2.0, "max_score": 4.0, "absolute_margin": 5.0}, [2.0, 3.0], [1.0, 3.5]),
    ],
)
def test_a_score_on_a_limit_is_kept(options: dict[str, float], kept: list[float], refused: list[float]) -> None:
    limits = ScoreFilter(**options)
    assert limits.active
    assert [score for score in [*kept, *refused] if limits.keeps(score, [10.0, 8.0])] == kept


def test_a_relative_margin_of_a_negative_score_is_below_it_too() -> None:
    limits = ScoreFilter(relative_margin=0.25)
    assert limits.keeps(-10.0, [-8.0])
    assert not limits.keeps(-9.0, [-8.0])
    assert limits.keeps(0.0, [0.0])


def test_without_limits_and_without_positives() -> None:
    assert not ScoreFilter().active
    assert not ScoreFilter(max_score=1.0).needs_positives
    assert ScoreFilter(relative_margin=0.1).needs_positives
    assert ScoreFilter(absolute_margin=1.0).keeps(100.0, [])


@given(
    score=st.floats(-10, 10),
    positives=st.lists(st.floats(-10, 10), min_size=1),
    margin=st.floats(0, 5),
    more=st.floats(0, 5),
)
def test_a_wider_margin_and_more_positives_never_keep_more(
    score: float, positives: list[float], margin: float, more: float
) -> None:
    if ScoreFilter(absolute_margin=margin + more).keeps(score, positives):
        assert ScoreFilter(absolute_margin=margin).keeps(score, positives)
        assert ScoreFilter(absolute_margin=margin).keeps(score, positives[:1])
