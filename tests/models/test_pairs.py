"""Tokenising once: for each family of tokenizers, every view is what the tokenizer itself could have made."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from tiny_models import QUERIES, TEXTS

from cmp_rerank.ablations import CmpCrop, CmpDrop, Example, FixedCounts, Plan, View, alternate
from cmp_rerank.ablations.base import PASSAGE
from cmp_rerank.models import CrossEncoderAdapter
from cmp_rerank.models.encoding import encode
from cmp_rerank.models.pairs import Truncation, tokenise
from cmp_rerank.text.segmenters import GivenSegments, Paragraphs, Sentences, TokenWindows, WordWindows
from cmp_rerank.text.support import GivenSupport
from cmp_rerank.text.token_segments import segments_of_tokens

PLAN = Plan(alternate(crops=2, drops=1))


@cache
def model(kind: str) -> CrossEncoder:
    """One model for each kind of tokenizer; tests may change its window only."""
    folder = Path(tempfile.mkdtemp())
    if kind == "chat":
        return tiny_models.chat_reranker(folder)
    return tiny_models.cross_encoder(folder, tokenizer=getattr(tiny_models, kind))


@pytest.fixture
def window() -> Any:
    """Sets the window of a model for one test."""
    changed: list[tuple[CrossEncoder, int]] = []

    def change(one: CrossEncoder, tokens: int) -> None:
        changed.append((one, one.max_seq_length))
        one.max_seq_length = tokens

    yield change
    for one, before in reversed(changed):
        one.max_seq_length = before


PAIRS = ["wordpiece", "byte_bpe", "sentencepiece"]
sentence = st.one_of(
    st.sampled_from(
        ["Pandas eat bamboo.", "They live in China!", "熊猫吃竹子。", "الدب يحب العسل.", "它们是熊。", "x"]
    ),
    st.text(alphabet="ab é熊。.!?😀\u200b\u0301 ", min_size=1, max_size=12),
)
passages = st.lists(st.tuples(sentence, st.sampled_from(["", " ", "\n\n", "  "])), min_size=1, max_size=9).map(
    lambda parts: "".join(a + b for a, b in parts)
)
segmenters = st.sampled_from(
    [Sentences(), WordWindows(2), WordWindows(3, stride=1), TokenWindows(3), TokenWindows(4, stride=2), Paragraphs()]
)


def fixed(example: Example, view: View) -> list[int]:
    return [int(example.features["input_ids"][i]) for i in view.tokens if example.segment[i] < 0]


@pytest.mark.parametrize("kind", [*PAIRS, "chat"])
@settings(max_examples=60, deadline=None)
@given(
    query=st.sampled_from([*QUERIES, "熊"]),
    passage=passages,
    segmenter=segmenters,
    tokens=st.integers(48, 90),
    seed=st.integers(0, 99),
)
def test_every_step_keeps_the_query_the_support_and_the_order(
    kind: str, query: str, passage: str, segmenter: Any, tokens: int, seed: int
) -> None:
    if not passage.strip():
        return
    one = model(kind)
    before, one.max_seq_length = one.max_seq_length, tokens
    try:
        plan = Plan(alternate(2, 1, crop=CmpCrop(segmenter=segmenter)))
        (example,) = tokenise(one, [(query, passage)], plan, draw=str(seed))
        plain = encode(one, [(query, passage)])
        (no_passage,) = encode(one, [(query, "")] if kind != "chat" else [(query, "x")]).features
    finally:
        one.max_seq_length = before
    assert example.features["input_ids"].tolist() == plain.features[0]["input_ids"].tolist()
    # Of the passage, and of nothing else, tokens belong to segments.
    is_passage = plain.layouts[0].part == PASSAGE
    if example.segments():
        assert ((example.segment >= 0) == is_passage).all()
    views = plan.views(example)
    assert example.until is not None
    for earlier, later in pairwise(views):
        assert set(later.tokens) <= set(earlier.tokens)
    for view in views:
        assert (np.diff(view.tokens) > 0).all()
        kept = set(view.tokens.tolist())
        assert set(np.flatnonzero(~is_passage)) <= kept
        for i in np.flatnonzero(is_passage):
            if any(example.segment[i] <= s <= example.until[i] for s in example.support):
                assert int(i) in kept
        # What stands around the passage is what the tokenizer puts around any passage.
        if len(example) < tokens:
            around = fixed(example, view)
            if kind == "chat":
                assert all(token in around for token in (0, 2))
            else:
                assert around == no_passage["input_ids"].tolist()
        if "token_type_ids" in example.features:
            types = example.features["token_type_ids"][view.tokens]
            assert (np.diff(types) >= 0).all()
            assert set(types.tolist()) == {0, 1}
    if example.segments():
        assert all((example.segment[view.tokens] >= 0).any() for view in views)  # something is left of the passage


@pytest.mark.parametrize("kind", PAIRS)
def test_a_view_is_the_encoding_of_the_cropped_text(kind: str) -> None:
    """Where segments begin with a space of their own, dropping tokens is the same as dropping text."""
    one = model(kind)
    text = " " + TEXTS[3]
    plan = Plan([CmpCrop(support=None, schedule=FixedCounts((2,)))])
    for seed in range(6):
        (example,) = tokenise(one, [(QUERIES[0], text)], plan, draw=str(seed))
        view = plan.views(example)[1]
        spans = Sentences()(text)
        kept = sorted({int(i) for i in example.segment[view.tokens] if i >= 0})
        cropped = " " + " ".join(text[slice(*spans[i])] for i in kept)
        (expected,) = encode(one, [(QUERIES[0], cropped)]).features
        assert len(kept) == 2
        for name, values in expected.items():
            assert example.features[name][view.tokens].tolist() == values.tolist()


@pytest.mark.parametrize("kind", [*PAIRS, "chat"])
def test_the_full_view_scores_as_the_model_itself_and_a_crop_as_the_shorter_text(kind: str) -> None:
    one = model(kind).eval()
    pairs = [(QUERIES[0], TEXTS[0]), (QUERIES[1], TEXTS[2])]
    plan = Plan([CmpCrop()])
    examples = tokenise(one, pairs, plan)
    with torch.no_grad():
        batch = CrossEncoderAdapter().collate(one, [(example, example.full()) for example in examples])
        ours = one(batch.features)["scores"].flatten()
        theirs = torch.as_tensor(one.predict(pairs, activation_fn=torch.nn.Identity()))
        assert torch.allclose(ours, theirs, atol=1e-5)
        # Positions of what is left are counted anew by the model, and kept for the masks.
        view = plan.views(examples[0])[1]
        batch = CrossEncoderAdapter().collate(one, [(examples[0], view)])
    assert "position_ids" not in batch.features
    assert batch.positions[0].tolist() == view.tokens.tolist()
    assert batch.positions.max() == len(examples[0]) - 1


def test_the_chat_template_path_has_the_same_public_behaviour() -> None:
    one = model("chat")
    for options in ({}, {"prompt": "Judge it."}):
        (example,) = tokenise(one, [(QUERIES[0], TEXTS[0])], PLAN, **options)
        assert example.segments() == [0, 1, 2, 3]
        assert example.support == {0}
        for view in PLAN.views(example):
            text = one.tokenizer.decode(example.features["input_ids"][view.tokens])
            assert "Pandas eat bamboo." in text
            # Of the template: this tokenizer knows no colon. Earlier transformers put blanks around special tokens.
            assert text.replace(" ", "").endswith("</s><s>assistantRelevant")
            assert ("udge it." in text) == bool(options)
    # Segments of tokens are the same as for a plain pair
    (plain,) = tokenise(model("byte_bpe"), [(QUERIES[0], TEXTS[0])], PLAN)
    ids = [e.features["input_ids"][e.segment >= 0].tolist() for e in (example, plain)]
    assert ids[0] == ids[1]
    assert example.segment[example.segment >= 0].tolist() == plain.segment[plain.segment >= 0].tolist()


def test_a_truncated_chat_keeps_its_end(window: Any) -> None:
    one = model("chat")
    window(one, 64)
    count = Truncation()
    (example,) = tokenise(one, [(QUERIES[0], " ".join(TEXTS))], PLAN, truncation=count)
    assert len(example) == 64
    assert count.cut == 1
    assert 0 < count.lost < len(" ".join(TEXTS))
    for view in PLAN.views(example):
        text = one.tokenizer.decode(example.features["input_ids"][view.tokens])
        assert text.replace(" ", "").endswith("</s><s>assistantRelevant")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            tiny_models.CHAT_TEMPLATE.replace("message['content']", "message['content'] | upper"),
            "shows a passage 0 times",
        ),
        (
            tiny_models.CHAT_TEMPLATE.replace("message['content']", "message['content'] | replace('eat', 'ate')"),
            "changes the text",
        ),
        (tiny_models.CHAT_TEMPLATE + "{{ messages[-1]['content'] }}", "shows a passage 2 times"),
    ],
)
def test_templates_that_hide_the_passage_are_refused_for_crops_only(
    tmp_path: Path, template: str, message: str
) -> None:
    one = tiny_models.chat_reranker(tmp_path, template)
    with pytest.raises(ValueError, match=message):
        tokenise(one, [(QUERIES[0], TEXTS[0])], PLAN)
    (example,) = tokenise(one, [(QUERIES[0], TEXTS[0])], Plan([CmpDrop()]))
    assert len(Plan([CmpDrop()]).views(example)) == 2


def test_a_template_may_trim_its_messages(tmp_path: Path) -> None:
    template = tiny_models.CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
    one = tiny_models.chat_reranker(tmp_path, template)
    (example,) = tokenise(one, [(QUERIES[0], f"  {TEXTS[0]}\n")], PLAN)
    (same,) = tokenise(one, [(QUERIES[0], TEXTS[0])], PLAN)
    assert example.segment.tolist() == same.segment.tolist()


def test_tokens_of_segments_against_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        cuts = np.sort(rng.choice(30, size=6, replace=False))
        spans = [(int(a), int(b)) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
        begins = np.sort(rng.integers(0, 30, size=8))
        offsets = np.stack([begins, begins + rng.integers(0, 4, size=8)], axis=1)
        first, last = segments_of_tokens(offsets, spans)
        for (start, given_end), a, b in zip(offsets, first, last, strict=True):
            end = max(given_end, start + 1)
            touched = [i for i, (left, right) in enumerate(spans) if left < end and start < right]
            after = next((i for i, (left, _) in enumerate(spans) if left >= end), len(spans) - 1)
            assert (a, b) == ((touched[0], touched[-1]) if touched else (after, after))


LONG = "Bees fly by flapping their wings. They make honey. Honey is sweet. Rain fell all day. The river rose. " * 4
ANSWER = "Nobody was hurt."
DEEP = LONG + ANSWER + " " + LONG


def deep(policy: str, segmenter: Any) -> Plan:
    begin = DEEP.index(ANSWER)
    given = GivenSupport({("q", DEEP): [(begin, begin + len(ANSWER))]})
    return Plan([CmpCrop(steps=2, segmenter=segmenter, support=given, lost_support=policy), CmpDrop()])


@pytest.mark.parametrize("segmenter", [Sentences(), WordWindows(5), TokenWindows(7)])
@pytest.mark.parametrize("kind", [*PAIRS, "chat"])
def test_support_that_was_cut_off_is_counted_and_treated_as_the_policy_says(
    kind: str, segmenter: Any, window: Any
) -> None:
    one = model(kind)
    window(one, 60)
    plain = tokenise(one, [("q", DEEP)], Plan([]))[0]
    counts = {policy: Truncation() for policy in ("skip", "move", "ignore")}
    examples = {}
    for policy, count in counts.items():
        (examples[policy],) = tokenise(one, [("q", DEEP)], deep(policy, segmenter), truncation=count)
        assert count.support_cut == 1
    assert (counts["skip"].not_cropped, counts["move"].moved, counts["move"].not_cropped) == (1, 1, 0)
    assert "of 1 some support was cut off" in str(counts["skip"])

    for policy in ("skip", "ignore"):
        assert examples[policy].features["input_ids"].tolist() == plain.features["input_ids"].tolist()
    skipped, moved, ignored = (deep(policy, segmenter).views(examples[policy]) for policy in counts)
    assert [len(view) for view in skipped[:3]] == [len(plain)] * 3  # no crop
    assert skipped[3].level(0) == 1
    assert len(ignored[1]) < len(ignored[0])

    assert len(examples["move"]) <= 60
    assert len(moved[1]) < len(moved[0])
    for view in moved:
        assert "Nobody was hurt." in one.tokenizer.decode(
            examples["move"].features["input_ids"][view.tokens]
        ).replace("nobody", "Nobody")


def test_support_longer_than_the_window_begins_at_its_beginning_and_is_skipped(window: Any) -> None:
    one = model("wordpiece")
    window(one, 30)
    begin = DEEP.index(ANSWER)
    given = GivenSupport({("q", DEEP): [(begin, len(DEEP))]})
    count = Truncation()
    plan = Plan([CmpCrop(support=given, lost_support="move")])
    (example,) = tokenise(one, [("q", DEEP)], plan, truncation=count)
    assert one.tokenizer.decode(example.features["input_ids"]).startswith("[CLS] q [SEP] nobody was hurt")
    assert (count.support_cut, count.moved, count.not_cropped) == (1, 1, 1)
    assert plan.views(example)[1].same_as(plan.views(example)[0])


def test_support_in_the_window_moves_nothing(window: Any) -> None:
    one = model("wordpiece")
    window(one, 60)
    given = GivenSupport({("q", DEEP): [(0, 5)]})
    for policy in ("move", "skip"):
        count = Truncation()
        plan = Plan([CmpCrop(support=given, lost_support=policy)])
        (example,) = tokenise(one, [("q", DEEP)], plan, truncation=count)
        assert (count.cut, count.support_cut, count.moved, count.not_cropped) == (1, 0, 0, 0)
        assert example.support == {0}


def test_passages_that_are_not_relevant_have_no_support() -> None:
    pairs = [(QUERIES[0], TEXTS[0])] * 2
    relevant, other = tokenise(model("wordpiece"), pairs, PLAN, relevant=[True, False])
    assert relevant.support == {0}
    assert other.support == frozenset()
    given = Plan([CmpCrop(support=GivenSupport({}))])
    tokenise(model("wordpiece"), pairs, given, relevant=[False, False])
    with pytest.raises(ValueError, match="gives no support for the relevant passage"):
        tokenise(model("wordpiece"), pairs, given, relevant=[True, False])


def test_a_bi_encoder_may_tell_the_support() -> None:
    vectors = {"honey": [1.0, 0.0], "bees": [0.9, 0.1]}

    class Embedder:
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.array([vectors["honey"] if "honey" in text.lower() else [0.0, 1.0] for text in texts])

    def cosine(query: str, segments: Any) -> np.ndarray:
        return Embedder().encode(list(segments)) @ Embedder().encode([query])[0]

    plan = Plan([CmpCrop(support=cosine, best=2)])
    (example,) = tokenise(model("wordpiece"), [("honey", TEXTS[2])], plan)
    assert example.support == {1, 2}


def test_given_passages_as_segments() -> None:
    texts, given = GivenSegments.joined([["Pandas eat bamboo. They live.", "Rain fell."]])
    (example,) = tokenise(model("byte_bpe"), [("rain", texts[0])], Plan([CmpCrop(segmenter=given)]))
    assert example.segments() == [0, 1]
    assert example.support == {1}


@pytest.mark.parametrize("kind", PAIRS)
def test_texts_of_one_segment_right_to_left_and_without_spaces(kind: str) -> None:
    one = model(kind)
    arabic, chinese = "الدب يحب العسل. العسل حلو. هل هو حلو؟", "熊猫吃竹子。它们住在中国。它们是熊。"
    for text, segments in (("one segment", 1), (arabic, 3), (chinese, 3)):
        (example,) = tokenise(one, [("q", text)], PLAN)
        assert len(example.segments()) == segments
        assert PLAN.views(example)[1].same_as(example.full()) == (segments == 1)


def test_a_document_of_a_hundred_thousand_words(window: Any) -> None:
    one = model("wordpiece")
    text = "Some nine words stand here before the next end. " * 11_200
    count = Truncation()
    (example,) = tokenise(one, [("q", text)], PLAN, truncation=count)
    assert len(example) == 128
    assert count.lost > 0.99 * len(text)


@pytest.mark.parametrize("text", ["", " \n\t", "\u2003"])
def test_empty_passages_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="passage of pair 1 is empty"):
        tokenise(model("wordpiece"), [("q", "text"), ("q", text)], PLAN)


@pytest.mark.parametrize("what", ["query", "passage"])
@pytest.mark.parametrize("plan", [PLAN, Plan([])])
def test_half_of_a_character_is_an_error_with_its_place(what: str, plan: Plan) -> None:
    odd = ("q", "text \udd89") if what == "passage" else ("is \ud83d", "text")
    place = 5 if what == "passage" else 3
    message = rf"The {what} of pair 1 has half of a character, '\\ud[0-9a-f]{{3}}', at place {place}"
    with pytest.raises(ValueError, match=message):
        tokenise(model("wordpiece"), [("q", "text"), odd], plan)


def test_a_query_that_fills_the_window_leaves_nothing_to_crop(window: Any) -> None:
    one = model("wordpiece")
    window(one, 20)
    (example,) = tokenise(one, [("bears like honey " * 40, TEXTS[0])], PLAN)
    views = PLAN.views(example)
    assert all((example.segment[view.tokens] < 0).any() for view in views)


def test_no_pairs() -> None:
    assert tokenise(model("wordpiece"), [], PLAN) == []


def bad_spans(make: Callable[[str], Any]) -> Plan:
    return Plan([CmpCrop(segmenter=make)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda text: [(0, len(text) + 1)], "Segments by <lambda>: the span .* outside of its text"),
        (lambda text: [(3, 5), (0, 2)], "not in order"),
        (lambda text: ["a"], "expected spans"),
    ],
)
def test_spans_of_a_segmenter_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenise(model("wordpiece"), [("q", "some text")], bad_spans(make))


def test_a_segmenter_that_finds_nothing_leaves_the_passage_whole() -> None:
    plan = bad_spans(lambda text: [])
    (example,) = tokenise(model("wordpiece"), [("q", "some text")], plan)
    assert plan.views(example)[1].same_as(example.full())
