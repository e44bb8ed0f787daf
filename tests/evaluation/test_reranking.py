"""Reranking: only the top k is scored, the rest keeps its place, any object with `predict` will do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder

from cmp_rerank.evaluation import evaluate, rerank
from cmp_rerank.ir import rank

QUERIES = {"q1": "one", "q2": "two"}
CORPUS = {f"d{i}": f"text {i}" for i in range(6)}
RUN = {"q1": {f"d{i}": float(-i) for i in range(6)}, "q2": {"d3": 0.0, "d4": 0.0}}


class Table:
    """Gives each document the score that a table has for it."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = {CORPUS[doc]: score for doc, score in scores.items()}
        self.pairs: list[tuple[str, str]] = []

    def predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        self.pairs += pairs
        return [self.scores[text] for _, text in pairs]


def test_top_k_is_scored_and_the_rest_stays_below_in_its_order() -> None:
    model = Table({"d0": -5.0, "d1": 3.0, "d2": 3.0, "d3": 1.0, "d4": 2.0})
    result = rerank(model, QUERIES, CORPUS, RUN, k=3)
    assert [doc for doc, _ in rank(result["q1"])] == ["d2", "d1", "d0", "d3", "d4", "d5"]
    assert result["q1"]["d1"] == 3.0
    assert result["q2"] == {"d4": 2.0, "d3": 1.0}
    assert model.pairs == [
        ("one", "text 0"),
        ("one", "text 1"),
        ("one", "text 2"),
        ("two", "text 4"),
        ("two", "text 3"),
    ]


@given(
    st.lists(st.floats(-3e38, 3e38), min_size=6, max_size=6), st.integers(1, 6), st.sampled_from(["double", "single"])
)
def test_the_tail_is_below_at_any_size_of_scores(scores: list[float], k: int, precision: str) -> None:
    table = {f"d{i}": score for i, score in enumerate(scores)}
    result = rerank(Table(table), QUERIES, CORPUS, {"q1": RUN["q1"]}, k=k)
    ranked = [doc for doc, _ in rank(result["q1"], precision=precision)]
    assert ranked[:k] == [doc for doc, _ in rank({f"d{i}": scores[i] for i in range(k)}, precision=precision)]
    assert ranked[k:] == [f"d{i}" for i in range(k, 6)] or max(map(abs, scores[:k])) > 1e38  # the end of 32 bits


def test_an_identity_reranker_changes_nothing() -> None:
    model = Table({f"d{i}": float(-i) for i in range(6)})
    qrels = {"q1": {"d2": 1, "d5": 2}, "q2": {"d3": 1}, "q3": {"d1": 1}}
    run = {"q1": RUN["q1"], "q2": {"d3": 5.0, "d4": 3.0}}
    measures = "nDCG@10 AP RR MSMARCO-MRR@10 R@3"
    before = evaluate(run, qrels, measures).values
    for k in (1, 2, 4, None):
        assert np.array_equal(evaluate(rerank(model, QUERIES, CORPUS, run, k=k), qrels, measures).values, before)


@pytest.mark.parametrize(
    "shape",
    [list, np.array, torch.tensor, lambda x: torch.tensor(x)[:, None], lambda x: [torch.tensor(v) for v in x]],
)
def test_whatever_predict_returns(shape: object) -> None:
    class Model:
        def predict(self, pairs: list, batch_size: int) -> object:
            assert batch_size == 7
            return shape([float(text[-1]) for _, text in pairs])  # type: ignore[operator]

    result = rerank(Model(), QUERIES, CORPUS, RUN, batch_size=7)
    assert result["q1"] == {f"d{i}": float(i) for i in range(6)}
    assert all(type(score) is float for score in result["q1"].values())


def test_a_cross_encoder_gives_logits(tiny_model: CrossEncoder) -> None:
    corpus = {f"d{i}": text for i, text in enumerate(tiny_models.TEXTS)}
    with torch.no_grad():
        tiny_model.model.classifier.bias += 40.0  # where the sigmoid is 1 for everything
    logits = rerank(tiny_model, QUERIES, corpus, RUN)
    assert len(set(logits["q1"].values())) == 6
    sigmoid = rerank(tiny_model, QUERIES, corpus, RUN, predict_options={"activation_fn": torch.nn.Sigmoid()})
    assert set(sigmoid["q1"].values()) == {1.0}
    expected = tiny_model.predict([("one", corpus["d2"])], activation_fn=torch.nn.Identity())[0]
    assert logits["q1"]["d2"] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda n: [math.nan] * n, "the model's score for query 'q1' and document 'd0' is nan"),
        (lambda n: [math.inf] * n, "is inf"),
        (lambda n: [0.5] * (n - 1), r"scores of shape \(7,\) for 8 pairs"),
        (lambda n: np.zeros((n, 3)), r"scores of shape \(8, 3\) for 8 pairs"),
    ],
)
def test_scores_that_rank_nothing_are_refused(scores: object, message: str) -> None:
    class Model:
        def predict(self, pairs: list) -> object:
            return scores(len(pairs))  # type: ignore[operator]

    with pytest.raises(ValueError, match=message):
        rerank(Model(), QUERIES, CORPUS, RUN)


def test_missing_texts_and_depth() -> None:
    with pytest.raises(ValueError, match="there is no text for document 'd9'"):
        rerank(Table({}), QUERIES, CORPUS, {"q1": {"d9": 1.0}})
    with pytest.raises(ValueError, match="there is no text for query 'q9'"):
        rerank(Table({}), QUERIES, CORPUS, {"q9": {"d1": 1.0}})
    with pytest.raises(ValueError, match="k must be a whole number of at least 1; got 0"):
        rerank(Table({}), QUERIES, CORPUS, RUN, k=0)
    assert rerank(Table({}), QUERIES, CORPUS, {"q1": {}}) == {"q1": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {0: "cross-encoder/x"},
            r"model must be a loaded model; got the string .*; load it: CrossEncoder\('cross-enc",
        ),
        ({0: Table}, r"model must be a loaded model; got the class Table; create one: Table\(...\)"),
        ({0: object()}, r"model must have a method predict\(pairs\); got an object; pass a CrossEncoder"),
        ({1: ["one"]}, "queries must map ids to texts; got a list of 1; give each text an id"),
        ({2: (text for text in CORPUS)}, "corpus must map ids to texts; got a generator"),
        ({3: (query for query in RUN)}, "run must map query ids to .*; got a generator; make it a dictionary"),
        ({3: {"q1": ["d1"]}}, "run must map query ids to .*; got a list of 1 for query 'q1'"),
    ],
)
def test_arguments_of_another_shape_are_refused(change: dict, message: str) -> None:
    arguments = {0: Table({}), 1: QUERIES, 2: CORPUS, 3: RUN, **change}
    with pytest.raises(ValueError, match=message):
        rerank(*arguments.values())
