"""`cmp-rerank curves`: quality against the context and the neurons that a model is left with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmp_rerank.cli import options


def curves(
    qrels: options.Qrels,
    run: Annotated[Path, typer.Argument(help="The first stage: its best candidates are reranked.")],
    model: Annotated[list[str], typer.Option(help="A checkpoint, or NAME=CHECKPOINT; may be given several times.")],
    queries: Annotated[Path, typer.Option(help="Texts of the queries: BEIR JSON lines or TSV.")],
    corpus: Annotated[Path, typer.Option(help="Texts of the documents: BEIR JSON lines or TSV.")],
    measures: options.Measures = options.DEFAULT_MEASURES,
    segments: Annotated[str, typer.Option(help="How many sentences are kept, with commas.")] = "1,2,4,8",
    levels: Annotated[str, typer.Option(help="Levels of CmpDrop, with commas.")] = "1,2,3",
    p: Annotated[float, typer.Option(help="Rate of one drop step.")] = 0.1,
    depth: Annotated[int, typer.Option(min=1, help="How many candidates of each query are reranked.")] = 100,
    max_queries: Annotated[int, typer.Option(min=0, help="Only so many queries; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="What the masks derive from.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the numbers go; the plot goes beside them."), options.NEW_FILE
    ] = Path("curves.json"),
    plot: Annotated[str, typer.Option(help="Format of the plot: svg, png or pdf; 'none': no plot.")] = "svg",
) -> None:
    """Draw utility curves of one or more checkpoints.

    A good model gains, or at least does not lose, from more context. The first measure is drawn.

    \b
    Examples:
      cmp-rerank curves test.qrels bm25.run --model tuned \\
          --queries queries.jsonl --corpus corpus.jsonl -o curves.json
      cmp-rerank curves test.qrels bm25.run --model plain=a --model cmp=b \\
          --queries queries.jsonl --corpus corpus.jsonl --plot png
    """
    from cmp_rerank.ablations import CmpDrop
    from cmp_rerank.evaluation.curves import utility_curves
    from cmp_rerank.ir import rank, read_corpus, read_qrels, read_queries, read_run
    from cmp_rerank.ir.lines import is_stream
    from cmp_rerank.reranking.loading import load_reranker

    if plot not in ("svg", "png", "pdf", "none"):
        raise ValueError(f"--plot must be svg, png, pdf or none; got {plot!r}")
    drawing = None if plot == "none" else out.with_suffix(f".{plot}")
    if drawing is not None and (drawing == out or is_stream(out)):
        raise ValueError(
            f"the plot goes beside the numbers, to their name with .{plot}; got --out {out}; give the numbers "
            "another name, such as curves.json, or leave the plot out: --plot none"
        )
    candidates, judged = read_run(run), read_qrels(qrels)
    if max_queries:
        asked = [query for query in candidates if query in judged] or list(candidates)
        candidates = {query: candidates[query] for query in asked[:max_queries]}
    # Of a corpus that may have millions of documents only the candidates are kept.
    scored = {doc for query in candidates.keys() & judged.keys() for doc, _ in rank(candidates[query])[:depth]}
    named = {name or Path(path).name: path for name, path in map(options.named_path, model)}
    if len(named) < len(model):
        raise ValueError("two models have the same name; name them: NAME=CHECKPOINT")
    result = utility_curves(
        {name: load_reranker(path, long_documents=False) for name, path in named.items()},
        read_queries(queries),
        read_corpus(corpus, ids=scored),
        candidates,
        # The run says which queries are reranked; where it has none of those judged, the error shows both.
        {query: grades for query, grades in judged.items() if query in candidates} or judged,
        " ".join(measures),
        segments=_numbers("--segments", segments),
        levels=_numbers("--levels", levels),
        k=depth,
        drop=CmpDrop(p=p),
        seed=seed,
    )
    result.write(out)
    if drawing is not None:
        result.plot(drawing)
    options.warn([f"{name}: {text}" for name, text in result.config["truncated"].items()])
    for name, points in result.points.items():
        for point in points:
            kept = "all" if point.segments is None else point.segments
            for measure, value in point.means.items():
                options.told(f"{name}\tsegments={kept}\tlevel={point.level}\t{measure}\t{value:.4f}", out)


def _numbers(option: str, given: str) -> list[int]:
    try:
        return [int(number) for number in given.split(",") if number]
    except ValueError:
        raise ValueError(
            f"{option} must be whole numbers with commas; got {given!r}; write them like 1,2,4"
        ) from None
