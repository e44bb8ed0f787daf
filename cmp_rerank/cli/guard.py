"""`cmp-rerank guard`: compare a tuned model with what there was, and hand over what is not worse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmp_rerank.cli import options
from cmp_rerank.cli.progress import progress

if TYPE_CHECKING:
    from cmp_rerank.guard import Split
    from cmp_rerank.ir import Run


def guard(
    start: Annotated[
        str, typer.Argument(help="The model before fine-tuning: folder or name; 'none': there is none.")
    ],
    tuned: Annotated[list[str], typer.Argument(help="The tuned model; several are training seeds.")],
    run: Annotated[
        list[str],
        typer.Option(
            "--run", help="The first stage: paths, or names of runs of the collection; together, if several."
        ),
    ],
    collection: Annotated[str, typer.Option(help="A collection, such as beir:FOLDER; or use plain files.")] = "",
    split: Annotated[str, typer.Option(help="The split of the collection that the choice is made on.")] = "dev",
    test_split: Annotated[str, typer.Option(help="The split of the collection that the choice is tested on.")] = "",
    queries: Annotated[Path | None, typer.Option(help="Texts of the queries: BEIR JSON lines or TSV.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Texts of the documents: BEIR JSON lines or TSV.")] = None,
    qrels: Annotated[Path | None, typer.Option(help="Judgments that the choice is made on.")] = None,
    test_qrels: Annotated[
        Path | None,
        typer.Option(help="Judgments that the choice is tested on; without --test-split, of queries of any split."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the checkpoint that is handed over; new or empty."),
        options.NEW_FOLDER,
    ] = None,
    measure: Annotated[str, typer.Option("--measure", "-m", help="The measure that decides.")] = "nDCG@10",
    had: Annotated[
        str,
        typer.Option(help="What must be beaten: 'best' of first stage and start, or one of these; 'start mixed'."),
    ] = "best",
    interpolation: Annotated[
        list[float] | None,
        typer.Option(help="Share of the tuned weights; several times; default: 0.25, 0.5, 0.75; 0: none is tried."),
    ] = None,
    score_weight: Annotated[
        list[float] | None,
        typer.Option(help="Share of the model's score; several times; default: 0.25, 0.5, 0.75; 0: none is tried."),
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale of added scores: minmax, z, max or none.")] = "minmax",
    standard_errors: Annotated[
        float, typer.Option(min=0, help="A gain must be larger than so many of its standard errors.")
    ] = 1.0,
    depth: Annotated[int, typer.Option(min=1, help="Candidates of each query that are reranked.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs of a forward pass.")] = 32,
    device: Annotated[
        str, typer.Option(help="Such as cpu or cuda:0; default: as sentence-transformers chooses.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the folds of the cross-validation.")] = 0,
    as_json: options.Json = False,
    per_query: options.PerQuery = False,
    fail_if_kept: Annotated[
        bool, typer.Option("--fail-if-kept", help="Exit status 3 when nothing of the tuned model is handed over.")
    ] = False,
) -> None:
    """Compare a tuned reranker with what there was before, and hand over what is not worse.

    \b
    Examples:
      cmp-rerank guard cross-encoder/ms-marco-MiniLM-L6-v2 tuned/final \\
          --collection beir:scifact --run bm25.run --test-split test -o guarded
      cmp-rerank guard start seed1 seed2 seed3 --queries queries.tsv \\
          --corpus collection.tsv --qrels dev.qrels --run dev.run -o guarded
      cmp-rerank guard none tuned/final --collection beir:scifact \\
          --run bm25.run -m MSMARCO-MRR@10 --json

    Candidates are the first stage alone, the starting model, the tuned one,
    interpolations of their weights, and each of these with a share of the
    score. What there was is kept unless a gain over it is larger than its
    standard error, also cross-validated. docs/guard.md states the rule.

    --out gets an ordinary checkpoint of what is handed over, guard.json with
    the share of the score, and verdict.json with the values of every query.
    """
    from cmp_rerank.guard import GuardOptions
    from cmp_rerank.guard import guard as decide

    chosen = GuardOptions(
        **_shares("interpolations", interpolation),
        **_shares("score_weights", score_weight),
        scale=scale,
        depth=depth,
        had=had,  # type: ignore[arg-type]
        standard_errors=standard_errors,
        seed=seed,
        batch_size=batch_size,
    )
    texts, validation, test = _inputs(collection, split, test_split, queries, corpus, qrels, test_qrels, run)
    with progress("Scoring candidates", "pairs") as show:
        verdict = decide(
            None if start == "none" else start,
            tuned,
            queries=validation.queries,
            corpus=texts,
            qrels=validation.qrels,
            first_stage=validation.first_stage,
            measure=measure,
            options=chosen,
            test=test,
            out=out,
            progress=show,
            device=device or None,
        )
    with options.printing():
        if as_json:
            typer.echo(verdict.to_json(per_query=per_query))
        else:
            from rich.console import Console

            Console().print(verdict)
            if out is not None:
                typer.echo(f"written to {out}")
    if fail_if_kept and verdict.outcome != "helped":
        raise typer.Exit(3)


def _shares(name: str, given: list[float] | None) -> dict[str, Any]:
    """The option of this name where it is given; 0 alone stands for an empty list."""
    if not given:
        return {}
    return {name: () if given == [0] else tuple(given)}


def _inputs(
    collection: str,
    split: str,
    test_split: str,
    queries: Path | None,
    corpus: Path | None,
    qrels: Path | None,
    test_qrels: Path | None,
    runs: list[str],
) -> tuple[Mapping[str, str], Split, Split | None]:
    """The corpus, the split of the choice, and that of the test; files count more than the collection."""
    from cmp_rerank.collections import load, open_texts
    from cmp_rerank.guard import Split

    if not collection:
        files = {"--queries": queries, "--corpus": corpus, "--qrels": qrels}
        if lacking := " and no ".join(name for name, path in files.items() if path is None):
            raise ValueError(f"give --collection, or {', '.join(files)}; got no {lacking}; see --help")
        if test_split:
            raise ValueError(f"--test-split goes with --collection; got {test_split!r} and none; use --test-qrels")
        loaded: Any = None
    else:
        loaded = load(collection)
    run = _together(runs, loaded)
    documents = loaded.corpus if corpus is None else open_texts(corpus)

    def part(name: str, judgments: Path | None) -> Split:
        # Judgments in a file name their queries themselves: without a split, they may be of any.
        texts = loaded.queries(name or None) if queries is None else open_texts(queries)
        return Split(texts, loaded.qrels(name) if judgments is None else judgments, run)

    validation = part(split, qrels)
    test = part(test_split, test_qrels) if test_split or test_qrels is not None else None
    if loaded is not None:
        options.warn(loaded.notes())
    return documents, validation, test


def _together(names: list[str], collection: Any) -> Run:
    """The runs as one.

    Raises:
        ValueError: A run is no file and none of the collection's, or two of them have a query in common.
    """
    from cmp_rerank.ir import read_run

    together: dict[str, Mapping[str, float]] = {}
    for name in names:
        is_file = collection is None or Path(name).exists() or name not in collection.runs
        found = read_run(name) if is_file else collection.run(name)
        if twice := next((query for query in found if query in together), None):
            raise ValueError(f"{name}: query {twice!r} is in another run, too; give each query one run")
        together.update(found)
    return together
