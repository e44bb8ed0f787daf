"""`cmp-rerank demo`: the main job on real text, with its progress, one table, and the verdicts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cmp_rerank.cli import options
from cmp_rerank.cli.progress import progress
from cmp_rerank.cli.quiet import quiet_libraries


def demo(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Where the folders fast and full go; an interrupted one is gone on with."),
        options.NEW_FOLDERS,
    ] = Path("cmp-rerank-demo"),
    fast: Annotated[bool, typer.Option("--fast", help="The short form, which shows that everything runs.")] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the sample of queries, the new head, the negatives and the ablations.")
    ] = 0,
    model: Annotated[
        Path | None, typer.Option(help="Folder of another encoder to start from.", exists=True, file_okay=False)
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder where the built collection is kept; default: the user's cache.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Train a reranker plainly and comparatively, guard both, and compare them with BM25.

    \b
    Examples:
      cmp-rerank demo --fast
      cmp-rerank demo
      cmp-rerank demo --seed 1 -o another

    This is the way that your own data would take, on text that is there
    already: the docstrings of installed packages. The first sentence of a
    docstring is a query, the rest is the one relevant document.

    BM25 finds candidates, and negatives are mined from them. A small
    pretrained encoder is fine-tuned as a reranker, once plainly and once with
    the comparative loss. The two configurations differ in `ablations` only.
    For each model the guard decides on validation queries whether it is used,
    alone or with a share of the score. All rankings are compared on test
    queries that had no part in this.

    It needs no network, and takes about 10 minutes of processor time. After
    an interruption the same command goes on. In --out, each form has a folder of
    its own: the collection, two run folders of `cmp-rerank train` with their
    config.yaml, report.html, and metrics.json with the values of each query.
    """
    from cmp_rerank.demo.job import run_demo
    from cmp_rerank.demo.recipe import FAST, FULL

    recipe = FAST if fast else FULL
    begin = time.perf_counter()
    with options.interruptible(out, "the same command"), _quiet():
        metrics = run_demo(recipe, out, seed=seed, model=model, cache_dir=cache, report=progress)
    if as_json:
        import json

        typer.echo(json.dumps(metrics, indent=1, allow_nan=False))
        return
    _show(metrics, out / recipe.name, time.perf_counter() - begin)


def _show(metrics: Mapping[str, Any], folder: Path, seconds: float) -> None:
    """The table, the verdicts, the test between the arms, and where to look next."""
    from rich.console import Console

    console = Console()
    console.print(_table(metrics))
    for line in [*_findings(metrics), *_next(metrics, folder, seconds)]:
        console.print(line, highlight=False, markup=False)


def _table(metrics: Mapping[str, Any]) -> Any:
    """One row for each ranking, readable in 80 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from cmp_rerank.evaluation.comparison import p_text

    compared = metrics["against_first_stage"]
    measures = compared["measures"]
    table = Table(title=Text(metrics["collection"]), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("system", overflow="fold", min_width=8)
    for title in (*measures, f"{measures[0]} against {compared['baseline']}"):
        table.add_column(Text(title), justify="right", no_wrap=True)
    for system in compared["systems"]:
        means = {e["measure"]: e["mean"] for e in compared["means"] if e["system"] == system}
        tests = (c for c in compared["contrasts"] if (c["system"], c["measure"]) == (system, measures[0]))
        test = next((f"{c['difference']:+.3f} (p {p_text(c['t_p_holm'])})" for c in tests), "")
        table.add_row(Text(system), *(f"{means[measure]:.3f}" for measure in measures), test)
    return table


def _findings(metrics: Mapping[str, Any]) -> Iterator[str]:
    """What the table shows, in words."""
    from cmp_rerank.demo.comparison import HANDED_OVER, TUNED
    from cmp_rerank.evaluation.comparison import p_text

    for arm, about in metrics["arms"].items():
        yield f"{arm}: {about['verdict']['sentence']}"
        if about["verdict"]["test"]:
            yield f"  {about['verdict']['test']['sentence']}"
    for what, title in ((HANDED_OVER, "what is handed over"), (TUNED, "the tuned models alone")):
        found = metrics["between_arms"][what]
        c = found["contrasts"][0]
        detectable = c["minimum_detectable_effect"]
        yield (
            f"comparative against plain, {title}: {c['measure']} {c['difference']:+.3f} (95% interval "
            f"{c['low']:+.3f} to {c['high']:+.3f}, p {p_text(c['t_p_holm'])}), {c['verdict']}"
            + ("" if detectable is None else f"; detectable: {detectable:.3f}")
        )
    compared = metrics["against_first_stage"]
    yield (
        f"p: paired t-test over {compared['queries']} queries, two-sided, corrected (Holm). "
        f"{metrics['candidates_hold_relevant']:.0%} of the queries have their document among the candidates."
    )


def _next(metrics: Mapping[str, Any], folder: Path, seconds: float) -> Iterator[str]:
    """What it took, and where to look next."""
    from cmp_rerank.demo.job import REPORT

    spent = metrics["seconds"].values()
    yield (
        f"Time: {seconds:,.0f} s now; {sum(each['wall'] for each in spent):,.0f} s and "
        f"{sum(each['cpu'] for each in spent):,.0f} s of processor time in all."
    )
    yield "Where to look next:"
    yield f"  {folder / REPORT}: both arms query by query, in a browser"
    for arm, about in metrics["arms"].items():
        yield f"  {folder / about['model']}: the model to use ({arm})"
    config = folder / next(reversed(metrics["arms"])) / "config.yaml"
    yield f"  {config}: copy it to my.yaml, name your data and model in it, and run"
    yield "    cmp-rerank train my.yaml -o my-run"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries log, too: there is one bar for each stage."""
    loggers = [logging.getLogger(name) for name in ("bm25s", "sentence_transformers")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with quiet_libraries():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
