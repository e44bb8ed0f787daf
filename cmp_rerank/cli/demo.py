"""`cmp-rerank demo`: the main job on real text, with progress and one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmp_rerank.cli import options

if TYPE_CHECKING:
    from rich.console import Console


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results: new, empty, or of an interrupted run.")] = Path(
        "cmp-rerank-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the split, the new head, the negatives and the ablations.")] = 0,
    fast: Annotated[
        bool, typer.Option("--fast", help="A small recipe that takes under 2 minutes and shows that everything runs.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="Folder of another encoder to start from.", exists=True, file_okay=False)
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder where the built collection is cached.")] = None,
) -> None:
    """Fine-tune a reranker with the plain and with the comparative loss, and compare both with the first stage.

    The text comes from docstrings of the installed packages. The first sentence is a query, the rest is the one
    relevant document. BM25 retrieves candidates, and a pretrained encoder scores them as a bi-encoder.

    The same encoder is then fine-tuned as a cross-encoder twice, from the same start, with the same batches and
    steps: with the plain loss, and with the comparative loss (crop the passage, then drop hidden units). The start,
    the first steps of the new head, is trained once for both.

    It needs no network, takes about 20 minutes on two CPU cores, and uses a GPU if there is one. After an
    interruption the same command goes on where it stopped. The folder then holds the runs (TREC format), metrics,
    config, per-query and per-step values, and both checkpoints, which `CrossEncoder(path)` loads.
    """
    with options.clean_exit():
        from rich.console import Console

        from cmp_rerank.demo.config import DemoConfig
        from cmp_rerank.demo.job import run_demo

        config = DemoConfig(seed=seed, model=None if model is None else str(model))
        if fast:
            config = config.fast()
        console = Console()
        start = time.perf_counter()
        console.print(f"Results go to {out}", highlight=False)
        try:
            with _quiet():
                metrics = run_demo(config, out, report=_reporter(console), cache_dir=cache)
        except KeyboardInterrupt:
            console.print(f"Interrupted. The completed parts are in {out}; the same command goes on from there.")
            raise typer.Exit(130) from None
        console.print(_table(metrics))
        console.print(*_notes(metrics, time.perf_counter() - start), sep="\n", highlight=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the libraries' own progress bars and reports."""
    import logging

    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("bm25s", "sentence_transformers")]
    levels = [logger.level for logger in loggers]
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _reporter(console: Console) -> Any:
    """A progress bar for each stage on a terminal; elsewhere, as in a log, a line for each tenth of it."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    @contextmanager
    def bar(title: str) -> Iterator[Callable[[int, int], None]]:
        columns = (
            TextColumn("{task.description:28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
            if progress.tasks[0].total is None:
                progress.update(task, completed=1, total=1)

    @contextmanager
    def lines(title: str) -> Iterator[Callable[[int, int], None]]:
        start = time.perf_counter()
        shown = 0

        def show(text: str) -> None:
            print(f"[{time.perf_counter() - start:6.1f} s] {title}: {text}", flush=True)

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if done * 10 // total > shown:
                shown = done * 10 // total
                show(f"{done} of {total}")

        show("start")
        yield progress
        show("done")

    return bar if console.is_terminal else lines


def _table(metrics: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    from cmp_rerank.demo.job import FIRST_STAGE, MEASURES, SYSTEMS
    from cmp_rerank.evaluation.comparison import p_text

    table = Table(title=metrics["collection"], title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("system", no_wrap=True)
    for title in (*MEASURES, f"{MEASURES[0]} vs {FIRST_STAGE}", "training"):
        table.add_column(title, justify="right", no_wrap=True)
    for system in SYSTEMS:
        means = {e["measure"]: e["mean"] for e in metrics["against_first_stage"]["means"] if e["system"] == system}
        contrasts = _contrasts(metrics, "against_first_stage", system)
        test = next((f"{c['difference']:+.3f}  p {p_text(c['t_p_holm'])}" for c in contrasts), "")
        trained = metrics["training"].get(system)
        seconds = f"{trained['seconds']:.0f} s" if trained else ""
        table.add_row(system, *(f"{means[measure]:.3f}" for measure in MEASURES), test, seconds)
    return table


def _contrasts(metrics: dict[str, Any], part: str, system: str) -> list[dict[str, Any]]:
    """The paired tests of one system, one for each measure, in their order."""
    return [entry for entry in metrics[part]["contrasts"] if entry["system"] == system]


def _notes(metrics: dict[str, Any], seconds: float) -> list[str]:
    from cmp_rerank.demo.job import BOTH, COMPARATIVE, FIRST_STAGE, PLAIN, START
    from cmp_rerank.evaluation.comparison import p_text

    config = metrics["config"]
    pairs = [("against_plain", COMPARATIVE, PLAIN), *(("against_told", arm, BOTH) for arm in (PLAIN, COMPARATIVE))]
    tests = {
        f"{system} vs {other}": ", ".join(
            f"{c['measure']} {c['difference']:+.3f} (p {p_text(c['t_p_holm'])}, {c['verdict']})"
            for c in _contrasts(metrics, part, system)
        )
        for part, system, other in pairs
    }
    return [
        *(f"{systems}: {results}" for systems, results in tests.items()),
        "p: paired t-test over queries, two-sided, Holm-corrected over all comparisons with one baseline.",
        f"{metrics['against_first_stage']['queries']} test queries; all systems rank the top {config['depth']} of "
        f"{FIRST_STAGE}, which contain the relevant document for {metrics['candidates_hold_relevant']:.1%} of them.",
        f"For the tuned models, the rank by {BOTH} is written into the text.",
        f"The common start of both arms took {metrics['training'][START]['seconds']:.0f} s of plain training.",
        f"Seed {config['seed']}; total time {seconds:.0f} s.",
    ]
