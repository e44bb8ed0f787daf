"""`cmp-rerank rerank`: score the candidates of a run with a cross-encoder, and write the new run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cmp_rerank.cli import options
from cmp_rerank.cli.progress import progress

DEPTH = 100


def rerank(
    model: Annotated[str, typer.Option("--model", help="A cross-encoder: a folder, or a name on the hub.")],
    run: Annotated[str, typer.Option("--run", help="The first stage: a path, or the name of a collection's run.")],
    collection: Annotated[
        str, typer.Argument(help="A collection, such as beir:FOLDER; or use --queries and --corpus.")
    ] = "",
    split: Annotated[str, typer.Option(help="The split of the collection whose queries are meant; '': all.")] = "",
    queries: Annotated[Path | None, typer.Option(help="Texts of the queries: BEIR JSON lines or TSV.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Texts of the documents: BEIR JSON lines or TSV.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The new run; .trec, .tsv or .json, also .gz. Default: stdout."),
        options.NEW_FILE,
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Candidates of each query that are scored; default: 100.")
    ] = None,
    precision: options.ModelPrecision = None,
    max_length: options.MaxLength = None,
    long_documents: options.LongDocuments = None,
    passages: Annotated[
        Path | None,
        typer.Option(help="Also write each document's passages, as JSON lines; with --long-documents."),
        options.NEW_FILE,
    ] = None,
    mix: Annotated[
        bool,
        typer.Option("--mix/--no-mix", help="Join the scores with the first stage, where the guard has said so."),
    ] = True,
    tag: Annotated[str, typer.Option(help="Name of the system, in the last column.")] = "cmp_rerank",
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens of a forward pass; default: by the device.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on with a run that was stopped, or start over.")
    ] = True,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda:0; '': a GPU where there is one.")] = "",
    as_json: options.Json = False,
) -> None:
    """Rerank the candidates of a first stage with a cross-encoder.

    \b
    Examples:
      cmp-rerank rerank beir:scifact --split test --run bm25.trec \\
          --model tuned/final -o tuned.trec
      cmp-rerank rerank --queries queries.tsv --corpus collection.tsv \\
          --run bm25.trec --model tuned/final --depth 200 \\
          --precision bf16 -o tuned.trec
      cmp-rerank rerank beir:reports --run bm25.trec --model tuned/final \\
          --long-documents --passages passages.jsonl -o tuned.trec
      torchrun --nproc-per-node 4 -m cmp_rerank rerank beir:scifact \\
          --run bm25.trec --model tuned/final -o tuned.trec

    Documents below --depth keep their order and stay below. What is finished
    is kept beside the output: the same command goes on after a kill. Under
    torchrun each process takes its share, and one run is written.

    How many texts exceed the window is said on stderr. A model that the guard
    has handed over has a share of the score in guard.json, which is applied
    and said; --no-mix leaves it out.
    """
    from cmp_rerank.ir.lines import exists, is_stream, write_lines

    stream = Path("-") if out is None else out if is_stream(out) else None
    if stream is not None and (as_json or passages is not None):
        wanted = "--json" if as_json else "--passages"
        raise ValueError(f"{wanted} needs --out with a file, since the run itself goes to {stream}; give a path")
    if passages is not None and long_documents is None:
        long_documents = True
    if not exists(run) and not collection:
        raise ValueError(f"{run}: no such file")
    texts, documents, first_stage = _inputs(collection, split, queries, corpus, run)
    from cmp_rerank.guard.save import read_mix
    from cmp_rerank.reranking import Counts, rerank_run
    from cmp_rerank.reranking.loading import load_reranker

    joined = read_mix(model) if mix else None
    loaded: Any = _Unread()
    if joined is not None and not joined.weight and passages is None:
        precision = None  # nothing is computed
    else:
        loaded = load_reranker(model, max_length=max_length, device=_device(device), long_documents=long_documents)
    if depth is None:
        depth = DEPTH if joined is None else joined.depth
    counts = Counts()
    begin = time.perf_counter()
    again = "the same command" if resume else "the same command with --resume"
    going_on = nullcontext() if stream is not None else options.interruptible(f"{out}.part-*", again)
    with going_on, progress("Reranking", "pairs") as show:
        written: Any = None if stream is not None else out  # where either gives another result
        result: Any = rerank_run(
            loaded,
            texts,
            documents,
            first_stage,
            depth=depth,
            out=written,
            tag=tag,
            passages=passages,
            tokens_per_batch=batch_tokens,
            precision=precision,
            resume=resume,
            mix=joined,
            progress=show,
            counts=counts,
        )
    seconds = time.perf_counter() - begin
    notes = [f"{counts}, in {seconds:.1f} s"]
    if joined is not None:
        notes.append(
            f"scores are joined with the first stage, as the guard has chosen: {joined.weight:g} of the model; "
            "--no-mix leaves that out"
        )
    if counts.cut:
        notes.append("documents beyond the window are read whole with --long-documents")
    options.warn(notes)
    if stream is not None:
        from cmp_rerank.ir.files import trec_lines

        write_lines(stream, trec_lines(result.items(), tag))
    elif result is None:
        options.warn(["other shards are not finished yet; the last one writes the run"])
    elif as_json:
        typer.echo(
            json.dumps(
                {
                    "out": str(result),
                    "passages_out": None if passages is None else str(passages),
                    **asdict(counts),
                    "weight": 1.0 if joined is None else joined.weight,
                    "seconds": round(seconds, 3),
                }
            )
        )


def _inputs(
    collection: str, split: str, queries: Path | None, corpus: Path | None, run: str
) -> tuple[Mapping[str, str], Mapping[str, str], Any]:
    """Queries, documents and the run; files count more than the collection."""
    from cmp_rerank.collections import load, open_texts
    from cmp_rerank.ir.lines import exists

    if not collection:
        missing = [name for name, path in (("--queries", queries), ("--corpus", corpus)) if path is None]
        if missing:
            raise ValueError(f"give a collection, or --queries and --corpus; got no {' and no '.join(missing)}")
        if split:
            raise ValueError(f"--split goes with a collection; got {split!r} and none; leave it out")
    loaded = load(collection) if collection else None
    texts = loaded.queries(split or None) if loaded and queries is None else open_texts(queries)  # type: ignore[arg-type]
    documents = loaded.corpus if loaded and corpus is None else open_texts(corpus)  # type: ignore[arg-type]
    named = loaded is not None and run in loaded.runs and not exists(run)
    first_stage = loaded.run(run) if loaded is not None and named else Path(run)
    if loaded is not None:
        options.warn(loaded.notes())
    return texts, documents, first_stage


def _device(device: str) -> str | None:
    """The device: of several processes on one machine, each has a GPU of its own."""
    if device or "LOCAL_RANK" not in os.environ:
        return device or None
    import torch

    return f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else None


class _Unread:
    """In place of a model whose scores have no share: the guard has kept the first stage alone."""

    def predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Scores that nobody reads."""
        return [0.0] * len(pairs)
