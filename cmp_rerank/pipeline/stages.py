"""The stages of a run, each in a folder of its own: candidates, training data, models, verdict, runs, report."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from cmp_rerank.collections.matching import ids_without, nothing_in_common, some, without_texts
from cmp_rerank.evaluation import Comparison, compare
from cmp_rerank.evaluation.evaluator import RunEvaluator
from cmp_rerank.evaluation.report import write_report
from cmp_rerank.guard import GuardOptions, Split, guard, load_guard
from cmp_rerank.ir import Progress, Run, read_run, write_run
from cmp_rerank.ir.files import tag_of
from cmp_rerank.ir.first_stages import KINDS, FirstStageOptions
from cmp_rerank.ir.lines import replacing_folder
from cmp_rerank.ir.reading import read_json
from cmp_rerank.losses.comparative import check_labels
from cmp_rerank.mining import MiningOptions, format_of, mine, take_support
from cmp_rerank.pipeline import folder as folders
from cmp_rerank.pipeline.components import KIND, LOSS
from cmp_rerank.pipeline.config import FIRST_STAGE, Config, to_dict
from cmp_rerank.pipeline.data import TEST, TRAIN, VALIDATION, Part, Task
from cmp_rerank.pipeline.folder import Done, RunFolder
from cmp_rerank.pipeline.learning_curve import chart, learning_curve, sampled, sizes_of
from cmp_rerank.pipeline.log_charts import log_charts
from cmp_rerank.pipeline.model import model_digest, start_model, tuned_model
from cmp_rerank.pipeline.tuning import SETTINGS, is_same_training, tune
from cmp_rerank.reranking import rerank_run
from cmp_rerank.reranking.loading import check_checkpoint, load_reranker
from cmp_rerank.reranking.scoring import NotFiniteError
from cmp_rerank.training.resume import changes, check_settings

logger = logging.getLogger(__name__)

#: Queries, depth and progress to a run.
Search = Callable[[Mapping[str, str], int, Progress], Run]
#: Opens a stage under a title. The context gives a function to call with the progress of the stage.
Report = Callable[[str], AbstractContextManager[Progress]]

#: The folder of the checkpoint in a stage that makes one.
MODEL = "model"
#: The file of the learning curve in its stage.
CURVE = "curve.json"
#: Names of the systems in runs and tables.
FIRST, START, TUNED, CHOSEN = "first stage", "start", "tuned", "chosen"


def given_runs(config: Config, task: Task) -> dict[str, str]:
    """The runs that stand in for the first stage, by the names that the collection has for its splits.

    Raises:
        ValueError: the collection has no split of such a name.
    """
    return {task.collection.split_name(split): path for split, path in config.first_stage.runs.items()}


def given_run(path: str, part: Part, corpus: Mapping[str, str]) -> Run:
    """The candidates that a run of the user has for the queries of a part.

    Raises:
        ValueError: the file cannot be read, it has none of the queries, or a candidate has no text.
    """
    read = read_run(path)
    found = {query: candidates for query, candidates in read.items() if query in part.qrels}
    if not found:
        wanted = f"judged queries of {part.source!r}"
        raise nothing_in_common(f"queries of {path}", list(read), wanted, list(part.qrels))
    documents = dict.fromkeys(doc for candidates in found.values() for doc in candidates)
    if missing := ids_without(corpus, documents):
        raise without_texts(f"documents of {path}", list(missing), len(documents), "add them, or match the ids")
    return found


@dataclass(frozen=True)
class Stages:
    """All stages of a configuration; each asks for those before it, and is made once.

    Args:
        config: what to do.
        task: the data.
        folder: where to.
        report: shows the progress.
        weights: stands for the starting model, see `model_digest`.
        new_head: whether the starting model has a new head, so that alone it ranks at random.
    """

    config: Config
    task: Task
    folder: RunFolder
    report: Report
    weights: str
    new_head: bool

    # Candidates -------------------------------------------------------------------------------------------------

    @cached_property
    def first_stage(self) -> Done:
        """The candidates of all parts of the data, as TREC runs."""
        given_by_split = given_runs(self.config, self.task)

        def make(folder: Path) -> None:
            search: Search | None = None
            for name, part in self.task.parts.items():
                given = given_by_split.get(part.source)
                run: Run
                if given is not None:
                    run = given_run(given, part, self.task.corpus)
                else:
                    search = self._search() if search is None else search
                    with self.report(f"Retrieving: {name}") as progress:
                        wanted = {query: part.queries[query] for query in part.qrels}
                        run = search(wanted, self.config.first_stage.depth, progress)
                write_run(folder / f"{name}.trec", run, tag=tag_of(self.config.first_stage.kind))

        done = self.folder.stage("first_stage", self._first_stage_settings, make)
        self._check_found(done)
        return done

    def _check_found(self, done: Done) -> None:
        """Refuse to go on where a part of the data has no candidates at all, rather than after the training.

        Raises:
            ValueError: With the part.
        """
        for name, part in self.task.parts.items():
            used = name != TRAIN or FIRST_STAGE in self.config.negatives.runs
            if used and not (done.folder / f"{name}.trec").stat().st_size:
                raise ValueError(
                    f"first_stage: {self.config.first_stage.kind!r} finds no document for the {name} queries; got "
                    f"{len(part.qrels):,} of {part.source!r} ({some(list(part.qrels))}); match their ids with those "
                    "of the run, or their language with that of the documents, or name a run in first_stage.runs"
                )

    @cached_property
    def _first_stage_settings(self) -> dict[str, Any]:
        own = [self.config.first_stage.kind] if self.config.first_stage.kind not in KINDS else []
        return {
            "first_stage": self._section("first_stage"),
            "data": {name: self.task.digest(name) for name in self.task.parts},
            "runs": {path: folders.file_digest(path) for path in (*self.config.first_stage.runs.values(), *own)},
        }

    def _search(self) -> Search:
        """The first stage; its index is kept, so that an interrupted one can be gone on with."""
        stage: FirstStageOptions = self.config.first_stage.build()
        about = [self._section("first_stage"), self.task.collection.name, len(self.task.corpus)]
        index = self.folder.path / "index" / folders.digest_of(about)
        index.parent.mkdir(parents=True, exist_ok=True)
        with self.report("Indexing the documents") as progress:
            made: Any = stage.build(self.task.corpus, index if stage.kind in KINDS else None, progress)
        if "progress" in inspect.signature(made.search).parameters:
            return made.search  # type: ignore[no-any-return]
        return lambda queries, depth, progress: made.search(queries, depth)

    def candidates(self, name: str) -> Run:
        """The run of the first stage for a part of the data."""
        return read_run(self.first_stage.folder / f"{name}.trec")

    # Training data ----------------------------------------------------------------------------------------------

    @cached_property
    def training_data(self) -> Done:
        """The rows that are trained on, and what was left out."""

        def make(folder: Path) -> None:
            part = self.task.parts[TRAIN]
            section = self.config.negatives
            held_out = {
                f"{name} {query}": text
                for name, other in self.task.parts.items()
                if name != TRAIN
                for query, text in other.queries.items()
            }
            with self.report("Mining negatives") as progress:
                mined = mine(
                    part.queries,
                    self.task.corpus,
                    part.qrels,
                    {name: self._run(name) for name in section.runs} or None,
                    options=self.mining,
                    model=None if section.filter_model is None else load_reranker(section.filter_model),
                    teacher=self._teacher(),
                    test_queries=held_out,
                    support=part.split.support,
                    batch_size=self.config.evaluation.batch_size,
                    progress=progress,
                )
            mined.rows.save_to_disk(folder / "rows")
            counts = {"summary": mined.counts.summary(), "counts": asdict(mined.counts), "notes": mined.notes()}
            folders.write_json(folder / "counts.json", counts)
            logger.info("%s", mined.counts.summary())

        done = self.folder.stage("training_data", self._training_data_settings, make)
        if self.config.sizes:  # mining may have left too few queries
            sizes_of(self.config.sizes, _queries_of(done))
        rows = _rows_of(done)
        if "label" in rows.column_names:
            check_labels(LOSS.find(self.config.loss[KIND]), torch.tensor(rows["label"][:]))
        return done

    @cached_property
    def _training_data_settings(self) -> dict[str, Any]:
        return {
            "negatives": self._section("negatives"),
            "format": self.format,
            "first_stage": folders.digest_of(self._first_stage_settings),
            "seed": self.config.seeds[0],
            **({"sources": self.sources} if self.sources else {}),
        }

    @cached_property
    def sources(self) -> dict[str, str]:
        """Digests of the files and models that negatives and labels come from: all that may change under its name.

        Raises:
            ValueError: one of them is not there, or is no reranker.
        """
        section, own = self.config.negatives, (FIRST_STAGE, *self.task.collection.runs)
        named = [*(name for name in section.runs if name not in own), section.teacher, section.filter_model]
        found = {}
        for name in filter(None, named):
            if name in section.runs or (name == section.teacher and Path(name).is_file()):
                found[name] = folders.file_digest(name)
            else:
                check_checkpoint(name)
                found[name] = model_digest(name)
        return found

    @property
    def mining(self) -> MiningOptions:
        """The options of mining."""
        made: MiningOptions = self.config.negatives.build(format=self.format, seed=self.config.seeds[0])
        return made

    @property
    def format(self) -> str:
        """The format of the rows, as the loss takes them."""
        return format_of(LOSS.find(self.config.loss[KIND]))

    def _run(self, name: str) -> Run:
        """A run that negatives come from: of the first stage, of the collection, or a file."""
        if name == FIRST_STAGE:
            return self.candidates(TRAIN)
        return self.task.collection.run(name) if name in self.task.collection.runs else read_run(name)

    def _teacher(self) -> Any:
        teacher = self.config.negatives.teacher
        return teacher if teacher is None or Path(teacher).is_file() else load_reranker(teacher)

    # Training ---------------------------------------------------------------------------------------------------

    def tuned(self, seed: int, size: int | None = None) -> Done:
        """The tuned model of a seed, in the folder `model` of its stage; trained on a sample of so many queries."""
        settings, name = self._training_settings(seed, size), _training_name(seed, size)

        def train(folder: Path | None) -> None:
            if folder is not None and self._is_superseded(name, settings):
                logger.info("%s is trained again, with other settings; its checkpoints are removed", name)
                with replacing_folder(self._training_folder(name)):
                    pass
            mined = _rows_of(self.training_data)
            rows, support = take_support(mined if size is None else sampled(mined, size, seed))
            title = f"Training: seed {seed}" + ("" if size is None else f", {size:,} queries")
            with self.report(title) as progress:
                model, record = tune(
                    self.config,
                    seed,
                    rows,
                    self.evaluator(),
                    self._training_folder(name),
                    settings,
                    support=support,
                    progress=progress,
                )
            if folder is not None:
                model.save_pretrained(str(folder / MODEL))
                folders.write_json(folder / "training.json", record)

        # Every process takes part in a training; one of them writes.
        if not self.folder.makes and self.folder.done(name, settings) is None:
            train(None)
        return self.folder.stage(name, settings, train)

    def _training_settings(self, seed: int, size: int | None) -> dict[str, Any]:
        return {
            **{name: self._section(name) for name in ("loss", "ablations", "objective", "training")},
            "model": {**self._section("model"), "weights": self.weights},
            "evaluation": self._section("evaluation"),
            "training_data": folders.digest_of(self._training_data_settings),
            "seed": seed,
            **({} if size is None else {"size": size}),
        }

    def check_begun(self) -> None:
        """Refuse, before anything is written, to go on with a training that was begun with other settings.

        One that has finished is not gone on with: it is made again.

        Raises:
            ValueError: With what differs.
        """
        numbers = [size for size in self.config.sizes or () if isinstance(size, int)]
        for seed, size in product(self.config.seeds, (None, *numbers)):
            name = _training_name(seed, size)
            begun = self._training_folder(name) / SETTINGS
            if begun.exists():
                settings = self._training_settings(seed, size)
                if self.folder.done(name, settings) is None and not self._is_superseded(name, settings):
                    check_settings(begun, settings, resume=True)

    def _training_folder(self, name: str) -> Path:
        """Of the checkpoints of a training."""
        return self.folder.path / f"{name}-training"

    def _is_superseded(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether the checkpoints are of a training that has finished, with other settings: nothing needs them."""
        begun = self._training_folder(name) / SETTINGS
        try:
            finished = read_json(self.folder.path / name / folders.RECORD)["settings"] == read_json(begun)
        except (ValueError, KeyError, TypeError):  # one of them is not there, or damaged
            return False
        return finished and bool(changes(begun, settings))

    @cached_property
    def learning_curve(self) -> Done | None:
        """Quality on the validation split by the number of training queries; None where no sizes are asked for."""
        if not self.config.sizes:
            return None
        available = _queries_of(self.training_data)
        tuned = {
            size: [self.tuned(seed, None if size == available else size) for seed in self.config.seeds]
            for size in sizes_of(self.config.sizes, available)
        }
        settings = {
            "tuned": {str(size): [done.digest for done in of_seeds] for size, of_seeds in tuned.items()},
            "evaluation": self._section("evaluation"),
            "first_stage": self.first_stage.digest,
            "start": None if self.new_head else self.weights,
        }

        def make(folder: Path) -> None:
            evaluator, main = self.evaluator(), self.config.evaluation.main
            values: dict[int, list[Any]] = {}
            models: list[tuple[int, Any]] = [] if self.new_head else [(0, lambda: start_model(self.config.model, 0))]
            for size, of_seeds in tuned.items():
                models += [(size, lambda path=done.folder / MODEL: self._tuned_model(path)) for done in of_seeds]
            with self.report("Learning curve") as progress:
                for number, (size, model) in enumerate(models):
                    progress(number, len(models))
                    with self._unless_diverged(f"a model of {size:,} queries", tuned=size > 0):
                        evaluator(model())
                        assert evaluator.last is not None
                        values.setdefault(size, []).append(evaluator.last.per_query[main])
                progress(len(models), len(models))
            curve = learning_curve(main, values)
            folders.write_json(folder / CURVE, {**curve, "per_query": {str(n): each for n, each in values.items()}})
            logger.info("%s", curve["sentence"])

        return self.folder.stage("learning_curve", settings, make)

    def curve(self) -> dict[str, Any] | None:
        """The learning curve without the values of single queries."""
        done = self.learning_curve
        read = None if done is None else read_json(done.folder / CURVE)
        return None if read is None else {name: value for name, value in read.items() if name != "per_query"}

    def evaluator(self) -> RunEvaluator:
        """Evaluates a model on the candidates of the validation queries, or a sample of them."""
        part, evaluation = self.task.parts[VALIDATION], self.config.evaluation
        judged = dict(list(part.qrels.items())[: evaluation.sample])
        return RunEvaluator(
            part.queries,
            self.task.corpus,
            judged,
            self.candidates(VALIDATION),
            k=self.config.first_stage.depth,
            measures=evaluation.measures,
            primary=evaluation.primary,
            batch_size=evaluation.batch_size,
            report=partial(self.report, "Validation"),
            write_csv=False,
        )

    # The end ----------------------------------------------------------------------------------------------------

    @cached_property
    def guarded(self) -> Done | None:
        """What the guard hands over, in the folder `model` of its stage; None where it is not asked."""
        if not self.config.guard.enabled:
            return None
        settings = {
            "guard": self._section("guard"),
            "measure": self.config.evaluation.main,
            **self._ranked(),
        }

        def make(folder: Path) -> None:
            part = self.task.parts[VALIDATION]
            with self.report("Guard: is tuning any better?") as progress:
                guard(
                    start_model(self.config.model, self.config.seeds[0]),
                    [self._tuned_model(self.tuned(seed).folder / MODEL) for seed in self.config.seeds],
                    queries=part.queries,
                    corpus=self.task.corpus,
                    qrels=part.qrels,
                    first_stage=self.candidates(VALIDATION),
                    measure=self.config.evaluation.main,
                    options=self.guard_options,
                    test=self._test(),
                    out=folder / MODEL,
                    progress=progress,
                )

        return self.folder.stage("guard", settings, make)

    @property
    def guard_options(self) -> GuardOptions:
        """The options of the guard."""
        made: GuardOptions = self.config.guard.build(
            depth=self.config.first_stage.depth, batch_size=self.config.evaluation.batch_size
        )
        return made

    def _test(self) -> Split | None:
        """The test split, as the guard takes it."""
        if TEST not in self.task.parts:
            return None
        part = self.task.parts[TEST]
        return Split(part.queries, part.qrels, self.candidates(TEST))

    def _ranked(self) -> dict[str, Any]:
        """The settings of what ranks: candidates, models, and how they are run."""
        return {
            "part": self.shown,
            "first_stage": self.first_stage.digest,
            "tuned": {str(seed): self.tuned(seed).digest for seed in self.config.seeds},
            "batch_size": self.config.evaluation.batch_size,
        }

    @property
    def shown(self) -> str:
        """The part of the data that results are shown on: the test split, where there is one."""
        return TEST if TEST in self.task.parts else VALIDATION

    @cached_property
    def runs(self) -> Done:
        """The rankings that are compared: of the first stage, the start and the tuned models."""
        part = self.task.parts[self.shown]
        guarded = self.guarded
        settings = {**self._ranked(), "guard": None if guarded is None else guarded.digest}

        def make(folder: Path) -> None:
            found = self.candidates(self.shown)
            write_run(folder / f"{FIRST_STAGE}.trec", found, tag=FIRST_STAGE)
            checkpoints = {START: self.config.model.name} if not self.new_head else {}
            checkpoints |= {f"{TUNED}-{seed}": str(self.tuned(seed).folder / MODEL) for seed in self.config.seeds}
            scored: dict[str, Run] = {}
            for name, checkpoint in checkpoints.items():
                with self.report(f"Reranking: {name}") as progress, self._unless_diverged(name, tuned=name != START):
                    model = (
                        start_model(self.config.model, 0) if name == START else self._tuned_model(Path(checkpoint))
                    )
                    run = scored[model_digest(checkpoint)] = self._rerank(model, part, found, progress)
                    write_run(folder / f"{name}.trec", run, tag=name)
            if guarded is not None:
                with self.report(f"Reranking: {CHOSEN}") as progress:
                    made = load_guard(guarded.folder / MODEL, model=self._tuned_model(guarded.folder / MODEL))
                    known = scored.get(model_digest(str(guarded.folder / MODEL)))
                    if known is None:
                        run = made.rerank(part.queries, self.task.corpus, found, progress=progress)
                    else:  # one of the models above: its scores are there
                        top = made.mix.top(found)
                        run = made.mix(found, {q: {doc: known[q][doc] for doc in docs} for q, docs in top.items()})
                    write_run(folder / f"{CHOSEN}.trec", run, tag=CHOSEN)

        return self.folder.stage("runs", settings, make)

    @contextmanager
    def _unless_diverged(self, what: str, *, tuned: bool) -> Iterator[None]:
        """Leave out a tuned model whose training has diverged, where the guard keeps it from being handed over."""
        try:
            yield
        except NotFiniteError as error:
            if not (tuned and self.config.guard.enabled):
                raise
            logger.warning("%s is left out, since its training has diverged: %s", what, error)

    def _rerank(self, model: Any, part: Part, candidates: Run, progress: Progress) -> Run:
        return rerank_run(
            model,
            part.queries,
            self.task.corpus,
            candidates,
            depth=self.config.first_stage.depth,
            batch_size=self.config.evaluation.batch_size,
            progress=progress,
        )

    def _tuned_model(self, folder: Path) -> Any:
        return tuned_model(self.config.model, folder)

    def systems(self) -> dict[str, Any]:
        """The rankings by system, as `compare` takes them; the tuned models are seeds of one system.

        Those whose training has diverged have none.
        """
        paths = {path.stem: path for path in self.runs.folder.glob("*.trec")}
        alone = {name: [paths[path]] for name, path in ((START, START), (CHOSEN, CHOSEN)) if path in paths}
        tuned = [paths[name] for seed in self.config.seeds if (name := f"{TUNED}-{seed}") in paths]
        return {FIRST: paths[FIRST_STAGE], **alone, **({TUNED: tuned} if tuned else {})}

    @cached_property
    def result(self) -> Done:
        """The comparison, as JSON and as a page."""
        settings = {"runs": self.runs.digest, "measures": self.config.evaluation.measures}
        if self.learning_curve is not None:
            settings["learning_curve"] = self.learning_curve.digest
        curve = self.curve()

        def make(folder: Path) -> None:
            part = self.task.parts[self.shown]
            with self.report("Writing the report"):
                comparison = write_report(
                    folder / "report.html",
                    self.systems(),
                    part.qrels,
                    self.config.evaluation.measures,
                    queries=part.queries,
                    corpus=self.task.corpus,
                    baseline=FIRST,
                    curves={**({} if curve is None else chart(curve)), **self._curves()},
                    about_curves="" if curve is None else curve["sentence"],
                    title=f"{self.task.collection.name}: {self.shown}",
                )
            folders.write_json(folder / "comparison.json", comparison.to_dict())

        return self.folder.stage("result", settings, make)

    def comparison(self) -> Comparison:
        """The systems, compared on the test split."""
        part = self.task.parts[self.shown]
        return compare(self.systems(), part.qrels, self.config.evaluation.measures, baseline=FIRST)

    def _curves(self) -> dict[str, dict[str, list[list[float]]]]:
        """What the trainings have logged by step, for the report; a chart for each kind of number."""
        logs = {}
        for seed in self.config.seeds:
            folder = self._training_folder(_training_name(seed, None))
            # A training with other settings may have been begun since.
            if is_same_training(folder / SETTINGS, self.tuned(seed).settings):
                logs[seed] = folder / "metrics.jsonl"
        return log_charts(logs, self.config.evaluation.main)

    def _section(self, name: str) -> Any:
        return to_dict(self.config)[name]


def _rows_of(training_data: Done) -> Any:
    from cmp_rerank.ir.dataset_folders import open_dataset

    return open_dataset(training_data.folder / "rows")


def _queries_of(training_data: Done) -> int:
    """The number of queries that have a row."""
    return len(set(_rows_of(training_data)["query"]))


def _training_name(seed: int, size: int | None) -> str:
    return f"seed-{seed}" if size is None else f"size-{size}/seed-{seed}"
