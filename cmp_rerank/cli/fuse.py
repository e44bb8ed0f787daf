"""`cmp-rerank fuse`: several runs as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmp_rerank.cli import options

if TYPE_CHECKING:
    from cmp_rerank.ir import Run


def fuse(
    runs: Annotated[list[Path], typer.Argument(help="Two runs or more: TREC, MS MARCO, top1000 or JSON.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Where the run goes: TREC, or .tsv (MS MARCO) or .json."),
        options.NEW_FILE,
    ],
    by: Annotated[
        str,
        typer.Option(help="'rank': reciprocal ranks; or scores on a scale: 'max', 'minmax', 'z', or 'none'."),
    ] = "rank",
    weights: Annotated[
        str, typer.Option(help="A weight for each run, with commas: 1,0.5; default: equal ones.")
    ] = "",
    k: Annotated[
        float | None,
        typer.Option(min=0, help="Of reciprocal ranks: how little the first ones stand out; default: 60."),
    ] = None,
    depth: Annotated[int, typer.Option(min=0, help="At most so many documents for each query; 0: all.")] = 0,
    tag: Annotated[str, typer.Option(help="Name of the system in a TREC run.")] = "fused",
) -> None:
    """Fuse runs into one, by ranks or by scores.

    \b
    Examples:
      cmp-rerank fuse bm25.run dense.run -o fused.run
      cmp-rerank fuse bm25.run dense.run -o fused.run --by max --weights 1,2
      cmp-rerank fuse a.run b.run c.run -o fused.run --by z --depth 100
    """
    from cmp_rerank.ir import combine, read_run, write_run
    from cmp_rerank.ir import fuse as fuse_ranks
    from cmp_rerank.ir.files import check_id
    from cmp_rerank.ir.fusion import SCALES
    from cmp_rerank.ir.ranking import check_choice

    check_choice("--by", by, ("rank", *SCALES))
    if k is not None and by != "rank":
        raise ValueError(f"--k is for --by rank; got --by {by}; leave it out")
    check_id("tag", tag)
    factors = _numbers(weights)
    read = [read_run(path) for path in runs]
    limit = depth or None
    fused = (
        fuse_ranks(read, 60 if k is None else k, factors, limit)
        if by == "rank"
        else combine(read, factors, scale=by, depth=limit)
    )
    write_run(out, fused, tag)
    options.warn(_partial(runs, read))
    options.told(f"{sum(map(len, fused.values())):,} documents for {len(fused):,} queries written to {out}", out)


def _partial(paths: Sequence[Path], runs: Sequence[Run]) -> list[str]:
    """For each run that lacks queries of the others, how many and which."""
    from cmp_rerank.collections.matching import some

    every = list(dict.fromkeys(query for run in runs for query in run))
    lacking = [[query for query in every if query not in run] for run in runs]
    return [
        f"{path}: {len(queries):,} of {len(every):,} queries of the runs are not in it ({some(queries)})"
        for path, queries in zip(paths, lacking, strict=True)
        if queries
    ]


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.split(",")] if text else None
    except ValueError:
        raise ValueError(
            f"--weights takes numbers with commas between; got {text!r}; write for example 1,0.5"
        ) from None
