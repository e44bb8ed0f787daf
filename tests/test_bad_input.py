"""Arguments that users get wrong: each is a ValueError that says what was got and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optional_libraries import datasets
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from tiny_models import PASSAGES, QUERIES
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, TrainingArguments

from cmp_rerank import (
    CmpCrop,
    CmpDrop,
    ComparativeLoss,
    ComparativeTrainer,
    IndependentCopies,
    LongDocumentReranker,
    MaxP,
    MeanOfSteps,
    PairwiseHinge,
    Plan,
    Reader,
    RerankerTrainingArguments,
    Sentences,
    TopKAvgP,
    alternate,
    evaluate,
    make_windows,
)
from cmp_rerank.engine import Scorer
from cmp_rerank.ir import BM25, Dense
from cmp_rerank.models.cross_encoder import CrossEncoderAdapter
from cmp_rerank.training import LengthBatches

PAIRS = list(zip(QUERIES, PASSAGES, strict=True))
QRELS = {"q1": {"d1": 1, "d2": 0}, "q2": {"d3": 2}}
RUN = {"q1": {"d1": 1.5, "d2": 3.0}, "q2": {"d3": 0.5}}


def table() -> Any:
    return datasets.Dataset.from_dict({"query": QUERIES, "document": PASSAGES})


def refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def scorer(**options: Any) -> Scorer:
    return Scorer(CrossEncoderAdapter(), **options)


def arguments(**options: Any) -> RerankerTrainingArguments:
    return RerankerTrainingArguments("unused", report_to="none", use_cpu=True, **options)


# Ablations ------------------------------------------------------------------------------------------------------


def test_a_single_ablation_is_a_list_of_one(tiny_model: CrossEncoder) -> None:
    assert Plan(CmpDrop(steps=2)) == Plan([CmpDrop(steps=2)])
    assert len(ComparativeLoss(tiny_model, BinaryCrossEntropyLoss(tiny_model), CmpCrop()).plan) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Plan(CmpDrop), "CmpDrop'>. Give an object of the class: add ()."),
        (lambda: Plan([CmpCrop]), "CmpCrop'>. Give an object of the class: add ()."),
        (lambda: Plan("drop"), "ablations must be Ablation objects such as CmpDrop(); got 'drop'."),
        (lambda: Plan(None), "ablations must be Ablation objects such as CmpDrop(); got None."),
        (lambda: CmpDrop(layers=2), 'layers=[2], layers="top:2"'),
        (lambda: CmpDrop(steps=2.5), "steps must be a whole number, at least 1; got 2.5."),
        (lambda: CmpCrop(steps=2.5), "steps must be a whole number, at least 1; got 2.5."),
        (lambda: IndependentCopies(steps=2.5), "steps must be a whole number, at least 1; got 2.5."),
        (lambda: IndependentCopies(CmpDrop), "ablation must be an object; got the class CmpDrop."),
        (lambda: IndependentCopies("drop"), "ablation must be one such as CmpDrop(), or None; got 'drop'."),
        (
            lambda: IndependentCopies(IndependentCopies()),
            "ablation must be one such as CmpDrop(), or None; got IndependentCopies",
        ),
        (lambda: CmpDrop(p="0.1"), "p must be a rate between 0 and 1 (exclusive); got '0.1'."),
        (lambda: CmpDrop(p=float("nan")), "p must be a rate between 0 and 1 (exclusive); got nan."),
        (
            lambda: CmpCrop(segmenter=Sentences),
            "segmenter must be an object; got the class Sentences. Pass Sentences(",
        ),
        (lambda: CmpCrop(best=1.5), "best must be a whole number, at least 1; got 1.5."),
        (lambda: alternate(crops=1.5), "whole numbers, at least 0 and not both 0; got 1.5 and 1."),
        (lambda: alternate(drops="2"), "at least 0 and not both 0; got 1 and '2'."),
        (lambda: alternate(crop=CmpCrop), "CmpCrop'>. Give an object of the class: add ()."),
    ],
)
def test_ablations(call: Callable[[], Any], message: str) -> None:
    refused(call, message)


# The loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "hinge"},
            "objective must be an object such as PairwiseHinge() or a function of the losses; got 'hinge'",
        ),
        ({"objective": PairwiseHinge}, "objective must be an object, not a class; got the class PairwiseHinge"),
        (
            {"objective": MeanOfSteps(), "baseline": "full"},
            "got baseline='full', reduction=None and objective=MeanOfSteps",
        ),
        (
            {"objective": MeanOfSteps(), "reduction": "sum"},
            "got baseline=None, reduction='sum' and objective=MeanOfSteps",
        ),
        ({"baseline": MeanOfSteps()}, "got an objective. Pass it by name: objective=MeanOfSteps("),
        ({"ablations": CmpDrop}, "CmpDrop'>. Give an object of the class: add ()."),
        ({"unpadded": "yes"}, "unpadded must be True or False; got 'yes'."),
        (
            {"strategy": "fast"},
            "strategy must be one of ('auto', 'stacked', 'hybrid', 'trunk', 'naive'); got 'fast'.",
        ),
        ({"strategy": ["auto"]}, "strategy must be one of"),
        ({"tokens_per_chunk": 2.5}, "tokens_per_chunk must be a whole number, at least 1; got 2.5."),
        ({"tokens_per_chunk": True}, "tokens_per_chunk must be a whole number, at least 1; got True."),
        ({"activation_bytes": 2.5}, "activation_bytes must be a whole number, at least 0; got 2.5."),
        ({"seed": 1.5}, "seed must be a whole number; got 1.5."),
        ({"seed": "1"}, "seed must be a whole number; got '1'."),
        ({"seed": None}, "seed must be a whole number; got None."),
    ],
)
def test_options_of_the_loss(options: dict[str, Any], message: str, tiny_model: CrossEncoder) -> None:
    given = {"ablations": [CmpDrop()]} | options
    refused(lambda: ComparativeLoss(tiny_model, BinaryCrossEntropyLoss(tiny_model), **given), message)


def test_model_and_loss(tiny_model: CrossEncoder) -> None:
    loss = BinaryCrossEntropyLoss(tiny_model)
    refused(
        lambda: ComparativeLoss(loss, tiny_model, [CmpDrop()]),
        "model and loss are swapped: got BinaryCrossEntropyLoss for the model and CrossEncoder for the loss.",
    )
    wrong: Any
    for wrong, message in (
        (
            "some/model",
            "model must be a CrossEncoder; got the string 'some/model'. Load it: CrossEncoder('some/model').",
        ),
        (None, "model must be a CrossEncoder; got None."),
    ):
        refused(lambda wrong=wrong: ComparativeLoss(wrong, loss, [CmpDrop()]), message)
    for wrong, message in (
        (BinaryCrossEntropyLoss, "got the class BinaryCrossEntropyLoss. Write BinaryCrossEntropyLoss(model)."),
        ([CmpDrop()], "loss must be a loss object such as BinaryCrossEntropyLoss(model); got a list of 1."),
    ):
        refused(lambda wrong=wrong: ComparativeLoss(tiny_model, wrong, [CmpDrop()]), message)


# Numbers of tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2.5, 0, -1, "8", True])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("tokens_per_chunk", lambda v: scorer(tokens_per_chunk=v)),
        ("tokens_per_chunk", lambda v: arguments(tokens_per_chunk=v)),
        ("tokens_per_batch", lambda v: arguments(tokens_per_batch=v)),
        ("tokens_per_batch", lambda v: ComparativeTrainer(tokens_per_batch=v)),
        ("tokens", lambda v: LengthBatches([3, 4], tokens=v)),
        ("rows", lambda v: LengthBatches([3, 4], rows=v)),
        ("world", lambda v: LengthBatches([3, 4], rows=1, world=v)),
        ("k", TopKAvgP),
    ],
    ids=[
        "Scorer",
        "arguments",
        "arguments of a batch",
        "ComparativeTrainer",
        "LengthBatches",
        "rows",
        "world",
        "TopK",
    ],
)
def test_whole_numbers(name: str, make: Callable[[Any], Any], value: Any) -> None:
    refused(lambda: make(value), f"{name} must be a whole number, at least 1; got {value!r}.")


@pytest.mark.parametrize("name", ["tokens_per_chunk", "passage_tokens", "stride", "max_passages"])
@pytest.mark.parametrize("value", [2.5, 0, True])
def test_whole_numbers_of_long_documents(name: str, value: Any, tiny_model: CrossEncoder) -> None:
    refused(
        lambda: LongDocumentReranker(tiny_model, **{name: value}),
        f"{name} must be a whole number, at least 1; got {value!r}.",
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: LengthBatches([1.5, 2.0], rows=1),
            "lengths must be a list of whole numbers, the tokens of each row",
        ),
        (lambda: LengthBatches("ab", rows=1), "lengths must be a list of whole numbers"),
        (lambda: LengthBatches([[1], [1, 2]], rows=1), "lengths must be a list of whole numbers"),
        (lambda: LengthBatches([3, 0], rows=1), "there must be rows; got the length 0."),
        (lambda: LengthBatches([], rows=1), "there must be rows; got no row."),
        (lambda: LengthBatches([3], rows=1, seed=1.5), "seed must be a whole number; got 1.5."),
        (
            lambda: arguments(strategy="fast"),
            "strategy must be one of ('auto', 'stacked', 'hybrid', 'trunk', 'naive');",
        ),
        (lambda: arguments(unpadded="yes"), "unpadded must be True or False; got 'yes'."),
        (lambda: arguments(length_bucketing=1), "length_bucketing must be True or False; got 1."),
        (lambda: arguments(token_cache=3), "token_cache must be a folder or None; got 3."),
        (lambda: ComparativeTrainer(objective="hinge"), "objective must be an object such as PairwiseHinge()"),
        (lambda: ComparativeTrainer(objective=MeanOfSteps(), baseline="full"), "short form of objective="),
        (lambda: ComparativeTrainer(ablations=CmpDrop), "Give an object of the class: add ()."),
    ],
)
def test_training(call: Callable[[], Any], message: str) -> None:
    refused(call, message)


def test_options_of_the_comparative_trainer(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(tiny_checkpoint, num_labels=2)
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    for options, message in (
        ({"tokens_per_chunk": 2.5}, "tokens_per_chunk must be a whole number, at least 1; got 2.5."),
        ({"strategy": "fast"}, "strategy must be one of"),
    ):
        refused(lambda options=options: ComparativeTrainer(model, args, ablations=CmpDrop(), **options), message)


# Long documents, readers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (lambda: iter(PAIRS), "got a list_iterator. Make a list of it: predict(list(pairs))."),
        (
            lambda: (pair for pair in PAIRS),
            "Input 0 must be a pair of texts (query, document); got a generator. Make a",
        ),
        (lambda: zip(QUERIES, PASSAGES, strict=True), "got a zip. Make a list of it: predict(list(pairs))."),
        (table, 'got a Dataset of 4. Make pairs of the columns: list(zip(data["query"], data["document"])).'),
        (lambda: {"query": QUERIES}, "got a dict of 1. Give a list of pairs: [(query, document), ...]."),
        (lambda: set(PAIRS[0]), "got a set of 2."),
        (lambda: "a query", "got the string 'a query'."),
        (lambda: [*PAIRS, ("query", None)], "Input 4 must be a pair of texts (query, document); got a tuple of 2."),
    ],
    ids=["iterator", "generator", "zip", "dataset", "dict", "set", "text", "no text"],
)
def test_what_long_documents_predict(inputs: Callable[[], Any], message: str, tiny_model: CrossEncoder) -> None:
    refused(lambda: LongDocumentReranker(tiny_model).predict(inputs()), message)


@pytest.mark.parametrize("return_documents", [False, True])
@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            lambda: (text for text in PASSAGES),
            "documents must be a list of texts; got a generator. Make a list of it:",
        ),
        (lambda: PASSAGES[0], "For a single document write [document]."),
        (lambda: {"d1": PASSAGES[0]}, "got a dict of 1. Give its texts: list(documents.values())."),
        (table, 'got a Dataset of 4. Give a column of it: data["document"].'),
        (lambda: None, "documents must be a list of texts; got None."),
    ],
    ids=["generator", "text", "dict", "dataset", "None"],
)
def test_what_long_documents_rank(
    documents: Callable[[], Any], message: str, return_documents: bool, tiny_model: CrossEncoder
) -> None:
    reranker = LongDocumentReranker(tiny_model)
    refused(lambda: reranker.rank(QUERIES[0], documents(), return_documents=return_documents), message)


def test_what_fits_is_taken(tiny_model: CrossEncoder) -> None:
    """The canary: all that a CrossEncoder takes as pairs, and gives the same scores for, is still taken."""
    reranker = LongDocumentReranker(tiny_model)
    expected = tiny_model.predict(PAIRS)
    for same in (PAIRS, tuple(PAIRS), [list(pair) for pair in PAIRS]):
        assert reranker.predict(same) == pytest.approx(expected, abs=1e-6)
    assert reranker.predict(PAIRS[0]) == pytest.approx(expected[0], abs=1e-6)
    ranked = tiny_model.rank(QUERIES[0], PASSAGES, return_documents=True)
    for same_documents in (PASSAGES, tuple(PASSAGES), table()["document"]):
        found = reranker.rank(QUERIES[0], same_documents, 2, return_documents=True)
        assert [hit["text"] for hit in found] == [hit["text"] for hit in ranked[:2]]
        assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in ranked[:2]], abs=1e-6)


def test_other_arguments_of_long_documents_and_readers(tiny_model: CrossEncoder, tiny_checkpoint: Path) -> None:
    refused(lambda: LongDocumentReranker(tiny_model, MaxP), "combine must be an object; got the class MaxP.")
    refused(lambda: LongDocumentReranker(CrossEncoder), "scores passages; got the class CrossEncoder.")
    model = AutoModelForQuestionAnswering.from_pretrained(tiny_checkpoint, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    refused(lambda: Reader(model, tokenizer, tokens_per_chunk=2.5), "tokens_per_chunk must be a whole number")
    refused(
        lambda: make_windows(tokenizer, [], max_length=64, stride=8, segmenter=Sentences),
        "segmenter must be an object; got the class Sentences.",
    )


# Evaluation and first stages ------------------------------------------------------------------------------------


def test_swapped_run_and_qrels() -> None:
    assert evaluate(RUN, QRELS, "RR")["RR"] == 0.75
    refused(lambda: evaluate(QRELS, RUN, "RR"), "run and qrels seem to be swapped")


def test_documents_of_first_stages(tiny_model: CrossEncoder) -> None:
    model: Any = tiny_model
    for make in (BM25, lambda documents: Dense(documents, model)):
        refused(lambda make=make: make(PASSAGES), "documents must map ids to texts; got a list of 4; give each text")
        refused(lambda make=make: make(table()), "documents need a column of _id, id")
    refused(lambda: Dense({"d": "text"}, model), "model must be a bi-encoder with encode_query and encode_document")
