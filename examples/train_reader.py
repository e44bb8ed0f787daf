"""Train a reader plainly and comparatively, from the same start on the same questions, and test the difference.

Questions are SQuAD or HotpotQA files, or a table with the columns id, question, context (or passages) and answers. Of
questions with one passage the comparative arm crops sentences that hold no answer; of those with several it crops
whole passages, then drops neurons, which switches the model's own dropout off.

    python examples/train_reader.py squad/train.json squad/dev.json --model bert-base-uncased --out runs/squad
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import transformers
import typer
from rich.console import Console
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, TrainingArguments

from cmp_rerank import CmpCrop, CmpDrop, ComparativeTrainer
from cmp_rerank.evaluation.compare import compare_evaluations
from cmp_rerank.reader import WholePassages
from cmp_rerank.reader.answers import predictions
from cmp_rerank.reader.files import read_questions
from cmp_rerank.reader.measures import check_gold, evaluate_answers
from cmp_rerank.reader.prediction_files import write_squad
from cmp_rerank.reader.reader import Reader, ReaderOptions
from cmp_rerank.reader.records import Question
from cmp_rerank.text.segmenters import Sentences


def main(
    train: Annotated[Path, typer.Argument(help="Questions to train on.", exists=True, dir_okay=False)],
    dev: Annotated[Path, typer.Argument(help="Questions to evaluate on.", exists=True, dir_okay=False)],
    model: Annotated[str, typer.Option(help="An encoder or reader to start from: a folder or a name on the hub.")],
    out: Annotated[Path, typer.Option(help="Where the readers, their answers and the comparison go.")],
    epochs: Annotated[float, typer.Option(help="Passes over the questions.")] = 2.0,
    max_length: Annotated[int, typer.Option(help="Tokens of a window.")] = 384,
    stride: Annotated[int, typer.Option(help="Tokens that windows of one passage share.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the new head, the order of the questions, masks and crops.")] = 0,
) -> None:
    """Train both arms, and compare exact match and F1 over the questions."""
    read, asked = read_questions(train), read_questions(dev)
    print(*read.notes(), *asked.notes(), sep="\n")
    check_gold(asked)  # now, not after hours of training
    known = [question for question in read if question.answers or question.kind != "span"]
    several = any(len(question.passages) > 1 for question in known)
    options = ReaderOptions(max_length, stride, pack=several, yes_no=any(q.kind in ("yes", "no") for q in known))
    evaluations = {}
    for arm in ("plain", "comparative"):
        reader = trained(arm, known, model, out / arm, epochs, options, seed)
        answers = predictions(reader.predict(asked))
        write_squad(out / arm / "predictions.json", answers)
        rules = asked.format if asked.format in ("squad2", "hotpotqa") else "squad"
        evaluations[arm] = evaluate_answers(asked, answers, rules=rules)
    comparison = compare_evaluations(evaluations, baseline="plain")
    (out / "comparison.json").write_text(comparison.to_json(per_query=True), encoding="utf-8")
    Console().print(comparison)


def trained(
    arm: str, questions: list[Question], model: str, out: Path, epochs: float, options: ReaderOptions, seed: int
) -> Reader:
    """One arm, saved in its folder."""
    transformers.set_seed(seed)  # the head is new: both arms begin with the same
    tokenizer = AutoTokenizer.from_pretrained(model)
    ablations: list[Any] = []
    if arm == "comparative":
        ablations = [CmpCrop(), CmpDrop()] if options.pack else [CmpCrop()]
    trainer = ComparativeTrainer(
        AutoModelForQuestionAnswering.from_pretrained(model, num_labels=2),
        TrainingArguments(
            output_dir=str(out / "trainer"),
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            learning_rate=3e-5,
            warmup_steps=0.1,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to=[],
            seed=seed,
        ),
        train_dataset=options.windows(tokenizer, questions, WholePassages() if options.pack else Sentences()),
        processing_class=tokenizer,
        ablations=ablations,
    )
    trainer.train()
    reader = Reader(trainer.model, tokenizer, options)
    reader.save_pretrained(out)
    return reader


if __name__ == "__main__":
    typer.run(main)
