"""`cmp-rerank report`: a comparison as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from cmp_rerank.cli import options
from cmp_rerank.cli.compare import Alpha, Baseline, Level, Resamples, Seed, Test


def report(
    qrels: options.Qrels,
    runs: options.Runs,
    measures: options.Measures = options.DEFAULT_MEASURES,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write."), options.NEW_FILE] = Path(
        "report.html"
    ),
    queries: Annotated[Path | None, typer.Option(help="Query texts: BEIR JSONL or TSV.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Document texts: BEIR JSONL or TSV.")] = None,
    curves: Annotated[
        list[Path] | None, typer.Option(help="Curves: JSON, or the CSV that an evaluator wrote in training.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Comparison of rankings",
    depth: Annotated[int, typer.Option(help="Documents of each ranking that are shown.")] = 10,
    text_chars: Annotated[int, typer.Option(min=0, help="Longest text of a document that is kept.")] = 500,
    baseline: Baseline = None,
    alpha: Alpha = 0.05,
    level: Level = 0.95,
    test: Test = "t",
    resamples: Resamples = 10_000,
    seed: Seed = 0,
    rank_order: options.RankOrder = "score",
    precision: options.Precision = "double",
    missing: options.Missing = "zero",
    no_relevant: options.NoRelevant = "keep",
    duplicates: options.Duplicates = "error",
    nan: options.Nan = "error",
    empty: options.Empty = "error",
) -> None:
    """Write a comparison of runs as one self-contained HTML page with a browser of queries.

    \b
    Examples:
      cmp-rerank report test.qrels bm25.run tuned.run -o report.html
      cmp-rerank report test.qrels bm25.run tuned.run -m nDCG@10 -m RR@10 \\
          --queries queries.jsonl --corpus corpus.jsonl
    """
    from cmp_rerank.evaluation.report import read_curves, shown_documents, write_report
    from cmp_rerank.ir import read_corpus, read_qrels, read_queries
    from cmp_rerank.ir.lines import is_stream

    charts: dict[str, dict[str, list[list[float]]]] = {}
    for path in curves or []:
        for chart, series in read_curves(path).items():
            charts.setdefault(chart, {}).update(series)
    systems = options.systems(runs)
    evaluation = {
        "rank_order": rank_order,
        "precision": precision,
        "missing": missing,
        "no_relevant": no_relevant,
        "duplicates": duplicates,
        "nan": nan,
        "empty": empty,
    }
    texts, asked = None, None
    if corpus is not None:
        # Only what the page shows is kept of a corpus that may have millions of documents.
        shown = shown_documents(systems, qrels, depth, **evaluation)
        texts = read_corpus(corpus, ids=shown)
        _check_texts("documents on the page", texts, sorted(shown))
    if queries is not None:
        asked = read_queries(queries)
        _check_texts("judged queries", asked, list(read_qrels(qrels, duplicates=duplicates)))
    comparison = write_report(
        out,
        systems,
        qrels,
        " ".join(measures),
        queries=asked,
        corpus=texts,
        curves=charts,
        title=title,
        depth=depth,
        text_chars=text_chars,
        baseline=baseline,
        alpha=alpha,
        level=level,
        test=test,
        resamples=resamples,
        seed=seed,
        **evaluation,
    )
    options.warn(comparison.notes())
    size = "" if is_stream(out) else f"{out.stat().st_size / 1e6:.1f} MB, "
    options.told(f"{out}: {size}{len(comparison.queries)} queries", out)


def _check_texts(what: str, texts: Mapping[str, str], ids: Sequence[str]) -> None:
    """Say how many ids have no text; that none of them has one is an error."""
    from cmp_rerank.collections.matching import some, without_texts

    missing = [name for name in ids if name not in texts]
    if missing and len(missing) == len(ids):
        raise without_texts(what, missing, len(ids))
    if missing:
        options.warn([f"{len(missing):,} of {len(ids):,} {what} have no text ({some(missing)})"])
