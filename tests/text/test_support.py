"""Support: given by the data, or the segments that match best."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder

from cmp_rerank import CmpCrop, ComparativeLoss
from cmp_rerank.models.examples import tokenise
from cmp_rerank.text.segmenters import Sentences
from cmp_rerank.text.support import GivenSupport, LexicalSupport, best_segments

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
    ],
)
def test_bad_input_is_refused_in_words(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_column_of_support_reaches_the_crops_of_the_real_trainer(
    tiny_model: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    rows = [
        {"query": QUERY, "passage": PASSAGE, "support": [[29, 40]], "label": 1.0},
        {"query": QUERY, "passage": "Rain fell. The river rose.", "support": [], "label": 0.0},
    ]
    dataset = Dataset.from_list(rows)
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
