"""`cmp-rerank train`: from a collection to a reranker that is not worse than what there was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmp_rerank.cli import options
from cmp_rerank.cli.progress import progress
from cmp_rerank.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from cmp_rerank.pipeline import Config, Results


def train(
    config: Annotated[
        Path | None, typer.Argument(help="A configuration, YAML; --print-config writes one. Flags win over it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run folder: new or empty, or with --resume an earlier one."),
        options.NEW_FOLDERS,
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="A collection: beir:FOLDER, msmarco:FOLDER, table:FILE, ir_datasets:NAME, ...")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Or files: the documents, BEIR JSONL or TSV.")] = None,
    queries: Annotated[str | None, typer.Option(help="The queries of all splits, BEIR JSONL or TSV.")] = None,
    qrels: Annotated[list[str] | None, typer.Option(help="Judgments of a split, SPLIT=FILE; repeatable.")] = None,
    split: Annotated[str | None, typer.Option(help="The split to train on; default: train.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="The split that chooses, or the share of the training queries held out for it.")
    ] = None,
    test_split: Annotated[
        str | None, typer.Option(help="The split for the end; default: test, if there is one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The cross-encoder or encoder to start from.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a pair; default: what the model says.")] = None,
    first_stage: Annotated[
        str | None, typer.Option(help="What finds the candidates: bm25 (default), anserini, dense, sparse, or a run.")
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(help="The candidates of a split by a first stage of yours, SPLIT=FILE; repeatable."),
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Candidates of each query; default: 100.")] = None,
    negatives: Annotated[int | None, typer.Option(help="Negatives of each query; default: 7.")] = None,
    loss: Annotated[str | None, typer.Option(help="A cross-encoder loss by name, such as LambdaLoss.")] = None,
    ablations: Annotated[
        str | None, typer.Option(help="Steps of the comparative loss, such as 'crop drop'; 'none': plain training.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training data; default: 1.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the learning rate; default: 2e-5.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows in a training batch of one process; default: 16.")
    ] = None,
    measures: Annotated[
        list[str] | None,
        typer.Option("--measure", "-m", help="For example nDCG@10; repeatable, the first one decides."),
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", "--seeds", help="One training for each, with commas: 0,1,2; default: 0.")
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="A learning curve: also train on so many queries, such as 50,100,200,all."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of the configuration, KEY=VALUE; repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, to the same weights.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the configuration whole, with comments, and stop.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would be done, and stop.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train a reranker: retrieve, mine negatives, fine-tune, and keep what is not worse than what you had.

    \b
    Examples:
      cmp-rerank train --collection beir:scifact \\
          --model cross-encoder/ms-marco-MiniLM-L6-v2 -o runs/scifact
      cmp-rerank train --collection beir:scifact --model my-model \\
          --ablations "crop drop" --print-config > train.yaml
      cmp-rerank train train.yaml -o runs/a --seeds 0,1,2 \\
          --set training.learning_rate=1e-5
      cmp-rerank train train.yaml -o runs/a --resume --sizes 50,100,all
      torchrun --nproc_per_node 2 -m cmp_rerank train train.yaml -o runs/b

    The first stage finds candidates for all queries. Negatives are mined from
    them. The model is trained, once for each seed, and evaluated on the
    validation split on the way. At the end the guard decides on this split
    whether the tuned model is used, something between it and the start, or
    what you had. The test split is only for the report.

    With --sizes each seed is also trained on nested samples of so many
    queries, for a curve that says whether more labels would help.

    A configuration has the sections data, first_stage, negatives, model,
    loss, ablations, objective, training, evaluation, guard, seeds and sizes. All
    that is wrong with it is told at once. Classes of your own are named by
    module:Class, and found in the current folder, too.

    --out gets the model to use (guard/model), its verdict, the tuned models
    (seed-N/model), checkpoints by time, metrics by step, values by query,
    runs, a report page (result/report.html), and results.json. After an
    interruption --resume goes on: what is complete is kept.
    """
    from cmp_rerank.pipeline import run as run_pipeline
    from cmp_rerank.pipeline import template
    from cmp_rerank.pipeline.config import parse_settings
    from cmp_rerank.pipeline.environment import processes
    from cmp_rerank.pipeline.run import plan, prepare

    _search_here()
    flags = {
        "--collection": ("data.collection", collection),
        "--corpus": ("data.corpus", corpus),
        "--queries": ("data.queries", queries),
        "--qrels": ("data.qrels", _by_split("--qrels", qrels)),
        "--split": ("data.train", split),
        "--validation": ("data.validation", _number_or_name(validation)),
        "--test-split": ("data.test", test_split),
        "--model": ("model.name", model),
        "--max-length": ("model.max_length", max_length),
        "--first-stage": ("first_stage.kind", first_stage),
        "--run": ("first_stage.runs", _by_split("--run", run)),
        "--depth": ("first_stage.depth", depth),
        "--negatives": ("negatives.negatives", negatives),
        "--loss": ("loss", loss),
        "--ablations": ("ablations", _steps(ablations)),
        "--epochs": ("training.num_train_epochs", epochs),
        "--learning-rate": ("training.learning_rate", learning_rate),
        "--batch-size": ("training.per_device_train_batch_size", batch_size),
        "--measure": ("evaluation.measures", measures or None),
        "--seed": ("seeds", _numbers(seed)),
        "--sizes": ("sizes", _numbers(sizes)),
    }
    given = {key: (name, value) for name, (key, value) in flags.items() if value is not None}
    given |= {key: ("--set", value) for key, value in parse_settings(settings or []).items()}
    loaded = _load(config, given, examples=print_config)
    if print_config:
        typer.echo(template(loaded), nl=False)
        return
    if out is None:
        raise ValueError("the results need a folder; got no --out; write -o runs/first")
    with quiet_libraries():
        if dry_run:
            stages, notes = prepare(loaded, out, resume=resume)
            options.warn(notes)
            typer.echo("\n".join(plan(stages)))
            return
        with options.interruptible(out, "the same command with --resume"):
            results = run_pipeline(loaded, out, resume=resume, report=progress)
    if processes()[0] == 0:
        _show(results, as_json)


def _load(config: Path | None, given: dict[str, tuple[str, Any]], *, examples: bool) -> Config:
    """The configuration of the file, the flags and --set; for --print-config what is missing is an example."""
    from cmp_rerank.pipeline.config import load
    from cmp_rerank.pipeline.document import parse, parse_key, read
    from cmp_rerank.pipeline.template import EXAMPLES

    document = parse("", "the command line") if config is None else read(config)
    overrides = {key: value for key, (_, value) in given.items()}
    if examples:
        files = {"data.corpus", "data.queries", "data.qrels"} & overrides.keys()
        for key, value in EXAMPLES.items():
            if parse_key(key) not in document.places and not (key.startswith("data.") and files):
                overrides.setdefault(key, value)
    return load(document, overrides, {key: place for key, (place, _) in given.items()})


def _show(results: Results, as_json: bool) -> None:
    """The verdict, the comparison, and where to look next."""
    if as_json:
        import json

        typer.echo(json.dumps(results.values, indent=1, allow_nan=False))
        return
    from rich.console import Console

    console = Console()
    verdict = results.verdict
    options.warn([*results.values["notes"], *(verdict["notes"] if verdict else [])])
    console.print(results.comparison)
    if verdict is not None:
        test = verdict["test"]
        console.print(verdict["sentence"], style="bold", highlight=False, markup=False)
        sentences = [*([test["sentence"]] if test else []), verdict["cost"]["sentence"]]
        console.print(*sentences, highlight=False, markup=False)
    if curve := results.values["learning_curve"]:
        console.print(curve["sentence"], highlight=False, markup=False)
    for line in (f"The model to use: {results.model}", f"The report: {results.folder / 'result' / 'report.html'}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _search_here() -> None:
    """Modules of the user are found in the current folder, as by `python -m`."""
    import sys

    if "" not in sys.path:
        sys.path.append("")


def _by_split(name: str, given: list[str] | None) -> dict[str, str] | None:
    """SPLIT=FILE arguments."""
    if not given:
        return None
    pairs = [each.partition("=") for each in given]
    if wrong := [each for each, (split, _, file) in zip(given, pairs, strict=True) if not (split and file)]:
        raise ValueError(f"{name} takes SPLIT=FILE; got {wrong[0]!r}; write for example train=qrels/train.tsv")
    return {split: file for split, _, file in pairs}


def _number_or_name(given: str | None) -> float | str | None:
    try:
        return None if given is None else float(given)
    except ValueError:
        return given


def _steps(given: str | None) -> list[str] | None:
    """The kinds of ablations in their order."""
    if given is None:
        return None
    words = given.replace(",", " ").split()
    if not words:
        raise ValueError("--ablations must name a step; got ''; 'none' trains without ablations")
    return [] if words == ["none"] else words


def _numbers(given: str | None) -> list[Any] | None:
    """Numbers with commas between them; what is none is left to the configuration, which takes it or tells it."""
    if given is None:
        return None
    return [int(part) if part.isdecimal() else part for part in map(str.strip, given.split(","))]
