"""PyTerrier: a transformer, and an Experiment that gives our figures. Nothing here starts Java."""

from __future__ import annotations

import pytest

pytest.importorskip("pyterrier", reason="needs pyterrier")

import pandas as pd
import pyterrier as pt
from integrations_data import DOCUMENTS, SCORES, Checkpoints
from ir_measures import AP, RR, nDCG
from sentence_transformers import CrossEncoder
from tiny_models import QUERIES

from cmp_rerank import LongDocumentReranker, compare, evaluate
from cmp_rerank.integrations.pyterrier import PyTerrierReranker
from cmp_rerank.reranking import rerank_run

CORPUS = {f"d{place}": text for place, text in enumerate(DOCUMENTS)}
TOPICS = {f"q{number}": query for number, query in enumerate(QUERIES)}
RUN = {query: dict(zip(CORPUS, SCORES, strict=True)) for query in TOPICS}
QRELS = {query: {f"d{number % 4}": 2, f"d{(number + 2) % 8}": 1} for number, query in enumerate(TOPICS)}


def frame(run: dict[str, dict[str, float]]) -> pd.DataFrame:
    rows = [
        {"qid": query, "query": TOPICS[query], "docno": doc, "text": CORPUS[doc], "score": score}
        for query, scores in run.items()
        for doc, score in scores.items()
    ]
    return pt.model.add_ranks(pd.DataFrame(rows))


def as_run(found: pd.DataFrame) -> dict[str, dict[str, float]]:
    return {query: dict(zip(rows["docno"], rows["score"], strict=True)) for query, rows in found.groupby("qid")}


@pytest.mark.parametrize("kind", ["plain", "long", "mixed"])
def test_the_transformer_gives_the_run_of_rerank(checkpoints: Checkpoints, kind: str) -> None:
    folder = getattr(checkpoints, kind)
    found = PyTerrierReranker(folder, device="cpu").transform(frame(RUN))
    if kind == "mixed":
        from cmp_rerank.guard.save import load_guard

        expected = load_guard(folder, device="cpu").rerank(TOPICS, CORPUS, RUN)
    else:
        model = (LongDocumentReranker if kind == "long" else CrossEncoder)(folder, device="cpu")
        expected = rerank_run(model, TOPICS, CORPUS, RUN)
    run = as_run(found)
    assert run.keys() == expected.keys()
    for query, scores in expected.items():
        assert run[query] == pytest.approx(scores, abs=1e-5)
    best = found[found["rank"] == 0].set_index("qid")["docno"].to_dict()
    assert best == {query: next(iter(scores)) for query, scores in expected.items()}


def test_an_experiment_gives_our_figures(checkpoints: Checkpoints) -> None:
    first = pt.Transformer.from_df(frame(RUN))
    pipeline = first >> PyTerrierReranker(checkpoints.plain, device="cpu")
    topics = pd.DataFrame({"qid": list(TOPICS), "query": list(TOPICS.values())})
    qrels = pd.DataFrame(
        [
            {"qid": query, "docno": doc, "label": grade}
            for query, grades in QRELS.items()
            for doc, grade in grades.items()
        ]
    )
    measures = [nDCG @ 5, RR @ 10, AP]
    told = pt.Experiment([first, pipeline], topics, qrels, measures, names=["first", "tuned"], baseline=0)
    tuned = rerank_run(CrossEncoder(checkpoints.plain, device="cpu"), TOPICS, CORPUS, RUN)
    for row, run in enumerate((RUN, tuned)):
        ours = evaluate(run, QRELS, measures)
        for measure in map(str, measures):
            assert told[measure][row] == pytest.approx(ours[measure], abs=1e-6)
    ours = compare({"first": RUN, "tuned": tuned}, QRELS, "nDCG@5", baseline="first").to_dict(per_query=False)
    (contrast,) = ours["contrasts"]
    assert told["nDCG@5 p-value"][1] == pytest.approx(contrast["t_p"], abs=1e-6)


def test_no_documents(checkpoints: Checkpoints) -> None:
    found = PyTerrierReranker(checkpoints.plain, device="cpu").transform(frame(RUN).iloc[:0])
    assert len(found) == 0
    assert {"qid", "docno", "score", "rank"} <= set(found.columns)
