"""What a request over HTTP asks of the engine, from its path, body and headers."""

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request as HttpRequest

from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.observe.trace_context import continued
from internvl_edge.runtime.serve.protocol.http.body import Body, Buffers
from internvl_edge.runtime.serve.protocol.http.call import Call
from internvl_edge.runtime.serve.protocol.http.infer import Asked
from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from internvl_edge.runtime.serve.refusals import BadRequestError, UnknownModelError
from tests.unit.runtime.serve.fake_engine import FakeEngine

ROWS = {"a": np.ones((40, 4), np.float32), "b": np.ones((40, 4), np.float32)}


def call(content: bytes = b"", held_s: float = 0.0, **path: str) -> Call:
    parts = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        await asyncio.Event().wait()
        raise AssertionError

    http = HttpRequest({"type": "http", "method": "POST", "path": "/", "headers": [], "path_params": path}, receive)
    trace = continued(None)
    exchange = Exchange(protocol="http", method="POST /", client="10.0.0.1", trace=trace, held_s=held_s)
    service = Service(FakeEngine(), options=ProtocolOptions(deadline_s=0.5, max_batch=16))
    return Call(http=http, service=service, exchange=exchange, body=Body(http, 1 << 20, Buffers(1 << 20)))


def test_the_path_names_the_model_and_its_version() -> None:
    assert call(model="sum").model().name == "sum"
    assert call(model="sum", version="1").model().name == "sum"
    for path in ({"model": "sum", "version": "2"}, {"model": "other"}):
        with pytest.raises(UnknownModelError):
            call(**path).model()


@pytest.mark.parametrize(("content", "found"), [(b"", {}), (b'{"a": 1}', {"a": 1})])
def test_a_body_is_an_object_or_nothing(content: bytes, found: dict[str, int]) -> None:
    assert asyncio.run(call(content).json()) == found


def test_another_body_is_refused() -> None:
    with pytest.raises(BadRequestError):
        asyncio.run(call(b"[1]").json())


def test_the_request_is_the_clients_and_has_the_usual_deadline_of_each_batch() -> None:
    made = call(held_s=0.25)
    asked = Asked(inputs=ROWS, outputs=("total",), parameters={"p": 1}, id="7")
    before = time.monotonic()
    request = made.request(made.service.engine.signatures["sum"], asked)
    after = time.monotonic()
    assert (request.model, request.inputs, request.outputs, request.parameters) == ("sum", ROWS, ("total",), {"p": 1})
    assert (request.id, request.client, request.trace) == ("7", "10.0.0.1", made.exchange.trace.header)
    usual_s = 3 * 0.5  # 40 rows are three batches of 16
    assert request.deadline is not None
    assert before + usual_s - 0.25 <= request.deadline <= after + usual_s - 0.25


def test_a_timeout_of_the_request_replaces_the_usual_one() -> None:
    made = call()
    asked = Asked(inputs=ROWS, protocol_parameters={"timeout": 9_000_000})
    before = time.monotonic()
    request = made.request(made.service.engine.signatures["sum"], asked)
    assert request.deadline is not None
    assert before + 9 <= request.deadline <= time.monotonic() + 9


def test_rows_by_name_are_the_models_first_output() -> None:
    made = call()
    found = asyncio.run(made.infer_rows("encode_text", {"text": np.array([b"abc", b"a"], np.object_)}, {}))
    np.testing.assert_array_equal(found, [[3, 3, 0, 0], [1, 3, 0, 0]])
