"""Errors of a request, as JSON: what is wrong, what was got, what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

#: What text-embeddings-inference calls errors of each status.
_KINDS = {413: "Validation", 422: "Validation", 429: "Overloaded", 500: "Backend", 503: "Unhealthy"}


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: The status of the response.
        message: What is wrong, what was got, what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in the words of text-embeddings-inference (``error``, ``error_type``) and Cohere (``message``)."""
    content = {"error": message, "error_type": _KINDS.get(status, "Request"), "message": message}
    later = {"Retry-After": "1"} if status in (429, 503) else {}
    return JSONResponse(content, status, headers={**(headers or {}), **later})


def one_line(errors: Sequence[Any]) -> str:
    """What pydantic found wrong in a body, with the place of each.

    Example:
        >>> one_line([{"loc": ("body", "texts", 3), "msg": "Input should be a valid string", "type": "string_type"}])
        'texts.3: Input should be a valid string'
    """
    if any(tuple(error["loc"]) == ("body",) and error["type"] != "value_error" for error in errors):
        return "the body must be a JSON object, and the header Content-Type must say application/json; got none"
    told = []
    for error in errors:
        place = ".".join(map(str, error["loc"][1:]))
        reason = error.get("ctx", {}).get("error")
        if error["type"] == "json_invalid":
            return f"the body is not JSON, at character {place} ({reason}); send a JSON object"
        message = str(reason) if error["type"] == "value_error" else error["msg"]
        told.append(f"{place}: {message}" if place else message)
    return "; ".join(told)


def install_errors(app: FastAPI) -> None:
    """Have all errors of an app answered in one form."""

    async def refused(_: Request, error: Refused) -> JSONResponse:
        return error_response(error.status, str(error))

    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(422, one_line(error.errors()))

    async def http(_: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # the one of FastAPI for a body that its JSON parser fails on
            reason = str(error.__cause__ or error.detail).splitlines()[0]
            return error_response(422, f"the body is not JSON in UTF-8 ({reason:.120}); send a JSON object")
        return error_response(error.status_code, error.detail, error.headers)

    async def failed(_: Request, error: Exception) -> JSONResponse:
        return error_response(500, f"{type(error).__name__}: {error}".splitlines()[0])

    handlers: dict[Any, Any] = {Refused: refused, RequestValidationError: invalid, HTTPException: http}
    for kind, handler in (handlers | {Exception: failed}).items():
        app.add_exception_handler(kind, handler)
