"""`cmp-rerank retrieve`: the first stage, from a collection or plain files to a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmp_rerank.cli import options
from cmp_rerank.cli.progress import progress

if TYPE_CHECKING:
    from cmp_rerank.ir import Progress, Qrels
    from cmp_rerank.ir.first_stages import FirstStage

# Queries that are searched, and whose results are in memory, at once.
_BLOCK = 256


def retrieve(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Where the run goes: TREC, or .tsv (MS MARCO) or .json."),
        options.NEW_FILE,
    ],
    collection: Annotated[str, typer.Argument(help="A collection, such as beir:FOLDER; or use plain files.")] = "",
    split: Annotated[str, typer.Option(help="Whose queries; default: test.")] = "",
    corpus: Annotated[Path | None, typer.Option(help="Texts of the documents: BEIR JSON lines or TSV.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Texts of the queries: BEIR JSON lines or TSV.")] = None,
    qrels: Annotated[
        Path | None, typer.Option(help="Judgments, for --measure: TREC, MS MARCO, BEIR or JSON.")
    ] = None,
    first_stage: Annotated[
        str, typer.Option("--first-stage", help="bm25, anserini, dense or sparse; or the path of a run.")
    ] = "bm25",
    model: Annotated[str, typer.Option(help="Of dense and sparse: a folder or a name on the hub.")] = "",
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the first stage: NAME=VALUE; may be given several times."),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(help="Folder of the index: opened where there is one, else built and kept."),
        options.NEW_FOLDER,
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="At most so many documents for each query.")] = 100,
    tag: Annotated[str, typer.Option(help="Name of the system in a TREC run; default: the first stage.")] = "",
    measures: Annotated[
        list[str] | None,
        typer.Option("--measure", "-m", help="Evaluate the run at once; may be given several times."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Retrieve documents for queries, and write them as a run.

    \b
    Examples:
      cmp-rerank retrieve beir:scifact -o bm25.run -m nDCG@10
      cmp-rerank retrieve beir:scifact -o bm25.run --first-stage anserini
      cmp-rerank retrieve beir:scifact -o dense.run --first-stage dense \\
          --model sentence-transformers/all-MiniLM-L6-v2 --index dense.index
      cmp-rerank retrieve --corpus collection.tsv --queries queries.tsv \\
          -o bm25.run --index bm25.index --set k1=0.9 --set b=0.4
      cmp-rerank retrieve beir:scifact -o hnsw.run --first-stage dense \\
          --model my-encoder --set index=hnsw --set parameters=efSearch=256

    --set takes the arguments of BM25, Dense or Sparse in cmp_rerank.ir. With
    --index, the index of an interrupted dense retrieval is gone on with, and
    later calls open it, with the same --set where they name the documents.
    The run is written as a whole or not at all.

    -o - writes the run to stdout. With -m, prints MEASURE<TAB>VALUE, as `cmp-rerank evaluate` does.
    """
    from cmp_rerank.collections.matching import nothing_in_common
    from cmp_rerank.evaluation.measures import parse_measures
    from cmp_rerank.ir import first_stage as build
    from cmp_rerank.ir import write_run
    from cmp_rerank.ir.files import check_id, tag_of
    from cmp_rerank.ir.lines import is_stdout, is_stream

    if tag:
        check_id("tag", tag)
    if is_stdout(out) and as_json:
        raise ValueError(f"--json needs --out, since the run itself goes to stdout; got {out}; give a path")
    if measures and is_stream(out):
        raise ValueError(f"--measure needs --out with a file, since the run is read again; got {out}; give a path")
    documents, texts, judged = _inputs(collection, split, corpus, queries, qrels, index)
    if measures:
        parse_measures(" ".join(measures))  # before hours of work, not after
    if measures and not judged:
        raise ValueError("--measure needs judgments; got none for these queries; add --qrels, or leave it out")
    if measures and judged and not any(query in texts for query in judged):
        raise nothing_in_common("queries", list(texts), "judged ones", list(judged))
    settings = _settings(option or [])
    with progress("Indexing", "documents") as show:
        stage = build(first_stage, documents, model=model or None, folder=index, progress=show, **settings)
    found = {"queries": 0, "without": 0, "documents": 0}
    with progress("Retrieving", "queries") as show:
        write_run(out, _searched(stage, texts, depth, found, show), tag or tag_of(first_stage))
    _report(out, found, judged, measures or [], as_json)


def _inputs(
    collection: str,
    split: str,
    corpus: Path | None,
    queries: Path | None,
    qrels: Path | None,
    index: Path | None,
) -> tuple[Mapping[str, str] | None, Mapping[str, str], Qrels | None]:
    """Documents, queries and judgments, from a collection, or from files where these are given."""
    from cmp_rerank.collections import load, open_texts
    from cmp_rerank.ir import read_qrels

    if not collection:
        if split:
            raise ValueError(f"--split goes with a collection; got --split {split} and none; name a collection")
        if queries is None or (corpus is None and index is None):
            missing = [name for name, path in (("--corpus", corpus), ("--queries", queries)) if path is None]
            raise ValueError(
                f"give a collection, or --corpus and --queries; got no {' and no '.join(missing)}; see --help"
            )
        documents = None if corpus is None else open_texts(corpus)
        return documents, open_texts(queries), None if qrels is None else read_qrels(qrels)
    loaded = load(collection)
    split = split or "test"
    documents = loaded.corpus if corpus is None else open_texts(corpus)
    texts = loaded.queries(split) if queries is None else open_texts(queries)
    judged = loaded.qrels(split) if qrels is None else read_qrels(qrels)
    options.warn(loaded.notes())
    return documents, texts, judged


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """Options of the form NAME=VALUE; a value is read as JSON where it is that, and as a text else."""
    settings: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes NAME=VALUE; got {one!r}; write for example --set k1=0.9")
        if name in settings:
            raise ValueError(f"--set takes each option once; got {name!r} twice; leave one out")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def _searched(
    stage: FirstStage, queries: Mapping[str, str], depth: int, found: dict[str, int], show: Progress
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Queries with their documents, which are counted in ``found``; a block of queries at a time."""
    from cmp_rerank.collections.matching import some

    remaining = iter(queries.items())
    while block := dict(islice(remaining, _BLOCK)):
        for query, scores in stage.search(block, depth).items():
            found["queries"] += 1
            found["without"] += not scores
            found["documents"] += len(scores)
            yield query, scores
        show(found["queries"], len(queries))
    if queries and not found["documents"]:
        raise ValueError(
            f"no query found a document; got {len(queries):,} queries ({some(list(queries))}); match their ids with "
            "those of the run, or their language with that of the documents"
        )


def _report(
    out: Path, found: Mapping[str, int], judged: Qrels | None, measures: Sequence[str], as_json: bool
) -> None:
    from cmp_rerank.evaluation import evaluate

    result = evaluate(out, judged, " ".join(measures), empty="allow") if measures and judged is not None else None
    if found["without"]:
        options.warn(
            [f"{found['without']:,} of {found['queries']:,} queries found no document, and are not in the run"]
        )
    if as_json:
        content: dict[str, Any] = {"run": str(out), **found}
        if result is not None:
            content |= result.to_dict(per_query=False)
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    if result is None:
        options.told(f"{found['documents']:,} documents for {found['queries']:,} queries written to {out}", out)
        return
    typer.echo("\n".join(f"{measure}\t{mean:.4f}" for measure, mean in result.means.items()))
    options.warn(result.notes())
