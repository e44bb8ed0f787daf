"""Train a reranker on documents longer than its window: truncated, and in passages with MaxP and CmpCrop.

Both arms start from one cross-encoder and see the same rows. They rerank BM25's candidates of the test queries, as
does the start. What a model that truncates does not read is counted.

    python examples/long_documents.py beir:path/to/reports --model cross-encoder/ms-marco-MiniLM-L6-v2 --out runs/long
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from datasets import Dataset
from rich.console import Console
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import ListNetLoss

from cmp_rerank import CmpCrop, ComparativeLoss, LongDocumentReranker, MaxP, compare
from cmp_rerank.collections import load
from cmp_rerank.evaluation import rerank
from cmp_rerank.ir import BM25
from cmp_rerank.mining import mine


def main(
    collection: Annotated[str, typer.Argument(help="Such as beir:FOLDER; with the splits train and test.")],
    model: Annotated[str, typer.Option(help="The cross-encoder to start from: a folder or a name on the hub.")],
    out: Annotated[Path, typer.Option(help="Where the models and the comparison go.")],
    window: Annotated[int, typer.Option(help="Tokens that the model reads at once.")] = 512,
    passages: Annotated[int, typer.Option(help="Passages of a document that are read at most.")] = 8,
    negatives: Annotated[int, typer.Option(help="Negatives of each query.")] = 3,
    depth: Annotated[int, typer.Option(help="Candidates of each test query.")] = 50,
    epochs: Annotated[float, typer.Option(help="Passes over the training queries.")] = 1.0,
    held_out: Annotated[float, typer.Option(help="Share of all queries to test on; 0: the split test.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the held-out queries, the negatives and the training.")] = 0,
) -> None:
    """Train both arms, rerank, and compare."""
    data = load(collection, split={"test": held_out} if held_out else None, seed=seed)
    bm25 = BM25(data.corpus)
    queries, test = data.queries("train"), data.queries("test")
    found = bm25.search(test, depth)
    mined = mine(
        queries,
        data.corpus,
        data.qrels("train"),
        bm25.search(queries, 100),
        negatives=negatives,
        test_queries=test,
        seed=seed,
    )
    print(mined.counts.summary())

    def start(in_passages: bool) -> CrossEncoder:
        loaded = CrossEncoder(model, num_labels=1, max_length=window)
        return LongDocumentReranker(loaded, MaxP(), max_passages=passages) if in_passages else loaded

    systems = {"BM25": found}
    for arm in ("truncation", "MaxP"):
        systems[f"untuned, {arm}"] = rerank(start(arm == "MaxP"), test, data.corpus, found)
        reranker = start(arm == "MaxP")
        loss: Any = ListNetLoss(reranker)
        if arm == "MaxP":
            loss = ComparativeLoss(reranker, loss, [CmpCrop()], seed=seed)  # crops the whole document
        train(reranker, loss, mined.dataset, out / arm, epochs, seed)
        systems[f"tuned, {arm}"] = rerank(reranker, test, data.corpus, found)
        print(getattr(reranker, "coverage", ""))
    comparison = compare(systems, data.qrels("test"), "nDCG@10 RR@10", baseline="tuned, truncation")
    (out / "comparison.json").write_text(comparison.to_json(per_query=True), encoding="utf-8")
    Console().print(comparison)


def train(reranker: CrossEncoder, loss: Any, rows: Dataset, out: Path, epochs: float, seed: int) -> None:
    """Fine-tune, and save an ordinary checkpoint."""
    args = CrossEncoderTrainingArguments(
        output_dir=str(out / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        learning_rate=2e-5,
        warmup_steps=0.1,
        save_strategy="no",
        report_to=[],
        seed=seed,
    )
    CrossEncoderTrainer(model=reranker, args=args, train_dataset=rows, loss=loss).train()
    reranker.save_pretrained(str(out))


if __name__ == "__main__":
    typer.run(main)
