"""From a first stage to figures on one GPU: a run is reranked, and evaluated in five measures.

    python -m benchmarks.gpu.big_run [--queries 500] [--depth 100] [--output FILE]

The model is as large as BERT-base, of random weights, in bf16 on a GPU; the documents are made up. The evaluation is
that of 7,000 queries with 1,000 documents each, or with ``--depth`` below 100 of as many as are reranked.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import engine
import evaluation
import torch

from cmp_rerank.evaluation import evaluate
from cmp_rerank.ir import read_qrels, read_run
from cmp_rerank.reranking import rerank_run

RESULTS = engine.RESULTS.with_name("gpu") / "big_run.json"


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    small = given.depth < 100
    torch.manual_seed(engine.SEED)
    model = engine.MODELS["tiny" if small else "bert-base"]()
    data = engine.pairs(model, 2000, 12, 48) if small else engine.pairs(model, 2000, 40, 240)
    corpus = {str(number): text for number, text in enumerate(data["passage"])}
    queries = {str(number): data["query"][number] for number in range(given.queries)}
    first = {
        query: {str((int(query) * 7919 + place * 104_729) % 2000): -float(place) for place in range(given.depth)}
        for query in queries
    }
    precision = "bf16" if torch.cuda.is_available() else None
    start = time.perf_counter()
    found = rerank_run(model, queries, corpus, first, precision=precision)
    seconds = time.perf_counter() - start
    pairs = sum(map(len, found.values()))
    run: dict[str, Any] = {
        "model": "tiny" if small else "bert-base", "lengths": [12, 48] if small else [40, 240], "batch": pairs,
        "pairs": pairs, "pairs_per_s": round(pairs / seconds), "rerank_s": round(seconds, 1),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        evaluation.make(folder, *((given.queries, given.depth) if small else (7000, 1000)))
        start = time.perf_counter()
        qrels, big = read_qrels(folder / "qrels"), read_run(folder / "run.trec")
        read = time.perf_counter()
        figures = evaluate(big, qrels, evaluation.MEASURES)
        run |= {"lines": sum(map(len, big.values())), "read_s": round(read - start, 2)}
        run |= {"evaluate_s": round(time.perf_counter() - read, 2), "figures": str(figures).splitlines()[:1]}
    print(run)
    engine.write(given.output, run, program="-m benchmarks.gpu.big_run")


if __name__ == "__main__":
    main()
