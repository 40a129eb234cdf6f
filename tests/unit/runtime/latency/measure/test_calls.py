"""A call's parts from its spans."""

import pytest

from internvl_edge.runtime.latency.measure.calls import call_of
from internvl_edge.runtime.stages import COMPUTE, PREPROCESS, Span
from tests.unit.runtime.latency_fakes import MS, device_call


def test_the_parts_are_those_of_the_stages() -> None:
    call = device_call(3, 4.0)
    lengths = [part.length_ms for part in (call.h2d, call.enqueue, call.compute, call.d2h, call.host)]
    assert lengths == pytest.approx([1.0, 0.2, 4.0, 0.5, 7.0])
    assert call.latency_ms == pytest.approx(5.5)
    assert (call.host.start_ms, call.compute.start_ms) == (30.0, 32.0)


def test_the_devices_clock_goes_before_the_hosts_for_its_graph() -> None:
    spans = [
        Span(COMPUTE, "vision", 0, 9 * MS, False, 1),
        Span(COMPUTE, "vision", MS, 4 * MS, True, 1),
        Span(COMPUTE, "query", 9 * MS, 11 * MS, False, 1),
    ]
    call = call_of(0, 12 * MS, spans, stream=0, origin_ns=0)
    assert call.compute.length_ms == pytest.approx(3 + 2)


def test_what_is_not_distinguished_takes_no_time() -> None:
    call = call_of(5 * MS, 8 * MS, [Span(PREPROCESS, "", 5 * MS, 6 * MS, False, 1)], stream=2, origin_ns=MS)
    assert (call.compute.length_ms, call.latency_ms) == (0.0, 0.0)
    assert call.compute.start_ms == call.host.start_ms == 4.0
