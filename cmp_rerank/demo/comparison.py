"""The two arms against what they had, and against each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmp_rerank.collections import Collection
from cmp_rerank.demo.recipe import ARMS, PLAIN
from cmp_rerank.evaluation import compare
from cmp_rerank.evaluation.report import write_report
from cmp_rerank.ir import Run, read_run
from cmp_rerank.pipeline import Results

#: What both arms had before: the first stage, and the model, unless its head is new.
BASELINE, START = "BM25", "start"
#: What is compared of an arm: the model as it was trained, and what the guard hands over.
TUNED, HANDED_OVER = "tuned", "handed over"


def systems_of(results: Mapping[str, Results]) -> dict[str, Run]:
    """The rankings of the test queries: what there was, and of each arm the tuned model and what is handed over."""
    runs = results[PLAIN].folder / "runs"
    had = {BASELINE: runs / "first_stage.trec", START: runs / "start.trec"}
    systems: dict[str, Run] = {name: read_run(path) for name, path in had.items() if path.exists()}
    for arm in ARMS:
        (tuned,) = (results[arm].folder / "runs").glob("tuned-*.trec")
        systems[f"{arm}, {TUNED}"] = read_run(tuned)
        systems[f"{arm}, {HANDED_OVER}"] = read_run(results[arm].folder / "runs" / "chosen.trec")
    return systems


def compare_arms(results: Mapping[str, Results], collection: Collection, page: Path) -> dict[str, Any]:
    """Means and paired tests against the first stage, with their page; and between the arms."""
    systems, qrels = systems_of(results), collection.qrels("test")
    measures = results[PLAIN].values["config"]["evaluation"]["measures"]
    against = write_report(
        page,
        systems,
        qrels,
        measures,
        queries=collection.queries("test"),
        corpus=collection.corpus,
        baseline=BASELINE,
        title="The demo: a reranker from the docstrings of installed packages",
    )
    between = {
        what: compare({arm: systems[f"{arm}, {what}"] for arm in ARMS}, qrels, measures, baseline=PLAIN)
        for what in (HANDED_OVER, TUNED)
    }
    return {
        "against_first_stage": against.to_dict(),
        "between_arms": {what: found.to_dict(per_query=False) for what, found in between.items()},
    }


def recall_of_candidates(results: Mapping[str, Results], collection: Collection) -> float:
    """The share of test queries with a relevant document among their candidates: the others are lost for all."""
    found, qrels = read_run(results[PLAIN].folder / "runs" / "first_stage.trec"), collection.qrels("test")
    return sum(any(grades.get(doc, 0) > 0 for doc in found.get(query, {})) for query, grades in qrels.items()) / len(
        qrels
    )
