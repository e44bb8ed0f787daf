"""Train one reranker on several datasets, each with the loss that its data is made for.

Each --data is COLLECTION=LOSS: a collection, and a loss of sentence-transformers or of this package by its name. It
says which form of data it takes: labelled pairs, tuples or lists. This form is mined from the training split, with
negatives from BM25. Where a collection has a test split, the model is evaluated on it before and after.

The batches of a dataset hold rows of this dataset only. By default datasets are drawn from in proportion to their
sizes; with --evenly each is drawn from as often as the others, until the smallest one is used up.

    python examples/several_datasets.py --data beir:path/to/scifact=ListNetLoss \\
        --data table:path/to/faq.csv=BinaryCrossEntropyLoss \\
        --model cross-encoder/ms-marco-MiniLM-L6-v2 --out runs/several
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from sentence_transformers import CrossEncoder

from cmp_rerank import (
    CmpCrop,
    CmpDrop,
    ComparativeLoss,
    RerankerTrainer,
    RerankerTrainingArguments,
    RunEvaluator,
)
from cmp_rerank.collections import load
from cmp_rerank.ir import BM25
from cmp_rerank.losses import loss_class
from cmp_rerank.mining import format_of, mine


def main(
    data: Annotated[list[str], typer.Option(help="COLLECTION=LOSS; may be given several times.")],
    model: Annotated[str, typer.Option(help="The cross-encoder to start from: a folder or a name on the hub.")],
    out: Annotated[Path, typer.Option(help="Where the model goes.")],
    negatives: Annotated[int, typer.Option(help="Negatives of each query.")] = 4,
    depth: Annotated[int, typer.Option(help="Candidates of each test query.")] = 50,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 1.0,
    evenly: Annotated[bool, typer.Option("--evenly", help="Draw from all datasets equally often.")] = False,
) -> None:
    """Mine each dataset in the form of its loss, train on all of them, and evaluate each."""
    reranker = CrossEncoder(model, num_labels=1)
    rows: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    evaluators = []
    sources = [one.rpartition("=") for one in data]
    made = [(load(source), loss_class(name)(reranker)) for source, _, name in sources]  # all, before any is mined
    if len({collection.name for collection, _ in made}) < len(made):
        raise typer.BadParameter("each collection is given once, and has a name of its own", param_hint="--data")
    for collection, plain in made:
        bm25 = BM25(collection.corpus)
        queries, judged = collection.queries("train"), collection.qrels("train")
        tested = collection.queries("test") if "test" in collection.splits else {}
        mined = mine(
            queries,
            collection.corpus,
            judged,
            bm25.search(queries, 100),
            format=format_of(plain),
            negatives=negatives,
            test_queries=tested,
        )
        print(f"{collection.name}, {type(plain).__name__}: {mined.counts.summary()}")
        # A loss that other ablations suit better may have its own.
        rows[collection.name] = mined.dataset
        loss[collection.name] = ComparativeLoss(reranker, plain, [CmpCrop(), CmpDrop()])
        if tested:
            run, qrels = bm25.search(tested, depth), collection.qrels("test")
            evaluators.append(RunEvaluator(tested, collection.corpus, qrels, run, k=depth, name=collection.name))
    args = RerankerTrainingArguments(
        output_dir=str(out / "trainer"),
        num_train_epochs=epochs,
        tokens_per_batch=4096,  # pairs and lists differ in size, and so would batches of as many rows
        multi_dataset_batch_sampler="round_robin" if evenly else "proportional",
        learning_rate=2e-5,
        warmup_steps=0.1,
        save_strategy="no",
        report_to=[],
    )
    before = {name: value for evaluator in evaluators for name, value in evaluator(reranker).items()}
    RerankerTrainer(model=reranker, args=args, train_dataset=rows, loss=loss).train()
    reranker.save_pretrained(str(out / "model"))
    for evaluator in evaluators:
        for name, value in evaluator(reranker).items():
            print(f"{name}\t{before[name]:.4f}\t{value:.4f}")


if __name__ == "__main__":
    typer.run(main)
