"""Triton's paths around models over HTTP, without a server."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.http.management import MANAGEMENT_HANDLERS
from internvl_edge.runtime.serve.protocol.management import LOG_SETTINGS, TRACE_SETTINGS
from internvl_edge.runtime.serve.refusals import BadRequestError, UnknownModelError


def answer(name: str, body: dict[str, Any] | None = None, **path: str) -> Any:
    async def content() -> dict[str, Any]:
        return body or {}

    def model() -> None:
        if path["model"] != "sum":
            raise UnknownModelError("no such model")

    call: Any = SimpleNamespace(http=SimpleNamespace(path_params=path), json=content, model=model)
    response: Any = asyncio.run(MANAGEMENT_HANDLERS[name](call))
    return json.loads(response.body)


def test_there_is_no_shared_memory() -> None:
    assert answer("regions") == []
    assert answer("unregister", region="mine") == {}
    with pytest.raises(BadRequestError, match="there is no region 'mine'"):
        answer("regions", region="mine")
    with pytest.raises(BadRequestError, match="not offered"):
        answer("register", region="mine")


def test_settings_are_reported_and_stay() -> None:
    assert answer("trace") == answer("trace", {"trace_rate": "1000"}, model="sum") == dict(TRACE_SETTINGS)
    assert answer("log") == answer("log", {"log_info": True}) == dict(LOG_SETTINGS)
    with pytest.raises(BadRequestError, match="trace_rate"):
        answer("trace", {"trace_rate": "1"})
    with pytest.raises(BadRequestError, match="log_info"):
        answer("log", {"log_info": False})
    with pytest.raises(UnknownModelError):
        answer("trace", model="other")


def test_models_are_not_loaded() -> None:
    with pytest.raises(BadRequestError, match="here 'sum', is not offered"):
        answer("load", model="sum")
