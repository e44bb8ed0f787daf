"""Extracts of documents: what they take, in which order, and that they are parts of the document."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.demo.extracts import Extracts

TEXT = "Topic of the page. Birds fly south. Cats sleep a lot. Fish swim. Cats and birds are not friends."
OTHERS = {f"o{i}": "Filler about birds and nothing." for i in range(5)}


def extract(query: str, words: int, text: str = TEXT, piece: int = 20) -> str:
    return Extracts({"d": text, **OTHERS}, words=words, piece=piece)(query, "d")


def test_the_best_sentence_comes_first_and_order_is_kept() -> None:
    assert extract("do fish swim", 1) == "Fish swim."
    # Two sentences are about cats: the shorter one wins.
    assert extract("cats", 1) == "Cats sleep a lot."
    assert extract("fish and cats", 5) == "Cats sleep a lot. Fish swim."
    assert extract("fish", 5) == "Topic of the page.\n\nFish swim."


def test_a_rare_term_outweighs_a_frequent_one() -> None:
    assert extract("birds fish", 1) == "Fish swim."


def test_a_term_that_was_taken_counts_less_the_next_time() -> None:
    text = "Red red one. Red red two. Green pear here."
    assert Extracts({"d": text}, words=5)("red green", "d") == "Red red one.\n\nGreen pear here."


def test_without_a_matching_term_it_is_the_beginning() -> None:
    assert extract("nothing matches this", 6) == "Topic of the page. Birds fly south."
    assert extract("", 1) == "Topic of the page."


def test_long_sentences_are_cut_into_equal_pieces() -> None:
    text = " ".join(f"w{i}" for i in range(25))
    assert extract("w13", 5, text, piece=10) == "w9 w10 w11 w12 w13 w14 w15 w16 w17"


def test_a_short_document_is_taken_whole() -> None:
    assert extract("fish", 1000) == TEXT
    assert Extracts({"d": ""})("fish", "d") == ""


@given(
    st.lists(st.lists(st.sampled_from(["ab", "cd", "ef", "gh"]), min_size=1, max_size=9), max_size=8),
    st.lists(st.sampled_from(["ab", "cd", "zz"]), max_size=3),
    st.integers(1, 30),
    st.integers(1, 6),
)
def test_an_extract_is_words_of_the_document_in_order(
    sentences: list[list[str]], query: list[str], words: int, piece: int
) -> None:
    text = " ".join(" ".join(sentence).capitalize() + "." for sentence in sentences)
    got = Extracts({"d": text}, words=words, piece=piece)(" ".join(query), "d").split()
    rest = iter(text.split())
    assert all(word in rest for word in got), "a subsequence"
    assert min(words, len(text.split())) <= len(got) < words + piece


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="words and piece must be at least 1; got 0 and 20"):
        Extracts({"d": TEXT}, words=0)
    with pytest.raises(ValueError, match="document 'x' is not among the 1 documents"):
        Extracts({"d": TEXT})("q", "x")
