"""CmpCrop and its schedules: which segments survive, for any number of them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.ablations import CmpCrop, FeedbackCounts, FixedCounts, Fractions, RandomCounts
from cmp_rerank.ablations.base import FIXED, PASSAGE, QUERY, TextPair
from cmp_rerank.text.segmenters import Paragraphs, Sentences, TokenWindows, WordWindows
from cmp_rerank.text.support import GivenSupport, LexicalSupport

STEPS = 3
SCHEDULES = [RandomCounts(), FixedCounts((4, 2, 0)), Fractions((0.8, 0.5, 0.0)), FeedbackCounts()]


@given(
    st.lists(st.integers(0, 30), unique=True, max_size=12).map(sorted),
    st.sets(st.integers(0, 30)),
    st.sampled_from(SCHEDULES),
    st.integers(0, 2**62),
)
def test_survivors_are_nested_in_order_and_keep_the_support(
    segments: list[int], support: set[int], schedule: Any, seed: int
) -> None:
    kept = CmpCrop(schedule=schedule).survivors(segments, support, STEPS, seed)
    assert len(kept) == STEPS
    for before, after in pairwise([segments, *kept]):
        assert set(after) <= set(before)
        assert after == sorted(after)
        assert support & set(segments) <= set(after)
        if segments and not isinstance(schedule, FeedbackCounts):
            assert after  # something is always left


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**62))
def test_the_training_rule_draws_distinct_counts_below_the_full_number(
    distractors: int, steps: int, seed: int
) -> None:
    counts = RandomCounts().counts(distractors, steps, 0, random.Random(seed))
    distinct = min(steps, distractors)
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == distinct
    assert max(counts) < distractors
    assert counts[distinct:] == [counts[distinct - 1]] * (steps - distinct)


def test_every_count_and_every_set_of_survivors_comes_up() -> None:
    crop = CmpCrop()
    one_step = [tuple(crop.survivors([0, 1, 2], {1}, 1, seed)[0]) for seed in range(300)]
    assert set(one_step) == {(1,), (0, 1), (1, 2)}
    # the count is uniform over 0 and 1
    assert 0.4 < sum(kept == (1,) for kept in one_step) / 300 < 0.6
    without = {tuple(crop.survivors([0, 1, 2], set(), 1, seed)[0]) for seed in range(300)}
    assert without == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}
    lol = {tuple(CmpCrop(schedule=FeedbackCounts()).survivors([0, 1], set(), 1, seed)[0]) for seed in range(300)}
    assert lol == {(), (0,), (1,), (0, 1)}


def test_fixed_counts_and_fractions() -> None:
    segments = list(range(10))
    fixed = CmpCrop(schedule=FixedCounts((20, 3, 0)))
    assert [len(kept) for kept in fixed.survivors(segments, {4}, 3, seed=1)] == [10, 4, 1]
    assert [len(kept) for kept in fixed.survivors(segments, set(), 3, seed=1)] == [10, 3, 1]
    shares = CmpCrop(schedule=Fractions((1 / 3, 0.1)))
    assert [len(kept) for kept in shares.survivors(segments, {4}, 2, seed=1)] == [4, 2]


def test_a_passage_of_one_segment_stays_whole() -> None:
    for support in ({0}, set()):
        assert CmpCrop().survivors([0], support, 2, seed=1) == [[0], [0]]
    assert CmpCrop().survivors([], {3}, 2, seed=1) == [[], []]


def test_the_same_seed_gives_the_same_survivors_and_another_gives_others() -> None:
    drawn = [CmpCrop().survivors(list(range(30)), {3}, 2, seed) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    "crop",
    [
        CmpCrop(),
        CmpCrop(steps=3, segmenter=WordWindows(20, stride=10), support=None, best=2, lost_support="move"),
        CmpCrop(segmenter=TokenWindows(32), schedule=FixedCounts((5, 1))),
        CmpCrop(segmenter=Paragraphs(), support=LexicalSupport(), schedule=Fractions((0.5, 0.25)), steps=2),
        CmpCrop(segmenter=Sentences("fr"), schedule=FeedbackCounts()),
    ],
)
def test_repr_builds_the_crop_again(crop: CmpCrop) -> None:
    assert eval(repr(crop)) == crop


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps": 0}, "steps must be a whole number, at least 1; got 0"),
        ({"best": 0}, "best must be a whole number, at least 1; got 0"),
        ({"segmenter": "sentences"}, "segmenter must be a callable"),
        ({"segmenter": Sentences}, "segmenter must be an object; got the class Sentences"),
        ({"support": LexicalSupport}, "support must be an object; got the class LexicalSupport"),
        ({"schedule": RandomCounts}, "schedule must be an object; got the class RandomCounts"),
        ({"support": "lexical"}, "support must be GivenSupport, a scorer or None"),
        ({"schedule": [3, 2]}, "schedule must be RandomCounts"),
        ({"lost_support": "keep"}, "one of \\('skip', 'move', 'ignore'\\); got 'keep'"),
    ],
)
def test_bad_options_are_refused_in_words(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CmpCrop(**kwargs)


@pytest.mark.parametrize("kept", [(), (2, 3), (-1,), (1.5,), 3, (True,)])
def test_counts_must_descend(kept: Any) -> None:
    with pytest.raises(ValueError, match="counts must be numbers of at least 0 in descending order"):
        FixedCounts(kept)


@pytest.mark.parametrize("kept", [(), (0.2, 0.3), (1.2,), (-0.1,)])
def test_fractions_must_descend(kept: Any) -> None:
    with pytest.raises(ValueError, match=r"fractions must be numbers between 0\.0 and 1\.0 in descending order"):
        Fractions(kept)


def test_supporting_segments_by_scorer_and_by_data() -> None:
    passage = "It rains. Pandas eat bamboo. They eat."
    spans = Sentences()(passage)
    window = (0, len(passage))
    assert CmpCrop().supporting("pandas eat", passage, spans, [0, 1, 2], window).kept == {1}
    assert CmpCrop(best=2).supporting("pandas eat", passage, spans, [0, 1, 2], window).kept == {1, 2}
    assert CmpCrop().supporting("pandas eat", passage, spans, [0, 2], window).kept == {2}
    assert CmpCrop(support=None).supporting("pandas eat", passage, spans, [0, 1, 2], window).kept == frozenset()
    given = CmpCrop(support=GivenSupport({("q", passage): [(10, 20), 2]}, fallback=lambda q, s: [1.0] * len(s)))
    found = given.supporting("q", passage, spans, [0, 1], (0, 20))
    assert (found.kept, found.lost) == ({1}, {1, 2})  # of segment 1 the end is cut off
    assert given.supporting("other", passage, spans, [0, 1], (0, 20)).kept == {0}


def test_a_scorer_reads_only_what_the_window_shows() -> None:
    passage = "It rains. Pandas eat bamboo. They eat."
    spans = Sentences()(passage)
    read: list[tuple[str, list[str]]] = []

    def spy(query: str, segments: Sequence[str]) -> list[float]:
        read.append((query, list(segments)))
        return [float("bamboo" in segment) for segment in segments]

    crop = CmpCrop(support=spy)
    assert crop.supporting("q", passage, spans, [0, 1, 2], (0, len(passage))).kept == {1}
    assert crop.supporting("q", passage, spans, [0, 1], (0, 20)).kept == {0}  # "bamboo" is behind the window
    assert crop.supporting("q", passage, spans, [1, 2], (17, 33)).kept == {1}
    assert crop.supporting("q", passage, spans, [1], (12, 16)).kept == {1}
    assert read == [
        ("q", ["It rains.", "Pandas eat bamboo.", "They eat."]),
        ("q", ["It rains.", "Pandas eat"]),
        ("q", ["eat bamboo.", "They"]),
        ("q", ["ndas"]),
    ]


class Words:
    """An own segmenter of tokens, which cannot be called: each token is a segment."""

    def of_tokens(self, offsets: np.ndarray) -> list[tuple[int, int]]:
        return [(int(start), int(end)) for start, end in offsets]


class LastSegment:
    """An own support rule, which needs no scores."""

    def segments(self, query: str, passage: str, spans: Sequence[tuple[int, int]]) -> set[int]:
        return {len(spans) - 1}


class Halves:
    """An own schedule: half of the distractors, a quarter, and so on."""

    def counts(self, distractors: int, steps: int, least: int, rng: random.Random) -> list[int]:
        return [max(distractors >> step, min(least, distractors)) for step in range(1, steps + 1)]


def test_own_segmenters_support_rules_and_schedules() -> None:
    passage = "It rains and pandas eat fresh bamboo ."
    offsets = np.array([word.span() for word in re.finditer(r"\S+", passage)])  # eight
    part = np.array([FIXED, QUERY, *[PASSAGE] * 8, FIXED])
    crop = CmpCrop(steps=3, segmenter=Words(), support=LastSegment(), schedule=Halves())
    crop.check(3)
    pair = TextPair("q", passage, True, part, offsets, (0, len(passage)), lambda: offsets)
    prepared = crop.prepare(pair)
    assert prepared.segment is not None
    assert prepared.segment.tolist() == [-1, -1, *range(8), -1]
    assert prepared.support == {7}
    kept = crop.survivors(list(range(8)), prepared.support, 3, seed=4)
    assert [len(segments) for segments in kept] == [4, 2, 1]
    assert kept[-1] == [7]
    without = crop.survivors(list(range(8)), (), 3, seed=4)
    assert [len(segments) for segments in without] == [4, 2, 1]


def test_a_schedule_that_grows_is_refused_by_its_name() -> None:
    class Growing:
        def counts(self, *_: Any) -> list[int]:
            return [1, 2]

        def __repr__(self) -> str:
            return "Growing()"

    with pytest.raises(ValueError, match=r"Growing\(\) returned \[1, 2\] for 3 distractors and 2 crops"):
        CmpCrop(schedule=Growing()).survivors([0, 1, 2, 3], {0}, 2, seed=1)
