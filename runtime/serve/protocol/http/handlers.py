"""The handlers of all paths."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp

from internvl_edge.runtime.serve.observe import metrics
from internvl_edge.runtime.serve.observe.status_page import page_html
from internvl_edge.runtime.serve.protocol import describe
from internvl_edge.runtime.serve.protocol.http import generate, infer
from internvl_edge.runtime.serve.protocol.http.call import Call
from internvl_edge.runtime.serve.protocol.http.document.docs_page import docs_html
from internvl_edge.runtime.serve.protocol.http.document.openapi import openapi
from internvl_edge.runtime.serve.protocol.http.document.operations import HEADER_LENGTH, OPERATIONS
from internvl_edge.runtime.serve.protocol.http.events import EventStream
from internvl_edge.runtime.serve.protocol.http.management import MANAGEMENT_HANDLERS
from internvl_edge.runtime.serve.protocol.http.openai.handlers import OPENAI_HANDLERS
from internvl_edge.runtime.serve.protocol.http.responses import json_response
from internvl_edge.runtime.serve.protocol.service import refusal_of
from internvl_edge.runtime.serve.refusals import RETRY_S, BadRequestError, UnavailableError
from internvl_edge.runtime.serve.requests import Response as Answer
from internvl_edge.runtime.serve.signature import Signature

Handler = Callable[[Call], Awaitable[ASGIApp]]


async def _live(call: Call) -> ASGIApp:
    return json_response({"live": True})


async def _ready(call: Call) -> ASGIApp:
    _require_ready(call)
    return json_response({"ready": True})


async def _server(call: Call) -> ASGIApp:
    return json_response(describe.server_metadata())


async def _model(call: Call) -> ASGIApp:
    return json_response(describe.model_metadata(call.model()))


async def _model_ready(call: Call) -> ASGIApp:
    name = call.model().name
    _require_ready(call)
    return json_response({"name": name, "ready": True})


async def _config(call: Call) -> ASGIApp:
    return json_response(describe.model_config(call.model(), call.service.options.max_batch))


async def _stats(call: Call) -> ASGIApp:
    return json_response({"model_stats": [describe.model_statistics(call.service.record, call.model())]})


async def _all_stats(call: Call) -> ASGIApp:
    models = call.service.engine.signatures.values()
    return json_response({"model_stats": [describe.model_statistics(call.service.record, model) for model in models]})


async def _index(call: Call) -> ASGIApp:
    only_ready = (await call.json()).get("ready", False)
    if not isinstance(only_ready, bool):
        raise BadRequestError("ready: is true or false")
    names = list(call.service.engine.signatures)
    return json_response(describe.repository_index(names, call.service.ready, only_ready))


async def _infer(call: Call) -> ASGIApp:
    signature = _asked(call)
    length = call.http.headers.get(HEADER_LENGTH)
    asked = infer.asked(signature, await call.body.read(), length, call.service.options.json_bytes)
    return infer.answer(signature, asked, await call.infer(call.request(signature, asked)))


async def _generate(call: Call) -> ASGIApp:
    signature = _asked(call)
    asked = generate.asked(signature, await call.json())
    return json_response(generate.answer(signature, asked, await call.infer(call.request(signature, asked))))


async def _generate_stream(call: Call) -> ASGIApp:
    signature = _asked(call)
    asked = generate.asked(signature, await call.json())

    def render(part: Answer) -> list[dict[str, Any]]:
        return [generate.answer(signature, asked, part)]

    def refused(error: Exception) -> dict[str, Any]:
        return {"error": str(refusal_of(error, call.exchange))}

    return EventStream(call.service.stream(call.exchange, call.request(signature, asked)), render, refused)


async def _metrics(call: Call) -> ASGIApp:
    service = call.service
    text = metrics.exposition(service.record, service.ready, service.memory_bytes())
    return Response(text, media_type=metrics.CONTENT_TYPE)


async def _page(call: Call) -> ASGIApp:
    service = call.service
    page = page_html(service.record, service.engine.signatures, service.ready, describe.server_version())
    return _html(page)


async def _openapi(call: Call) -> ASGIApp:
    service = call.service
    document = openapi(service.engine.signatures, describe.server_version(), service.credentials.wanted)
    return json_response(document)


async def _docs(call: Call) -> ASGIApp:
    address = str(call.http.base_url).rstrip("/")
    return _html(docs_html(call.service.engine.signatures, describe.server_version(), address))


def _html(page: str) -> ASGIApp:
    return HTMLResponse(page, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})


def _asked(call: Call) -> Signature:
    """Return the signature of the model that is asked; a full queue is refused here, before the body is read."""
    signature = call.model()
    call.service.require_room(call.exchange)
    return signature


def _require_ready(call: Call) -> None:
    if not call.service.ready:
        raise UnavailableError("the server is not ready", RETRY_S)


HANDLERS: Mapping[str, Handler] = {
    "page": _page,
    "docs": _docs,
    "openapi": _openapi,
    "metrics": _metrics,
    "live": _live,
    "ready": _ready,
    "server": _server,
    "all_stats": _all_stats,
    "model": _model,
    "model_ready": _model_ready,
    "config": _config,
    "stats": _stats,
    "infer": _infer,
    "generate": _generate,
    "generate_stream": _generate_stream,
    "index": _index,
    **OPENAI_HANDLERS,
    **MANAGEMENT_HANDLERS,
}
"""Name of a handler in the table of routes -> the handler."""
ROUTES: tuple[tuple[str, str, Handler], ...] = tuple(
    (method, path, HANDLERS[operation.answer])
    for (method, path), operation in sorted(OPERATIONS.items(), key=lambda row: "{" in row[0][1])
)
"""(method, path, handler); fixed paths come before those with a model's name, so that ``stats`` is no model."""
