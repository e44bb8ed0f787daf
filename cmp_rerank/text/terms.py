"""Words and terms of a text: one definition for windows of words, lexical support, BM25 and extracts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

# Scripts that are written without spaces between words (Thai, Lao, Burmese, Khmer, kana, Han with its extensions).
# Hangul is not among them: Korean separates its words by spaces.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
#: A word: one character of a script without spaces, or a run of other characters without white space.
WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
# The same without punctuation.
_TERM = re.compile(rf"(?=\w)[{_UNSPACED}]|[^\W{_UNSPACED}]+")

# What ends up as one term of a BM25 index. "words" is bm25s's own rule: two word characters or more. "lucene" follows
# Lucene's StandardTokenizer, that is the word boundaries of Unicode (UAX 29): single characters count, apostrophes
# and points join letters, points and commas join digits; and its EnglishPossessiveFilter, which takes away 's.
TERM_PATTERNS = {
    "words": r"(?u)\b\w\w+\b",
    "lucene": (
        r"(?u)(\w+(?:(?:(?<=[^\W\d_])(?:[.:·]|['’](?![sS]\b))(?=[^\W\d_])|(?<=\d)[.,;'](?=\d))\w+)*)(?:['’][sS]\b)?"
    ),
}


def terms(text: str) -> list[str]:
    """The words of a text without punctuation, case-folded; in scripts without spaces, single characters.

    Args:
        text: any text.

    Returns:
        The terms, in the order of the text, with repetitions.

    Example:
        >>> terms("Pandas eat 竹子, see GPT模型.")
        ['pandas', 'eat', '竹', '子', 'see', 'gpt', '模', '型']
    """
    return _TERM.findall(text.casefold())


def term_splitter(
    language: str | None, stopwords: bool, tokens: str = "words"
) -> Callable[[Iterable[str]], list[list[str]]]:
    """A function that splits texts into terms as BM25 indexes them: lower-cased, without stop words, stemmed.

    Args:
        language: of the Snowball stemmer; None: no stemming.
        stopwords: whether the English stop words are left out: the 33 of Lucene.
        tokens: what counts as one term: "words" are two word characters or more; "lucene" is near to what Lucene
            takes for one.

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
