"""A server in this process, which the tests of a file share."""

from collections.abc import Iterator

import pytest

from internvl_edge.runtime.serve.protocol.options import ProtocolOptions
from internvl_edge.runtime.serve.protocol.service import Service
from tests.unit.runtime.serve.fake_engine import FakeEngine, Places, served

OPTIONS = ProtocolOptions(body_bytes=1 << 20, json_bytes=1 << 18)


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def service(engine: FakeEngine) -> Service:
    return Service(engine, options=OPTIONS, count_tokens=lambda texts: 7 * len(texts))


@pytest.fixture(scope="module")
def places(service: Service) -> Iterator[Places]:
    with served(service) as places:
        yield places
