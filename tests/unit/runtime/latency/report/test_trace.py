"""Spans as Chrome's tracing page reads them: tracks, times in microseconds, and readings of the board."""

import json
from dataclasses import replace
from typing import Any

from internvl_edge.runtime.latency.report.trace import trace_json
from internvl_edge.runtime.latency.sensors.device_state import DeviceSample
from tests.unit.runtime.latency_fakes import MS, measured

DEVICE = 1_000_000


def events(*cases: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(trace_json(cases))["traceEvents"]
    return found


def test_each_case_is_a_process_and_each_stream_has_a_track_for_the_host_and_one_for_the_device() -> None:
    found = events(measured([5.0], "vision", streams=2), measured([1.0], "text"))
    names = [(e["pid"], e["tid"], e["args"]["name"]) for e in found if e["ph"] == "M"]
    assert names == [
        (1, 0, "vision, batch 2"),
        (1, 0, "stream 0"),
        (1, 1, "stream 1"),
        (1, DEVICE, "stream 0, device"),
        (1, DEVICE + 1, "stream 1, device"),
        (2, 0, "text, batch 2"),
        (2, 0, "stream 0"),
        (2, DEVICE, "stream 0, device"),
    ]


def test_spans_lie_where_they_were_measured() -> None:
    found = [event for event in events(measured([5.0, 4.0])) if event["ph"] == "X"]
    assert [(e["name"], e["args"]) for e in found if e["cat"] == "call"] == [
        ("vision", {"call": 0, "batch": 2}),
        ("vision", {"call": 1, "batch": 2}),
    ]
    first = {(event["name"], event["tid"]): (event["ts"], event["dur"]) for event in found[:5]}
    assert first["vision", 0] == (0, 8500 - 500)
    compute = [(ts, dur) for (name, track), (ts, dur) in first.items() if track == DEVICE and dur == 5000]
    assert compute == [(2000, 5000)]
    host = [(ts, dur) for (name, track), (ts, dur) in first.items() if track == 0 and name != "vision"]
    assert host == [(1000, 200)]


def test_readings_are_counters_and_what_was_not_read_is_left_out() -> None:
    power = DeviceSample(time_ns=3 * MS, power_w=20.5)
    heat = DeviceSample(time_ns=4 * MS, temperature_c=50.0, clock_mhz=900.0)
    found = [event for event in events(measured([5.0], samples=(power, heat))) if event["ph"] == "C"]
    assert [(event["ts"], event["args"]) for event in found] == [
        (3000, {"W": 20.5}),
        (4000, {"°C": 50.0}),
        (4000, {"MHz": 900.0}),
    ]


def test_a_case_without_a_device_has_no_track_for_one() -> None:
    case = measured([5.0])
    calls = [replace(call, spans=[]) for call in case.calls]
    found = events(measured([5.0], calls=calls))
    assert all("device" not in event["args"].get("name", "") for event in found if event["ph"] == "M")
