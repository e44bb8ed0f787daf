"""Words and terms of a text: one definition for windows of words, lexical support, BM25 and extracts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any


def _marks(without: str = "") -> str:
    """Combining marks as the inside of a class of characters, but for those of the class ``without``.

    ``\\w`` matches none of them, though vowel signs and accents are parts of words. The selectors of variants of a
    glyph are left out: no word differs by them.
    """
    # No marks are below U+0300, and none among Han, Hangul, private characters and Tangut.
    places = chain(range(0x300, 0x3400), range(0xA000, 0xAC00), range(0xFB00, 0x17000), range(0x18D80, 0x1F000))
    left_out = re.compile(f"[\ufe00-\ufe0f{without}]")
    ranges: list[list[int]] = []
    for place in places:
        if unicodedata.category(chr(place)) in _MARK_CATEGORIES and not left_out.match(chr(place)):
            if ranges and ranges[-1][1] == place - 1:
                ranges[-1][1] = place
            else:
                ranges.append([place, place])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


_MARK_CATEGORIES = frozenset({"Mn", "Mc", "Me"})
# Scripts that are written without spaces between words (Thai, Lao, Burmese, Khmer, kana, Han with its extensions).
# Hangul is not among them: Korean separates its words by spaces.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SPACED = rf"[^\W{_UNSPACED}]"
_MARKS, _SPACED_MARKS = _marks(), _marks(_UNSPACED)
# Marks are looked for behind these characters only: most text has none.
_HIGH = r"\u0300-\U0010ffff"
_THEN_MARKS = rf"(?:(?=[{_HIGH}])[{_MARKS}]*|)"


def _run(letter: str, marks: str) -> str:
    """One letter or more, each with its marks."""
    return rf"{letter}+(?:(?=[{_HIGH}])(?:[{marks}]+{letter}*)*|)"


#: A word: one character of a script without spaces with its marks, or a run of other characters without white space.
WORD = re.compile(rf"[^\s{_UNSPACED}]+|[{_UNSPACED}]{_THEN_MARKS}")
# The same without punctuation.
_TERM = re.compile(rf"{_run(_SPACED, _SPACED_MARKS)}|(?=\w)[{_UNSPACED}]{_THEN_MARKS}")

# Han and Hiragana, of which Lucene makes each character a term, and Katakana, of which it makes runs.
_SINGLE = (
    r"\u3005\u3007\u3021-\u3029\u3038-\u303b\u3041-\u3096\u309d-\u309f\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_KATAKANA = r"\u3031-\u3035\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_OTHER = rf"[^\W{_SINGLE}{_KATAKANA}]"
# The same as _OTHER*, but fast where all is ASCII.
_OTHERS = rf"[0-9A-Za-z_]*{_OTHER}*"
_POSSESSIVE = rf"['’][sS](?![\w{_MARKS}])"

#: The version of `TERM_PATTERNS`: raised when these change, since a saved index holds terms by them.
TERM_RULES = 2
# What ends up as one term of a BM25 index. "words" is bm25s's own rule, two word characters or more, where marks are
# word characters, too. "lucene" follows Lucene's StandardTokenizer, that is the word boundaries of Unicode (UAX 29):
# single characters count, apostrophes and points join letters, points and commas join digits, and Han and Hiragana
# are taken one by one; and its EnglishPossessiveFilter, which takes away 's.
TERM_PATTERNS = {
    "words": rf"(?u)\w(?:\w+|[{_MARKS}]+\w*)(?:(?=[{_HIGH}])(?:[{_MARKS}]+\w*)*|)",
    # The first character says what may follow it: re skips to a character of one class, not to one of three branches.
    "lucene": (
        rf"(?u)(\w(?:(?<![{_SINGLE}{_KATAKANA}]){_OTHERS}(?:(?=[.:·,;'’{_HIGH}])(?:[{_MARKS}]+{_OTHERS}"
        rf"|(?<=[^\W\d_]|[{_MARKS}])(?:[.:·]|(?!{_POSSESSIVE})['’])(?=[^\W\d_])(?={_OTHER}){_OTHERS}"
        rf"|(?<=\d)[.,;'](?=\d){_OTHERS})*|)"
        rf"|(?<=[{_SINGLE}]){_THEN_MARKS}|[{_KATAKANA}]*(?:(?=[{_HIGH}])(?:[{_MARKS}]+[{_KATAKANA}]*)*|)))"
        rf"(?:{_POSSESSIVE})?"
    ),
}


def terms(text: str) -> list[str]:
    """The words of a text without punctuation, case-folded; in scripts without spaces, single characters.

    Combining marks, such as vowel signs, belong to the word or the character that they follow.

    Args:
        text: any text.

    Returns:
        The terms, in the order of the text, with repetitions.

    Example:
        >>> terms("Pandas eat 竹子, see GPT模型.")
        ['pandas', 'eat', '竹', '子', 'see', 'gpt', '模', '型']
        >>> terms("हिन्दी में")
        ['हिन्दी', 'में']
    """
    return _TERM.findall(text.casefold())


def term_splitter(
    language: str | None, stopwords: bool, tokens: str = "words"
) -> Callable[[Iterable[str]], list[list[str]]]:
    """A function that splits texts into terms as BM25 indexes them: lower-cased, without stop words, stemmed.

    Args:
        language: of the Snowball stemmer; None: no stemming.
        stopwords: whether the English stop words are left out: the 33 of Lucene.
        tokens: what counts as one term: "words" are two word characters or more, and in a script without spaces all
            that stands between spaces and punctuation; "lucene" is near to what Lucene takes for one, that is each
            character of Han and Hiragana.

    Returns:
        A function from texts to the terms of each.

    Raises:
        ImportError: the extra ``retrieval`` is not installed.
        ValueError: there is no stemmer for the language, or no such rule for tokens.

    Example:
        >>> term_splitter("english", stopwords=True)(["The cats are sleeping.", "A bird"])
        [['cat', 'sleep'], ['bird']]
        >>> term_splitter("porter", stopwords=True, tokens="lucene")(["Vitamin C, Graves' and Crohn's: 2.5-fold"])
        [['vitamin', 'c', 'grave', 'crohn', '2.5', 'fold']]
        >>> term_splitter(None, stopwords=False, tokens="lucene")(["GPTモデル、熊猫"])
        [['gpt', 'モデル', '熊', '猫']]
    """
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise ImportError(
            "The terms of BM25 need the extra 'retrieval': pip install 'cmp-rerank[retrieval]'."
        ) from error
    if language is not None and language not in Stemmer.algorithms():
        raise ValueError(f"language must be one of {', '.join(Stemmer.algorithms())} or None; got {language!r}.")
    if tokens not in TERM_PATTERNS:
        raise ValueError(f"tokens must be one of {', '.join(map(repr, TERM_PATTERNS))}; got {tokens!r}.")
    stemmer: Any = Stemmer.Stemmer(language) if language else None

    def porter(words: list[str]) -> list[str]:
        # Porter's own program leaves words of one or two letters alone; Snowball's makes nothing of "s".
        return [
            word if len(word) < 3 else stemmed for word, stemmed in zip(words, stemmer.stemWords(words), strict=True)
        ]

    def tokenise(texts: Iterable[str]) -> list[list[str]]:
        listed = list(texts)
        if not listed:
            return []
        found: list[list[str]] = bm25s.tokenize(
            listed,
            token_pattern=TERM_PATTERNS[tokens],
            stopwords="en" if stopwords else [],
            stemmer=porter if language == "porter" else stemmer,
            return_ids=False,
            show_progress=False,
        )
        return found

    return tokenise
