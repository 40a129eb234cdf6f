"""One measurement: open, first call, warm-up to a steady state, then timed calls while the device's state is read."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from internvl_edge.runtime.latency.measure.calls import Call, call_of
from internvl_edge.runtime.latency.measure.steady_state import (
    WINDOW_CALLS,
    WINDOW_SECONDS,
    WarmUp,
    is_steady,
    spread_of,
)
from internvl_edge.runtime.latency.measure.streams import Workload, run_streams, timed_call
from internvl_edge.runtime.latency.sensors.device_state import DeviceMonitor, DeviceSample
from internvl_edge.runtime.progress import Advance


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An opened case."""

    workloads: Sequence[Workload]
    """One workload for each stream."""
    settings: Mapping[str, str]
    """Settings without which its times cannot be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A graph or a whole request at one batch size."""

    name: str
    graph: str
    """Name of the graph; empty for a whole request."""
    phase: str
    """Phase of a graph with a cache, ``prompt`` or ``step``; empty for all others."""
    batch: int
    shape: str
    """Description of the inputs of one call."""
    rows: str
    """Name of the rows of a batch, such as ``pictures``."""
    open: Callable[[], Opened]
    """Function that opens the graphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """Duration of a measurement."""

    seconds: float = 10.0
    """Shortest time of the measured calls, and longest time of the warm-up."""
    calls: int = 10
    """Smallest number of measured calls, also if they take longer than `seconds`; trtexec's default too."""
    streams: int = 1
    """Number of threads that make calls concurrently."""

    @property
    def longest_seconds(self) -> float:
        """Return the time of warm-up and calls, unless the smallest number of calls takes longer."""
        return 2 * self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The raw results of one case."""

    name: str
    graph: str
    phase: str
    batch: int
    shape: str
    rows: str
    streams: int
    settings: Mapping[str, str]
    open_ms: float
    first_ms: float
    warm_up: WarmUp
    calls: Sequence[Call]
    start_ns: int
    """Start of the first measured call, on the clock of the spans."""
    end_ns: int
    """End of the last measured call."""
    samples: Sequence[DeviceSample] = field(default=())
    """Readings of the device's state during the calls."""
    stopped: bool = False
    """Whether the user ended it early."""

    @property
    def wall_s(self) -> float:
        """Return the seconds from the start of the first measured call to the end of the last."""
        return (self.end_ns - self.start_ns) / 1e9


def measure(
    case: Case,
    options: MeasureOptions,
    stop: threading.Event,
    watch: DeviceMonitor,
    advance: Advance = lambda seconds: None,
) -> Measured | None:
    """Measure `case`; return None if `stop` was set before the first measured call.

    `advance` is called with seconds that add up to `longest_seconds`; the warm-up counts as half of them.
    """
    begin = time.perf_counter_ns()
    opened = case.open()
    open_ms = (time.perf_counter_ns() - begin) / 1e6
    first = timed_call(opened.workloads[0])
    warm_up = _warm_up(opened.workloads, options, stop)
    advance(options.seconds)
    if stop.is_set():
        return None
    with watch.during() as samples:
        raw = run_streams(opened.workloads, options.seconds, options.calls, stop)
    advance(options.seconds)
    if not raw:
        return None
    origin = raw[0].start_ns
    return Measured(
        name=case.name,
        graph=case.graph,
        phase=case.phase,
        batch=case.batch,
        shape=case.shape,
        rows=case.rows,
        streams=options.streams,
        settings=opened.settings,
        open_ms=open_ms,
        first_ms=(first.end_ns - first.start_ns) / 1e6,
        warm_up=warm_up,
        calls=[call_of(call.start_ns, call.end_ns, call.spans, call.stream, origin) for call in raw],
        start_ns=origin,
        end_ns=max(call.end_ns for call in raw),
        samples=samples,
        stopped=stop.is_set(),
    )


def _warm_up(workloads: Sequence[Workload], options: MeasureOptions, stop: threading.Event) -> WarmUp:
    """Run windows of calls until their medians agree, for at most the time of the measurement."""
    begin, calls, medians = time.perf_counter(), 0, []
    while not stop.is_set():
        window = run_streams(workloads, WINDOW_SECONDS, WINDOW_CALLS, stop)
        if window:
            calls += len(window)
            medians.append(float(np.median([call.end_ns - call.start_ns for call in window])))
        if is_steady(medians) or time.perf_counter() - begin >= options.seconds:
            break
    return WarmUp(
        calls=calls,
        seconds=time.perf_counter() - begin,
        steady=is_steady(medians),
        spread=spread_of(medians),
    )
