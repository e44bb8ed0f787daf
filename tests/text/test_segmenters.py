"""Segments: spans of the original text, in order, whatever the text."""

from __future__ import annotations

import re
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
    check_segmenter,
    check_segments,
    split,
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


@pytest.mark.parametrize(
    ("code", "same"),
    [
        ("DE", "de"),
        ("de-AT", "de"),
        ("de-LU", "de"),
        ("fr-CA", "fr"),
        ("zh-Hant-TW", "zh"),
        ("Nds-NL", "nl"),
        ("ast", "es"),
    ],
)
def test_a_code_of_any_case_or_region_is_that_of_its_language(code: str, same: str) -> None:
    text = "Sie leben z. B. in Tibet bzw. in China. M. Dupont part, cf. la p. 3. De Sr. Blom bijv. zegt o.a. dit. Da."
    found = Sentences(code)(text)
    assert found == Sentences(same)(text)
    assert (found == Sentences()(text)) == (same == "zh")
    assert eval(repr(Sentences(code))) == Sentences(code)


def test_texts_without_sentence_ends_or_spaces() -> None:
    assert cut(Sentences(), "no end here, no end there") == ["no end here, no end there"]
    assert cut(WordWindows(2), "熊猫吃竹子") == ["熊猫", "吃竹", "子"]
    assert cut(WordWindows(2), "x" * 1000) == ["x" * 1000]


@pytest.mark.parametrize("surrogates", ["\ud800", "\ud83d\ude00"], ids=["lone", "two"])
def test_surrogates_shift_nothing_and_end_no_sentence(surrogates: str) -> None:
    text = f"One {surrogates} Here. Two é there."
    assert cut(Sentences(), text) == [f"One {surrogates} Here.", "Two é there."]


def test_any_white_space_may_stand_before_a_full_stop() -> None:
    """sentencex panics at a no-break space or one like it between a capital letter and a full stop."""
    spaces = [letter for letter in map(chr, range(0x80, 0x10000)) if letter.isspace()]
    assert "\N{NO-BREAK SPACE}" in spaces
    for space in spaces:
        text = f"It has vitamin C{space}. Of hepatitis B{space}{space}. They say so."
        whole = cut(Sentences(), text)
        assert "".join("".join(whole).split()) == "".join(text.split())
        assert whole[-1] == "They say so."


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
    assert GivenSegments.joined([["d", "e"], ["d", "e"]], separator="--")[0] == ["d--e"] * 2
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
        (lambda: GivenSegments({"abc": [(0, 3), (1, 2)]}), "not in order"),
        (lambda: GivenSegments({"abc": [(0, 2), (1, 2)]}), "not in order"),
        (lambda: GivenSegments({"abc": [(0, 2), (0, 3)]}), "not in order"),
        (lambda: GivenSegments({"abc": [(0, 1.5)]}), "expected spans"),
        (lambda: GivenSegments({"abc": [(False, True)]}), "Given segments: .* got a mask with False"),
        (lambda: GivenSegments({"abc": [True]}), "Given segments: .* got a mask with True"),  # type: ignore[list-item]
        (lambda: GivenSegments({})("abc"), "No segments were given"),
        (lambda: WordWindows(0), "size must be at least 1"),
        (lambda: WordWindows(2, stride=3), "would leave gaps"),
        (lambda: WordWindows(True), "size must be at least 1; got True. Give a whole number"),
        (lambda: WordWindows(2.5), "size must be at least 1; got 2.5. Give a whole number"),  # type: ignore[arg-type]
        (lambda: TokenWindows(4, stride=1.5), "stride must be a whole number"),  # type: ignore[arg-type]
        (lambda: TokenWindows(2)("abc"), "needs the model's tokens"),
        *(
            (lambda code=code: Sentences(code), re.escape(f"ISO code of 2 or 3 letters; got {code!r}"))  # type: ignore[misc]
            for code in ("x", "german", "de_DE", "de-", "-de", "de-x!", "", "d3", "de\n", 3)
        ),
        (lambda: GivenSegments([["a", "b"]]), "For lists of passages use GivenSegments.joined"),  # type: ignore[arg-type]
        (
            lambda: GivenSegments.joined([["a", "b c"], ["x"], ["a b", "c"]], separator=" "),
            "Document 2: its passages join to the same text as those of an earlier document",
        ),
        (lambda: GivenSegments.joined(["a b", "c"]), "must be a list of passages; got the string 'a b'"),
        (lambda: GivenSegments({}, fallback=Sentences), "fallback must be an object; got the class Sentences"),
        (lambda: GivenSegments({}, fallback=TokenWindows(3)), "fallback must split a text; got TokenWindows"),
        (lambda: check_segments("abc", "abc", "test"), "expected spans"),  # type: ignore[arg-type]
        (lambda: check_segments("abc", None, "test"), "expected spans"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused_in_words(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("segmenter", [Sentences("de"), Paragraphs(), WordWindows(7, stride=3), TokenWindows(9)])
def test_repr_builds_the_segmenter_again(segmenter: object) -> None:
    assert eval(repr(segmenter)) == segmenter


OFFSETS = np.array([(0, 0), (0, 3), (4, 7), (0, 0)])


class OwnTokens:
    """An own segmenter of tokens: it cannot be called, and shares no class with those of the package."""

    def of_tokens(self, offsets: np.ndarray) -> list[tuple[int, int]]:
        return [(int(start), int(end)) for start, end in offsets if end > start]


def test_any_object_of_the_right_shape_splits() -> None:
    def letters(text: str) -> list[tuple[int, int]]:
        return [(i, i + 1) for i, letter in enumerate(text) if letter != " "]

    for segmenter in (letters, OwnTokens(), Sentences(), TokenWindows(1), GivenSegments({})):
        check_segmenter(segmenter)
    assert split(letters, "a bc", OFFSETS) == [(0, 1), (2, 3), (3, 4)]
    assert split(OwnTokens(), "abc def", OFFSETS) == split(TokenWindows(1), "abc def", OFFSETS) == [(0, 3), (4, 7)]


def test_windows_within_one_character_are_one_segment() -> None:
    # Tokenisers of bytes give each token of an emoji the span of the whole character.
    panda = [(0, 2), (2, 3), (2, 3), (2, 3), (2, 3), (3, 6)]
    assert TokenWindows(1).of_tokens(panda) == [(0, 2), (2, 3), (3, 6)]
    assert TokenWindows(2).of_tokens(panda) == [(0, 3), (2, 6)]
    assert split(TokenWindows(3, stride=1), "ab🐼cde", np.array(panda)) == [(0, 3), (2, 6)]


def test_what_a_segmenter_returns_is_checked_by_its_name() -> None:
    def backwards(text: str) -> list[tuple[int, int]]:
        return [(2, 3), (0, 1)]

    with pytest.raises(
        ValueError, match=r"Segments by backwards: the segments \(2, 3\) and \(0, 1\) are not in order"
    ):
        split(backwards, "abc", OFFSETS)
    with pytest.raises(ValueError, match=r"Segments by OwnTokens: the span \(4, 7\) is empty or outside"):
        split(OwnTokens(), "abc", OFFSETS)
    with pytest.raises(ValueError, match=r"Segments by <lambda>: expected spans .* got None"):
        split(lambda text: None, "abc", OFFSETS)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("segmenter", [Sentences, WordWindows, TokenWindows, OwnTokens])
def test_a_class_is_no_segmenter(segmenter: type) -> None:
    name = segmenter.__name__
    with pytest.raises(
        ValueError, match=rf"segmenter must be an object; got the class {name}. Pass {name}\(\.\.\.\)"
    ):
        check_segmenter(segmenter)


@pytest.mark.parametrize("segmenter", ["sentences", None, 50])
def test_an_object_of_another_shape_is_no_segmenter(segmenter: object) -> None:
    with pytest.raises(ValueError, match=r"segmenter must be a callable .* got .*Pass Sentences\(\) or WordWindows"):
        check_segmenter(segmenter)


def test_the_repr_of_given_segments_depends_on_their_contents_only() -> None:
    one, same = GivenSegments({"a b": [(0, 1)], "c": ["c"]}), GivenSegments({"c": [(0, 1)], "a b": ["a"]})
    assert repr(one) == repr(same)
    others = [GivenSegments({"a b": [(2, 3)], "c": ["c"]}), GivenSegments({"a b": [(0, 1)]})]
    others.append(GivenSegments({"a b": [(0, 1)], "c": ["c"]}, fallback=Sentences()))
    assert len({repr(given) for given in (one, *others)}) == 4
    assert repr(others[-1]).endswith(", fallback Sentences(language='en')>")
    assert repr(GivenSegments({"\ud800": [(0, 1)]})).startswith("<GivenSegments of 1 texts, ")
