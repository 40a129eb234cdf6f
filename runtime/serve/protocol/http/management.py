"""Triton's paths around models over HTTP: shared memory, traces, logs, loading."""

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp

from internvl_edge.runtime.serve.protocol import management
from internvl_edge.runtime.serve.protocol.http.answers import json_answer
from internvl_edge.runtime.serve.protocol.http.call import Call


async def _regions(call: Call) -> ASGIApp:
    management.require_no_region(call.http.path_params.get("region", ""))
    return json_answer([])


async def _register(call: Call) -> ASGIApp:
    management.refuse_region()
    return json_answer({})


async def _unregister(call: Call) -> ASGIApp:
    return json_answer({})


async def _trace(call: Call) -> ASGIApp:
    if "model" in call.http.path_params:
        call.model()
    management.require_trace_settings(await call.json())
    return json_answer(dict(management.TRACE_SETTINGS))


async def _log(call: Call) -> ASGIApp:
    management.require_log_settings(await call.json())
    return json_answer(dict(management.LOG_SETTINGS))


async def _load(call: Call) -> ASGIApp:
    management.refuse_loading(call.http.path_params["model"])
    return json_answer({})


_MEMORY: dict[str, tuple[str, Callable[[Call], Awaitable[ASGIApp]]]] = {
    "status": ("GET", _regions),
    "region/{region}/status": ("GET", _regions),
    "unregister": ("POST", _unregister),
    "region/{region}/unregister": ("POST", _unregister),
    "region/{region}/register": ("POST", _register),
}
MANAGED_PATHS: tuple[tuple[str, str, Callable[[Call], Awaitable[ASGIApp]]], ...] = (
    *(
        (method, f"/v2/{kind}sharedmemory/{path}", answer)
        for kind in ("system", "cuda")
        for path, (method, answer) in _MEMORY.items()
    ),
    ("GET", "/v2/trace/setting", _trace),
    ("POST", "/v2/trace/setting", _trace),
    ("GET", "/v2/models/{model}/trace/setting", _trace),
    ("POST", "/v2/models/{model}/trace/setting", _trace),
    ("GET", "/v2/logging", _log),
    ("POST", "/v2/logging", _log),
    ("POST", "/v2/repository/models/{model}/load", _load),
    ("POST", "/v2/repository/models/{model}/unload", _load),
)
"""(method, path, what answers it)"""
