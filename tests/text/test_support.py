"""Support: given by the data, or the segments that match best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optional_libraries import datasets
from sentence_transformers import CrossEncoder

from cmp_rerank import CmpCrop, ComparativeLoss
from cmp_rerank.models.pairs import tokenise
from cmp_rerank.text.segmenters import Sentences
from cmp_rerank.text.support import (
    GivenSupport,
    LexicalSupport,
    best_segments,
    check_support,
    known_support,
    support_scorer,
)

QUERY, PASSAGE = "what do pandas eat", "It rains. Pandas eat bamboo. They sleep."
SPANS = Sentences()(PASSAGE)


def test_lexical_scores_against_a_slow_loop() -> None:
    query, segments = "the panda eats the bamboo", ["the panda", "the bamboo bamboo", "the end", "eats the panda"]
    expected = []
    for segment in segments:
        score = 0.0
        for term in set(query.split()):
            holding = sum(term in other.split() for other in segments)
            if term in segment.split():
                score += math.log(1 + len(segments) / holding)
        expected.append(score)
    assert LexicalSupport()(query, segments) == pytest.approx(expected)
    assert max(expected) == expected[3]


def test_best_segments_leave_out_those_without_a_match_but_the_first() -> None:
    assert best_segments(lambda *_: [0.0, 2.0, 1.0, 2.0], QUERY, ["a"] * 4, best=1) == [1]
    assert best_segments(lambda *_: [0.0, 2.0, 1.0, 2.0], QUERY, ["a"] * 4, best=3) == [1, 3, 2]
    assert best_segments(lambda *_: [0.0, 2.0, 0.0, 0.0], QUERY, ["a"] * 4, best=3) == [1]
    assert best_segments(lambda *_: [0.0, 0.0], QUERY, ["a"] * 2, best=2) == [0]


@pytest.mark.parametrize("scores", [[1.0], [1.0, math.nan], [1.0, math.inf], []])
def test_a_scorer_must_give_one_finite_score_for_each(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite score for each of 2 segments"):
        best_segments(lambda *_: scores, QUERY, ["a", "b"], best=1)


def test_spans_numbers_and_answers_name_the_same_segment() -> None:
    for given in ([(17, 20)], [[10, 28]], [1], {"text": ["bamboo"], "answer_start": [21]}):
        assert GivenSupport({(QUERY, PASSAGE): given}).segments(QUERY, PASSAGE, SPANS) == {1}
    assert GivenSupport({(QUERY, PASSAGE): [(5, 12), 2]}).segments(QUERY, PASSAGE, SPANS) == {0, 1, 2}
    assert GivenSupport({(QUERY, PASSAGE): []}).segments(QUERY, PASSAGE, SPANS) == frozenset()
    # an end is exclusive, and white space between segments supports nothing
    assert GivenSupport({(QUERY, PASSAGE): [(0, 9)]}).segments(QUERY, PASSAGE, SPANS) == {0}
    assert GivenSupport({(QUERY, PASSAGE): [(9, 10)]}).segments(QUERY, PASSAGE, SPANS) == frozenset()


@pytest.mark.parametrize(
    "mask", [[False, True, False], np.array([False, True, False]), [1, True], [(0, True)], [np.array([True, False])]]
)
def test_a_mask_is_no_list_of_numbers_or_spans(mask: Any) -> None:
    class Rule:
        def segments(self, *_: Any) -> Any:
            return mask

    for use in (
        lambda: GivenSupport({(QUERY, PASSAGE): mask}),
        lambda: known_support(Rule(), QUERY, PASSAGE, SPANS),
    ):
        with pytest.raises(
            ValueError, match=r"expected numbers of segments or spans; got a mask|must return numbers"
        ):
            use()
    with pytest.raises(ValueError, match=r"got a mask with (True|False)\. Pass where it is True"):
        GivenSupport({(QUERY, PASSAGE): mask})


@pytest.mark.parametrize("kind", ["numpy", "torch", None])
def test_a_formatted_dataset_may_have_a_pair_twice(kind: str | None) -> None:
    answers = {"text": ["Pandas"], "answer_start": [10]}
    for given, other in (([[10, 28]], [[0, 9]]), ([1], [1, 2]), (answers, answers | {"answer_start": [11]})):
        rows = {"query": [QUERY] * 2, "passage": [PASSAGE] * 2, "support": [given] * 2}
        support = GivenSupport.from_dataset(datasets.Dataset.from_dict(rows).with_format(kind))
        assert support.segments(QUERY, PASSAGE, SPANS) == {1}
        rows["support"] = [given, other]  # type: ignore[list-item]
        with pytest.raises(
            ValueError, match="Row 1: the same query and passage as in an earlier row, with other sup"
        ):
            GivenSupport.from_dataset(datasets.Dataset.from_dict(rows).with_format(kind))
    rows = {"query": [QUERY] * 2, "passage": [[PASSAGE, "Other."]] * 2, "support": [[[1], []]] * 2}  # type: ignore
    support = GivenSupport.from_dataset(datasets.Dataset.from_dict(rows).with_format(kind))
    assert support.segments(QUERY, PASSAGE, SPANS) == {1}
    assert support.segments(QUERY, "Other.", [(0, 6)]) == frozenset()


def test_a_dataset_with_one_passage_or_a_list_of_them() -> None:
    rows = [
        {"query": QUERY, "passage": PASSAGE, "support": [1]},
        {"query": QUERY, "passage": "Other. Text.", "support": None},
    ]
    support = GivenSupport.from_dataset(rows)
    assert len(support) == 1
    assert (QUERY, PASSAGE) in support
    lists = [{"q": QUERY, "docs": [PASSAGE, "Other."], "spans": [[[10, 28]], []]}]
    support = GivenSupport.from_dataset(lists, "q", "docs", "spans")
    assert support.segments(QUERY, PASSAGE, SPANS) == {1}
    assert support.segments(QUERY, "Other.", [(0, 6)]) == frozenset()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GivenSupport({(QUERY, PASSAGE): [(0, 400)]}), "outside of its text of 40 characters"),
        (lambda: GivenSupport({(QUERY, PASSAGE): [(-2, 4)]}), "outside of its text"),
        (lambda: GivenSupport({(QUERY, PASSAGE): 3}), "expected spans, numbers of segments or answers"),
        (lambda: GivenSupport({(QUERY, PASSAGE): {"text": ["x"]}}), "'answer_start'"),
        (lambda: GivenSupport({(QUERY, PASSAGE): {"text": ["rice"], "answer_start": [3]}}), "does not stand at 3"),
        (lambda: GivenSupport({(QUERY, PASSAGE): [3]}).segments(QUERY, PASSAGE, SPANS), "has only 3 segments"),
        (lambda: GivenSupport({}).segments(QUERY, PASSAGE, SPANS), "gives no support for the relevant passage"),
        (
            lambda: GivenSupport({(QUERY, PASSAGE): [(0, 9)]}).segments(QUERY, PASSAGE, SPANS[1:]),
            "is in none of its segments",
        ),
        (lambda: GivenSupport.from_dataset([{"query": QUERY}]), "Row 0 has no column 'passage'"),
        (
            lambda: GivenSupport.from_dataset([{"query": "q", "passage": ["a", "b"], "support": [[]]}]),
            "2 passages, but support for 1",
        ),
        (
            lambda: GivenSupport.from_dataset([{"query": "q", "passage": "a", "support": s} for s in ([0], [1])]),
            "with other support",
        ),
        (lambda: GivenSupport([1]), "For a dataset use GivenSupport.from_dataset"),  # type: ignore[arg-type]
        (lambda: GivenSupport({"q": [1]}), r"pairs \(query, passage\) of strings; got 'q'"),  # type: ignore[dict-item]
        (lambda: GivenSupport({}, fallback=LexicalSupport), "got the class LexicalSupport"),  # type: ignore[arg-type]
        (lambda: GivenSupport({}, fallback=1), "fallback must be a scorer or None; got 1"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused_in_words(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class LongestSegment:
    """An own support rule that needs no scores; it shares no class with those of the package."""

    def segments(self, query: str, passage: str, spans: Sequence[tuple[int, int]]) -> list[int]:
        return [max(range(len(spans)), key=lambda i: spans[i][1] - spans[i][0])]


class OwnGiven(LongestSegment):
    """It knows one pair only, and leaves the others to a scorer."""

    fallback = LexicalSupport()

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return pair == (QUERY, PASSAGE)


def overlap(query: str, segments: Sequence[str]) -> list[float]:
    return [float(len(set(query.split()) & set(segment.split()))) for segment in segments]


def test_any_object_of_the_right_shape_is_a_support_rule() -> None:
    for support in (None, overlap, LexicalSupport(), GivenSupport({}), LongestSegment(), OwnGiven()):
        check_support(support)
    assert known_support(LongestSegment(), QUERY, PASSAGE, SPANS) == {1}
    assert support_scorer(LongestSegment()) is None
    assert known_support(OwnGiven(), QUERY, PASSAGE, SPANS) == {1}
    assert known_support(OwnGiven(), "other", PASSAGE, SPANS) is None
    assert support_scorer(OwnGiven()) == LexicalSupport()
    for scorer in (overlap, None):
        assert known_support(scorer, QUERY, PASSAGE, SPANS) is None
        assert support_scorer(scorer) is scorer


def test_given_support_comes_before_its_fallback() -> None:
    given = GivenSupport({(QUERY, PASSAGE): [2]}, fallback=overlap)
    assert known_support(given, QUERY, PASSAGE, SPANS) == {2}
    assert known_support(given, "other", PASSAGE, SPANS) is None
    assert support_scorer(given) is overlap
    nothing = GivenSupport({(QUERY, PASSAGE): []}, fallback=overlap)
    assert known_support(nothing, QUERY, PASSAGE, SPANS) == frozenset()  # known: nothing supports the label
    with pytest.raises(ValueError, match="gives no support"):
        known_support(GivenSupport({}), QUERY, PASSAGE, SPANS)


@pytest.mark.parametrize("found", [[3], [-1], [0.5], ["0"], "0", None, 1])
def test_an_own_rule_must_return_numbers_of_segments(found: Any) -> None:
    class Wrong:
        def segments(self, *_: Any) -> Any:
            return found

    with pytest.raises(ValueError, match="must return numbers of segments, from 0 to 2"):
        known_support(Wrong(), QUERY, PASSAGE, SPANS)


@pytest.mark.parametrize("support", [LexicalSupport, GivenSupport, LongestSegment])
def test_a_class_is_no_support_rule(support: type) -> None:
    with pytest.raises(ValueError, match=f"support must be an object; got the class {support.__name__}. Pass"):
        check_support(support)


def test_an_object_of_another_shape_is_no_support_rule() -> None:
    class Unsure(LongestSegment):
        fallback = LexicalSupport()

    with pytest.raises(ValueError, match="support must be GivenSupport, a scorer or None; got 'lexical'"):
        check_support("lexical")
    with pytest.raises(ValueError, match=r"must define __contains__.* got .*Unsure"):
        check_support(Unsure())


def test_the_repr_of_given_support_depends_on_its_contents_only() -> None:
    one = GivenSupport({(QUERY, PASSAGE): [1], ("a", "b"): [(0, 1)]})
    assert repr(one) == repr(GivenSupport({("a", "b"): [[0, 1]], (QUERY, PASSAGE): [1]}))
    others = [GivenSupport({(QUERY, PASSAGE): [2], ("a", "b"): [(0, 1)]}), GivenSupport({(QUERY, PASSAGE): [1]})]
    others.append(GivenSupport({(QUERY, PASSAGE): [1], ("a", "b"): [(0, 1)]}, fallback=LexicalSupport()))
    assert len({repr(given) for given in (one, *others)}) == 4
    assert repr(others[-1]).endswith(", fallback LexicalSupport()>")


def test_a_column_of_support_reaches_the_crops_of_the_real_trainer(
    tiny_model: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    rows = [
        {"query": QUERY, "passage": PASSAGE, "support": [[29, 40]], "label": 1.0},
        {"query": QUERY, "passage": "Rain fell. The river rose.", "support": [], "label": 0.0},
    ]
    dataset = datasets.Dataset.from_list(rows)
    support = GivenSupport.from_dataset(dataset)
    loss = ComparativeLoss(tiny_model, BinaryCrossEntropyLoss(tiny_model), [CmpCrop(support=support)])
    seen = {}

    def spy(model, pairs, plan, **kwargs):  # type: ignore[no-untyped-def]
        examples = tokenise(model, pairs, plan, **kwargs)
        seen.update({(str(q), str(p)): example.support for (q, p), example in zip(pairs, examples, strict=True)})
        return examples

    monkeypatch.setattr("cmp_rerank.losses.comparative.tokenise", spy)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, save_strategy="no", report_to="none",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    texts = dataset.remove_columns("support")
    CrossEncoderTrainer(model=tiny_model, args=arguments, train_dataset=texts, loss=loss).train()
    # given for the relevant passage (the lexical choice would be segment 1), none for the other
    assert seen == {(QUERY, PASSAGE): {2}, (QUERY, "Rain fell. The river rose."): frozenset()}
