"""`cmp-rerank serve`: a reranker behind HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmp_rerank.cli import options
from cmp_rerank.serving.limits import Limits

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


def serve(
    model: Annotated[str, typer.Argument(help="A cross-encoder: a folder, or a name on the hub.")],
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0: all of the machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any that is free.")] = 8080,
    name: Annotated[str, typer.Option(help="What responses call the model; default: its folder's name.")] = "",
    precision: options.ModelPrecision = None,
    max_length: options.MaxLength = None,
    long_documents: options.LongDocuments = None,
    mix: Annotated[
        bool,
        typer.Option("--mix/--no-mix", help="Refuse a model whose scores the guard joins with the first stage."),
    ] = True,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens of a forward pass; default: by the device.")
    ] = None,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda:0; '': a GPU where there is one.")] = "",
    max_documents: Annotated[
        int, typer.Option("--max-documents", min=1, help="Documents of a request.")
    ] = Limits.documents,
    max_query: Annotated[
        int, typer.Option("--max-query", min=1, help="Characters of a query.")
    ] = Limits.query_characters,
    max_document: Annotated[
        int, typer.Option("--max-document", min=1, help="Characters of a document.")
    ] = Limits.document_characters,
    max_body: Annotated[int, typer.Option("--max-body", min=1, help="Bytes of a request.")] = Limits.body_bytes,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=1, help="Pairs of all requests that may wait.")
    ] = Limits.waiting_pairs,
    stop_seconds: Annotated[
        int, typer.Option("--stop-seconds", min=0, help="How long requests may take to finish after SIGTERM.")
    ] = 60,
    check: Annotated[
        bool, typer.Option("--check", help="Load the model, score a pair, print what would be served, and exit.")
    ] = False,
) -> None:
    """Serve a reranker over HTTP, by the requests of Cohere, Jina and TEI.

    \b
    Examples:
      cmp-rerank serve my-run/guard/model
      cmp-rerank serve my-run/guard/model --host 0.0.0.0 --port 80 \\
          --precision bf16 --max-documents 200
      curl localhost:8080/rerank -H 'Content-Type: application/json' \\
          -d '{"query": "what do pandas eat", "top_n": 1,
               "documents": ["Bees make honey.", "Pandas eat bamboo."]}'
      curl localhost:8080/rerank -H 'Content-Type: application/json' \\
          -d '{"query": "what do pandas eat", "raw_scores": true,
               "texts": ["Bees make honey.", "Pandas eat bamboo."]}'
      curl localhost:8080/health
      curl localhost:8080/metrics

    POST /rerank, /v1/rerank and /v2/rerank are the same. Pairs of requests
    that wait at the same time share passes. After SIGTERM or ctrl-c, no
    request is taken, and those that are there are finished.
    """
    limits = Limits(max_documents, max_query, max_document, max_body, max_waiting)
    _check_extra()
    if mix:
        _check_guard(model)
    loaded = _load(model, max_length, device, long_documents, precision)
    from cmp_rerank.serving.app import create_app
    from cmp_rerank.serving.run import listen
    from cmp_rerank.serving.run import serve as run

    name = name or Path(model).name
    app = create_app(loaded, name, limits=limits, tokens_per_batch=batch_tokens)
    if check:
        told = {"model": name, "class": type(loaded).__name__, "device": str(loaded.device)}
        typer.echo(json.dumps({**told, "window": loaded.max_seq_length, "limits": vars(limits)}))
        return
    listening = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    options.warn([f"{name} is served at http://{shown}:{listening.getsockname()[1]}/rerank; ctrl-c stops it"])
    run(app, listening, stop_seconds=stop_seconds)


def _check_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError("serving needs the extra 'serve': pip install 'cmp-rerank[serve]'") from error


def _check_guard(model: str) -> None:
    """Refuse a model that the guard has found good only together with the first stage."""
    from cmp_rerank.guard.save import read_mix

    joined = read_mix(model)
    if joined is not None and joined.weight < 1:
        raise ValueError(
            f"{model}: the guard joins the scores with the first stage, which a server does not see; got a share of "
            f"{joined.weight:g} of the model; use cmp-rerank rerank, or serve the model alone with --no-mix"
        )


def _load(
    model: str, max_length: int | None, device: str, long_documents: bool | None, precision: str | None
) -> CrossEncoder:
    from cmp_rerank.reranking.loading import load_reranker
    from cmp_rerank.reranking.precision import in_precision

    loaded = load_reranker(model, max_length=max_length, device=device or None, long_documents=long_documents)
    converted: CrossEncoder = in_precision(loaded, precision)
    return converted
