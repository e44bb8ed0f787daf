"""Serving an application until a signal says to stop."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from fastapi import FastAPI


def listen(host: str = "127.0.0.1", port: int = 8080) -> socket.socket:
    """A socket that listens; connections wait until they are served.

    Args:
        host: The address to listen at; "0.0.0.0": all of the machine.
        port: The port; 0: any that is free.

    Raises:
        OSError: The address is taken, or not of this machine.

    Example:
        >>> with listen(port=0) as listening:
        ...     listening.getsockname()[0]
        '127.0.0.1'
    """
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"cannot listen at {host}:{port} ({error.strerror}); give another host or port") from error
    # Connections have it from here. Without it a response waits for the client to acknowledge its head, about 40 ms;
    # asyncio sets it for sockets that name their protocol alone, and those of create_server do not.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve(app: FastAPI, listening: socket.socket, *, stop_seconds: int = 60) -> None:
    """Answer requests until SIGTERM or SIGINT (ctrl-c), then finish those that are there, and return.

    Args:
        app: The application, see :func:`cmp_rerank.serving.app.create_app`.
        listening: What `listen` gave; it is closed.
        stop_seconds: How long requests may take to finish once it must stop. A second ctrl-c stops at once.
    """
    config = uvicorn.Config(app, timeout_graceful_shutdown=stop_seconds, log_level="warning", access_log=False)
    with listening, _no_second_end():
        uvicorn.Server(config).run([listening])


@contextmanager
def _no_second_end() -> Iterator[None]:
    """After a graceful stop, uvicorn sends the signal once more to whatever was there before: to nobody, here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
