"""The handlers of Triton's management paths: shared memory, traces, logs, loading."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.types import ASGIApp

from internvl_edge.runtime.serve.protocol import management
from internvl_edge.runtime.serve.protocol.http.call import Call
from internvl_edge.runtime.serve.protocol.http.responses import json_response


async def _regions(call: Call) -> ASGIApp:
    management.require_no_region(call.http.path_params.get("region", ""))
    return json_response([])


async def _register(call: Call) -> ASGIApp:
    management.refuse_region()
    return json_response({})


async def _unregister(call: Call) -> ASGIApp:
    return json_response({})


async def _trace(call: Call) -> ASGIApp:
    if "model" in call.http.path_params:
        call.model()
    management.require_trace_settings(await call.json())
    return json_response(dict(management.TRACE_SETTINGS))


async def _log(call: Call) -> ASGIApp:
    management.require_log_settings(await call.json())
    return json_response(dict(management.LOG_SETTINGS))


async def _load(call: Call) -> ASGIApp:
    management.refuse_loading(call.http.path_params["model"])
    return json_response({})


MANAGEMENT_HANDLERS: Mapping[str, Callable[[Call], Awaitable[ASGIApp]]] = {
    "regions": _regions,
    "register": _register,
    "unregister": _unregister,
    "trace": _trace,
    "log": _log,
    "load": _load,
}
"""Name of a handler of management in the table of routes -> the handler."""
