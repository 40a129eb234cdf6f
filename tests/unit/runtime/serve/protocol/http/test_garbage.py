"""A request that has ended is freed at once: what waits for the garbage collector costs pauses under load."""

import asyncio
import gc
import json
from contextlib import suppress
from typing import Any

import pytest

from internvl_edge.runtime.serve.protocol.http.admission import AdmissionControl, RejectedError
from internvl_edge.runtime.serve.protocol.http.app import Application
from internvl_edge.runtime.serve.protocol.service import Service
from tests.unit.runtime.serve.fake_engine import FakeEngine

_ROWS = {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
_BODY = json.dumps({"inputs": [{"name": name, **_ROWS} for name in "ab"]}).encode()


class Exchange:
    """One request to the application, and the status of its answer."""

    def __init__(self, model: str) -> None:
        path = f"/v2/models/{model}/infer"
        self.scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        self.received = False
        self.status = 0

    async def receive(self) -> dict[str, Any]:
        if self.received:
            await asyncio.sleep(60)
        self.received = True
        return {"type": "http.request", "body": _BODY}

    async def send(self, message: Any) -> None:
        self.status = message.get("status", self.status)


@pytest.mark.parametrize(("model", "status"), [("sum", 200), ("crowded", 429), ("full", 429)])
def test_nothing_is_left_for_the_garbage_collector(model: str, status: int) -> None:
    async def scene() -> None:
        application = Application(Service(FakeEngine()))
        for _ in range(2):  # the first one fills caches
            gc.collect()
            exchange = Exchange(model)
            await application(exchange.scope, exchange.receive, exchange.send)
            assert exchange.status == status
            await asyncio.sleep(0)
            del exchange
        assert gc.collect() == 0

    gc.disable()
    try:
        asyncio.run(scene())
    finally:
        gc.enable()


def test_a_refusal_in_admission_control_leaves_nothing_either() -> None:
    admission = AdmissionControl(Service(FakeEngine()))
    gc.disable()
    try:
        for _ in range(2):
            gc.collect()
            with suppress(RejectedError):
                admission.admit(b"POST", "/v2/models/crowded/infer", "10.0.0.1", ())
        assert gc.collect() == 0
    finally:
        gc.enable()
