"""Windows equal what the tokenizer makes of a pair; nothing of question, answer or support is ever cropped."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import PASSAGES, QUERIES, TEXTS, byte_bpe, sentencepiece, wordpiece

from cmp_rerank.ablations import CmpCrop, CmpDrop, Plan
from cmp_rerank.ablations.schedules import FixedCounts
from cmp_rerank.reader import WholePassages, Window, Windows, make_windows
from cmp_rerank.reader.records import GoldAnswer, Question
from cmp_rerank.text.segmenters import Paragraphs, Sentences, TokenWindows, WordWindows

TOKENIZERS = {"wordpiece": wordpiece(), "byte-bpe": byte_bpe(), "sentencepiece": sentencepiece()}
tokenizers = pytest.mark.parametrize("name", TOKENIZERS)


def found(text: str, word: str, passage: int = 0) -> GoldAnswer:
    return GoldAnswer(word, passage, text.index(word))


def text_of(question: Question, window: Window, first: int, last: int) -> str:
    """The text of the tokens from first to last, which must be of one passage."""
    passage = set(window.passage[first : last + 1].tolist())
    assert len(passage) == 1
    source = question.passages[passage.pop()]
    return source[window.offsets[first, 0] : window.offsets[last, 1]]


@tokenizers
@pytest.mark.parametrize(("max_length", "stride"), [(128, 16), (40, 10), (44, 0), (48, 5)])
def test_one_passage_gives_the_windows_of_the_tokenizer(name: str, max_length: int, stride: int) -> None:
    tokenizer = TOKENIZERS[name]
    questions = [
        Question(f"q{i}", query, (passage + " " + TEXTS[i],))
        for i, (query, passage) in enumerate(zip(QUERIES, PASSAGES, strict=True))
    ]
    windows = make_windows(tokenizer, questions, max_length=max_length, stride=stride)
    expected = tokenizer(
        [q.question for q in questions], [q.passages[0] for q in questions],
        max_length=max_length, stride=stride, truncation="only_second",
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    assert len(windows) == len(expected["input_ids"])
    assert (len(windows) > len(questions)) == (max_length < 128) == (windows.counts.split > 0)
    assert [w.question for w in windows] == expected["overflow_to_sample_mapping"]
    for i, window in enumerate(windows):
        features = window.example.features
        assert features["input_ids"].tolist() == expected["input_ids"][i]
        if "token_type_ids" in expected:
            assert features["token_type_ids"].tolist() == expected["token_type_ids"][i]
        assert ("token_type_ids" in features) == ("token_type_ids" in expected)
        sequence = expected.sequence_ids(i)
        assert window.passage.tolist() == [0 if s == 1 else -1 for s in sequence]
        for token, of_passage in enumerate(s == 1 for s in sequence):
            start, end = expected["offset_mapping"][i][token] if of_passage else (0, 0)
            mine = window.offsets[token].tolist()
            assert mine[1] == end
            # Of a word that the tokenizer gives its space, the space is left out.
            assert questions[window.question].passages[0][start : mine[0]].strip() == ""


@tokenizers
def test_global_attention_is_of_the_question(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    (window,) = make_windows(tokenizer, [Question("a", QUERIES[0], (TEXTS[0],))], max_length=128)
    ids, attended = (window.example.features[n] for n in ("input_ids", "global_attention_mask"))
    assert attended.tolist() == [1] * attended.sum() + [0] * (len(ids) - attended.sum())
    seen = tokenizer.decode(ids[attended == 1], skip_special_tokens=True)
    assert seen.replace(" ", "") == QUERIES[0].replace(" ", "")
    assert ids[attended.sum()] == tokenizer.sep_token_id


# Labels ----------------------------------------------------------------------------------------------------------


@tokenizers
def test_answers_are_found_in_their_window_and_passage(name: str) -> None:
    passages = (TEXTS[4], TEXTS[2], TEXTS[2])
    answers = (found(TEXTS[2], "honey", 2), found(TEXTS[2], "bears like it", 2))
    question = Question("q", "who makes honey?", passages, answers)
    for pack in (False, True):
        windows = make_windows(TOKENIZERS[name], [question], max_length=128, pack=pack)
        # Three passages; of sentencepiece's tokens 128 hold only two.
        assert len(windows) == (3 if not pack else 2 if name == "sentencepiece" else 1)
        held = [w for w in windows if len(w.spans)]
        assert len(held) == windows.counts.answered == 1
        (window,) = held
        assert (window.start, window.end) == tuple(window.spans[0])
        assert [text_of(question, window, *span) for span in window.spans] == ["honey", "bears like it"]
        assert set(window.passage[window.spans].reshape(-1)) == {2}
        for other in windows:
            assert other is window or (other.start, other.end, len(other.spans)) == (0, 0, 0)


def test_an_answer_cut_by_the_window_is_unanswered_or_removed() -> None:
    text = "one two three four five six seven eight nine ten " * 3
    # The second time, so that each of the windows below has room for the whole answer.
    answer = GoldAnswer("four five six", 0, text.index("four", text.index("ten")))
    question = Question("q", "which?", (text,), (answer,))
    tokenizer = wordpiece()
    everything = make_windows(tokenizer, [question], max_length=128)
    first, last = everything[0].spans[0]
    assert text_of(question, everything[0], first, last) == "four five six"
    # The window ends inside of the answer, and the next one begins behind its first token.
    short = int(first) + 3
    kept = make_windows(tokenizer, [question], max_length=short, stride=1)
    assert kept.counts.answers_cut == 2
    assert kept.counts.removed == 0
    assert kept.counts.answers_lost == 1
    assert {(w.start, w.end) for w in kept} == {(0, 0)}
    removed = make_windows(tokenizer, [question], max_length=short, stride=1, cut_answers="remove")
    assert removed.counts.removed == len(kept) - len(removed) == 2
    # A window that ends right before the answer, and one that ends with it, cut nothing.
    for end in (int(first), int(last) + 1):
        whole = make_windows(tokenizer, [question], max_length=end + 1, stride=0)  # with the last special token
        assert int(np.flatnonzero(whole[0].passage == 0)[-1]) == end - 1
        assert (whole.counts.answers_cut, whole.counts.answers_lost, whole.counts.answered) == (0, 0, 1)
    overlap = make_windows(tokenizer, [question], max_length=short + 15, stride=15)
    assert overlap.counts.answers_lost == 0
    assert "hold only a part of an answer (2 were removed), 1 questions have no window with a whole answer" in str(
        removed.counts
    )


@tokenizers
@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("We met at Cafe\u0301. It rose.", "Cafe\u0301"),
        ("We met at Cafe\u0301", "Cafe\u0301"),
        ("It is n\u0303\u0301, he said.", "n\u0303\u0301"),
        ("Say e\u0301te\u0301 and go", "e\u0301te\u0301"),
    ],
)
def test_marks_belong_to_their_letter(name: str, text: str, word: str) -> None:
    """Decomposed accents, for which tokenizers that strip them have no token."""
    question = Question("q", "where?", (text,), (found(text, word),))
    (window,) = make_windows(TOKENIZERS[name], [question], max_length=100)
    assert text_of(question, window, window.start, window.end) == word
    inside = window.offsets[window.passage == 0]
    assert inside[-1, 1] == len(text)
    # Where that is more than the tokenizer says, it is no more than up to the next token.
    own = TOKENIZERS[name](text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert len(own) == len(inside)
    following = [start for start, _ in own[1:]] + [len(text)]
    for (_, end), mine, after in zip(own, inside[:, 1].tolist(), following, strict=True):
        assert mine == end or end < mine <= after


@tokenizers
def test_half_an_emoji_is_read(name: str) -> None:
    """As a file has it that was cut by bytes of UTF-16."""
    text, whole = "Bees \ud83d make honey.", "Bees ? make honey."
    questions = [
        Question("q", "what \ud83d is made?", (text,), (found(text, "honey"),)),
        Question("r", "it", ("It",)),
    ]
    window, other = make_windows(TOKENIZERS[name], questions, max_length=100)
    assert text_of(questions[0], window, window.start, window.end) == "honey"
    (expected, _) = make_windows(
        TOKENIZERS[name],
        [Question("q", "what ? is made?", (whole,), (found(whole, "honey"),)), questions[1]],
        max_length=100,
    )
    assert window.example.features["input_ids"].tolist() == expected.example.features["input_ids"].tolist()
    assert window.offsets.tolist() == expected.offsets.tolist()
    assert len(other)


def test_questions_that_teach_nothing_are_counted() -> None:
    asked = [
        Question("known", "who?", (TEXTS[2],), (found(TEXTS[2], "Bees"),)),
        Question("texts", "who?", (TEXTS[2],), texts=("wasps",)),
        Question("none", "who?", (TEXTS[2],), kind="none"),
        Question("open", "who?", (TEXTS[2],)),
        Question("yes", "is it?", (TEXTS[2],), kind="yes"),
        Question("empty", "is it?", ("\u200b\u200d",), kind="no"),
    ]
    windows = make_windows(wordpiece(), asked, max_length=100)
    assert [w.question for w in windows] == [0, 1, 2, 3, 4]
    assert (windows.counts.unknown, windows.counts.empty) == (4, 1)
    assert "; 4 questions have no known answer, 1 a context without tokens" in str(windows.counts)
    windows = make_windows(wordpiece(), asked, max_length=100, yes_no=True)
    assert (windows.counts.unknown, windows.counts.empty, windows.counts.answered) == (2, 1, 2)


def test_support_outside_of_the_window_is_counted() -> None:
    passages = (TEXTS[0], TEXTS[2])
    answer = (found(TEXTS[2], "honey", 1),)
    cases: list[tuple[tuple[tuple[int, int, int], ...] | None, int]] = [
        (((1, 0, 4),), 0),
        (((0, 0, 6),), 1),
        (((0, 0, 6), (1, 0, 4)), 1),
        (None, 0),
    ]
    for support, elsewhere in cases:
        question = Question("q", "what?", passages, answer, support)
        windows = make_windows(wordpiece(), [question], max_length=100)
        assert (len(windows), windows.counts.answered) == (2, 1)
        assert windows.counts.support_elsewhere == elsewhere
        assert make_windows(wordpiece(), [question], max_length=128, pack=True).counts.support_elsewhere == 0


@tokenizers
def test_yes_and_no_are_spans(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    base = Question("q", "are pandas bears?", (TEXTS[0], TEXTS[4]), kind="yes", support=((0, 0, 12),))
    for kind, text in (("yes", "yes"), ("no", "no")):
        first, second = make_windows(tokenizer, [replace(base, kind=kind, texts=())], max_length=100, yes_no=True)
        said = first.offsets[first.start, 0], first.offsets[first.end, 1]
        assert "yes no"[said[0] : said[1]] == text
        assert set(first.passage[first.start : first.end + 1]) == {-2}
        assert first.start > 0
        assert (second.start, second.end) == (0, 0)  # nothing in it says so
    # With known support, the window without it can be cropped as well: that it has no answer stays true.
    both = make_windows(tokenizer, [base], max_length=100, yes_no=True, segmenter=Sentences())
    assert [(w.start > 0, w.example.croppable) for w in both] == [(True, True), (False, True)]
    # Where the support is not known, each window may say so; but then nothing is cropped.
    unknown = replace(base, support=None)
    windows = make_windows(tokenizer, [unknown], max_length=100, yes_no=True, segmenter=Sentences())
    assert all(w.start > 0 and not w.example.croppable for w in windows)
    assert all(
        w.start == 0 and w.example.croppable
        for w in make_windows(tokenizer, [unknown], segmenter=Sentences(), max_length=100)
    )
    # The words are never cropped.
    (packed,) = make_windows(tokenizer, [base], max_length=128, yes_no=True, pack=True, segmenter=Sentences())[:1]
    view = Plan([CmpCrop(schedule=FixedCounts((0,)))]).views(packed.example)[-1]
    assert set(np.flatnonzero(packed.passage < 0)) <= set(view.tokens)


def test_long_questions_leave_half_of_the_window() -> None:
    tokenizer = wordpiece()
    question = Question("q", "pandas " * 200, (TEXTS[0] + " " + TEXTS[2],))
    windows = make_windows(tokenizer, [question], max_length=64, stride=8)
    assert windows.counts.questions_cut == 1
    for window in windows[:-1]:
        assert len(window) == 64
        assert (window.passage == 0).sum() == 32
    short = make_windows(tokenizer, [replace(question, question="pandas " * 29)], max_length=64, stride=8)
    assert short.counts.questions_cut == 0


# Properties ------------------------------------------------------------------------------------------------------

WORDS = ["pandas", "eat", "bamboo.", "They", "honey", "bears,", "Мёд", "熊猫。", "river", "rose!", "it", "\n\n"]
passage_texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join).filter(str.strip)


@st.composite
def questions(draw: Any) -> Question:
    passages = draw(st.lists(passage_texts, min_size=1, max_size=4))

    def span() -> tuple[int, int, int]:
        passage = draw(st.integers(0, len(passages) - 1))
        text = passages[passage]
        start = draw(st.sampled_from([i for i, c in enumerate(text) if not c.isspace()]))
        end = draw(st.integers(start + 1, min(len(text), start + 25)))
        return passage, start, start + len(text[start:end].rstrip())

    answers = [span() for _ in range(draw(st.integers(0, 2)))]
    support = tuple(span() for _ in range(draw(st.integers(0, 2))))
    return Question(
        "q",
        " ".join(draw(st.lists(st.sampled_from(WORDS[:-1]), min_size=1, max_size=30))),
        tuple(passages),
        tuple(GoldAnswer(passages[p][a:b], p, a) for p, a, b in answers),
        support=support or None,
        kind="span" if answers else "none",
    )


crops = st.builds(
    CmpCrop,
    steps=st.integers(1, 3),
    segmenter=st.sampled_from([Sentences(), Paragraphs(), WholePassages(), WordWindows(3, 2), TokenWindows(4)]),
)


@settings(max_examples=120, deadline=None)
@given(
    question=questions(),
    crop=crops,
    name=st.sampled_from(list(TOKENIZERS)),
    max_length=st.integers(24, 128),
    stride=st.integers(0, 60),
    pack=st.booleans(),
    seed=st.integers(0, 2**62),
)
def test_properties(
    question: Question, crop: CmpCrop, name: str, max_length: int, stride: int, pack: bool, seed: int
) -> None:
    windows = make_windows(
        TOKENIZERS[name],
        [question],
        max_length=max_length,
        stride=stride,
        pack=pack,
        segmenter=crop.segmenter,
        yes_no=pack,
    )
    needed = [(a.passage, a.start, a.end) for a in question.answers] + list(question.support or ())
    seen: list[set[tuple[int, int]]] = [set() for _ in question.passages]
    for window in windows:
        assert len(window) == len(window.example) <= max_length
        for array in (window.offsets, *window.example.features.values()):
            assert len(array) == len(window)
        inside = window.passage >= 0
        assert inside.any()
        for passage, (start, end) in zip(window.passage[inside], window.offsets[inside].tolist(), strict=True):
            assert 0 <= start < end <= len(question.passages[passage])
            seen[passage].add((start, end))
        assert not (pack is False and len(set(window.passage[inside])) > 1)
        # Only passages are cropped; all of what an answer or a supporting fact stands on stays, step after step.
        views = Plan([crop, CmpDrop()]).views(replace(window.example, seed=seed))
        fixed = set(np.flatnonzero(~inside))
        for p, start, end in needed:
            fixed |= set(
                np.flatnonzero((window.passage == p) & (window.offsets[:, 0] < end) & (window.offsets[:, 1] > start))
            )
        before = set(range(len(window)))
        for view in views:
            kept = set(view.tokens.tolist())
            assert fixed <= kept <= before
            assert any(inside[list(kept)])
            before = kept
        for first, last in window.spans:
            text_of(question, window, first, last)
    # Every token of the context is in some window, and so every character that is not white space.
    for passage, text in enumerate(question.passages):
        whole = make_windows(TOKENIZERS[name], [Question("w", "it", (text,))], max_length=128, stride=0)
        assert {tuple(o) for w in whole for o in w.offsets[w.passage >= 0].tolist()} == seen[passage]
        covered = {i for start, end in seen[passage] for i in range(start, end)}
        assert all(i in covered for i, c in enumerate(text) if not c.isspace())


@settings(max_examples=60, deadline=None)
@given(question=questions(), name=st.sampled_from(list(TOKENIZERS)))
def test_a_label_is_the_text_of_the_answer(question: Question, name: str) -> None:
    """Modulo the borders of tokens: the tokens of the label are the fewest that cover the answer."""
    windows = make_windows(TOKENIZERS[name], [question], max_length=128, stride=40)
    for window in windows:
        covering = []
        for first, last in window.spans:
            (passage,) = set(window.passage[first : last + 1])
            covering.append((passage, *window.offsets[first], *window.offsets[last]))
        for passage, start_0, end_0, start_1, end_1 in covering:
            assert any(
                a.passage == passage and start_0 <= a.start < end_0 and start_1 < a.end <= end_1
                for a in question.answers
            )
    if windows.counts.answers_lost == 0 and question.answers:
        assert windows.counts.answered > 0


def test_crops_drop_sentences_or_whole_passages() -> None:
    passages = (TEXTS[2], TEXTS[0], TEXTS[4])
    question = Question("q", "what?", passages, (found(TEXTS[0], "bamboo", 1),), support=((2, 0, 4),))
    schedule = FixedCounts((0,))
    for segmenter, left in ((WholePassages(), [1, 2]), (Sentences(), [1, 2])):
        (window,) = make_windows(wordpiece(), [question], max_length=128, pack=True, segmenter=segmenter)
        view = Plan([CmpCrop(segmenter=segmenter, schedule=schedule)]).views(window.example)[1]
        assert sorted(set(window.passage[view.tokens]) - {-1}) == left
        of_answer = [int(t) for t in view.tokens if window.passage[t] == 1]
        whole = (window.passage == 1).sum()
        assert (len(of_answer) == whole) == (segmenter == WholePassages())
        assert 1 <= len(window.example.support) == 2
    # Without a crop nothing can be cropped.
    (plain,) = make_windows(wordpiece(), [question], max_length=128, pack=True)
    assert len(Plan([CmpCrop()]).views(plain.example)[1]) == len(plain)
    assert not plain.example.croppable


def test_packing_fills_windows_in_order() -> None:
    passages = tuple(TEXTS[:5]) * 2
    tokenizer = wordpiece()
    separate = make_windows(tokenizer, [Question("q", "what?", passages)], max_length=90)
    packed = make_windows(tokenizer, [Question("q", "what?", passages)], max_length=90, pack=True)
    assert len(separate) == 10 > len(packed) > 1
    order = [p for w in packed for p in dict.fromkeys(w.passage.tolist()) if p >= 0]
    assert order == list(range(10))
    alone = [int((w.passage >= 0).sum()) for w in separate]
    used = len(separate[0].passage) - alone[0]
    for window, following in pairwise(packed):
        held = set(window.passage.tolist()) - {-1}
        first = min(set(following.passage.tolist()) - {-1})
        # The next passage, with a separator before each but the first, would not have fitted.
        assert used + sum(alone[p] for p in (*held, first)) + len(held) > 90
        between = np.flatnonzero(np.diff(window.passage))
        separators = window.example.features["input_ids"] == tokenizer.sep_token_id
        assert separators.sum() == len(held) + 1
        assert len(between) >= 2


def test_seeds_derive_from_the_id_and_the_window() -> None:
    both = [Question("a", "what?", (TEXTS[0], TEXTS[1])), Question("b", "what?", (TEXTS[0], TEXTS[1]))]
    windows = make_windows(wordpiece(), both, max_length=100)
    assert len({w.example.seed for w in windows}) == 4
    again = make_windows(wordpiece(), both[::-1], max_length=100)
    assert {w.example.seed for w in again} == {w.example.seed for w in windows}


# Bad input -------------------------------------------------------------------------------------------------------


def test_bad_input() -> None:
    tokenizer = wordpiece()
    question = Question("q7", "what?", (TEXTS[0],))

    class Slow:
        is_fast = False

    bad: list[tuple[Any, Any, dict[str, Any], str]] = [
        (Slow(), [question], {}, "needs a fast tokenizer, .*; got a Slow; load it by"),
        (tokenizer, [question, question], {}, "ids of questions must differ; got 'q7' again at place 1"),
        (tokenizer, [{"id": 3}], {}, r"must be Question objects; got \{'id': 3\} at place 0"),
        (
            tokenizer,
            (q for q in [question]),
            {},
            r"must be a list of Question objects; got a generator; pass list\(q",
        ),
        (tokenizer, question, {}, "must be a list of Question objects; got a Question; put it into a list"),
        (tokenizer, [question], {"stride": 1.5}, "stride must be a whole number, 0 or more; got 1.5"),
        (tokenizer, [question], {"max_length": True}, "max_length must be a whole number, 1 or more; got True"),
        (tokenizer, [question], {"pack": "no"}, "pack must be True or False; got 'no'"),
        (tokenizer, [question], {"stride": -1}, "stride must be a whole number, 0 or more; got -1"),
        (tokenizer, [question], {"max_length": 0}, "max_length must be a whole number, 1 or more; got 0"),
        (tokenizer, [question], {"max_length": 4}, "no room for the context of question 'q7'"),
        (tokenizer, [question], {"max_length": 4096}, "max_length must be at most 128, .*; got 4096"),
        (
            tokenizer,
            [question],
            {"cut_answers": "guess"},
            "cut_answers must be one of 'unanswered', 'remove'; got 'guess'",
        ),
        (tokenizer, [question], {"segmenter": "sentences"}, "segmenter must be a callable"),
    ]
    for which, given_, options, message in bad:
        with pytest.raises(ValueError, match=message):
            make_windows(which, given_, **({"max_length": 64} | options))
    bare = byte_bpe()
    bare.sep_token = bare.eos_token = None
    with pytest.raises(ValueError, match=r"need a separator or end-of-text token .* set tokenizer\.sep_token"):
        make_windows(bare, [question], max_length=64, pack=True)
    assert make_windows(tokenizer, [], max_length=64) == Windows()
