"""gRPC's health checks and reflection, as Kubernetes, grpc_health_probe and grpcurl use them."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from internvl_edge.runtime.serve.protocol.credentials import Credentials
from internvl_edge.runtime.serve.protocol.grpc.health import Health
from internvl_edge.runtime.serve.protocol.grpc.messages import HEALTH_SERVICE, SERVICE
from internvl_edge.runtime.serve.protocol.service import Service
from tests.tolerances import HANG_S
from tests.unit.runtime.serve.fake_engine import FakeEngine, served

SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def service(engine: FakeEngine) -> Service:
    return Service(engine, credentials=Credentials(["secret"]))  # probes have no key


@pytest.fixture
def channel(service: Service) -> "Iterator[grpc.Channel]":
    with served(service) as places, grpc.insecure_channel(places.grpc_url) as channel:
        yield channel


def asked(name: str) -> bytes:
    return b"\x0a" + bytes([len(name)]) + name.encode() if name else b""


def check(channel: "grpc.Channel", name: str = "") -> bytes:
    answer: bytes = channel.unary_unary(f"/{HEALTH_SERVICE}/Check")(asked(name), timeout=HANG_S)
    return answer


@pytest.mark.parametrize("name", ["", SERVICE, HEALTH_SERVICE, "sum", "caption"])
def test_the_server_its_services_and_models_are_reported(
    channel: "grpc.Channel", engine: FakeEngine, name: str
) -> None:
    assert check(channel, name) == SERVING
    engine.ready = False
    assert check(channel, name) == NOT_SERVING


def test_what_is_not_there_is_not_found(channel: "grpc.Channel", engine: FakeEngine) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        check(channel, "nope")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    engine.models = {}  # it starts: nobody knows the models
    assert check(channel, "nope") == SERVING


def test_what_is_no_message_is_refused(channel: "grpc.Channel") -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{HEALTH_SERVICE}/Check")(b"\xff\xff", timeout=HANG_S)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_watch_tells_of_each_change_and_ends_with_the_server(
    channel: "grpc.Channel", engine: FakeEngine, service: Service
) -> None:
    states: list[bytes] = []

    def watch() -> None:
        states.extend(channel.unary_stream(f"/{HEALTH_SERVICE}/Watch")(b"", timeout=HANG_S))

    thread = threading.Thread(target=watch)
    thread.start()
    for count, change in enumerate((lambda: None, lambda: setattr(engine, "ready", False), service.drain), 1):
        change()
        if change != service.drain:
            _wait(lambda count=count: len(states) == count)
        if count == 2:
            engine.ready = True
            _wait(lambda: len(states) == 3)
    thread.join(HANG_S)
    assert not thread.is_alive()
    assert states == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]


def test_a_watch_of_what_is_not_there_says_so_and_goes_on(channel: "grpc.Channel") -> None:
    watch = channel.unary_stream(f"/{HEALTH_SERVICE}/Watch")(asked("nope"), timeout=HANG_S)
    assert next(iter(watch)) == SERVICE_UNKNOWN
    watch.cancel()


def test_reflection_describes_every_service(channel: "grpc.Channel") -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, HEALTH_SERVICE} <= set(database.get_services())
    pool = DescriptorPool(database)
    methods = pool.FindServiceByName(SERVICE).methods_by_name
    assert methods["ModelInfer"].input_type.fields_by_name["raw_input_contents"].number == 7
    assert set(pool.FindServiceByName(HEALTH_SERVICE).methods_by_name) == {"Check", "Watch"}


def _wait(condition: Any) -> None:
    end = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class AbortedError(Exception):
    """What gRPC's context raises."""


class Context:
    async def abort(self, code: "grpc.StatusCode", words: str) -> None:
        raise AbortedError(code, words)


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "the message is no HealthCheckRequest"),
        (asked("other"), grpc.StatusCode.NOT_FOUND, "there is no service or model 'other'"),
    ],
)
def test_what_is_not_known_is_refused(service: Service, raw: bytes, code: "grpc.StatusCode", words: str) -> None:
    with pytest.raises(AbortedError) as caught:
        asyncio.run(Health(service).check(raw, Context()))  # type: ignore[arg-type]
    assert caught.value.args == (code, words)


def test_a_watch_tells_changes_alone_and_ends_with_the_server(service: Service, engine: FakeEngine) -> None:
    async def told() -> list[bytes]:
        found = []
        async for state in Health(service).watch(asked("sum"), Context()):  # type: ignore[arg-type]
            found.append(state.SerializeToString())
            if len(found) == 1:
                engine.ready = False
            elif len(found) == 2:
                engine.ready = True
            else:
                service.drain()
        return found

    assert asyncio.run(told()) == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]
