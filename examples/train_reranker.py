"""Fine-tune a cross-encoder, plainly and with one changed line; test the difference, and keep what is not worse.

BM25 finds the candidates, and negatives are mined from its ranks. Both arms start from the same weights and see the
same batches. The guard compares the second one with the first stage and with the starting model, on a fifth of the
training queries that is held out, and hands over what is not worse. The collection has the splits train and test.

    python examples/train_reranker.py beir:path/to/scifact --model cross-encoder/ms-marco-MiniLM-L6-v2 --out runs/a
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

from cmp_rerank import CmpCrop, CmpDrop, ComparativeLoss, compare
from cmp_rerank.collections import divide, load
from cmp_rerank.evaluation import rerank
from cmp_rerank.guard import GuardOptions, Split, guard
from cmp_rerank.ir import first_stage, write_run
from cmp_rerank.mining import mine


def main(
    collection: Annotated[str, typer.Argument(help="Such as beir:FOLDER, table:FILE or ir_datasets:NAME.")],
    model: Annotated[str, typer.Option(help="The cross-encoder to start from: a folder or a name on the hub.")],
    out: Annotated[Path, typer.Option(help="Where models, runs and the comparison go: a new folder.")],
    epochs: Annotated[float, typer.Option(help="Passes over the training queries.")] = 1.0,
    negatives: Annotated[int, typer.Option(help="Negatives of each query.")] = 7,
    depth: Annotated[int, typer.Option(help="Candidates of BM25 that are reranked.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the held-out queries, the negatives and the training.")] = 0,
) -> None:
    """Retrieve, mine, train both arms, compare, and guard."""
    data = load(collection)
    queries, judged, test = data.queries(), data.qrels("train"), data.qrels("test")
    out.mkdir(parents=True)  # not before the data is there: a second try needs a new folder
    parts = divide({query: queries[query] for query in judged}, {"dev": 0.2}, seed=seed)
    train, dev = ({query: judged[query] for query in parts[name]} for name in ("train", "dev"))
    bm25 = first_stage("bm25", data.corpus)
    found = bm25.search({query: queries[query] for query in {**train, **dev, **test}}, depth)
    of_test = {query: found[query] for query in test}
    asked = data.queries("test")
    mined = mine(queries, data.corpus, train, found, negatives=negatives, test_queries=asked, seed=seed)
    print(mined.counts.summary())
    start = CrossEncoder(model, num_labels=1)
    systems = {"BM25": of_test, "untuned": rerank(start, queries, data.corpus, of_test)}
    tuned = {}
    for arm in ("plain", "comparative"):
        tuned[arm] = train_arm(arm, CrossEncoder(model, num_labels=1), mined.dataset, out / arm, epochs, seed)
        systems[arm] = rerank(tuned[arm], queries, data.corpus, of_test)
    for name, run in systems.items():
        write_run(out / f"{name}.run", run, tag=name)
    comparison = compare(systems, test, "nDCG@10 RR@10", baseline="plain")
    (out / "comparison.json").write_text(comparison.to_json(per_query=True), encoding="utf-8")
    Console().print(comparison)

    verdict = guard(
        start,
        tuned["comparative"],
        queries=queries,
        corpus=data.corpus,
        qrels=dev,
        first_stage=found,
        test=Split(queries, test, found),
        options=GuardOptions(depth=depth, seed=seed),
        out=out / "guarded",
    )
    Console().print(verdict)


def train_arm(arm: str, model: CrossEncoder, rows: Dataset, out: Path, epochs: float, seed: int) -> CrossEncoder:
    """Fine-tune the model, and save it."""
    loss: Any = ListNetLoss(model)
    if arm == "comparative":
        loss = ComparativeLoss(model, loss, [CmpCrop(), CmpDrop()], seed=seed)  # the one changed line
    args = CrossEncoderTrainingArguments(
        output_dir=str(out / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        learning_rate=2e-5,
        warmup_steps=0.1,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        seed=seed,
    )
    CrossEncoderTrainer(model=model, args=args, train_dataset=rows, loss=loss).train()
    model.save_pretrained(str(out))
    return model


if __name__ == "__main__":
    typer.run(main)
