"""Near-duplicates against their definition, by exact comparison of all pairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmp_rerank.text.near_duplicates import near_duplicates, shingles


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12).map(" ".join), max_size=12))
def test_near_duplicates_agree_with_the_definition(texts: list[str]) -> None:
    """Every group is connected by pairs above the threshold; equal texts are always together."""

    def similarity(a: str, b: str) -> float:
        one, two = set(shingles(a).tolist()), set(shingles(b).tolist())
        return len(one & two) / len(one | two)

    groups = near_duplicates(texts, threshold=0.5)
    place = {index: number for number, group in enumerate(groups) for index in group}
    for group in groups:
        assert len(group) > 1
        assert group == sorted(group)
        reached, frontier = {group[0]}, [group[0]]
        while frontier:
            here = frontier.pop()
            new = {other for other in group if other not in reached and similarity(texts[here], texts[other]) >= 0.5}
            reached |= new
            frontier += new
        assert reached == set(group)
    for i, a in enumerate(texts):
        for j, b in enumerate(texts[:i]):
            if a == b:
                assert place[i] == place[j]


def test_a_high_threshold_keeps_what_a_low_one_groups() -> None:
    words = [f"word{i}" for i in range(40)]
    a, b = " ".join(words), " ".join(["other", *words[1:20], "other", *words[21:]])
    assert near_duplicates([a, b], threshold=0.3) == [[0, 1]]
    assert near_duplicates([a, b], threshold=0.99) == []
    with pytest.raises(ValueError, match="threshold must lie in"):
        near_duplicates([a], threshold=0.0)


def test_texts_without_a_word_are_compared_by_what_they_hold() -> None:
    assert near_duplicates(["🍕", "🍔", "+=", " 🍕\n", "", "?!", " "], threshold=0.7) == [[0, 3], [4, 6]]
    assert near_duplicates(["🍕 🍔 🐼", "🍕 🍔 🐼 🐝", "🐝 🐼 🍔 🍕"], threshold=0.6, size=2) == [[0, 1]]
    assert near_duplicates(["what?", "WHAT", "\ud83d"], threshold=1.0) == [[0, 1]]


def test_vowel_signs_tell_words_apart_and_characters_are_words_without_spaces() -> None:
    assert near_duplicates(["कि की कु", "का के को"], threshold=0.5) == []
    assert near_duplicates(["怎样微调一个重排模型？", "怎样微调一个重排模型呢"], threshold=0.7, size=2) == [[0, 1]]
