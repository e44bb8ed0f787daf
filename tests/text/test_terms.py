"""Words and terms: one definition of the scripts without spaces, for windows of words and for lexical support."""

from __future__ import annotations

import re
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.text.segmenters import WordWindows
from cmp_rerank.text.support import LexicalSupport
from cmp_rerank.text.terms import TERM_PATTERNS, WORD, term_splitter, terms

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
    "हि",
    "न्दी",
    "e\u0301",
    "か\u3099",
    "\u094d",
    "\u0e31",
    " ",
    ".",
    "、",
]
texts = st.lists(st.sampled_from(SCRIPTS), max_size=12).map("".join)


def slow_terms(word: str) -> list[str]:
    """Runs of word characters, and of the marks behind them."""
    found = [""]
    for char in word:
        if re.match(r"\w", char) or (found[-1] and unicodedata.category(char).startswith("M")):
            found[-1] += char
        else:
            found.append("")
    return [term for term in found if term]


@given(texts)
def test_terms_are_the_words_of_the_windows_without_punctuation(text: str) -> None:
    folded = text.casefold()
    words = [folded[start:end] for start, end in WordWindows(1)(folded)]
    assert terms(text) == [term for word in words for term in slow_terms(word)]
    assert "".join(words) == "".join(folded.split())


def test_combining_marks_belong_to_their_word() -> None:
    for word in (
        "हिन्दी",
        "বাংলা",
        "தமிழ்",
        "తెలుగు",
        "ਪੰਜਾਬੀ",
        "മലയാളം",
        "مُحَمَّد",
        "cafe\u0301",
        "кни\u0301га",
        "שָׁלוֹם",
        "𑄌𑄋𑄴𑄟𑄳𑄦",
    ):
        assert terms(f"{word}, {word}.") == [word, word]
        for tokens in ("words", "lucene"):
            assert term_splitter(None, False, tokens)([f"({word}) {word}"]) == [[word, word]]
    assert terms("กินข้าว") == WORD.findall("กินข้าว") == ["กิ", "น", "ข้", "า", "ว"]
    assert terms("İstanbul ταΐζω") == [
        "i\u0307stanbul",
        "τα\u03b9\u0308\u0301ζω",
    ]  # folding parts them from their letters
    assert terms("葛\U000e0100飾 ❤\ufe0f") == ["葛", "飾"]  # selectors of variants are no part of a word
    assert LexicalSupport()("हिन्दी", ["हाथ नदी", "हिन्दी भाषा"]) == pytest.approx([0.0, 1.0986], abs=1e-4)


def test_marks_are_those_of_unicode() -> None:
    marks = [char for char in map(chr, range(0x110000)) if unicodedata.category(char).startswith("M")]
    for mark in marks:
        selects = "\ufe00" <= mark <= "\ufe0f" or mark >= "\U000e0000"
        for tokens in ("words", "lucene"):
            assert (re.findall(TERM_PATTERNS[tokens], f"ab{mark}cd") == [f"ab{mark}cd"]) != selects


# Folding parts the marks of a few letters, such as those of a Turkish capital I.
MARKED = re.compile("[\u0300-\u036f]")
LATIN = "".join(char for char in map(chr, range(0x250)) if char.isalpha() and not MARKED.search(char.casefold()))
latin = st.text(string.printable * 3 + LATIN + "’·", max_size=30) | st.lists(
    st.sampled_from(
        ["Crohn's", "U.S.A.", "1,000.5", "O’Neill’S", "naïve", "l'été", "x_y", "a", "'s", "s", " ", ".", "é:"]
    )
).map("".join)


@given(latin)
def test_terms_of_latin_texts_are_what_they_were(text: str) -> None:
    text = text.lower()
    assert re.findall(TERM_PATTERNS["words"], text) == re.findall(r"\b\w\w+\b", text)
    lucene = r"(\w+(?:(?:(?<=[^\W\d_])(?:[.:·]|['’](?![sS]\b))(?=[^\W\d_])|(?<=\d)[.,;'](?=\d))\w+)*)(?:['’][sS]\b)?"
    assert re.findall(TERM_PATTERNS["lucene"], text) == re.findall(lucene, text)
    assert terms(text) == re.findall(r"\w+", text.casefold())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("熊猫吃竹子。", ["熊", "猫", "吃", "竹", "子"]),
        ("時々、二〇二六年", ["時", "々", "二", "〇", "二", "六", "年"]),
        ("カタカナとひらがな", ["カタカナ", "と", "ひ", "ら", "が", "な"]),
        ("か\u3099き カ\u3099スー ﾊﾟﾝﾀﾞ", ["か\u3099", "き", "カ\u3099スー", "ﾊﾟﾝﾀﾞ"]),
        ("GPTモデル4熊e.g猫", ["gpt", "モデル", "4", "熊", "e.g", "猫"]),
        ("a.熊's 𠀀𠀁 한국어는", ["a", "熊", "𠀀", "𠀁", "한국어는"]),
        ("कि.मी. का's", ["कि.मी", "का"]),
    ],
)
def test_lucene_takes_han_and_hiragana_one_by_one(text: str, expected: list[str]) -> None:
    assert term_splitter(None, False, "lucene")([text]) == [expected]


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
