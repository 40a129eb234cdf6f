"""Responses in JSON, refusals among them."""

from collections.abc import Mapping
from math import ceil
from typing import Any

import orjson
from starlette.responses import Response

from internvl_edge.runtime.serve.protocol.http.document.operations import OPENAI_PATHS
from internvl_edge.runtime.serve.refusals import RefusalError

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def json_bytes(content: Any) -> bytes:
    """Return `content`, which may hold arrays, as JSON; numbers have no more digits than their type needs."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with `content` as JSON."""
    return Response(json_bytes(content), status, headers, media_type="application/json")


def refusal_response(refusal: RefusalError, path: str) -> Response:
    """Return a refusal in the form of the protocol to which `path` belongs."""
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(max(ceil(refusal.retry_after_s), 1))
    if refusal.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = openai_error(refusal) if path.startswith(OPENAI_PATHS) else {"error": str(refusal)}
    return json_response(content, refusal.http, headers)


def error_response(message: str, status: int, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error message in the form of the protocol to which `path` belongs."""
    content = _openai_error(message, status) if path.startswith(OPENAI_PATHS) else {"error": message}
    return json_response(content, status, headers)


def openai_error(refusal: RefusalError) -> dict[str, Any]:
    """Return a refusal in OpenAI's form."""
    return _openai_error(str(refusal), refusal.http, refusal.param, refusal.code)


def _openai_error(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
