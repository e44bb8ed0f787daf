"""Run a configuration: all stages in their order, in one folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmp_rerank.collections import Collection
from cmp_rerank.evaluation import Comparison
from cmp_rerank.guard.candidates import blends, candidates, had_by_user
from cmp_rerank.guard.contestants import has_new_head
from cmp_rerank.ir.abandoned import sole_writer
from cmp_rerank.ir.lines import PathLike, replacing
from cmp_rerank.ir.reading import read_json
from cmp_rerank.pipeline.card import add_run
from cmp_rerank.pipeline.config import Config, load, to_dict
from cmp_rerank.pipeline.data import TRAIN, task_of
from cmp_rerank.pipeline.environment import environment, processes
from cmp_rerank.pipeline.folder import RunFolder, write_json
from cmp_rerank.pipeline.learning_curve import sizes_of
from cmp_rerank.pipeline.model import loss_of, model_digest, start_model
from cmp_rerank.pipeline.stages import MODEL, Report, Stages, given_run, given_runs
from cmp_rerank.pipeline.template import template
from cmp_rerank.pipeline.tuning import arguments_of

logger = logging.getLogger(__name__)

CONFIG, ENVIRONMENT, LOG, RESULTS = "config.yaml", "environment.json", "log.txt", "results.json"


@dataclass(frozen=True)
class Results:
    """What a run has come to.

    Attributes:
        folder: the run folder.
        model: the checkpoint to use: what the guard hands over, or without it the tuned model of the first seed.
        comparison: the systems, compared on the test split or, without one, on the validation split.
        values: all of it as plain data, the contents of ``results.json``.

    Example:
        ::

            results = run("train.yaml", "my-run")
            print(results.verdict["sentence"])
            print(results.model)  # the checkpoint to use
            results.comparison.contrast("chosen", "nDCG@10").verdict
    """

    folder: Path
    model: Path
    comparison: Comparison
    values: Mapping[str, Any]

    @property
    def verdict(self) -> Mapping[str, Any] | None:
        """The verdict of the guard as plain data; None without a guard."""
        found: Mapping[str, Any] | None = self.values["guard"]
        return found


def run(
    config: Config | Mapping[str, Any] | PathLike,
    out: PathLike,
    *,
    resume: bool = False,
    collection: Collection | None = None,
    report: Report | None = None,
) -> Results:
    """Retrieve, mine, train, guard, compare: from a collection to a reranker that is not worse than what there was.

    The folder then holds, each stage written whole or not at all:

    - ``config.yaml``, ``environment.json`` (versions, command, times of each start), ``log.txt``;
    - ``first_stage/``: the candidates of each part of the data; ``training_data/``: the rows, and what was left out;
    - ``seed-N-training/``: checkpoints, ``metrics.jsonl`` and ``values.jsonl`` (values by query) by step;
    - ``seed-N/``: the tuned model of a seed; ``guard/``: the verdict, and the model that it hands over;
      The model cards say how each was made, what it came to, and how to repeat it;
    - ``size-N/seed-N/``, ``learning_curve/``: with ``sizes``, models of fewer queries, and the curve;
    - ``runs/``: rankings of the test queries; ``result/``: the comparison and ``report.html``; ``results.json``.

    Every stage has its settings, its seconds and the time when it was made in a file ``stage.json``.

    Under ``torchrun`` or ``accelerate launch`` all processes train, and the first one does everything else. The
    folder must be one that all of them see.

    Args:
        config: a configuration, its file, or the same as nested mappings.
        out: the run folder: new or empty, or with ``resume`` one of an interrupted run.
        resume: go on with the run in the folder: stages that are complete and unchanged are kept, and a training goes
            on from its last checkpoint, to the same weights. Nothing to go on with is no error.
        collection: the data, in place of what ``data.collection`` names.
        report: shows the progress; by default nothing is shown.

    Returns:
        The results.

    Raises:
        ValueError: the configuration is wrong (a `ConfigError` tells all errors), the folder holds something else,
            data or model are not there, or another process is writing the folder.

    Example:
        ::

            from cmp_rerank.pipeline import run

            results = run("train.yaml", "runs/first")
            print(results.verdict["sentence"], results.model)
    """
    config = load(config)
    stages, notes = prepare(config, out, resume=resume, collection=collection, report=report)
    with _begun(stages.folder, config) if stages.folder.makes else nullcontext():
        for note in notes:
            logger.info("%s", note)
        done = [stages.first_stage, stages.training_data, *(stages.tuned(seed) for seed in config.seeds)]
        done += [
            each for each in (stages.learning_curve, stages.guarded, stages.runs, stages.result) if each is not None
        ]
        for each in done:
            logger.info("%s: %.1f s", each.folder.name, each.seconds)
        return _results(stages, notes)


def prepare(
    config: Config,
    out: PathLike,
    *,
    resume: bool = False,
    collection: Collection | None = None,
    report: Report | None = None,
) -> tuple[Stages, list[str]]:
    """Check all that can be checked before anything is computed: folder, data, model, loss and its options.

    Args:
        config: the configuration.
        out: as for `run`; nothing is written.
        resume: as there.
        collection: as there.
        report: as there.

    Returns:
        The stages, and notes on what was decided where the configuration says nothing.

    Raises:
        ValueError: as `run`.
    """
    rank, _ = processes()
    path = Path(out)
    if rank == 0:
        check_folder(path, resume=resume)
    task = task_of(config.data, collection)
    model = start_model(config.model, config.seeds[0], device="cpu")
    new_head = has_new_head(model)
    loss_of(model, config, config.seeds[0])
    if config.sizes:
        sizes_of(config.sizes, len(task.parts[TRAIN].qrels))
    runs = given_runs(config, task)
    for part in task.parts.values():
        if part.source in runs:
            given_run(runs[part.source], part, task.corpus)
    notes = [*task.notes, *task.collection.notes()]
    if new_head:
        notes.append(f"{config.model.name} gets a new head; untrained, it is no reranker to compare with")
    folder = RunFolder(path, makes=rank == 0)
    silent: Report = lambda title: nullcontext(lambda done, total: None)  # noqa: E731
    shown = report if report is not None and rank == 0 else silent
    stages = Stages(config, task, folder, shown, model_digest(config.model.name), new_head)
    _ = stages.sources  # read once, for the settings of the training data; what is missing is told now
    _check_had(stages)
    if rank == 0:
        stages.check_begun()
    return stages, notes


def _check_had(stages: Stages) -> None:
    """Refuse what the guard would refuse after the training: a start that cannot rank, as what the user had."""
    if not stages.config.guard.enabled:
        return
    options, tuned = stages.guard_options, len(stages.config.seeds)
    try:
        had_by_user(
            candidates(blends(options, start=not stages.new_head, between=True, tuned=tuned), options), options
        )
    except ValueError:
        raise ValueError(
            f"guard.had must be 'best' or 'first stage' where {stages.config.model.name!r} gets a new head, which "
            f"cannot rank before it is trained; got {options.had!r}; choose one of them"
        ) from None


def check_folder(path: Path, *, resume: bool) -> None:
    """Refuse a folder that holds a run, unless it is resumed, or something else.

    Raises:
        ValueError: the message says what to do.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: this is a file, a folder is needed; choose another --out")
    # A hidden file is what a kill has left of a file that was being written.
    if not path.exists() or all(each.name.startswith(".") for each in path.iterdir()):
        return
    if not (path / CONFIG).exists():
        raise ValueError(f"{path}: this folder holds something else than a run; choose a new one")
    if not resume:
        raise ValueError(f"{path}: this folder holds a run; go on with it by --resume, or choose another one")


def plan(stages: Stages) -> list[str]:
    """What a run would do, in words."""
    config, task = stages.config, stages.task
    parts = {name: f"{len(part.qrels):,} queries of {part.source!r}" for name, part in task.parts.items()}
    steps = "plainly" if not config.ablations else f"comparatively, with {len(config.ablations)} ablations"
    arguments = arguments_of(config, config.seeds[0], stages.folder.path)
    lines = [
        f"data: {task.collection.name}, {len(task.corpus):,} documents; "
        + ", ".join(f"{name}: {words}" for name, words in parts.items()),
        f"first stage: {config.first_stage.kind}, {config.first_stage.depth} candidates of each query",
        f"training data: {stages.format}, {config.negatives.negatives} negatives from "
        f"{', '.join(config.negatives.runs)}",
        f"training: {config.model.name} {steps}, {config.loss['kind']}, {len(config.seeds)} seeds, "
        f"{arguments.num_train_epochs:g} epochs, batches of {arguments.train_batch_size}, on {arguments.device}",
        *([f"learning curve: {', '.join(map(str, config.sizes))} training queries"] if config.sizes else []),
        f"evaluation: {', '.join(config.evaluation.measures)}; {config.evaluation.main} decides",
        f"guard: {'compares with what there was' if config.guard.enabled else 'off'}",
    ]
    done = list(stages.folder.stages())
    return lines if not done else [*lines, f"already there: {', '.join(done)}"]


def _results(stages: Stages, notes: list[str]) -> Results:
    """Write ``results.json`` and the cards of the models, and give back what it says."""
    config, folder = stages.config, stages.folder
    comparison = stages.comparison()
    guarded = stages.guarded
    chosen = stages.tuned(config.seeds[0]) if guarded is None else guarded
    values = {
        "config": to_dict(config),
        "notes": notes,
        "part": stages.shown,
        "comparison": comparison.to_dict(),
        "guard": None if guarded is None else read_json(guarded.folder / MODEL / "verdict.json"),
        "model": (chosen.folder / MODEL).relative_to(folder.path).as_posix(),
        "training_data": read_json(stages.training_data.folder / "counts.json"),
        "training": {str(seed): read_json(stages.tuned(seed).folder / "training.json") for seed in config.seeds},
        "learning_curve": stages.curve(),
        "seconds": {name: record["seconds"] for name, record in folder.stages().items()},
        "environment": read_json(folder.path / ENVIRONMENT),
    }
    if folder.makes:
        models = {stages.tuned(seed).folder for seed in config.seeds} | {chosen.folder}
        for made in models:
            add_run(made / MODEL, config, stages.task, comparison, values)
        write_json(folder.path / RESULTS, values)
    return Results(folder.path, chosen.folder / MODEL, comparison, values)


@contextmanager
def _begun(folder: RunFolder, config: Config) -> Iterator[None]:
    """The folder has its configuration, its environment and its log, and is written by this process alone."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder.path):
        with replacing(folder.path / CONFIG) as file:
            file.write(template(config))
        _add_start(folder.path / ENVIRONMENT)
        with _logged(folder.path / LOG):
            yield


def _add_start(path: Path) -> None:
    """Add this start to those before it."""
    starts = read_json(path) if path.exists() else []
    write_json(path, [*starts, environment()])


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What the libraries log goes to a file, too, with the time."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    own = logging.getLogger("cmp_rerank")
    level = own.level
    loggers = [own, *(logging.getLogger(name) for name in ("sentence_transformers", "transformers"))]
    for each in loggers:
        each.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        yield
    except BaseException:
        own.exception("the run has ended early; --resume goes on with it")
        raise
    finally:
        own.setLevel(level)
        for each in loggers:
            each.removeHandler(handler)
        handler.close()
