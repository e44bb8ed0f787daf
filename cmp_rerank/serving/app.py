"""The HTTP application around one reranker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from cmp_rerank.engine.memory import Budget
from cmp_rerank.reranking.scorers import ByPasses
from cmp_rerank.serving.batching import Batcher
from cmp_rerank.serving.errors import Refused, error_response, install_errors
from cmp_rerank.serving.formats import RerankRequest, response
from cmp_rerank.serving.limits import Limits
from cmp_rerank.serving.metrics import Metrics
from cmp_rerank.serving.middleware import BodyLimit, Measured

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from cmp_rerank.ablations import Example

logger = logging.getLogger(__name__)
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
#: Short and long, so that what a model does once is done before the first request.
_WARM_UP = [("a query", "a text"), ("a query", "a text " * 200)]
#: Pairs that are tokenised at once: another request waits no longer than that for its turn.
_TOKENISED_AT_ONCE = 64
#: How often it is seen whether a client that waits has gone, in seconds.
_LOOK_EVERY = 0.5


class Service:
    """A model, its queue, and what waits.

    Args:
        model: A CrossEncoder, such as a LongDocumentReranker.
        limits: What is refused.
        tokens_per_batch: How many tokens, padding included, one pass holds; None: what suits the device.
    """

    def __init__(self, model: CrossEncoder, limits: Limits, tokens_per_batch: int | None = None) -> None:
        self.limits, self.metrics = limits, Metrics()
        self.passes = ByPasses(model, tokens_per_batch)
        self.passes(_WARM_UP)  # what is wrong with the model is said before the first request
        budget = Budget.without_gradients(tokens_per_batch, model.device)
        self.batcher = Batcher(
            self.passes.score,
            tokens=budget.of(model.device),
            start=budget.start(model.device),
            done=self.metrics.add,
        )
        # One thread, since a tokenizer is no thing to share; it runs beside the passes.
        self.tokenising = ThreadPoolExecutor(1, "tokenising")
        self.unanswered = 0

    def close(self) -> None:
        """Finish what waits."""
        self.tokenising.shutdown()
        self.batcher.close()

    async def logits(self, body: RerankRequest, request: Request) -> tuple[np.ndarray, int]:
        """Scores of the texts of a request, (texts,), and how many tokens were read.

        Raises:
            Refused: The request is too large, or too much waits already.
        """
        self._check(body)
        with self._admitted(len(body.listed)), _told():
            examples = await self._tokenised(body)
            if not self.batcher.alive:
                raise Refused(503, "the server is stopping; it takes no more requests; ask another one")
            scores = await _unless_gone(self.batcher.submit(examples), request)
        return scores, sum(map(len, examples))

    def _check(self, body: RerankRequest) -> None:
        limits = self.limits
        texts = body.listed
        if len(texts) > limits.documents:
            raise Refused(
                413,
                f"a request may have at most {limits.documents} texts; got {len(texts)}; send several requests",
            )
        named = [("query", body.query, limits.query_characters)]
        name = "texts" if body.documents is None else "documents"
        named += [(f"{name}.{place}", text, limits.document_characters) for place, text in enumerate(texts)]
        for place, text, most in named:
            if len(text) > most:
                raise Refused(413, f"{place} may have at most {most} characters; got {len(text)}; shorten it")

    @contextmanager
    def _admitted(self, pairs: int) -> Iterator[None]:
        """Count pairs as unanswered; refuse them where too many are. Runs in the event loop alone."""
        most = self.limits.waiting_pairs
        if self.unanswered and self.unanswered + pairs > most:
            raise Refused(
                429,
                f"at most {most} pairs may wait; got {pairs}, and {self.unanswered} wait already; come again later",
            )
        self.unanswered += pairs
        self.metrics.waiting.set(self.unanswered)
        try:
            yield
        finally:
            self.unanswered -= pairs
            self.metrics.waiting.set(self.unanswered)

    async def _tokenised(self, body: RerankRequest) -> list[Example]:
        pairs = [(body.query, text) for text in body.listed]
        examples: list[Example] = []
        cut: list[bool] = []
        for first in range(0, len(pairs), _TOKENISED_AT_ONCE):
            part = pairs[first : first + _TOKENISED_AT_ONCE]
            encoded = await asyncio.get_running_loop().run_in_executor(self.tokenising, self.passes.encode, part)
            examples += encoded[0]
            cut += encoded[1]
        if body.truncate is False and any(cut):
            raise Refused(
                413,
                f"with truncate=false every text must fit into the window; text {cut.index(True)} does not "
                f"({sum(cut)} of {len(cut)}); shorten it, or leave truncate out",
            )
        self.metrics.cut.inc(sum(cut))
        return examples


@contextmanager
def _told() -> Iterator[None]:
    """Errors of tokenizer and model as responses; what is no fault of the texts is also in the log."""
    try:
        yield
    except Refused:
        raise
    except asyncio.CancelledError:  # by uvicorn, when a stop takes too long
        raise Refused(
            503, "the server had no time left to finish this request before it stops; ask another"
        ) from None
    except ValueError as error:  # such as a query that leaves no room in the window
        raise Refused(422, " ".join(str(error).splitlines())) from error
    except Exception as error:
        logger.exception("A request could not be scored.")
        raise Refused(500, f"{type(error).__name__}: {' '.join(str(error).splitlines())}") from error


async def _unless_gone(future: Future[np.ndarray], request: Request) -> np.ndarray:
    """The result; nobody computes it further once the client has gone."""
    waiting = asyncio.wrap_future(future)
    try:
        while not (await asyncio.wait([waiting], timeout=_LOOK_EVERY))[0]:
            if await request.is_disconnected():
                raise Refused(499, "the client has gone")
        return waiting.result()
    finally:
        waiting.cancel()


def create_app(
    model: CrossEncoder, name: str = "", *, limits: Limits | None = None, tokens_per_batch: int | None = None
) -> FastAPI:
    """A reranker as an ASGI application, for uvicorn or any other server.

    Args:
        model: A CrossEncoder, such as a LongDocumentReranker.
        name: What responses call it.
        limits: What is refused; None: the defaults.
        tokens_per_batch: How many tokens, padding included, one pass holds; None: 512 on a CPU, 65,536 elsewhere.

    Returns:
        The application. Its queue starts and ends with its lifespan.

    Raises:
        ValueError: The model does not give one score for each pair.

    Example:
        ::

            app = create_app(CrossEncoder("my-run/guard/model"), "my-reranker")
            uvicorn.run(app, port=8080)
    """
    service = Service(model, limits or Limits(), tokens_per_batch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(title="cmp-rerank", lifespan=lifespan)
    app.state.service, app.state.name = service, name
    install_errors(app)
    for path in RERANK:
        app.add_api_route(path, _rerank, methods=["POST"], summary="Rank texts for a query")
    app.add_api_route("/health", _health, methods=["GET"], summary="Whether requests are taken")
    app.add_api_route("/metrics", _metrics, methods=["GET"], summary="Counters, as Prometheus reads them")
    app.add_middleware(BodyLimit, most=service.limits.body_bytes)
    app.add_middleware(Measured, metrics=service.metrics, paths=(*RERANK, "/health", "/metrics"))
    return app


# FastAPI keeps the functions of its routes for the life of the process, so they must not hold a model.


async def _rerank(body: RerankRequest, request: Request) -> Any:
    state = request.app.state
    logits, tokens = await state.service.logits(body, request)
    return JSONResponse(response(body, logits, state.name, tokens))


async def _health(request: Request) -> Any:
    state = request.app.state
    if not state.service.batcher.alive:
        return error_response(503, "the server is stopping, or scoring has ended; start it anew")
    return {"status": "ok", "model": state.name, "waiting_pairs": state.service.unanswered}


async def _metrics(request: Request) -> Any:
    return PlainTextResponse(
        request.app.state.service.metrics.text(), media_type="text/plain; version=1.0.0; charset=utf-8"
    )
