"""One measurement: open, first call, warm-up until steady, then calls for a given time while the board is watched."""

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
from internvl_edge.runtime.latency.measure.streams import Work, run_streams, timed_call
from internvl_edge.runtime.latency.sensors.device_state import DeviceMonitor, DeviceSample
from internvl_edge.runtime.progress import Advance


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A case that is ready to run."""

    works: Sequence[Work]
    """One for each stream."""
    settings: Mapping[str, str]
    """What changes the meaning of its times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured: a graph or a whole request at one batch."""

    name: str
    graph: str
    """Empty for a whole request."""
    phase: str
    """``prompt`` or ``step`` of a decoder, otherwise empty."""
    batch: int
    shape: str
    """What one call takes, in words."""
    rows: str
    """What the rows of a batch are called."""
    open: Callable[[], Opened]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """How long; the defaults are those of the command."""

    seconds: float = 10.0
    calls: int = 10
    """At least so many, also where that takes longer; trtexec's minimum too."""
    streams: int = 1

    @property
    def longest_seconds(self) -> float:
        """The warm-up and the calls of a case, unless a few calls take longer."""
        return 2 * self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that was seen of one case."""

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
    """Of the first measured call, on the clock of the spans."""
    end_ns: int
    """Of the last one."""
    samples: Sequence[DeviceSample] = field(default=())
    stopped: bool = False
    """The user ended it early."""

    @property
    def wall_s(self) -> float:
        """From the start of the first measured call to the end of the last."""
        return (self.end_ns - self.start_ns) / 1e9


def measure(
    case: Case,
    options: MeasureOptions,
    stop: threading.Event,
    watch: DeviceMonitor,
    advance: Advance = lambda seconds: None,
) -> Measured | None:
    """Measure `case`; None where `stop` came before the first measured call.

    `advance` is told of `longest_seconds`: the warm-up takes up to half of them.
    """
    begin = time.perf_counter_ns()
    opened = case.open()
    open_ms = (time.perf_counter_ns() - begin) / 1e6
    first = timed_call(opened.works[0])
    warm_up = _warm_up(opened.works, options, stop)
    advance(options.seconds)
    if stop.is_set():
        return None
    with watch.during() as samples:
        raw = run_streams(opened.works, options.seconds, options.calls, stop)
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


def _warm_up(works: Sequence[Work], options: MeasureOptions, stop: threading.Event) -> WarmUp:
    """Run windows until their medians agree, at most as long as the measurement will take."""
    begin, calls, medians = time.perf_counter(), 0, []
    while not stop.is_set():
        window = run_streams(works, WINDOW_SECONDS, WINDOW_CALLS, stop)
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
