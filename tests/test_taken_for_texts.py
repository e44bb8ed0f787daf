"""Every public function that takes texts by id takes a mapping, a ``datasets.Dataset`` and one of ir_datasets."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ir_datasets
import pytest
import tiny_models
import torch
from optional_libraries import datasets
from sentence_transformers import CrossEncoder, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer
from transformers import BertForMaskedLM
from vectors import Vectors

import cmp_rerank
from cmp_rerank.collections import Collection, divide
from cmp_rerank.collections import Split as CollectionSplit
from cmp_rerank.evaluation import RunEvaluator, rerank
from cmp_rerank.evaluation.curves import utility_curves
from cmp_rerank.evaluation.report import build_report
from cmp_rerank.guard import GuardCallback, Guarded, GuardOptions, Mix, Split, guard
from cmp_rerank.ir import (
    BM25,
    Dense,
    FirstStageOptions,
    GivenRun,
    Sparse,
    first_stage,
    write_corpus,
    write_queries,
    write_samples,
    write_top1000,
)
from cmp_rerank.mining import find_leaks, mine, sample_negatives
from cmp_rerank.reader.retrieved import from_run
from cmp_rerank.reranking import rerank_run

QUERIES = {"q1": "0 1", "q2": "2 1"}
CORPUS = {"d1": "1 0", "d2": "2 2", "d3": "0 1"}
RUN = {"q1": {"d1": 1.0, "d2": 2.0}, "q2": {"d1": 2.0, "d3": 1.0}}
QRELS = {"q1": {"d1": 1}, "q2": {"d3": 1}}
FEW = GuardOptions(interpolations=(), score_weights=(), repeats=1)


class Models:
    """What the doors need besides texts."""

    def __init__(self, model: CrossEncoder, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.dense = Vectors()

    def sparse(self) -> SparseEncoder:
        torch.manual_seed(0)
        tokenizer, config = tiny_models.wordpiece(), tiny_models.bert_config()
        config.vocab_size = len(tokenizer)
        BertForMaskedLM(config).save_pretrained(self.folder / "splade")
        tokenizer.save_pretrained(self.folder / "splade")
        transformer = Transformer(str(self.folder / "splade"), transformer_task="fill-mask")
        return SparseEncoder(modules=[transformer, SpladePooling()], device="cpu")

    def written(self, write: Callable[..., None], *arguments: Any) -> str:
        write(self.folder / "written", *arguments)
        return (self.folder / "written").read_text()


def collection_of(queries: Any, corpus: Any) -> tuple[Any, ...]:
    collection = Collection("tiny", corpus, {"test": CollectionSplit(queries, QRELS)})
    return dict(collection.corpus), dict(collection.queries("test")), collection.documents_of("test")


def page(queries: Any, corpus: Any) -> Any:
    html, _ = build_report({"a": RUN, "b": RUN}, QRELS, "RR", queries=queries, corpus=corpus)
    return [line for line in html.splitlines() if '"texts"' in line and '"docs"' in line]


def guarded(queries: Any, corpus: Any, m: Models) -> Any:
    return guard(
        None, m.model, queries=queries, corpus=corpus, qrels=QRELS, first_stage=RUN, options=FEW, device="cpu"
    ).to_dict()["per_query"]


#: By its place in the package: calls the door with queries, documents and models, and gives what can be compared.
DOORS: dict[str, Callable[[Any, Any, Models], Any]] = {
    "collections.base.Collection.__init__": lambda q, c, m: collection_of(q, c),
    "collections.base.Split.__init__": lambda q, c, m: collection_of(q, c),
    "collections.splits.divide": lambda q, c, m: divide(q, {"test": 0.5}),
    "evaluation.curves.utility_curves": lambda q, c, m: (
        utility_curves({"m": m.model}, q, c, RUN, QRELS, "RR", segments=[1], levels=[1]).points
    ),
    "evaluation.evaluator.RunEvaluator.__init__": lambda q, c, m: RunEvaluator(q, c, QRELS, RUN)(m.model),
    "evaluation.report.page.build_report": lambda q, c, m: page(q, c),
    "evaluation.reranking.rerank": lambda q, c, m: rerank(m.model, q, c, RUN),
    "guard.callback.GuardCallback.__init__": lambda q, c, m: dict(GuardCallback(q, c, QRELS, RUN).corpus),
    "guard.guarding.guard": guarded,
    "guard.save.Guarded.rerank": lambda q, c, m: Guarded(m.model, Mix(0.5, "minmax", 2), 8, "RR", 0.0).rerank(
        q, c, RUN
    ),
    "guard.split.Split.__init__": lambda q, c, m: dict(Split(q, QRELS, RUN).read(c).queries),
    "guard.split.Split.read": lambda q, c, m: Split(q, QRELS, RUN).read(c).first_stage,
    "ir.bm25.BM25.__init__": lambda q, c, m: BM25(c, tokens="lucene").search(QUERIES),
    "ir.bm25.BM25.search": lambda q, c, m: BM25(CORPUS, tokens="lucene").search(q),
    "ir.dense.Dense.__init__": lambda q, c, m: Dense(c, m.dense).search(QUERIES),
    "ir.dense.Dense.search": lambda q, c, m: Dense(CORPUS, m.dense).search(q),
    "ir.dense.Dense.rerank": lambda q, c, m: Dense(CORPUS, m.dense).rerank(q, RUN),
    "ir.first_stages.FirstStageOptions.build": lambda q, c, m: FirstStageOptions().build(c).search(QUERIES),
    "ir.first_stages.GivenRun.search": lambda q, c, m: GivenRun(RUN).search(q),
    "ir.first_stages.first_stage": lambda q, c, m: first_stage("bm25", c).search(QUERIES),
    "ir.sparse.Sparse.__init__": lambda q, c, m: Sparse(c, m.sparse()).search(QUERIES),
    "ir.sparse.Sparse.search": lambda q, c, m: Sparse(CORPUS, m.sparse()).search(q),
    "ir.texts.write_corpus": lambda q, c, m: m.written(write_corpus, c),
    "ir.texts.write_queries": lambda q, c, m: m.written(write_queries, q),
    "ir.texts.write_samples": lambda q, c, m: m.written(write_samples, q, c, QRELS, RUN),
    "ir.texts.write_top1000": lambda q, c, m: m.written(write_top1000, q, c, RUN),
    "mining.leakage.find_leaks": lambda q, c, m: [*find_leaks(q, QUERIES), *find_leaks(QUERIES, q)],
    "mining.mine.mine": lambda q, c, m: [
        mine(q, c, QRELS, negatives=1).rows.to_list(),
        mine({**QUERIES, "q3": "0 0 2"}, c, {**QRELS, "q3": {"d2": 1}}, negatives=1, test_queries=q).rows.to_list(),
    ],
    "mining.negatives.sample_negatives": lambda q, c, m: sample_negatives(QRELS, c, 1),
    "reader.retrieved.from_run": lambda q, c, m: list(from_run(q, RUN, c)),
    "reranking.rerank.rerank_run": lambda q, c, m: rerank_run(m.model, q, c, RUN),
}


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """All functions and methods that a package or module lists as public, and those of `DOORS`, by their place."""
    listed: list[Any] = [utility_curves, from_run]
    for found in pkgutil.walk_packages(cmp_rerank.__path__, "cmp_rerank."):
        if not found.name.startswith(("cmp_rerank.integrations.", "cmp_rerank.__main__")):  # not all are installed
            module = importlib.import_module(found.name)
            listed += [getattr(module, name) for name in getattr(module, "__all__", ())]
    for value in listed:
        place = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}".removeprefix("cmp_rerank.")
        if inspect.isfunction(value):
            yield place, value
        elif inspect.isclass(value) and not getattr(value, "_is_protocol", False):
            for name, method in inspect.getmembers(value, inspect.isfunction):
                if name == "__init__" or not name.startswith("_"):
                    yield f"{place}.{name}", method


def test_all_doors_are_known() -> None:
    names = {"queries", "corpus", "documents", "test_queries"}
    doors = {
        place
        for place, function in public()
        for name, parameter in inspect.signature(function).parameters.items()
        if name in names and "Mapping[str, str]" in str(parameter.annotation)
    }
    assert doors == set(DOORS)


@pytest.mark.parametrize("place", DOORS)
def test_each_door_takes_what_the_documentation_says(
    place: str, tiny_model: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, door = Models(tiny_model, tmp_path), DOORS[place]
    expected = door(QUERIES, CORPUS, models)
    assert expected, "something is compared"
    queries = datasets.Dataset.from_dict({"query": list(QUERIES.values()), "query_id": list(QUERIES)})
    corpus = datasets.Dataset.from_dict({"contents": list(CORPUS.values()), "docid": list(CORPUS)})
    assert door(queries, corpus, models) == expected
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    for name, texts in (("docs", CORPUS), ("queries", QUERIES)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{key}\t{text}\n" for key, text in texts.items()))
    both = ir_datasets.create_dataset(str(tmp_path / "docs.tsv"), str(tmp_path / "queries.tsv"))
    assert door(both, both, models) == expected
