"""Segments: spans of the original text, in order, whatever the text."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TEXTS

from cmp_rerank.text.segmenters import (
    GivenSegments,
    Paragraphs,
    Segmenter,
    Sentences,
    TokenWindows,
    WordWindows,
    check_segments,
    windows,
)

texts = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="ab .!?\n\r。\"'()é熊😀ا؟ \t।\u200b\u0301\u2029", max_size=60),
    st.sampled_from(TEXTS),
)
segmenters = st.sampled_from(
    [
        Sentences(),
        Sentences("ar"),
        Sentences("zh"),
        Paragraphs(),
        WordWindows(3),
        WordWindows(4, stride=1),
        WordWindows(3, stride=2),
    ]
)


def cut(segmenter: Segmenter, text: str) -> list[str]:
    return [text[start:end] for start, end in segmenter(text)]


@given(texts, segmenters)
def test_segments_are_spans_in_order_that_leave_only_white_space_out(text: str, segmenter: Segmenter) -> None:
    spans = check_segments(text, segmenter(text), "test")  # in the text, not empty, in order
    covered = np.zeros(len(text), dtype=bool)
    for start, end in spans:
        assert text[start:end] == text[start:end].strip()
        covered[start:end] = True
    assert not "".join(char for char, inside in zip(text, covered, strict=True) if not inside).strip()


@given(texts, st.sampled_from([Sentences(), Paragraphs(), WordWindows(3)]))
def test_only_strided_windows_overlap(text: str, segmenter: Segmenter) -> None:
    assert all(end <= start for (_, end), (start, _) in pairwise(segmenter(text)))


@given(st.integers(0, 40), st.integers(1, 10), st.data())
def test_windows_cover_everything_once_where_they_do_not_overlap(count: int, size: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, size))
    found = windows(count, size, stride)
    assert sorted({i for first, last in found for i in range(first, last)}) == list(range(count))
    assert all(last - first == size for first, last in found[:-1])
    assert all(after - before == stride for (before, _), (after, _) in pairwise(found))
    assert sum(last == count for _, last in found) == (count > 0)  # no window inside of the one before it
    if stride == size:
        assert sum(last - first for first, last in found) == count


def test_sentences_know_abbreviations_and_scripts() -> None:
    text = "At 5 a.m. Mr. Smith met Dr. No and others, e.g. Jane. He left! 熊猫吃竹子。它们住在中国。\n\nA last one"
    assert cut(Sentences(), text)[-4:] == ["He left!", "熊猫吃竹子。", "它们住在中国。", "A last one"]
    assert cut(Sentences("ar"), "الدب يحب العسل. هل هو حلو؟ نعم.") == ["الدب يحب العسل.", "هل هو حلو؟", "نعم."]
    assert cut(Sentences(), "") == cut(Sentences(), " \n ") == []


def test_texts_without_sentence_ends_or_spaces() -> None:
    assert cut(Sentences(), "no end here, no end there") == ["no end here, no end there"]
    assert cut(WordWindows(2), "熊猫吃竹子") == ["熊猫", "吃竹", "子"]
    assert cut(WordWindows(2), "x" * 1000) == ["x" * 1000]


def test_a_lone_surrogate_shifts_nothing() -> None:
    text = "One \ud800 here. Two é there."
    assert cut(Sentences(), text) == ["One \ud800 here.", "Two é there."]


@pytest.mark.parametrize("segmenter", [Sentences(), Paragraphs(), WordWindows(9), WordWindows(18, stride=9)])
def test_a_hundred_thousand_words(segmenter: Segmenter) -> None:
    text = "Some nine words stand here before the next end. \n\n" * 11_200
    assert abs(len(segmenter(text)) - 11_200) <= 1


def test_paragraphs_end_at_blank_lines_only() -> None:
    assert cut(Paragraphs(), "\n a\nb \n \t\n\n c\r\n\r\nd\n") == ["a\nb", "c", "d"]


def test_given_segments_by_string_by_span_and_joined() -> None:
    text = "one two one two"
    assert GivenSegments({text: ["one", "two", "one"]})(text) == [(0, 3), (4, 7), (8, 11)]
    assert GivenSegments({text: [(0, 3), (8, 15)]})(text) == [(0, 3), (8, 15)]
    joined, given = GivenSegments.joined([["a b", " ", "c"], ["d"]], separator="--")
    assert joined == ["a b-- --c", "d"]
    assert [cut(given, text) for text in joined] == [["a b", "c"], ["d"]]
    assert GivenSegments({}, fallback=WordWindows(1))("x y") == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GivenSegments({"abc": ["x"]}), "is not in the text"),
        (lambda: GivenSegments({"abc": ["b", "a"]}), "one after the other"),
        (lambda: GivenSegments({"abc": [(0, 4)]}), "outside of its text of 3 characters"),
        (lambda: GivenSegments({"abc": [(-1, 2)]}), "outside of its text"),
        (lambda: GivenSegments({"abc": [(1, 1)]}), "empty or outside"),
        (lambda: GivenSegments({"abc": [(1, 2), (0, 3)]}), "not in order"),
        (lambda: GivenSegments({"abc": [(0, 1.5)]}), "expected spans"),
        (lambda: GivenSegments({})("abc"), "No segments were given"),
        (lambda: WordWindows(0), "size must be at least 1"),
        (lambda: WordWindows(2, stride=3), "would leave gaps"),
        (lambda: TokenWindows(2)("abc"), "needs the model's tokens"),
        (lambda: Sentences("x"), "ISO code"),
    ],
)
def test_bad_input_is_refused_in_words(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("segmenter", [Sentences("de"), Paragraphs(), WordWindows(7, stride=3), TokenWindows(9)])
def test_repr_builds_the_segmenter_again(segmenter: object) -> None:
    assert eval(repr(segmenter)) == segmenter
