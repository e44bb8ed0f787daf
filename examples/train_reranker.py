"""Fine-tune a cross-encoder on a BEIR folder, plainly or comparatively, and test whether it helped.

The folder has `corpus.jsonl`, `queries.jsonl`, `qrels/train.tsv` and `qrels/test.tsv`. The candidates come from BM25;
negatives are drawn from its ranks. Both arms start from the same weights and see the same batches; the one line
that differs is marked below. Everything needed to trace a figure is written to the output folder.

    python examples/train_reranker.py path/to/scifact --model cross-encoder/ms-marco-MiniLM-L6-v2 --out runs/scifact
"""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from datasets import Dataset
from rich.console import Console
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import ListNetLoss
from torch import nn

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss
from cmp_rerank.evaluation import compare, rerank
from cmp_rerank.ir import BM25, read_corpus, read_qrels, read_queries, write_run
from cmp_rerank.mining import sample_negatives

console = Console()


def main(
    folder: Annotated[Path, typer.Argument(help="A BEIR folder.", exists=True, file_okay=False)],
    model: Annotated[str, typer.Option(help="Checkpoint to start from: a name on the hub or a folder.")],
    out: Annotated[Path, typer.Option(help="Where runs, checkpoints and metrics are written.")],
    epochs: Annotated[float, typer.Option(help="Passes over the training queries.")] = 2.0,
    queries_per_batch: Annotated[int, typer.Option(help="Queries in a batch.")] = 8,
    negatives: Annotated[int, typer.Option(help="Negatives of each query.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate, after 10% warm-up.")] = 2e-5,
    max_length: Annotated[int, typer.Option(help="Tokens that the model reads of a pair.")] = 256,
    depth: Annotated[int, typer.Option(help="Candidates of BM25 that are reranked.")] = 50,
    seeds: Annotated[int, typer.Option(help="Training runs of each arm.")] = 1,
    limit: Annotated[int, typer.Option(help="At most so many queries of each split; 0: all.")] = 0,
) -> None:
    """Train both arms, rerank the test queries, and print one table."""
    config = {k: v if isinstance(v, (int, float)) else str(v) for k, v in locals().items()}
    corpus = read_corpus(folder / "corpus.jsonl")
    queries = read_queries(folder / "queries.jsonl")
    train, test = (
        dict(list(read_qrels(folder / "qrels" / f"{split}.tsv").items())[: limit or None])
        for split in ("train", "test")
    )
    with console.status("BM25"):
        bm25 = BM25(corpus)
        train_run = bm25.search({query: queries[query] for query in train}, depth=100)
        first_stage = bm25.search({query: queries[query] for query in test}, depth=depth)
    systems: dict[str, list] = {"BM25": [first_stage], "untuned": [], "plain": [], "comparative": []}
    seconds: dict[str, list[float]] = {"plain": [], "comparative": []}
    untuned = CrossEncoder(model, num_labels=1, max_length=max_length)
    systems["untuned"].append(rerank(untuned, queries, corpus, first_stage))
    for seed in range(seeds):
        data = training_data(train, queries, corpus, train_run, negatives, seed)
        for arm, spent in seconds.items():
            tuned = CrossEncoder(model, num_labels=1, max_length=max_length)
            loss: nn.Module = ListNetLoss(tuned)
            if arm == "comparative":
                loss = ComparativeLoss(tuned, loss, [CmpCrop(), CmpDrop()], seed=seed)  # the one changed line
            args = CrossEncoderTrainingArguments(
                output_dir=str(out / "trainer"),
                num_train_epochs=epochs,
                per_device_train_batch_size=queries_per_batch,
                learning_rate=learning_rate,
                warmup_ratio=0.1,
                logging_steps=10,
                save_strategy="no",
                report_to=[],
                seed=seed,
            )
            trainer = CrossEncoderTrainer(model=tuned, args=args, train_dataset=data, loss=loss)
            start = time.perf_counter()
            trainer.train()
            spent.append(round(time.perf_counter() - start, 1))
            tuned.save_pretrained(str(out / f"{arm}-{seed}"))
            write_json(out / f"{arm}-{seed}.steps.json", trainer.state.log_history)
            systems[arm].append(rerank(tuned, queries, corpus, first_stage))
    for name, runs in systems.items():
        for seed, run in enumerate(runs):
            write_run(out / f"{name}-{seed}.run", run, tag=name)
    result = compare(systems, test, "nDCG@10 RR@10 R@20", baseline="untuned")
    console.print(result)
    versions = {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "cmp-rerank")}
    write_json(
        out / "metrics.json",
        {
            "config": config,
            "versions": versions | {"python": platform.python_version()},
            "training_seconds": seconds,
            "comparison": result.to_dict(),
        },
    )
    console.print(f"Runs, checkpoints, training logs and metrics with per-query values: {out}")


def training_data(
    qrels: dict[str, dict[str, int]],
    queries: dict[str, str],
    corpus: dict[str, str],
    run: dict[str, dict[str, float]],
    negatives: int,
    seed: int,
) -> Dataset:
    """A list of one relevant passage and hard negatives for every relevant passage."""
    drawn = sample_negatives(qrels, corpus, negatives, run, ranks=(2, 60), seed=seed)
    rows = [
        {
            "query": queries[query],
            "passages": [corpus[document], *(corpus[negative] for negative in drawn[query])],
            "labels": [1.0] + [0.0] * negatives,
        }
        for query, judged in qrels.items()
        for document, grade in judged.items()
        if grade > 0 and corpus[document].strip()
    ]
    if not rows:
        sys.exit("No training query has a relevant document: check qrels/train.tsv.")
    return Dataset.from_list(rows)


def write_json(path: Path, content: object) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    typer.run(main)
