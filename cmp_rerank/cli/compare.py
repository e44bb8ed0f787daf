"""`cmp-rerank compare`: systems against a baseline, with intervals and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cmp_rerank.cli import options

if TYPE_CHECKING:
    from cmp_rerank.evaluation import Comparison

Baseline = Annotated[str | None, typer.Option("--baseline", "-b", help="Name of the baseline; the first run.")]
Alpha = Annotated[float, typer.Option(help="Level of significance.")]
Level = Annotated[float, typer.Option(help="Level of the intervals.")]
Test = Annotated[str, typer.Option(help="The test that decides: 't' or 'randomisation'.")]
Resamples = Annotated[int, typer.Option(help="Draws of the bootstrap and of the randomisation test.")]
Seed = Annotated[int, typer.Option(help="Seed of these draws.")]


def compare(
    qrels: options.Qrels,
    runs: options.Runs,
    measures: options.Measures = options.DEFAULT_MEASURES,
    baseline: Baseline = None,
    alpha: Alpha = 0.05,
    level: Level = 0.95,
    power: Annotated[float, typer.Option(help="Power that defines the minimum detectable effect.")] = 0.8,
    test: Test = "t",
    resamples: Resamples = 10_000,
    seed: Seed = 0,
    as_json: options.Json = False,
    tsv: Annotated[bool, typer.Option("--tsv", help="Print a line for each system and measure.")] = False,
    per_query: options.PerQuery = False,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail-if-worse", help="Exit status 3 when a system is significantly worse.")
    ] = False,
    rank_order: options.RankOrder = "score",
    precision: options.Precision = "double",
    missing: options.Missing = "zero",
    no_relevant: options.NoRelevant = "keep",
    duplicates: options.Duplicates = "error",
    nan: options.Nan = "error",
    empty: options.Empty = "error",
) -> None:
    """Compare runs with a baseline: means, bootstrap intervals, paired tests, minimum detectable effect.

    \b
    Examples:
      cmp-rerank compare test.qrels bm25.run tuned.run -m nDCG@10 -b bm25
      cmp-rerank compare test.qrels old=v1.run new=a.run new=b.run --json
      cmp-rerank compare test.qrels old.run new.run --fail-if-worse
    """
    from cmp_rerank.evaluation import compare as compare_runs

    comparison = compare_runs(
        options.systems(runs),
        qrels,
        " ".join(measures),
        baseline=baseline,
        alpha=alpha,
        level=level,
        power=power,
        test=test,
        resamples=resamples,
        seed=seed,
        rank_order=rank_order,
        precision=precision,
        missing=missing,
        no_relevant=no_relevant,
        duplicates=duplicates,
        nan=nan,
        empty=empty,
    )
    with options.printing():
        if as_json:
            typer.echo(comparison.to_json(per_query=per_query))
        elif tsv:
            _print_tsv(comparison)
            options.warn(comparison.notes())
        else:
            options.wide_console().print(comparison)
    if fail_if_worse and (worse := [c for c in comparison.contrasts if c.verdict == "worse"]):
        for contrast in worse:
            typer.echo(
                f"cmp-rerank: {contrast.system} is worse than {contrast.baseline} in {contrast.measure} by "
                f"{-contrast.difference:.4f}",
                err=True,
            )
        raise typer.Exit(3)


_COLUMNS = [
    *("difference", "low", "high", "t_p", "t_p_holm", "randomisation_p", "randomisation_p_holm", "effect_size"),
    *("wins", "ties", "losses", "minimum_detectable_effect", "verdict"),
]


def _print_tsv(comparison: Comparison) -> None:
    typer.echo("\t".join(["system", "measure", "mean", "mean_low", "mean_high", *_COLUMNS]))
    for mean in comparison.means:
        row = [mean.system, mean.measure, f"{mean.mean:.6f}", f"{mean.low:.6f}", f"{mean.high:.6f}"]
        if mean.system == comparison.baseline:
            row += [""] * (len(_COLUMNS) - 1) + ["baseline"]
        else:
            contrast = comparison.contrast(mean.system, mean.measure)
            for column in _COLUMNS:
                value = getattr(contrast, column)
                row.append("" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value))
        typer.echo("\t".join(row))
