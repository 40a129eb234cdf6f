"""The loop itself: how long, how many, on how many threads, how it ends, and what it costs."""

import threading
import time

import numpy as np
import pytest

from internvl_edge.runtime.latency.measure.measure import Case, MeasureOptions, Opened, measure
from internvl_edge.runtime.latency.measure.streams import Workload, run_streams, timed_call
from internvl_edge.runtime.latency.sensors.device_state import DeviceMonitor, DeviceSample
from internvl_edge.runtime.stages import COMPUTE, Stages
from tests.tolerances import HANG_S, SPAN_MICROSECONDS
from tests.unit.runtime.latency_fakes import SleepingSession


def work_of(session: SleepingSession) -> Workload:
    def call(stages: Stages) -> None:
        session.run({}, stages=stages)

    return call


def case_of(workloads: list[Workload]) -> Case:
    opened = Opened(workloads=workloads, settings={"backend": "sleeping"})
    return Case(name="graph", graph="graph", phase="", batch=1, shape="1", rows="rows", open=lambda: opened)


def test_calls_go_on_until_time_and_number_are_reached() -> None:
    work, stop = work_of(SleepingSession(0.002)), threading.Event()
    assert len(run_streams([work], 0.0, 5, stop)) == 5
    began = time.perf_counter()
    assert len(run_streams([work], 0.1, 1, stop)) > 5
    assert time.perf_counter() - began >= 0.1


def test_streams_run_side_by_side() -> None:
    stop, both = threading.Event(), threading.Barrier(2)

    def meet(stages: Stages) -> None:
        both.wait(HANG_S)  # a stream alone would wait here for ever

    calls = run_streams([meet, meet], 0.0, 8, stop)
    assert [sum(call.stream == stream for call in calls) for stream in (0, 1)] == [4, 4]
    assert [call.start_ns for call in calls] == sorted(call.start_ns for call in calls)


def test_an_error_in_a_stream_ends_all_and_is_raised() -> None:
    def fail(stages: Stages) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_streams([work_of(SleepingSession(0.001)), fail], 30.0, 1, threading.Event())


def test_a_measurement_keeps_cold_warm_and_settings_apart() -> None:
    session = SleepingSession(0.003)
    options, told = MeasureOptions(seconds=0.3, calls=10), []
    found = measure(case_of([work_of(session)]), options, threading.Event(), DeviceMonitor(None), told.append)
    assert found is not None
    assert sum(told) == options.longest_seconds
    assert found.first_ms >= 3
    assert found.warm_up.calls > 5
    assert len(found.calls) >= 10
    assert 0.3 <= found.wall_s < 5
    assert found.settings == {"backend": "sleeping"}
    assert min(call.compute.length_ms for call in found.calls) >= 3
    assert all(call.host.length_ms >= call.compute.length_ms for call in found.calls)
    assert not found.stopped


def test_a_stop_keeps_what_was_measured() -> None:
    stop, calls = threading.Event(), 0

    def work(stages: Stages) -> None:
        nonlocal calls
        calls += 1
        if watch.busy:
            stop.set()

    class Sensor:
        name = "noting"

        def read(self) -> DeviceSample:
            watch.busy = True
            return DeviceSample(time_ns=time.perf_counter_ns())

        def close(self) -> None: ...

    class Noting(DeviceMonitor):
        busy = False

    watch = Noting(Sensor())
    found = measure(case_of([work]), MeasureOptions(seconds=0.5, calls=10), stop, watch)
    assert found is not None
    assert found.stopped
    assert found.wall_s < 0.5
    assert len(found.samples) >= 1


def test_a_stop_before_the_first_measured_call_gives_nothing() -> None:
    stop = threading.Event()
    stop.set()
    work = work_of(SleepingSession())
    assert measure(case_of([work]), MeasureOptions(seconds=0.1), stop, DeviceMonitor(None)) is None


def test_the_measurement_itself_costs_microseconds() -> None:
    work = work_of(SleepingSession())
    costs = []
    for _ in range(20):
        calls = [timed_call(work) for _ in range(200)]
        costs.append((calls[-1].end_ns - calls[0].start_ns) / len(calls) / 1e3)
        assert [span.stage for span in calls[0].spans] == [COMPUTE]
    assert np.min(costs) < SPAN_MICROSECONDS
