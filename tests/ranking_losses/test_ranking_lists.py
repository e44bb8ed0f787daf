"""How batches are read, and what is refused: each message says what is wrong, what was got, and what to do."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as upstream
from tiny_models import bert_config, cross_encoder
from torch import Tensor, nn

from cmp_rerank.losses import (
    LOSSES,
    ApproxNDCGLoss,
    CircleLoss,
    ListwiseKLLoss,
    ListwiseMarginMSELoss,
    ListwiseSoftmaxLoss,
    LocalizedContrastiveLoss,
    MarginHingeLoss,
    NeuralNDCGLoss,
    PairwiseSoftmaxLoss,
    SupervisedDistillationLoss,
    TeacherOrderLoss,
    WeightedRankNetLoss,
)
from cmp_rerank.ranking_losses.distillation import labels_of_ranks
from cmp_rerank.ranking_losses.lists import read_lists
from cmp_rerank.ranking_losses.softmax import listwise_softmax

OWN: list[Any] = [loss for name, loss in LOSSES.items() if not hasattr(upstream, name)]


@pytest.fixture(scope="module")
def tiny_model(tiny_checkpoint: Path) -> CrossEncoder:
    """One for all tests: nothing here changes it."""
    return CrossEncoder(str(tiny_checkpoint), device="cpu")


every = pytest.mark.parametrize("cls", OWN, ids=lambda cls: cls.__name__)


def labels_for(cls: Any, *rows: list[float]) -> list[Tensor]:
    """Labels of the right form: for a loss of two labels, each number twice; for a loss of ranks, from 1 on."""
    if cls.label_columns == 2:
        return [torch.tensor([[abs(y), y] for y in row]) for row in rows]
    return [torch.tensor(row) + (1 if cls is TeacherOrderLoss else 0) for row in rows]


def test_ragged_lists_are_padded() -> None:
    lists = read_lists(
        "L", [["q", "r"], [["a", "b", "c"], ["d", "e"]]], [torch.tensor([2, 0, 1]), torch.tensor([0, 1])]
    )
    assert lists.pairs == [("q", "a"), ("q", "b"), ("q", "c"), ("r", "d"), ("r", "e")]
    assert lists.labels.tolist() == [[2, 0, 1], [0, 1, 0]]
    assert lists.mask.tolist() == [[True, True, True], [True, True, False]]
    scores = torch.arange(1.0, 6.0, requires_grad=True)
    padded = lists.padded(scores)
    assert padded.tolist() == [[1, 2, 3], [4, 5, 0]]
    (padded * torch.tensor([[1.0, 2, 3], [4, 5, 6]])).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float16, torch.bfloat16, torch.float64])
def test_labels_of_any_real_type(dtype: torch.dtype) -> None:
    labels = read_lists("L", [["q"], [["a", "b"]]], [torch.tensor([1, 0], dtype=dtype)]).labels
    assert labels.tolist() == [[1, 0]]
    assert labels.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_columns_are_lists_too() -> None:
    columns = [["q", "r"], ["a", "b"], ["c", "d"], ["e", "f"]]
    lists = read_lists("L", columns, None)
    assert lists.pairs == [("q", "a"), ("q", "c"), ("q", "e"), ("r", "b"), ("r", "d"), ("r", "f")]
    assert lists.labels.tolist() == [[1, 0, 0]] * 2
    scored = read_lists("L", columns, torch.tensor([[9.0, 8.0, 1.0], [3.0, 2.0, -5.0]]))
    assert scored.labels.tolist() == [[9, 8, 1], [3, 2, -5]]


@pytest.mark.parametrize("mark", [-1.0, -100, math.nan])
def test_marked_documents_are_left_out(mark: float) -> None:
    labels = [torch.tensor([1, mark, 0.0, 0.0]), torch.tensor([mark, 0.0, 1.0])]
    inputs = [["q", "r"], [["a", "b", "c", "d"], ["e", "f", "g"]]]
    lists = read_lists("L", inputs, labels, ignore_label=mark)
    assert lists.pairs == [("q", "a"), ("q", "c"), ("q", "d"), ("r", "f"), ("r", "g")]
    assert lists.labels.tolist() == [[1, 0, 0], [0, 1, 0]]
    two = [torch.stack([torch.zeros(len(row)), row], dim=1) for row in labels]
    assert read_lists("L", inputs, two, ignore_label=mark, columns=2).pairs == lists.pairs


QUERIES, DOCS = ["q", "r"], [["a", "b"], ["c", "d", "e"]]
GOOD = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0])]


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        ([QUERIES], GOOD, "takes a column of queries and a column of lists of documents; got 1 columns of 2 rows"),
        ([[], []], [], "takes a column of queries and a column of lists of documents; got 2 columns of 0 rows"),
        (
            [QUERIES, ["a", "b"]],
            torch.tensor([1.0, 0.0]),
            "takes a list of documents for each query; got the text 'a'; group the pairs of a query",
        ),
        ([QUERIES, DOCS, DOCS], GOOD, "several columns of documents; got 2 columns that hold lists; join them"),
        ([QUERIES, DOCS], torch.tensor([1.0, 0.0]), "got a single label for each query; give each row a list"),
        ([QUERIES, DOCS], GOOD[:1], "needs labels for each row; got 1 for 2 rows"),
        (
            [QUERIES, DOCS],
            GOOD[::-1],
            "row 0 of the batch has 2 documents, so its labels must be a tensor of shape (2,)",
        ),
        ([QUERIES, DOCS], [GOOD[0], [0.0, 1.0, 2.0]], "must be a tensor of shape (3,); got list"),
        ([QUERIES, DOCS], [GOOD[0], GOOD[1].to(torch.complex64)], "got shape (3,), torch.complex64"),
        (
            [QUERIES, [["a"], ["c"]]],
            [torch.tensor([1.0])] * 2,
            "got a list of 1 in row 0 of the batch; add negatives",
        ),
        ([QUERIES, [["a", "b"], []]], [GOOD[0], torch.tensor([])], "got a list of 0 in row 1 of the batch"),
    ],
)
def test_what_is_no_batch_of_lists_is_refused(
    inputs: Any, labels: Any, message: str, tiny_model: CrossEncoder
) -> None:
    for loss in (ListwiseSoftmaxLoss(tiny_model), TeacherOrderLoss(tiny_model)):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            loss(inputs, labels)
        assert type(loss).__name__ in str(caught.value)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_labels_that_are_no_numbers_are_refused(cls: Any, bad: float, tiny_model: CrossEncoder) -> None:
    with pytest.raises(
        ValueError, match=rf"must be finite numbers.*; got {bad} for document 1 of list 1; .*, or leave"
    ):
        cls(tiny_model)([["q", "r"], [["a", "b"], ["c", "d"]]], labels_for(cls, [1.0, 0.0], [1.0, bad]))


@every
def test_lists_of_one_are_refused(cls: Any, tiny_model: CrossEncoder) -> None:
    with pytest.raises(ValueError, match="needs two or more; got a list of 1 in row 1 of the batch; add negatives"):
        cls(tiny_model)([["q", "r"], [["a", "b"], ["c"]]], labels_for(cls, [1.0, 0.0], [1.0]))


@every
def test_negative_labels_are_refused_where_they_are_grades_or_ranks(cls: Any, tiny_model: CrossEncoder) -> None:
    loss = cls(tiny_model)
    labels = labels_for(cls, [2.0, -3.0])
    if cls.kind.least is None:
        assert loss([["q"], [["a", "b"]]], labels).isfinite()
    else:
        least = f"at least {cls.kind.least:g}; got -{3 - cls.kind.least:g}.0"
        with pytest.raises(ValueError, match=f"must be finite numbers, {least} for document 1 of list 0; "):
            loss([["q"], [["a", "b"]]], labels)


def test_negative_grades_beside_a_teacher_are_refused(tiny_model: CrossEncoder) -> None:
    labels = [torch.tensor([[1.0, -5.0], [-1.0, 4.0]])]
    with pytest.raises(
        ValueError, match=r"relevance grades must be finite numbers, at least 0; got -1.0 for document 1"
    ):
        SupervisedDistillationLoss(tiny_model)([["q"], [["a", "b"]]], labels)


def test_leaving_out_all_but_one_document_is_refused(tiny_model: CrossEncoder) -> None:
    loss = ListwiseSoftmaxLoss(tiny_model, ignore_label=-1)
    message = "got a list of 1 in row 0 of the batch, after 2 with the label -1 were left out"
    with pytest.raises(ValueError, match=message):
        loss([["q"], [["a", "b", "c"]]], [torch.tensor([1, -1, -1])])


@pytest.mark.parametrize("cls", [cls for cls in OWN if not cls.by_position], ids=lambda cls: cls.__name__)
def test_a_teacher_must_have_said_something(cls: Any, tiny_model: CrossEncoder) -> None:
    with pytest.raises(ValueError, match="for each document; got none; add a column 'labels'"):
        cls(tiny_model)([["q"], ["a"], ["b"]], None)


@every
def test_models_of_another_kind_are_refused(cls: Any, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=f"{cls.__name__} needs a CrossEncoder; got 'bert'; load the model first"):
        cls("bert")
    with pytest.raises(ValueError, match="needs a CrossEncoder; got Linear"):
        cls(nn.Linear(2, 1))
    model = cross_encoder(tmp_path, bert_config, num_labels=3)
    with pytest.raises(ValueError, match=r"needs a model with one output label, .*; got 3 output labels"):
        cls(model)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        *[
            (cls, {"temperature": value}, f"temperature must be a finite number above 0; got {value!r}")
            for cls in (ApproxNDCGLoss, NeuralNDCGLoss, PairwiseSoftmaxLoss, ListwiseKLLoss)
            for value in (0, -1.0, math.nan, math.inf, True, "1")
        ],
        *[
            (cls, {"label_smoothing": value}, f"label_smoothing must be a number from 0 to 1; got {value!r}")
            for cls in (ListwiseSoftmaxLoss, LocalizedContrastiveLoss, ApproxNDCGLoss, NeuralNDCGLoss)
            for value in (-0.1, 1.5, math.nan)
        ],
        (ListwiseSoftmaxLoss, {"epsilon": -1.0}, "epsilon must be a number of at least 0; got -1.0"),
        (ListwiseSoftmaxLoss, {"normalize": 1}, "normalize must be True or False; got 1"),
        (WeightedRankNetLoss, {"normalize": "no"}, "normalize must be True or False; got 'no'"),
        (ListwiseMarginMSELoss, {"normalize": None}, "normalize must be True or False; got None"),
        (NeuralNDCGLoss, {"k": 0}, "k must be a whole number, at least 1; got 0"),
        (NeuralNDCGLoss, {"iterations": -1}, "iterations must be a whole number, at least 0; got -1"),
        (NeuralNDCGLoss, {"transposed": "yes"}, "transposed must be True or False; got 'yes'"),
        (ApproxNDCGLoss, {"gain": "log"}, "gain must be 'exponential' or 'linear'; got 'log'"),
        (PairwiseSoftmaxLoss, {"surrogate": "erf"}, "surrogate must be 'exp', 'tanh', 'atan' or 'relu'; got 'erf'"),
        (CircleLoss, {"margin": 2}, "margin must be a number from 0 to 1; got 2"),
        (CircleLoss, {"scale": 0.0}, "scale must be a finite number above 0; got 0.0"),
        (MarginHingeLoss, {"margin": 0}, "margin must be a finite number above 0; got 0"),
        (SupervisedDistillationLoss, {"weight": 0}, "weight must be a finite number above 0; got 0"),
        (SupervisedDistillationLoss, {"distilled": nn.MSELoss()}, "distilled must be a loss of one label"),
        (SupervisedDistillationLoss, {"supervised": ListwiseKLLoss}, "got the class ListwiseKLLoss"),
        (TeacherOrderLoss, {"labels": "rank"}, "labels must be 'order' or 'reciprocal'; got 'rank'"),
        (TeacherOrderLoss, {"loss": upstream.RankNetLoss}, "got the class RankNetLoss"),
        (ListwiseKLLoss, {"ignore_label": "-1"}, "ignore_label must be None or the number"),
        (CircleLoss, {"activation_fn": torch.sigmoid}, "activation_fn must be None or a module"),
        (CircleLoss, {"mini_batch_size": 2.5}, "mini_batch_size must be a whole number; got 2.5"),
    ],
)
def test_options_out_of_range_are_refused(cls: Any, options: Any, message: str, tiny_model: CrossEncoder) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        cls(tiny_model, **options)


def test_losses_of_another_model_are_refused(tiny_model: CrossEncoder, tmp_path: Any) -> None:
    other = cross_encoder(tmp_path)
    with pytest.raises(ValueError, match="supervised was built on another model"):
        SupervisedDistillationLoss(tiny_model, supervised=ListwiseSoftmaxLoss(other))
    with pytest.raises(ValueError, match="ADRMSELoss was built on another model"):
        TeacherOrderLoss(tiny_model, upstream.ADRMSELoss(other))


def test_ranks_below_1_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"ranks must be finite numbers, at least 1; got 0 for document 1; count from 1"
    ):
        labels_of_ranks(torch.tensor([1, 0]))


@pytest.mark.parametrize(
    ("scores", "labels", "mask", "message"),
    [
        ([0.0], torch.zeros(1), None, "scores must be a tensor of numbers, (lists, documents); got list"),
        (torch.zeros(2), torch.zeros(2) * 1j, None, "labels must be a tensor of numbers"),
        (
            torch.zeros(2, 3),
            torch.zeros(3, 2),
            None,
            "must have one shape, (lists, documents); got (2, 3) and (3, 2)",
        ),
        (torch.tensor(0.0), torch.tensor(0.0), None, "must have one shape"),
        (torch.zeros(2), torch.zeros(2), torch.ones(2), "mask must be bool, of the shape of the scores, (2,); got"),
        (torch.tensor([0.0, math.nan]), torch.zeros(2), None, "scores must be finite; got nan at index [1]"),
    ],
)
def test_what_functions_refuse(scores: Any, labels: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        listwise_softmax(scores, labels, mask)
