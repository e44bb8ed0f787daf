"""First stages: quality on SciFact against published figures, and what an index of a million passages costs.

    python benchmarks/first_stage.py [--data ../shared/data] [--part scale ...] [--passages 1000000]

scifact: BM25 as this package does by default, and as Anserini does, against what Anserini publishes. fusion: runs of
TREC DL 2019, fused in each way. scale: generated passages (40 words on average, with frequencies as in a language); a
BM25 index is built, opened and searched, each in a process of its own, whose largest memory is measured. indexes:
those of faiss on generated vectors: recall against the exact search, and time. Seconds are of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cmp_rerank.evaluation import evaluate
from cmp_rerank.ir import ANSERINI, BM25, Qrels, Run, combine, fuse, read_corpus, read_qrels, read_queries, read_run
from cmp_rerank.ir.fusion import SCALES
from cmp_rerank.ir.mappings import Texts
from cmp_rerank.ir.nearest import Approximate, Flat

SEED = 0
RESULT = Path(__file__).parent / "results" / "first_stage.json"
PUBLISHED = {"Anserini, flat index": {"nDCG@10": 0.6789, "R@100": 0.9253}}
WORDS = 200_000


class Passages(Texts):
    """Generated passages, one after the other; none of them is kept."""

    def __init__(self, size: int) -> None:
        self._size = size

    @property
    def ids(self) -> list[str]:
        """The names of the passages."""
        return [f"p{row}" for row in range(self._size)]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The passages."""
        rng = np.random.default_rng(SEED)
        return ((f"p{row}", text(rng, int(rng.integers(20, 61)))) for row in range(self._size))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, name: str) -> str:
        # Each passage is drawn after those before it, so this is slow; an index reads them in their order.
        for known, content in self.pairs():
            if known == name:
                return content
        raise KeyError(name)


def text(rng: np.random.Generator, words: int) -> str:
    """Words whose frequencies fall as those of a language do."""
    ranks = np.minimum(np.exp(rng.random(words) * np.log(WORDS)), WORDS - 1).astype(int)
    return " ".join(map("w{}".format, ranks.tolist()))


def lexical(folder: Path) -> dict[str, Any]:
    """BM25 on SciFact."""
    corpus, qrels = read_corpus(folder / "corpus.jsonl"), read_qrels(folder / "qrels" / "test.tsv")
    queries = {query: text for query, text in read_queries(folder / "queries.jsonl").items() if query in qrels}
    runs = {
        "BM25": BM25(corpus).search(queries, 1000),
        "BM25, Anserini's defaults": BM25(corpus, **ANSERINI).search(queries, 1000),
        "BM25, Anserini's defaults, exact lengths": BM25(corpus, **{**ANSERINI, "lengths": "exact"}).search(
            queries, 1000
        ),
    }
    means = {name: _means(run, qrels, "nDCG@10 R@100") for name, run in runs.items()}
    return {"documents": len(corpus), "queries": len(queries), "means": means, "published": PUBLISHED}


def fusion(folder: Path) -> dict[str, Any]:
    """Published runs of TREC DL 2019, fused in each way."""
    qrels = read_qrels(next((folder / "qrels").iterdir()))
    given = {name: read_run(next((folder / "runs").glob(f"*{name}*"))) for name in ("bm25", "splade", "tasb")}
    means = {name: _means(run, qrels, "nDCG@10 AP(rel=2)@100") for name, run in given.items()}
    for names in (("bm25", "tasb"), ("bm25", "splade", "tasb")):
        runs, label = [given[name] for name in names], ", ".join(names)
        ways = {"fuse": fuse(runs, depth=100)}
        ways |= {f"combine, scale={scale!r}": combine(runs, scale=scale, depth=100) for scale in SCALES[:3]}
        means |= {f"{way} ({label})": _means(run, qrels, "nDCG@10 AP(rel=2)@100") for way, run in ways.items()}
    return {"queries": len(qrels), "means": means}


def _means(run: Run, qrels: Qrels, measures: str) -> dict[str, float]:
    return {measure: round(mean, 4) for measure, mean in evaluate(run, qrels, measures).means.items()}


def step(name: str, passages: int, folder: str) -> None:
    """One step in a process of its own; prints its seconds and its largest memory."""
    start, more = time.process_time(), {}
    if name == "read":
        for _ in Passages(passages).items():
            pass
    elif name == "build":
        BM25(Passages(passages), scratch=Path(folder).parent).save(folder)
    else:
        bm25 = BM25.open(folder)
        more["open_seconds"] = round(time.process_time() - start, 3)
        rng = np.random.default_rng(SEED + 1)
        queries = {f"q{i}": text(rng, 6) for i in range(100)}
        start = time.process_time()
        bm25.search(queries, 1000)
        more["milliseconds_per_query"] = round(1000 * (time.process_time() - start) / len(queries), 2)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(time.process_time() - start, 1), "megabytes": round(memory), **more}))


def scale(passages: int) -> dict[str, Any]:
    found: dict[str, Any] = {"passages": passages}
    with tempfile.TemporaryDirectory() as work:
        for name in ("read", "build", "search"):
            command = [
                sys.executable,
                __file__,
                "--step",
                name,
                "--passages",
                str(passages),
                "--folder",
                f"{work}/index",
            ]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name] = json.loads(printed.splitlines()[-1])
        found["index_megabytes"] = round(sum(f.stat().st_size for f in Path(work, "index").iterdir()) / 1e6)
    return found


def indexes(vectors: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    groups = max(1, vectors // 500)
    centres = rng.normal(size=(groups, 128)).astype(np.float32)
    embeddings = centres[rng.integers(groups, size=vectors)] + 0.7 * rng.normal(size=(vectors, 128)).astype(
        np.float32
    )
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    queries = embeddings[:200] + 0.05 * rng.normal(size=(200, 128)).astype(np.float32)
    start = time.process_time()
    _, exact = Flat(embeddings).search(queries, 100)
    flat = 1000 * (time.process_time() - start) / len(queries)
    found: dict[str, Any] = {"vectors": vectors, "flat": {"milliseconds_per_query": round(flat, 2)}}
    for name in ("ivf", "hnsw"):
        start = time.process_time()
        index = Approximate.build(embeddings, name, None, SEED)
        built = time.process_time() - start
        start = time.process_time()
        _, rows = index.search(queries, 100)
        taken = 1000 * (time.process_time() - start) / len(queries)
        recall = np.mean([len(set(a) & set(b)) / 100 for a, b in zip(exact.tolist(), rows.tolist(), strict=True)])
        found[name] = {
            "recall@100": round(float(recall), 4),
            "milliseconds_per_query": round(taken, 2),
            "build_seconds": round(built, 1),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--part", action="append", help="one of those above; the results of others stay")
    parser.add_argument("--step")
    parser.add_argument("--folder")
    options = parser.parse_args()
    if options.step:
        step(options.step, options.passages, options.folder)
        return
    parts = {
        "scifact": lambda: lexical(options.data / "scifact"),
        "fusion": lambda: fusion(options.data / "trec-dl-2019"),
        "scale": lambda: scale(options.passages),
        "indexes": lambda: indexes(options.vectors),
    }
    for name, part in parts.items():
        if name not in (options.part or parts):
            continue
        found = part()
        print(name, json.dumps(found, indent=1), flush=True)
        result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        result |= {"seed": SEED, "cores": os.cpu_count(), "python": platform.python_version()}
        result["versions"] = {one: version(one) for one in ("bm25s", "PyStemmer", "faiss-cpu", "numpy", "scipy")}
        result[name] = found
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
