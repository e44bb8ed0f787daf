"""Fine-tune an encoder with a long context by LoRA: documents of 8,192 tokens, and few weights that learn.

The encoder, such as ModernBERT, reads a document whole. Only low-rank adapters and the new head are trained, which
takes less memory for gradients and the optimiser's state; activations are recomputed by gradient checkpointing. At
the end the adapters are merged into the weights. What is saved is an ordinary checkpoint, which loads without peft.

    pip install peft
    python examples/lora_long_context.py beir:path/to/reports --model answerdotai/ModernBERT-base --out runs/lora
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from peft import LoraConfig, TaskType, get_peft_model
from rich.console import Console
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import ListNetLoss

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, RerankerTrainer, RerankerTrainingArguments, compare
from cmp_rerank.collections import load
from cmp_rerank.evaluation import rerank
from cmp_rerank.ir import BM25
from cmp_rerank.mining import mine


def main(
    collection: Annotated[str, typer.Argument(help="Such as beir:FOLDER; with the splits train and test.")],
    model: Annotated[str, typer.Option(help="An encoder or cross-encoder: a folder or a name on the hub.")],
    out: Annotated[Path, typer.Option(help="Where the merged model goes.")],
    max_length: Annotated[int, typer.Option(help="Tokens that the model reads of a pair.")] = 8192,
    rank: Annotated[int, typer.Option(help="Rank of the adapters.")] = 16,
    negatives: Annotated[int, typer.Option(help="Negatives of each query.")] = 3,
    depth: Annotated[int, typer.Option(help="Candidates of each test query.")] = 50,
    epochs: Annotated[float, typer.Option(help="Passes over the training queries.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the head, the adapters, the negatives and the training.")] = 0,
) -> None:
    """Train adapters with the comparative loss, merge them, and compare with BM25."""
    torch.manual_seed(seed)
    data = load(collection)
    bm25 = BM25(data.corpus)
    queries, test = data.queries("train"), data.queries("test")
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

    reranker = CrossEncoder(model, num_labels=1, max_length=max_length)
    # All linear layers; of a sequence classifier peft trains the head in full.
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    adapted = get_peft_model(reranker[0].model, lora)
    adapted.print_trainable_parameters()
    reranker[0].model = adapted
    args = RerankerTrainingArguments(
        output_dir=str(out / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        learning_rate=2e-4,  # adapters take a larger one than full weights
        warmup_steps=0.1,
        gradient_checkpointing=True,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        save_strategy="no",
        report_to=[],
        seed=seed,
    )
    loss = ComparativeLoss(reranker, ListNetLoss(reranker), [CmpCrop(), CmpDrop()], seed=seed)
    RerankerTrainer(model=reranker, args=args, train_dataset=mined.dataset, loss=loss).train()
    reranker[0].model = adapted.merge_and_unload()
    reranker.save_pretrained(str(out / "model"))

    tuned = CrossEncoder(str(out / "model"))
    found = bm25.search(test, depth)
    systems = {"BM25": found, "tuned": rerank(tuned, test, data.corpus, found)}
    Console().print(compare(systems, data.qrels("test"), "nDCG@10 RR@10"))


if __name__ == "__main__":
    typer.run(main)
