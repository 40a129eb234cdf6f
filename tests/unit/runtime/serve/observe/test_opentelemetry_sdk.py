"""OpenTelemetry's environment variables, each of which holds."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from internvl_edge.runtime.errors import BackendError
from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.observe.opentelemetry_sdk import provider_from_environment
from internvl_edge.runtime.serve.observe.trace_context import continued
from internvl_edge.runtime.serve.observe.tracing import TracingRecord

pytest.importorskip("opentelemetry.sdk")
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")  # nothing is sent unless a test wants it


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What arrives at a collector, which the variables name."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    came: list[Any] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "")  # as if it were not set
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield came
    server.shutdown()
    thread.join()
    server.server_close()


def record() -> TracingRecord:
    provider = provider_from_environment()
    assert provider is not None
    return TracingRecord(provider)


def watch_one(record: TracingRecord, trace: str = "") -> Exchange:
    exchange = Exchange(protocol="http", method="GET /", client="me", trace=continued(trace), parent=trace)
    record.began(exchange)
    record.ended(exchange)
    record.close()
    return exchange


def sent_resources(came: list[Any]) -> dict[str, str]:
    (path, request), *_ = came
    assert path == "/v1/traces"
    return {each.key: each.value.string_value for each in request.resource_spans[0].resource.attributes}


def test_spans_go_to_the_endpoint_under_our_name(collector: list[Any]) -> None:
    exchange = watch_one(record(), TRACE)
    assert sent_resources(collector)["service.name"] == "internvl-edge"
    (span,) = collector[0][1].resource_spans[0].scope_spans[0].spans
    assert span.trace_id.hex() == "a" * 32 == exchange.trace.trace_id


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SERVICE_NAME": "shop"},
        {"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,team=search"},
        {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other,team=search"},
    ],
)
def test_the_service_is_named_by_its_variables(
    collector: list[Any], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    watch_one(record())
    resources = sent_resources(collector)
    assert resources["service.name"] == "shop"
    assert ("team" in resources) == ("OTEL_RESOURCE_ATTRIBUTES" in variables)


def test_a_sampler_that_takes_nothing_sends_nothing(collector: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    exchange = watch_one(record(), TRACE)
    assert not collector
    assert exchange.trace.trace_id == "a" * 32  # which is handed on all the same
    assert exchange.trace.flags == "00"


def test_the_sdk_may_be_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("true", "TRUE"):
        monkeypatch.setenv("OTEL_SDK_DISABLED", value)
        assert provider_from_environment() is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
    watch_one(record())


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "no exporter jaeger is installed"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "no exporter otlp_proto_grpc is installed; pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "is http/json; choose from http/protobuf, grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "udp"}, "is udp"),
    ],
)
def test_what_is_not_there_is_reported(variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError, match=words) as caught:
        provider_from_environment()
    assert "\n" not in str(caught.value)


def test_spans_may_go_to_the_console() -> None:
    code = """
from tests.unit.runtime.serve.observe.test_opentelemetry_sdk import record, watch_one
watch_one(record())
"""
    import os

    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "shop"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert '"service.name": "shop"' in done.stdout
