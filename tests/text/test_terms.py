"""Words and terms: one definition of the scripts without spaces, for windows of words and for lexical support."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.text.segmenters import WordWindows
from cmp_rerank.text.support import LexicalSupport
from cmp_rerank.text.terms import WORD, term_splitter, terms

SCRIPTS = [
    "ab",
    "Z",
    "ß",
    "7",
    "_",
    "é",
    "กิ",
    "ລາວ",
    "မြ",
    "ខ្មែ",
    "かな",
    "カナ",
    "熊猫",
    "豈",
    "𠀀",
    "한국",
    "ر",
    " ",
    ".",
    "、",
]
texts = st.lists(st.sampled_from(SCRIPTS), max_size=12).map("".join)


@given(texts)
def test_terms_are_the_words_of_the_windows_without_punctuation(text: str) -> None:
    folded = text.casefold()
    words = [folded[start:end] for start, end in WordWindows(1)(folded)]
    assert terms(text) == [term for word in words for term in re.findall(r"\w+", word)]
    assert "".join(words) == "".join(folded.split())


def test_rare_han_characters_are_words_of_their_own() -> None:
    # Characters beyond the basic plane occur in names and places. Glued to their neighbours they match nothing.
    assert WORD.findall("𠀀𠀁人") == terms("𠀀𠀁人") == ["𠀀", "𠀁", "人"]
    assert LexicalSupport()("𠀁", ["雨", "𠀀𠀁人"]) == pytest.approx([0.0, 1.0986], abs=1e-4)


def test_a_latin_word_beside_han_stays_one_term() -> None:
    # Split into letters, "GPT" would match every other text that holds a "g", a "p" or a "t" beside Han.
    assert terms("GPT模型") == ["gpt", "模", "型"]
    assert LexicalSupport()("GPT模型", ["T恤", "GPT"])[0] == 0.0


def test_korean_has_spaces() -> None:
    assert terms("판다는 대나무를 먹는다.") == ["판다는", "대나무를", "먹는다"]


def test_the_splitter_of_bm25_stems_and_leaves_stop_words_out() -> None:
    assert term_splitter("english", True)(["The cats are sleeping."]) == [["cat", "sleep"]]
    assert term_splitter(None, False)(["The cats are sleeping."]) == [["the", "cats", "are", "sleeping"]]
    assert term_splitter(None, True)([]) == []
    with pytest.raises(ValueError, match=r"language must be one of .*english.* or None; got 'klingon'"):
        term_splitter("klingon", True)
