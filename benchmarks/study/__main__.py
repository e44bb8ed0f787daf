"""Run the study: a resumable queue of cells, one line of JSON each, and tables of what is there."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from cmp_rerank.ir.lines import replacing

from .arms import ARMS
from .cells import Cell, at_chosen_rates, cells_of, key_of, missing, read
from .plan import PLAN, SCREENED
from .tasks import TASKS, describe, load, prepare

RESULTS = Path(__file__).parents[1] / "results" / "study"
CACHE = Path.home() / ".cache" / "cmp_rerank" / "study"

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_show_locals=False)
Cache = Annotated[Path, typer.Option(help="Where prepared tasks and starts are.")]


@app.command("prepare")
def prepare_tasks(
    data: Annotated[Path, typer.Option(help="Folder of the collections.")] = Path("../shared/data"),
    cache: Cache = CACHE,
    tasks: Annotated[list[str] | None, typer.Option("--task")] = None,
    layers: Annotated[int, typer.Option(help="Layers of the encoder that are kept; 0: as the task says.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Write the rows of the tasks, and train the common starts."""
    from cmp_rerank.demo.encoder import pretrained_encoder

    from .starts import make_start

    wanted = tasks or [name for name in TASKS if name != "smoke"]
    # A start that several tasks have is a task of its own, and comes before them.
    for name in dict.fromkeys(each for task in wanted for each in (TASKS[task].start_of, task) if each):
        prepare(name, data, cache)
        print(f"{name}: {describe(load(name, cache))}", flush=True)
        start = make_start(TASKS[name], cache, pretrained_encoder(), layers or None, device, device == "cpu")
        print(f"{name}: start in {start}", flush=True)


@app.command()
def run(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(TASKS)}; without it, the whole plan.")] = "",
    size: Annotated[int | None, typer.Option(help="Rows of the training set; without it, those of the plan.")] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="These arms, not those of the plan.")] = None,
    stage: Annotated[
        str,
        typer.Option(
            help="tune, test, both; robust: damaged models, by arms; halfway: those moved halfway to the start; "
            "or screen: on validation, at one rate for all."
        ),
    ] = "both",
    cached: Annotated[bool, typer.Option("--cached", help="Only tasks whose rows and start are there.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Say what is left, and what it costs.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; 2, on a GPU 5 that share it.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads of a process.")] = 1,
    together: Annotated[
        int | None,
        typer.Option(help="Train so many cells of an arm as one model; 0: each alone. 10 on a GPU, else 0."),
    ] = None,
    compiles: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile what surrounds the products; on a GPU by default."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Begin no cell after so many minutes.")] = 1e9,
    cache: Cache = CACHE,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Run the cells of the plan that are not there yet; stop at any time, and go on by the same command."""
    from .training import start_folder

    if stage not in (stages := ("tune", "test", "both", "robust", "halfway", "screen")):
        raise typer.BadParameter(f"{', '.join(stages[:-1])} or {stages[-1]}; got {stage!r}", param_hint="--stage")
    if stage == "robust" and device != "cpu":
        raise typer.BadParameter("damaged models are measured on a CPU", param_hint="--device")
    compiles = device != "cpu" if compiles is None else compiles
    arms = arms or (SCREENED if stage == "screen" else None)
    how = _How.of(workers, device, threads, together, compiles, minutes, cache, results)
    chosen: list[tuple[str, int, Sequence[str]]] = []
    for name, rows_of, own in _chosen(task, size, arms):
        rows = (cache / f"{name}.json.gz").exists()
        start = (start_folder(TASKS[name], cache) / "config.json").exists()
        if cached and not (rows and start):
            continue
        if dry:
            said = how.left(name, rows_of, own) if rows else "not prepared"
            print(f"{name}, {rows_of} rows: {said}{'' if start else '; it has no start'}", flush=True)
        chosen.append((name, rows_of, own))
    if not dry:
        how.run(chosen, stage)


def _chosen(task: str, size: int | None, arms: Sequence[str] | None) -> list[tuple[str, int, Sequence[str]]]:
    """Tasks, sizes and arms: those of the plan for a task and a size, or what the caller says."""
    if task and task not in TASKS:
        raise typer.BadParameter(f"{task!r} is none of {', '.join(TASKS)}")
    sizes = [(name, rows) for name, rows in PLAN if task in ("", name) and size in (None, rows)]
    if not sizes and task and size is not None:
        sizes = [(task, size)]
    wrong = [(name, rows) for name, rows in sizes if rows not in TASKS[name].sizes]
    if wrong or not sizes:
        known = ", ".join(map(str, TASKS[task].sizes)) if task else "those of the plan"
        raise typer.BadParameter(f"the sizes of {task or 'tasks'} are {known}; got {size}", param_hint="--size")
    unknown = [arm for arm in arms or () if arm not in ARMS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(ARMS)}", param_hint="--arm")
    if not arms and sizes[0] not in PLAN:
        raise typer.BadParameter(f"the plan has no arms for {task}; give some", param_hint="--arm")
    return [(name, rows, arms or PLAN[name, rows]) for name, rows in sizes]


@dataclass(frozen=True)
class _How:
    """How cells are run."""

    workers: int
    device: str
    threads: int
    together: int
    compiles: bool
    until: float
    cache: Path
    results: Path

    @classmethod
    def of(
        cls, workers: int | None, device: str, threads: int, together: int | None, compiles: bool, minutes: float,
        cache: Path, results: Path,
    ) -> _How:  # fmt: skip
        """As the options say."""
        if together is None:
            together = 0 if device == "cpu" else 10
        if device != "cpu" and not together:
            raise typer.BadParameter("on a GPU cells are trained together; give at least 1", param_hint="--together")
        if workers is None:
            workers = 5 if device != "cpu" else 1 if together else 2
        # Workers each have a core; else all of them tokenise.
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if together else "false"
        return cls(workers, device, threads, together, compiles, time.time() + minutes * 60, cache, results)

    def run(self, chosen: Sequence[tuple[str, int, Sequence[str]]], stage: str) -> None:
        """Run the cells of tasks and sizes that are not there yet."""
        from .bert import has_bfloat16

        self.results.mkdir(parents=True, exist_ok=True)
        for path in self.results.glob("*.jsonl"):
            if not (text := path.read_text(encoding="utf-8")).endswith("\n"):  # a kill has cut a line
                with replacing(path) as file:
                    file.write(text[: text.rfind("\n") + 1])
        if self.device == "cpu" and any(TASKS[task].half(size) for task, size, _ in chosen) and not has_bfloat16():
            print(
                "this processor has no bfloat16, in which cells are trained: it takes several times as long",
                flush=True,
            )
        stages = ("tune", "test") if stage == "both" else (stage,)
        cells = self._together(chosen, stages) if self.together and stage != "robust" else self._alone(chosen, stages)
        facts = {"versions": _versions(), "device": _device(self.device)}
        begin = time.time()
        for done, row in enumerate(chain(self._first_stages(chosen), cells), start=1):
            with (self.results / f"{row['task']}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row | facts) + "\n")
            if "failed" in row:
                print(f"failed: {key_of(row)}: {row['failed']}", flush=True)
            elif done % 10 == 0 or self.workers < 4:
                print(f"[{time.time() - begin:6.0f} s] {done} rows; {key_of(row)} {row['mean']:.4f}", flush=True)

    def _first_stages(self, chosen: Sequence[tuple[str, int, Sequence[str]]]) -> Iterator[dict[str, Any]]:
        """The rows of first stages that are not there yet; they need no model."""
        from .together import first_stage_row

        for task in dict.fromkeys(task for task, _, _ in chosen):
            there = any(row["arm"] == "first stage" for row in read(task, self.results))
            if TASKS[task].retrieved and not there:
                yield first_stage_row(task, self.cache)

    def _alone(
        self, chosen: Sequence[tuple[str, int, Sequence[str]]], stages: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Cell by cell."""
        from .together import another_start, start_row
        from .workers import results_of

        for task, size, arms in chosen:
            if time.time() > self.until:
                return
            start = next((row for row in read(task, self.results) if row["arm"] == "start"), None)
            if start is None:
                print(f"{task}: measuring the start", flush=True)
                yield start_row(task, self.cache, self.device)
            elif said := another_start(start, self.cache, self.device):
                print(f"left out: {said}", flush=True)
                continue
            for stage in stages:
                cells = missing(cells_of(task, size, arms, stage, rows := read(task, self.results)), rows)
                print(f"{task}, {size} rows, {stage}: {len(cells)} cells to run", flush=True)
                yield from results_of(
                    cells, self.workers, self.cache, self.device, self.threads, self.until, self.compiles
                )

    def _together(
        self, chosen: Sequence[tuple[str, int, Sequence[str]]], stages: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Arm by arm, and of an arm several cells at once."""
        from .workers import ArmRun, results_of_arms

        runs = []
        for task in dict.fromkeys(task for task, _, _ in chosen):
            if not any(row["arm"] == "start" for row in read(task, self.results)):
                runs.append(ArmRun(task, 0, "start", [], stages))
        for task, size, arms in chosen:
            rows = read(task, self.results)
            runs += [ArmRun.of(task, size, arm, rows, stages) for arm in arms]
        left = [run for run in runs if run.left()]
        yield from results_of_arms(
            left, self.workers, self.together, self.cache, self.device, self.until, self.compiles
        )

    def left(self, task: str, size: int, arms: Sequence[str]) -> str:
        """How many cells are left, and the floating-point operations of their training, about."""
        from .together import operations

        rows = at_chosen_rates(read(task, self.results), task, size)
        found = TASKS[task]
        cost = {
            (arm, part): operations(Cell(task, size, arm, 0.0, found.tested_with(size)[0], part), self.cache)
            for arm in arms
            for part in ("validation", "test")
        }
        # The rate of a test cell is not known before all are tuned: it counts by its seed.
        tested = {(row["arm"], row["seed"]) for row in rows if (row["size"], row["part"]) == (size, "test")}
        left = [(cell.arm, cell.part) for cell in missing(cells_of(task, size, arms, "tune", rows), rows)]
        left += [(arm, "test") for arm in arms for seed in found.tested_with(size) if (arm, seed) not in tested]
        return f"{len(left)} cells, {sum(cost[each] for each in left) / 1e15:.1f} PFLOP"


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": sys.version.split()[0]} | {
        name: version(name) for name in ("torch", "transformers", "sentence-transformers", "numpy")
    }


def _device(device: str) -> str:
    import platform

    import torch

    from .bert import has_bfloat16

    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return platform.machine() if has_bfloat16() else f"{platform.machine()} without bfloat16"


@app.command()
def merge(
    other: Annotated[Path, typer.Argument(help="A folder of results, from another machine.")],
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Add the rows of another folder that are new."""
    for path in sorted(other.glob("*.jsonl")):
        there = {key_of(row) for row in read(path.stem, results)}
        new = [row for row in read(path.stem, other) if key_of(row) not in there]
        with (results / path.name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        print(f"{path.stem}: {len(new)} rows are new", flush=True)


@app.command()
def table(
    task: Annotated[str, typer.Argument()],
    size: Annotated[int, typer.Option()] = 500,
    against: Annotated[str, typer.Option(help="The arm that the others are compared with.")] = "plain",
    results: Annotated[Path, typer.Option()] = RESULTS,
) -> None:
    """Print the arms: mean over seeds, deviation between seeds, and the paired difference from one of them."""
    from .analysis import summary

    for line in summary(at_chosen_rates(read(task, results), task, size), task, size, against):
        print(line)


@app.command()
def tables(
    task: Annotated[str, typer.Argument()],
    size: Annotated[int, typer.Option()] = 500,
    results: Annotated[Path, typer.Option()] = RESULTS,
) -> None:
    """Print all tables of a task: arms, verdicts, the guard, violations, costs, and rates on validation."""
    from .tables import TABLES, lines_of

    for name in TABLES:
        print(f"\n{name}\n")
        print("\n".join(lines_of(name, task, size, results=results)))


@app.command()
def page(
    path: Annotated[Path, typer.Argument(help="A page of Markdown.")] = Path("docs/study.md"),
    results: Annotated[Path, typer.Option()] = RESULTS,
) -> None:
    """Make the tables of a page anew: those between `<!-- study: TABLE TASK SIZE -->` and `<!-- study: end -->`.

    `<!-- study: overview -->` and `<!-- study: combined -->` are of all tasks.

    After the size may stand how many seeds on validation choose the learning rates, if others than those of the task,
    and which seeds on test the table is of, if not all: `verdicts reading 400 1 100-104`.
    """
    from .tables import with_tables

    text = with_tables(path.read_text(encoding="utf-8"), results)
    with replacing(path) as file:
        file.write(text)


@app.command()
def overview(results: Annotated[Path, typer.Option()] = RESULTS) -> None:
    """Print ablated passes against averaging, and against tuned plain training, for all tasks."""
    from .tables import lines_of_all

    print("\n".join([*lines_of_all("overview", results), "", *lines_of_all("combined", results)]))


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if __name__ == "__main__":
    app()
