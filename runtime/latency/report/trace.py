"""Spans as a trace for Chrome's tracing page and Perfetto, in the JSON array form of the Trace Event Format."""

from collections.abc import Iterator, Sequence
from typing import Any

from internvl_edge.runtime.latency.measure.measure import Measured
from internvl_edge.runtime.outputs.strict_json import json_text
from internvl_edge.runtime.stages import Span

_DEVICE_TRACK = 1_000_000
"""Number that is added to a stream's: times of the device's clock have a track of their own below the host's."""


def trace_json(measured: Sequence[Measured]) -> str:
    """Return the trace: a process for each case, with a track for each stream and one for its device's clock."""
    events = [event for pid, case in enumerate(measured, 1) for event in _events(pid, case)]
    return json_text({"traceEvents": events, "displayTimeUnit": "ms"}, indent=None)


def _events(pid: int, case: Measured) -> Iterator[dict[str, Any]]:
    yield _named("process_name", pid, 0, f"{case.name}, batch {case.batch}")
    for stream in range(case.streams):
        yield _named("thread_name", pid, stream, f"stream {stream}")
    if any(span.on_device for call in case.calls for span in call.spans):
        for stream in range(case.streams):
            yield _named("thread_name", pid, stream + _DEVICE_TRACK, f"stream {stream}, device")
    for index, call in enumerate(case.calls):
        yield {
            **_complete(pid, call.stream, call.host.start_ms * 1e3, call.host.length_ms * 1e3),
            "name": case.name,
            "cat": "call",
            "args": {"call": index, "batch": case.batch},
        }
        for span in call.spans:
            yield _span(pid, call.stream, span, case.start_ns)
    for sample in case.samples:
        values = {"W": sample.power_w, "°C": sample.temperature_c, "MHz": sample.clock_mhz}
        for unit, value in values.items():
            if value is not None:
                stamp = (sample.time_ns - case.start_ns) / 1e3
                yield {"ph": "C", "pid": pid, "tid": 0, "ts": stamp, "name": unit, "args": {unit: value}}


def _span(pid: int, stream: int, span: Span, origin_ns: int) -> dict[str, Any]:
    track = stream + _DEVICE_TRACK if span.on_device else stream
    start, length = (span.start_ns - origin_ns) / 1e3, (span.end_ns - span.start_ns) / 1e3
    name = f"{span.graph}: {span.stage}" if span.graph else span.stage
    return {**_complete(pid, track, start, length), "name": name, "cat": span.stage, "args": {"graph": span.graph}}


def _complete(pid: int, track: int, start_us: float, length_us: float) -> dict[str, Any]:
    return {"ph": "X", "pid": pid, "tid": track, "ts": round(start_us, 3), "dur": round(length_us, 3)}


def _named(kind: str, pid: int, track: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": track, "name": kind, "args": {"name": name}}
