"""`cmp-rerank evaluate`: measures of one run, in the manner of ir_measures and trec_eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cmp_rerank.cli import options


def evaluate(
    qrels: options.Qrels,
    run: Annotated[Path, typer.Argument(help="A run: TREC, MS MARCO, top1000 or JSON; plain or gzip.")],
    measures: options.Measures = options.DEFAULT_MEASURES,
    per_query: options.PerQuery = False,
    summary: Annotated[bool, typer.Option(help="Print the means.")] = True,
    as_json: options.Json = False,
    places: Annotated[int, typer.Option("--places", "-p", min=0, max=17, help="Digits after the point.")] = 4,
    rank_order: options.RankOrder = "score",
    precision: options.Precision = "double",
    missing: options.Missing = "zero",
    no_relevant: options.NoRelevant = "keep",
    duplicates: options.Duplicates = "error",
    nan: options.Nan = "error",
    empty: options.Empty = "error",
) -> None:
    """Evaluate a run.

    \b
    Examples:
      cmp-rerank evaluate test.qrels tuned.run -m nDCG@10 -m RR@10
      cmp-rerank evaluate qrels.dev.tsv run.tsv -m MSMARCO-MRR@10 --json
      cmp-rerank evaluate test.qrels tuned.run -q | sort -k3 -n | head

    Prints MEASURE<TAB>VALUE, or QUERY<TAB>MEASURE<TAB>VALUE with -q, where the means are called "all". Every
    judged query counts. What a reader should know (missing queries, ties at a cut-off) goes to stderr.
    """
    from cmp_rerank.evaluation import evaluate as evaluate_run

    result = evaluate_run(
        run,
        qrels,
        " ".join(measures),
        rank_order=rank_order,
        precision=precision,
        missing=missing,
        no_relevant=no_relevant,
        duplicates=duplicates,
        nan=nan,
        empty=empty,
    )
    if as_json:
        typer.echo(json.dumps(result.to_dict(per_query=per_query), ensure_ascii=False, allow_nan=False))
        return
    lines = []
    if per_query:
        for query, row in zip(result.queries, result.values.tolist(), strict=True):
            lines += [f"{query}\t{m}\t{v:.{places}f}" for m, v in zip(result.measures, row, strict=True)]
    if summary:
        all_queries = "all\t" if per_query else ""
        lines += [f"{all_queries}{measure}\t{mean:.{places}f}" for measure, mean in result.means.items()]
    typer.echo("\n".join(lines))
    options.warn(result.notes())
