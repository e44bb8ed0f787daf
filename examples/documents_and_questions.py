"""From a folder of documents and a table of questions to a tuned reranker, and an answer with its citation.

The folder has text files. The table has the columns "question" and "document", the name of the file that answers it:
CSV with a line of names. BM25 finds documents, and the reranker reads them in passages, whatever their length. It is
fine-tuned on the table, and the guard keeps it only if it is better on questions that were held out. Then a reader
answers a new question from the best passages, and says in which file, and where, the answer stands.

    python examples/documents_and_questions.py manuals/ questions.csv --ask "how is the filter changed" \\
        --model cross-encoder/ms-marco-MiniLM-L6-v2 --reader deepset/roberta-base-squad2 --out runs/manuals
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import ListNetLoss

from cmp_rerank import CmpCrop, ComparativeLoss, LongDocumentReranker, MaxP, Reader
from cmp_rerank.collections import Collection, Split, load
from cmp_rerank.guard import GuardOptions, guard, load_guard
from cmp_rerank.ir import BM25, rank
from cmp_rerank.mining import mine

DEPTH = 20  # documents that are reranked
READ = 3  # documents whose best passage the reader sees


def main(
    folder: Annotated[Path, typer.Argument(help="Text files, .txt or .md, UTF-8.", exists=True, file_okay=False)],
    table: Annotated[Path, typer.Argument(help="CSV with the columns question and document.", exists=True)],
    model: Annotated[str, typer.Option(help="The cross-encoder to start from: a folder or a name on the hub.")],
    reader: Annotated[str, typer.Option(help="A model of extractive question answering: a folder or a name.")],
    ask: Annotated[list[str], typer.Option(help="A new question; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Where the models go: a new folder.")],
    epochs: Annotated[float, typer.Option(help="Passes over the questions.")] = 2.0,
) -> None:
    """Tune a reranker of long documents, guard it, and answer."""
    data = load(collection_of(folder, table), split={"dev": 0.25})
    out.mkdir(parents=True)  # not before the data is there: a second try needs a new folder
    bm25 = BM25(data.corpus)
    found = bm25.search(data.queries(), DEPTH)
    mined = mine(data.queries("train"), data.corpus, data.qrels("train"), found, negatives=3)
    tuned = LongDocumentReranker(CrossEncoder(model, num_labels=1), MaxP())
    args = CrossEncoderTrainingArguments(
        str(out / "trainer"), num_train_epochs=epochs, per_device_train_batch_size=4, save_strategy="no", report_to=[]
    )
    loss = ComparativeLoss(tuned, ListNetLoss(tuned), [CmpCrop()])
    CrossEncoderTrainer(model=tuned, args=args, train_dataset=mined.dataset, loss=loss).train()
    print(tuned.coverage)
    verdict = guard(
        LongDocumentReranker(CrossEncoder(model, num_labels=1), MaxP()),
        tuned,
        queries=data.queries("dev"),
        corpus=data.corpus,
        qrels=data.qrels("dev"),
        first_stage=found,
        options=GuardOptions(depth=DEPTH),
        out=out / "reranker",
    )
    print(verdict.sentence)

    guarded, answering = load_guard(out / "reranker"), Reader.from_pretrained(reader)
    queries = {str(number): question for number, question in enumerate(ask)}
    ranked = guarded.rerank(queries, data.corpus, bm25.search(queries, DEPTH))
    for query, question in queries.items():
        names = [name for name, _ in rank(ranked[query])[:READ]]
        if not names:
            print(f"{question}\n  no document has a word of it")
            continue
        _, passages = guarded.model.score_documents([(question, data.corpus[name]) for name in names])
        best = [max(of_one, key=lambda passage: passage.score) for of_one in passages]
        texts = [data.corpus[name][one.start : one.end] for name, one in zip(names, best, strict=True)]
        answer = answering.answer(question, texts, top_k=1)[0]
        print(f"{question}\n  {answer.text}")
        if answer.passage >= 0:  # yes and no, of readers that give them, stand in no document
            name, start = names[answer.passage], best[answer.passage].start + answer.start
            print(f"  {folder / name}, characters {start} to {start + len(answer.text)}")


def collection_of(folder: Path, table: Path) -> Collection:
    """The files as documents, the rows of the table as queries with one relevant document each."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".md")]
    corpus = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths}
    with table.open(encoding="utf-8-sig", newline="") as file:
        read = csv.DictReader(file)
        if not {"question", "document"} <= set(read.fieldnames or ()):
            raise ValueError(f"{table} must have the columns question and document; got {read.fieldnames}")
        rows = {f"q{number}": row for number, row in enumerate(read, 1)}
    asked = Split({q: r["question"] for q, r in rows.items()}, {q: {r["document"]: 1} for q, r in rows.items()})
    return Collection(table.stem, corpus, {"all": asked})


if __name__ == "__main__":
    typer.run(main)
