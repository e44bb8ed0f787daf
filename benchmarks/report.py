"""Time and size of the report for 5,000 queries, from files, with texts.

    python benchmarks/report.py [--queries 5000] [--depth 1000]

The texts are drawn from a vocabulary of 30,000 words by Zipf's law; real text packs better.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from cmp_rerank.evaluation.report import shown_documents, write_report
from cmp_rerank.ir import read_corpus, read_queries, write_corpus, write_qrels, write_queries, write_run

SEED = 0
RESULT = Path(__file__).parent / "results" / "report.json"


def make(folder: Path, queries: int, depth: int) -> None:
    rng = np.random.default_rng(SEED)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 11))) for _ in range(30_000)])
    docs = 100_000
    lengths = rng.integers(40, 160, docs)
    drawn = np.minimum(rng.zipf(1.2, lengths.sum()), len(words)) - 1
    texts = np.split(words[drawn], np.cumsum(lengths)[:-1])
    write_corpus(folder / "corpus.jsonl", {f"doc{i}": " ".join(text) for i, text in enumerate(texts)})
    write_queries(folder / "queries.jsonl", {f"q{i}": " ".join(rng.choice(words, 8)) for i in range(queries)})
    runs: dict[str, dict[str, dict[str, float]]] = {"first": {}, "tuned": {}}
    qrels = {}
    for q in range(queries):
        ids = [f"doc{i}" for i in rng.choice(docs, depth, replace=False)]
        quality = rng.normal(size=depth)
        qrels[f"q{q}"] = {ids[i]: int(rng.integers(1, 4)) for i in np.argsort(-quality)[:5]}
        for name, noise in (("first", 1.0), ("tuned", 0.8)):
            scores = quality + rng.normal(scale=noise, size=depth)
            runs[name][f"q{q}"] = dict(zip(ids, scores.tolist(), strict=True))
    write_qrels(folder / "qrels.tsv", qrels)
    for name, run in runs.items():
        write_run(folder / f"{name}.trec", run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="Folder for the files and the page.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        make(folder, arguments.queries, arguments.depth)
        start, cpu = time.perf_counter(), time.process_time()
        runs = {name: folder / f"{name}.trec" for name in ("first", "tuned")}
        write_report(
            folder / "report.html",
            runs,
            folder / "qrels.tsv",
            "nDCG@10 RR@10 AP",
            queries=read_queries(folder / "queries.jsonl"),
            corpus=read_corpus(folder / "corpus.jsonl", ids=shown_documents(runs, folder / "qrels.tsv")),
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        size = (folder / "report.html").stat().st_size
    result = {
        "config": {"queries": arguments.queries, "depth": arguments.depth, "systems": 2, "seed": SEED},
        "wall_seconds": round(seconds, 2),
        "processor_seconds": round(cpu, 2),
        "megabytes": round(size / 1e6, 2),
        "peak_megabytes_with_making_the_data": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
