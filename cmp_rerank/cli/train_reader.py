"""`cmp-rerank train-reader`: train an extractive reader with or without comparative loss, and evaluate it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cmp_rerank.cli import options
from cmp_rerank.version import versions_with


def train_reader(
    train: Annotated[Path, typer.Argument(help="Training questions: SQuAD, HotpotQA or a table (see below).")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the checkpoint, predictions and metrics."),
        options.NEW_FOLDERS,
    ],
    model: Annotated[str, typer.Option("--model", help="Checkpoint to start from: an encoder or a reader.")],
    dev: Annotated[Path | None, typer.Option(help="Questions to evaluate on; default: no evaluation.")] = None,
    format: Annotated[str, typer.Option(help="'squad', 'hotpotqa' or 'table'; '': by content.")] = "",
    ablations: Annotated[
        str,
        typer.Option(
            help="Ablation steps in order: crop, drop or drop:LAYERS, such as 'crop drop' or 'drop drop'; 'none': "
            "plain training."
        ),
    ] = "crop",
    dropout: Annotated[
        bool | None,
        typer.Option(
            "--dropout/--no-dropout",
            help="Whether the model's own dropout is on; default: without ablations only. Not with drop.",
        ),
    ] = None,
    p: Annotated[float, typer.Option(help="Share of the neurons that one drop step drops.")] = 0.1,
    segments: Annotated[
        str, typer.Option(help="What a crop step removes: 'sentences' or whole 'passages'.")
    ] = "sentences",
    objective: Annotated[
        str | None,
        typer.Option(
            help="What makes one loss of those of all passes: 'mean' averages them, the default; 'hinge' compares "
            "them; or 'listwise', 'regularized', or the name of a class."
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Baseline of the objective 'hinge': 'zero' or 'full'; default: 'zero'.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="How ablated passes are run: auto, stacked, hybrid, trunk or naive.")
    ] = "auto",
    epochs: Annotated[float, typer.Option(help="Passes over the training data.")] = 2.0,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a batch.")] = 16,
    rate: Annotated[float, typer.Option(help="Peak learning rate, after 10% warm-up.")] = 3e-5,
    max_length: Annotated[int, typer.Option(min=16, help="Tokens of a window, question included.")] = 384,
    stride: Annotated[int, typer.Option(min=0, help="Tokens that windows of one passage share.")] = 128,
    pack: Annotated[
        bool | None,
        typer.Option(help="Whether a window may hold several passages; default: if any question has several."),
    ] = None,
    max_questions: Annotated[int, typer.Option(min=0, help="Use the first N questions of each file; 0: all.")] = 0,
    max_steps: Annotated[int, typer.Option(min=0, help="Stop after N training steps; 0: by --epochs.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the head, the order of the data, masks and crops.")] = 0,
    save_minutes: Annotated[
        float, typer.Option(help="Minutes between two checkpoints; the first comes after at most one.")
    ] = 10.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the last checkpoint in the folder, with the same settings.")
    ] = False,
) -> None:
    """Train a reader, which finds answers in passages, with or without comparative loss.

    \b
    Examples:
      cmp-rerank train-reader squad/train.json --dev squad/dev.json \\
          --model bert-base-uncased -o reader
      cmp-rerank train-reader hotpot_train.json --dev hotpot_dev.json \\
          --model roberta-base -o reader --ablations "crop drop" --segments passages
      cmp-rerank train-reader questions.jsonl --model reader -o tuned --ablations none

    A file is SQuAD 1.1 or 2.0 JSON, HotpotQA JSON (distractor setting), or a
    table with the columns id, question, context or passages, and answers:
    CSV, TSV, JSON lines, parquet or a folder of `datasets`. A cell of CSV is
    one text.

    Each step of --ablations takes more away from the model. The loss of the
    full model is averaged with the losses of its ablated copies, or compared
    with them: --objective hinge. "drop" drops neurons; "drop:LAYERS" those of
    some layers, where LAYERS is all, or top:2 for the two highest. "crop"
    removes sentences or passages that hold neither an answer nor supporting
    facts. One crop is the default; try plain training ("none"), too: the gain
    over it depends on the task (docs/study.md). For questions of several
    passages begin with "crop drop". Each step makes training slower.

    --out gets an ordinary checkpoint, which AutoModelForQuestionAnswering and
    `cmp-rerank answer` load; predictions.json in the format of the official
    scripts; and metrics.json with EM and F1, their intervals, the values of
    every question, losses, settings and versions. Where questions of --dev
    have no answer, the threshold of "no answer" is tuned on them and saved
    with the checkpoint.

    --resume resumes an interrupted training with the settings that it was
    started with. Checkpoints are saved by time, the first after a minute. A
    finished training is not trained further, only evaluated again.
    """
    from cmp_rerank.ablations import CmpDrop
    from cmp_rerank.engine.scorer import STRATEGIES
    from cmp_rerank.ir.ranking import check_choice
    from cmp_rerank.reader.files import read_questions
    from cmp_rerank.reader.measures import check_gold
    from cmp_rerank.reranking.loading import read_checkpoint

    plan = plan_of(ablations, p, segments)
    if dropout and any(isinstance(step, CmpDrop) for step in plan):
        raise ValueError(
            f"--dropout must be left out where a step is drop, which switches it off; got --ablations {ablations!r}"
        )
    read_checkpoint(model)
    chosen = objective_of(objective, baseline, bool(plan))
    check_choice("--strategy", strategy, STRATEGIES)
    files = [("training", train), *([("dev", dev)] if dev is not None else [])]
    loaded = {name: read_questions(path, format or None) for name, path in files}
    for name, questions in loaded.items():
        options.warn([f"{name}: {note}" for note in questions.notes()])
        if max_questions:
            del questions[max_questions:]
    if dev is not None:
        try:
            check_gold(loaded["dev"])
        except ValueError as error:
            raise ValueError(f"{dev}: {error}") from None
    settings = {
        "model": model,
        "train": train.name,
        "dev": dev.name if dev else None,
        "format": loaded["training"].format,
        "ablations": repr(plan),
        "dropout": not plan if dropout is None else dropout,
        "p": p,
        "segments": segments,
        "objective": repr(chosen) if plan else None,
        "strategy": strategy,
        "epochs": epochs,
        "batch": batch,
        "rate": rate,
        "max_length": max_length,
        "stride": stride,
        "pack": pack,
        "max_questions": max_questions,
        "max_steps": max_steps,
        "seed": seed,
    }
    reader, trainer, record = _train(loaded["training"], plan, chosen, out, settings, resume, save_minutes)
    # Saved first: the evaluation may fail.
    reader.save_pretrained(out)
    if plan:
        from cmp_rerank.training.card import write_card

        write_card(out, trainer, trainer.comparison)
    versions = versions_with("torch", "transformers", "tokenizers", "numpy")
    record = {"settings": settings, "versions": versions} | record
    if dev is not None:
        record["dev"] = evaluated(reader, loaded["dev"], out)
        reader.save_options(out)  # with the tuned threshold
    _write(out / "metrics.json", record)
    typer.echo(f"written to {out}")


def plan_of(notation: str, p: float, segments: str) -> list[Any]:
    """The ablations of a notation such as "crop drop:top:2"."""
    from cmp_rerank.ablations import CmpCrop, CmpDrop
    from cmp_rerank.ir.ranking import check_choice
    from cmp_rerank.reader import WholePassages
    from cmp_rerank.text.segmenters import Sentences

    check_choice("--segments", segments, ("sentences", "passages"))
    steps: list[Any] = []
    for word in notation.replace(",", " ").split():
        name, _, layers = word.partition(":")
        if name == "drop":
            steps.append(CmpDrop(p=p, layers=layers or "all"))
        elif name == "crop" and not layers:
            steps.append(CmpCrop(segmenter=WholePassages() if segments == "passages" else Sentences()))
        elif notation.strip() != "none":
            raise ValueError(f"--ablations must be none, or steps drop, drop:all, drop:top:K and crop; got {word!r}")
    if not steps and notation.strip() != "none":
        raise ValueError(f"--ablations must name a step; got {notation!r}; 'none' trains without ablations")
    return steps


def objective_of(name: str | None, baseline: str | None, compares: bool) -> Any:
    """The objective of a name, or the default; a baseline is of the hinge alone."""
    from cmp_rerank.objectives import PairwiseHinge
    from cmp_rerank.pipeline.components import OBJECTIVE, build, problems

    given = [f"--{option} {value}" for option, value in (("objective", name), ("baseline", baseline)) if value]
    if given and not compares:
        raise ValueError(f"--ablations none has one pass, and no objective; got {' and '.join(given)}; leave it out")
    if baseline is not None:
        if name != "hinge":
            raise ValueError(f"--baseline goes with --objective hinge; got {' and '.join(given)}")
        return PairwiseHinge(baseline)  # type: ignore[arg-type]
    name = name or "mean"
    if wrong := problems(OBJECTIVE, name):
        raise ValueError(f"--objective: {wrong[0].text}")
    return build(OBJECTIVE, name)


def _train(
    questions: Any,
    plan: list[Any],
    objective: Any,
    out: Path,
    settings: dict[str, Any],
    resume: bool,
    save_minutes: float,
) -> tuple[Any, Any, dict[str, Any]]:
    """Train, and complete the settings by those that depend on the model and the questions."""
    import sys
    import time
    from contextlib import nullcontext, redirect_stdout

    import torch
    import transformers
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer, TrainingArguments

    from cmp_rerank.ablations import CmpCrop
    from cmp_rerank.ir.abandoned import sole_writer
    from cmp_rerank.ir.checkpoints import loading_checkpoint
    from cmp_rerank.ir.lines import without_nan
    from cmp_rerank.reader.digest import questions_digest
    from cmp_rerank.reader.reader import Reader, ReaderOptions
    from cmp_rerank.training import ComparativeTrainer, TimedCheckpoints
    from cmp_rerank.training import resume as resuming
    from cmp_rerank.training.complete import last_checkpoint
    from cmp_rerank.training.own_dropout import training_without_dropout

    known = [question for question in questions if question.answers or question.kind != "span"]
    if not known:
        raise ValueError(
            f"training needs questions with an answer in their passages, or of kind 'none'; got {len(questions)} "
            "questions, none of them such"
        )
    if len(known) < len(questions):
        options.warn([f"{len(questions) - len(known)} questions without a known answer are left out of training"])
    folder = out / "trainer"
    checkpoint = last_checkpoint(folder)
    # The settings are written first: a training that ended before its first checkpoint begins again.
    if resume and not (out / "settings.json").exists():
        raise ValueError(f"--resume needs a training that was begun; got none in {out}; leave --resume out")
    if checkpoint is not None and not resume:
        raise ValueError(
            f"a new training needs a folder without checkpoints; got {checkpoint}; resume it by --resume, or choose "
            "another --out"
        )
    transformers.set_seed(settings["seed"])
    with loading_checkpoint(settings["model"]):
        tokenizer = AutoTokenizer.from_pretrained(settings["model"])
        model = AutoModelForQuestionAnswering.from_pretrained(settings["model"], num_labels=2)
        max_length = min(settings["max_length"], tokenizer.model_max_length)
    several = any(len(question.passages) > 1 for question in known)
    reading = ReaderOptions(
        max_length=max_length,
        stride=settings["stride"],
        pack=several if settings["pack"] is None else settings["pack"],
        yes_no=any(question.kind in ("yes", "no") for question in known),
    )
    settings |= {name: getattr(reading, name) for name in ("max_length", "stride", "pack", "yes_no")}
    settings |= {
        "weights": resuming.weights_digest(settings["model"]),
        "questions": questions_digest(known),
    }
    out.mkdir(parents=True, exist_ok=True)
    with sole_writer(out), options.interruptible(out, "the same command with --resume"):
        # Names of files may change, their content may not. The training does not depend on what is evaluated.
        fixed = {name: value for name, value in settings.items() if name not in ("model", "train", "dev")}
        resuming.check_settings(out / "settings.json", fixed, resume=resume)
        windows = reading.windows(
            tokenizer, known, next((step.segmenter for step in plan if isinstance(step, CmpCrop)), None)
        )
        options.warn([str(windows.counts)])
        trainer = ComparativeTrainer(
            model,
            TrainingArguments(
                output_dir=str(folder),
                num_train_epochs=settings["epochs"],
                max_steps=settings["max_steps"] or -1,
                per_device_train_batch_size=settings["batch"],
                learning_rate=settings["rate"],
                warmup_steps=0.1,
                weight_decay=0.01,
                train_sampling_strategy="group_by_length",
                dataloader_pin_memory=torch.cuda.is_available(),
                logging_steps=10,
                save_steps=500,
                save_total_limit=1,
                report_to=[],
                seed=settings["seed"],
            ),
            train_dataset=windows,
            processing_class=tokenizer,
            ablations=plan,
            objective=objective,
            strategy=settings["strategy"],
            callbacks=[TimedCheckpoints(save_minutes)],
        )
        begin = time.perf_counter()
        # The trainer prints its log, which is no result.
        with redirect_stdout(sys.stderr), nullcontext() if settings["dropout"] else training_without_dropout(trainer):
            trainer.train(None if checkpoint is None else str(checkpoint))
    weights = dict(trainer.model.named_parameters())
    if wrong := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise ValueError(
            f"the training has diverged: after step {trainer.state.global_step}, {len(wrong)} of {len(weights)} "
            f"weights are not finite, such as {wrong[0]}; no reader is saved; train again with a lower --rate than "
            f"{settings['rate']:g}, and another --out"
        )
    record = {
        "windows": vars(windows.counts),
        "training": {
            "steps": trainer.state.global_step,
            "seconds": round(time.perf_counter() - begin, 1),
            "resumed": checkpoint is not None,
        },
        "log": [without_nan(logs) for logs in trainer.state.log_history],
    }
    return Reader(trainer.model, tokenizer, reading), trainer, record


def evaluated(reader: Any, questions: Any, out: Path) -> dict[str, Any]:
    """Evaluate a reader: measures, predictions and, where questions have no answer, a tuned threshold."""
    from dataclasses import replace

    from cmp_rerank.cli.evaluate_answers import summary_lines
    from cmp_rerank.reader.answers import best_threshold, predictions
    from cmp_rerank.reader.measures import evaluate_answers, rules_of, summary
    from cmp_rerank.reader.prediction_files import write_hotpotqa, write_no_answer, write_squad

    rules = rules_of(questions)
    answers = reader.predict(questions, show_progress_bar=True)
    result: dict[str, Any] = {}
    threshold = None
    if rules == "squad2":
        tuned = best_threshold(questions, answers)
        reader.options = replace(reader.options, threshold=tuned.threshold)
        threshold = tuned.threshold
        plain = evaluate_answers(questions, predictions(answers, 0.0), rules=rules)
        result["threshold"] = {"tuned on the same questions": threshold, "F1 and EM with 0": plain.means}
        write_no_answer(out / "na_probs.json", {answer.id: answer.no_answer for answer in answers})
    found = predictions(answers, threshold)
    (write_hotpotqa if rules == "hotpotqa" else write_squad)(out / "predictions.json", found)
    evaluation = evaluate_answers(questions, found, rules=rules)
    measures = summary(questions, evaluation)
    with options.printing():
        typer.echo("\n".join(summary_lines(measures, evaluation.measures)))
    return result | {"rules": rules, "measures": measures, "per_question": evaluation.per_query}


def _write(path: Path, content: Any) -> None:
    import json

    from cmp_rerank.ir.lines import replacing

    with replacing(path) as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")
