"""The guard on simulated users, and on SciFact after a sensible and a careless training.

    python benchmarks/guard.py [simulate] [scifact] [--data ../shared/data/scifact]

``simulate`` draws data sets in which the true gain of each candidate is known, and counts what is handed over.
``scifact`` begins with a reranker that is trained on some queries (the three lowest layers
of all-MiniLM-L6-v2 with a new head). It is tuned
further on others, once with a usual learning rate and once with one that is far too high, and both are guarded.
Passages are cut to 48 tokens and small parts of the queries are used, so that it takes few minutes of one core.
Results go to ``benchmarks/results/guard.json``, one section for each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

from cmp_rerank.guard import Split, choose, guard
from cmp_rerank.guard.choice import paired, pick
from cmp_rerank.guard.options import GuardOptions
from cmp_rerank.ir import BM25, Run, read_corpus, read_qrels, read_queries

RESULT = Path(__file__).parent / "results" / "guard.json"
DATA = Path(__file__).parents[2] / "shared" / "data" / "scifact"
SPREAD = 0.25  # standard deviation of the gain of a query, as it is for nDCG@10
CANDIDATES = 20
TOKENS = 48  # of a pair


def simulated(rng: np.random.Generator, queries: int, effect: float) -> np.ndarray:
    """What the user had, and candidates on the way to one whose true gain is ``effect`` standard errors.

    Gains of a query are common to the candidates in proportion to the way, and have a part of their own.
    """
    had = rng.uniform(0, 1, queries)
    way = np.arange(1, CANDIDATES + 1)[:, None] / CANDIDATES
    common, own = rng.standard_normal(queries), rng.standard_normal((CANDIDATES, queries))
    shift = effect * SPREAD / math.sqrt(queries)
    new = had + way * (shift + SPREAD * common) + 0.3 * SPREAD * np.sqrt(way) * own
    return np.concatenate([had[None], new])


def simulate(times: int) -> list[dict[str, float]]:
    """Shares of data sets in which something new is handed over, and its true gain in standard errors."""
    rows = []
    for queries in (50, 300):
        for effect in (0.0, -0.5, -1.0, -2.0, 1.0, 2.0, 4.0):
            rng = np.random.default_rng(0)
            new, unguarded, true, worse = [], [], [], []
            for _ in range(times):
                values = simulated(rng, queries, effect)
                chosen = choose(values).chosen
                new.append(chosen > 0)
                unguarded.append(pick(values, [0], 1.0) > 0)
                true.append(effect * chosen / CANDIDATES)
                gain, error = paired(np.diff(simulated(rng, queries, effect)[[0, chosen]], axis=0)[0])
                worse.append(bool(gain < -2 * error))
            rows.append(
                {
                    "queries": queries,
                    "true gain of the last candidate, in standard errors": effect,
                    "new one handed over": float(np.mean(new)),
                    "the same without cross-validation": float(np.mean(unguarded)),
                    "true gain of what is handed over, in standard errors": float(np.mean(true)),
                    "significantly worse on as many new queries": float(np.mean(worse)),
                }
            )
            print(rows[-1], flush=True)
    return rows


def scifact(data: Path) -> dict[str, Any]:
    """Guard a sensible and a careless training."""
    import torch
    from sentence_transformers import CrossEncoder

    from cmp_rerank.demo.encoder import pretrained_encoder

    begin = time.process_time()
    torch.manual_seed(0)
    corpus, queries = read_corpus(data / "corpus.jsonl"), read_queries(data / "queries.jsonl")
    train, test = read_qrels(data / "qrels" / "train.tsv"), read_qrels(data / "qrels" / "test.tsv")
    ids = sorted(train)
    random.Random(0).shuffle(ids)
    for_start, for_tuning, validation = ids[:320], ids[320:480], ids[480:580]
    tested = sorted(test)[:100]
    bm25 = BM25(corpus)
    run = bm25.search({query: queries[query] for query in [*for_start, *for_tuning, *validation, *tested]}, 20)

    def split(names: list[str], qrels: Any) -> Split:
        some = {query: qrels[query] for query in names}
        return Split({query: queries[query] for query in names}, some, {query: run[query] for query in names})

    layers = {"num_hidden_layers": 3}
    start = CrossEncoder(pretrained_encoder(), num_labels=1, max_length=TOKENS, config_kwargs=layers, device="cpu")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        fit(start, for_start, train, run, queries, corpus, rate=2e-4, steps=80, hard=False, folder=folder / "start")
        for name, rate in (("sensible", 3e-5), ("careless", 2e-3)):
            tuned = CrossEncoder(str(folder / "start"), max_length=TOKENS, device="cpu")
            fit(tuned, for_tuning, train, run, queries, corpus, rate=rate, steps=40, folder=folder / name)
            part = split(validation, train)
            verdict = guard(
                CrossEncoder(str(folder / "start"), max_length=TOKENS, device="cpu"),
                tuned,
                queries=part.queries,
                corpus=corpus,
                qrels=part.qrels,
                first_stage=part.first_stage,
                options=GuardOptions(interpolations=(0.5,), depth=10),
                test=split(tested, test),
            )
            print(verdict, flush=True)
            found[name] = {"learning_rate": rate, **verdict.to_dict(per_query=False)}
    return {
        "model": "the lowest 3 of the 6 layers of all-MiniLM-L6-v2, with a new head",
        "seed": 0,
        "max_length": TOKENS,
        "queries": {"start": 320, "tuning": 160, "validation": 100, "test": 100},
        "cpu_seconds": round(time.process_time() - begin, 1),
        "verdicts": found,
    }


def fit(
    model: Any,
    names: list[str],
    qrels: Any,
    run: Run,
    queries: Any,
    corpus: Any,
    *,
    rate: float,
    steps: int,
    folder: Path,
    hard: bool = True,
) -> None:
    """Train with one relevant and three other documents of each query, four queries in a batch, and save.

    The others are candidates of the first stage if they are to be hard, and any documents if not.
    """
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    rng = random.Random(0)
    rows = []
    for query in names:
        relevant = [document for document, grade in qrels[query].items() if grade > 0 and document in corpus]
        others = [document for document in (run[query] if hard else corpus) if document not in qrels[query]]
        if relevant and len(others) >= 3:
            documents = [rng.choice(relevant), *rng.sample(others, 3)]
            rows.append(
                {
                    "query": queries[query],
                    "documents": [corpus[document] for document in documents],
                    "labels": [10.0, 0.0, 0.0, 0.0],
                }
            )
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=rate,
        warmup_steps=5,
        seed=0,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    data = Dataset.from_list(rows)
    CrossEncoderTrainer(model=model, args=arguments, train_dataset=data, loss=ListNetLoss(model)).train()
    model.save_pretrained(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["simulate", "scifact", []], default=["simulate", "scifact"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--times", type=int, default=300, help="simulated data sets for each row")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    if "simulate" in arguments.parts:
        results["simulate"] = {"data_sets": arguments.times, "rows": simulate(arguments.times)}
    if "scifact" in arguments.parts:
        if not arguments.data.is_dir():
            parser.error(f"{arguments.data} is missing: give a BEIR folder with --data.")
        results["scifact"] = scifact(arguments.data)
    names = ("torch", "transformers", "sentence-transformers", "numpy")
    results["versions"] = {"python": platform.python_version(), **{name: version(name) for name in names}}
    results["command"] = "python benchmarks/guard.py"
    results = (json.loads(RESULT.read_text()) if RESULT.exists() else {}) | results
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    temporary.replace(RESULT)


if __name__ == "__main__":
    main()
