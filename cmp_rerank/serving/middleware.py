"""What is around every request: its size, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmp_rerank.serving.errors import error_response
from cmp_rerank.serving.metrics import Metrics


class BodyLimit:
    """Refuses bodies beyond a size, by their header or, where that says nothing, once more bytes have come.

    The latest FastAPI has a limit of its own, which answers in plain text, and not with Python 3.10.

    Args:
        app: What is inside.
        most: Bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, and hand it on in one piece."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        size, body, more = int(said) if said.isdigit() else 0, bytearray(), True
        while more and max(size, len(body)) <= self.most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if max(size, len(body)) > self.most:
            text = (
                f"the body must have at most {self.most} bytes; got {max(size, len(body))} or more; send fewer or "
                "shorter texts"
            )
            await error_response(413, text)(scope, receive, send)
            return
        bodies: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def again() -> Message:
            return bodies.pop() if bodies else await receive()

        await self.app(scope, again, send)


class Measured:
    """Counts requests by path and status, with their seconds.

    Args:
        app: What is inside.
        metrics: What counts.
        paths: The paths that have a count of their own; all others share one, since clients can make up any.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and look at the status."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        status = 499  # the client has gone
        begin = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - begin)
