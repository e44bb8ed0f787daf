"""Train and evaluate in the layout of MS MARCO, with any first stage.

The folder has collection.tsv, queries.train.tsv, qrels.train.tsv, and the same two files for a dev split. Runs may
lie beside them, such as top1000.dev.tsv; for a split without one, BM25 searches the collection, and its index is kept
in the folder of the results. Texts are memory-mapped, so that 8.8 million passages need little memory.

The dev split is evaluated before, while and after training, by the measures of the leaderboard, over all of its
queries. The ranking is also written in the format that the leaderboard takes.

    python examples/msmarco.py path/to/msmarco --model cross-encoder/ms-marco-MiniLM-L6-v2 \\
        --dev dev.small --dev-run top1000.dev --queries 20000 --out runs/msmarco
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import LambdaLoss

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, RerankerTrainer, RunEvaluator
from cmp_rerank.collections import Collection, load
from cmp_rerank.ir import Run, first_stage, write_run
from cmp_rerank.mining import mine


def main(
    folder: Annotated[Path, typer.Argument(help="A folder in the layout of MS MARCO.", exists=True, file_okay=False)],
    model: Annotated[str, typer.Option(help="The cross-encoder to start from: a folder or a name on the hub.")],
    out: Annotated[Path, typer.Option(help="Where the model, the metrics and the ranking go.")],
    dev: Annotated[str, typer.Option(help="The split to evaluate on: what is in queries.SPLIT.tsv.")] = "dev",
    train_run: Annotated[str, typer.Option(help="Run that negatives are mined from; '': BM25.")] = "",
    dev_run: Annotated[str, typer.Option(help="Run that is reranked for the dev split; '': BM25.")] = "",
    queries: Annotated[int, typer.Option(help="Use the first N training queries; 0: all.")] = 0,
    negatives: Annotated[int, typer.Option(help="Negatives of each query.")] = 7,
    depth: Annotated[int, typer.Option(help="Candidates of each query of the dev split.")] = 100,
    epochs: Annotated[float, typer.Option(help="Passes over the training queries.")] = 1.0,
    evaluations: Annotated[int, typer.Option(min=2, help="Evaluations in the course of training.")] = 4,
) -> None:
    """Mine lists from the train split, train, and evaluate on the dev split."""
    data = load(f"msmarco:{folder}")
    judged = dict(list(data.qrels("train").items())[: queries or None])
    asked = {query: data.queries("train")[query] for query in judged}
    index = out / "bm25.index"
    mined = mine(
        asked,
        data.corpus,
        judged,
        candidates(data, train_run, asked, index),
        negatives=negatives,
        test_queries=data.queries(dev),
    )
    print(mined.counts.summary(), *mined.notes(), *data.notes(), sep="\n")
    run = candidates(data, dev_run, data.queries(dev), index)
    evaluator = RunEvaluator(
        data.queries(dev), data.corpus, data.qrels(dev), run, k=depth, measures="MSMARCO-MRR@10 R@100", name=dev
    )
    reranker = CrossEncoder(model, num_labels=1)
    loss = ComparativeLoss(reranker, LambdaLoss(reranker), [CmpCrop(), CmpDrop()])
    args = CrossEncoderTrainingArguments(
        output_dir=str(out),
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=2e-5,
        warmup_steps=0.1,
        eval_strategy="steps",
        eval_steps=1 / evaluations,
        eval_on_start=True,
        save_strategy="no",
        logging_steps=50,
        report_to=[],
    )
    trainer = RerankerTrainer(model=reranker, args=args, train_dataset=mined.dataset, loss=loss, evaluator=evaluator)
    trainer.train()
    reranker.save_pretrained(str(out / "model"))
    evaluator(reranker, output_path=str(out))
    assert evaluator.last is not None
    assert evaluator.last_run is not None
    write_run(out / f"{dev}.tsv", evaluator.last_run)
    for system, result in (("first stage", evaluator.first_stage), ("tuned", evaluator.last)):
        print(system, *(f"{measure} {mean:.4f}" for measure, mean in result.means.items()))


def candidates(data: Collection, name: str, queries: dict[str, str], index: Path) -> Run:
    """A run of the collection, or what BM25 finds."""
    if name:
        return data.run(name)
    index.parent.mkdir(parents=True, exist_ok=True)
    return first_stage("bm25", data.corpus, folder=index).search(queries, 100)


if __name__ == "__main__":
    typer.run(main)
