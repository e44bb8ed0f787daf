"""Evaluators and the miner of sentence-transformers, with what this package makes."""

from __future__ import annotations

import pytest
import tiny_models
from integrations_data import DOCUMENTS, QUERY, Checkpoints
from optional_libraries import datasets
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder.evaluation import (
    CrossEncoderClassificationEvaluator,
    CrossEncoderCorrelationEvaluator,
    CrossEncoderRerankingEvaluator,
)
from sentence_transformers.util import mine_hard_negatives

from cmp_rerank import LongDocumentReranker, evaluate

KINDS = ["plain", "long"]


def loaded(checkpoints: Checkpoints, kind: str) -> CrossEncoder:
    folder = getattr(checkpoints, kind)
    return LongDocumentReranker(folder, device="cpu") if kind == "long" else CrossEncoder(folder, device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_the_reranking_evaluator_agrees_with_ours(checkpoints: Checkpoints, kind: str) -> None:
    model = loaded(checkpoints, kind)
    # No two of them with a passage in common, which would be a tie.
    documents = [*tiny_models.TEXTS, "Bees.", " ".join(tiny_models.TEXTS[3].split()[::-1] * 9)]
    samples = [
        {"query": query, "positive": [documents[number]], "negative": documents[number + 1 :]}
        for number, query in enumerate(tiny_models.QUERIES)
    ]
    theirs = CrossEncoderRerankingEvaluator(samples, at_k=5, name="dev", write_csv=False)(model)
    run, qrels = {}, {}
    for number, sample in enumerate(samples):
        texts = [*sample["positive"], *sample["negative"]]
        scores = model.predict([(sample["query"], text) for text in texts])
        run[f"q{number}"] = {f"d{place}": float(score) for place, score in enumerate(scores)}
        qrels[f"q{number}"] = {"d0": 1}
    ours = evaluate(run, qrels, ["nDCG@5", "RR@5", "AP"])
    assert theirs["dev_ndcg@5"] == pytest.approx(ours["nDCG@5"], abs=1e-6)
    assert theirs["dev_mrr@5"] == pytest.approx(ours["RR@5"], abs=1e-6)
    assert theirs["dev_map"] == pytest.approx(ours["AP"], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_evaluators_run(checkpoints: Checkpoints, kind: str) -> None:
    model = loaded(checkpoints, kind)
    pairs = [[QUERY, document] for document in DOCUMENTS]
    labels = [int("honey" in document) for document in DOCUMENTS]
    found = CrossEncoderClassificationEvaluator(pairs, labels, write_csv=False)(model)
    assert 0 < found["average_precision"] <= 1
    scores = model.predict(pairs).tolist()
    assert CrossEncoderCorrelationEvaluator(pairs, scores, write_csv=False)(model)["pearson"] == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_hard_negatives_are_filtered_by_a_tuned_reranker(checkpoints: Checkpoints, kind: str) -> None:
    model = loaded(checkpoints, kind)
    encoder = SentenceTransformer(checkpoints.plain, device="cpu")
    data = datasets.Dataset.from_dict({"query": tiny_models.QUERIES, "passage": tiny_models.PASSAGES})
    mined = mine_hard_negatives(
        data, encoder, cross_encoder=model, corpus=DOCUMENTS, num_negatives=2, absolute_margin=0.0, verbose=False,
        use_faiss=False, output_format="triplet",
    )  # fmt: skip
    assert len(mined)
    for row in mined:
        positive, negative = model.predict([(row["query"], row["passage"]), (row["query"], row["negative"])])
        assert negative <= positive + 1e-5
