"""The record of requests, and metrics, statistics, page, log and traces of it."""

import asyncio
import io
import json
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve.observe.access_log import AccessLog
from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.observe.histogram import Histogram
from internvl_edge.runtime.serve.observe.metrics import exposition
from internvl_edge.runtime.serve.observe.record import Record
from internvl_edge.runtime.serve.observe.status_page import page_html
from internvl_edge.runtime.serve.observe.trace_context import continued, parsed_header
from internvl_edge.runtime.serve.protocol.describe import model_statistics
from internvl_edge.runtime.serve.protocol.service import Service
from internvl_edge.runtime.serve.refusals import OverloadedError, UnknownModelError
from internvl_edge.runtime.serve.requests import Request
from tests.unit.runtime.serve.fake_engine import FakeEngine

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


def _exchange(**changes: Any) -> Exchange:
    fields = {"protocol": "http", "method": "POST /v2/models/sum/infer", "client": "127.0.0.1", "model": "sum"}
    return Exchange(**{**fields, "trace": continued(TRACE), "taken": True, "rows": 3, "seconds": 0.003, **changes})


def _record() -> Record:
    record = Record()
    for exchange in (_exchange(), _exchange(status="429", refusal="OverloadedError"), _exchange(model="", taken=False)):
        record.began(exchange)
        record.ended(exchange)
    record.refused("sum", "OverloadedError")
    record.batch("sum", 3)
    record.batch("sum", 200)
    record.queued(5)
    record.stage("sum", "queue", 0.001)
    record.stage("sum", "compute", 0.002)
    record.cache(True)
    record.cache(False)
    record.worker("worker 0", True)
    record.worker("worker 0", False)
    return record


def test_a_histogram_counts_up_to_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    assert histogram.quantile(0.5) is None
    for value in (0.5, 1.0, 1.5, 7.0):
        histogram.add(value)
    assert histogram.cumulated() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert (histogram.count, histogram.sum) == (4, 10.0)
    assert (histogram.quantile(0.5), histogram.quantile(0.75), histogram.quantile(1.0)) == (1.0, 2.0, None)


def test_metrics_are_what_prometheus_parses() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    text = exposition(_record(), ready=True, memory_bytes={"gpu0": 7}).decode()
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["internvl_requests_total", ("model", "sum"), ("protocol", "http"), ("status", "429")] == 1
    assert values["internvl_rejections_total", ("model", "sum"), ("reason", "OverloadedError")] == 1
    assert values["internvl_request_seconds_count", ("model", "sum")] == 1
    assert values["internvl_stage_seconds_sum", ("model", "sum"), ("stage", "compute")] == 0.002
    assert values["internvl_batch_rows_bucket", ("le", "4.0"), ("model", "sum")] == 1
    assert values["internvl_batch_rows_bucket", ("le", "+Inf"), ("model", "sum")] == 2
    assert values["internvl_picture_cache_total", ("result", "hit")] == 1
    assert values["internvl_worker_up", ("worker", "worker 0")] == 0
    assert values["internvl_worker_deaths_total", ("worker", "worker 0")] == 1
    assert values["internvl_device_memory_used_bytes", ("device", "gpu0")] == 7
    assert values[("internvl_queue_depth",)] == 5
    assert values[("internvl_ready",)] == 1


def test_statistics_are_tritons() -> None:
    statistics = model_statistics(_record(), FakeEngine().signatures["sum"])
    assert (statistics["inference_count"], statistics["execution_count"]) == (3, 2)
    parts = statistics["inference_stats"]
    assert parts["success"] == {"count": 1, "ns": 3_000_000}
    assert parts["fail"] == {"count": 1, "ns": 3_000_000}
    assert parts["queue"] == {"count": 1, "ns": 1_000_000}
    assert parts["compute_infer"] == {"count": 1, "ns": 2_000_000}
    assert parts["compute_input"] == {"count": 1, "ns": 0}


def test_each_request_of_a_batch_is_given_its_whole_time_as_in_triton() -> None:
    record = _record()
    record.stage("sum", "compute", 0.004, (TRACE, TRACE, TRACE))
    parts = model_statistics(record, FakeEngine().signatures["sum"])["inference_stats"]
    assert parts["compute_infer"]["ns"] == 2_000_000 + 3 * 4_000_000


def test_statistics_never_fall(rng: np.random.Generator) -> None:
    """Also where stages become faster, requests fail, and workers end and start again."""
    record, signature = Record(), FakeEngine().signatures["sum"]
    before: dict[str, int] = {}
    for seconds in np.concatenate([[9.0], rng.random(200), [1e-9] * 50]):
        traces = (TRACE,) * int(rng.integers(1, 5))
        record.worker("worker 0", bool(rng.integers(2)))
        record.batch("sum", len(traces))
        record.stage("sum", "queue", float(seconds) / 2, traces[:1])
        for stage in ("decode image", "preprocess", "tokenize", "compute", "postprocess"):
            record.stage("sum", stage, float(seconds), traces)
        exchange = _exchange(seconds=float(seconds), refusal="FailedError" if rng.integers(2) else "")
        record.began(exchange)
        record.ended(exchange)
        statistics = model_statistics(record, signature)
        now = {name: statistics[name] for name in ("last_inference", "inference_count", "execution_count")}
        for part, sums in statistics["inference_stats"].items():
            now |= {f"{part} {name}": value for name, value in sums.items()}
        assert all(now[name] >= before.get(name, 0) for name in now)
        before = now
    assert before["compute_input ns"] > 0


def test_the_page_escapes_and_tells() -> None:
    record = _record()
    record.worker("<script>", True)
    page = page_html(record, FakeEngine().signatures, ready=False, version="1")
    assert "not ready" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "≤ 5 ms" in page
    assert "and 7 more" in page  # inputs of echo


def test_the_access_log_is_json() -> None:
    stream = io.StringIO()
    AccessLog(stream).write(_exchange(id="line\nbreak", status="429", refusal="OverloadedError"))
    (line,) = stream.getvalue().splitlines()
    logged = json.loads(line)
    assert logged.pop("time") > 0
    assert logged == {
        "protocol": "http",
        "method": "POST /v2/models/sum/infer",
        "model": "sum",
        "id": "line\nbreak",
        "client": "127.0.0.1",
        "status": "429",
        "refusal": "OverloadedError",
        "ms": 3.0,
        "trace_id": "a" * 32,
    }


def test_a_closed_log_refuses_nobody() -> None:
    stream = io.StringIO()
    stream.close()
    AccessLog(stream).write(_exchange())


@pytest.mark.parametrize(
    "header",
    [None, "", "x", f"00-{'0' * 32}-{'b' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01", f"{TRACE}-more", TRACE.upper()],
)
def test_what_is_no_traceparent_begins_a_trace(header: "str | None") -> None:
    assert parsed_header(header) is None
    context = continued(header)
    assert parsed_header(context.header) == context
    assert context != continued(header)


def test_a_traceparent_of_a_later_version_is_read() -> None:
    later = parsed_header(f"01-{'a' * 32}-{'b' * 16}-01-more")
    assert later is not None
    assert continued(TRACE).trace_id == "a" * 32


def test_refusals_are_counted_once() -> None:
    engine = FakeEngine()
    service = Service(engine)
    request = Request(model="full", inputs={})

    async def ask() -> None:
        with service.exchange("http", "POST /", "", None) as exchange:
            exchange.refusal = UnknownModelError.__name__
            with pytest.raises(UnknownModelError):
                service.model(exchange, "other")
        with service.exchange("http", "POST /", "", None) as exchange:
            exchange.refusal = OverloadedError.__name__
            exchange.model = "full"
            with pytest.raises(Exception, match="missing"):
                await service.infer(exchange, request)

    asyncio.run(ask())
    assert service.record.refusals == {("", "UnknownModelError"): 1}  # the engine counts its own
    assert service.record.failed["full"].count == 1
    assert service.record.under_way == 0


def test_spans_of_requests_and_stages() -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from internvl_edge.runtime.serve.observe.tracing import TracingRecord

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    record = TracingRecord(provider)
    exchange = _exchange(parent=TRACE, refusal="FailedError", status="500")
    record.began(exchange)
    record.stage("sum", "compute", 0.5, (exchange.trace.header, ""))
    record.ended(exchange)
    record.close()
    compute, alone, request = spans.get_finished_spans()
    assert request.context.trace_id == int("a" * 32, 16)
    assert request.parent is not None
    assert request.parent.span_id == int("b" * 16, 16)
    assert request.attributes is not None
    assert request.attributes["model"] == "sum"
    assert not request.status.is_ok
    assert compute.parent is not None
    assert compute.parent.span_id == request.context.span_id
    assert compute.context.trace_id == request.context.trace_id
    assert compute.end_time - compute.start_time == 500_000_000
    assert alone.parent is None
    assert record.stages["sum", "compute"].count == 1
