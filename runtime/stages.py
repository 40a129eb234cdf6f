"""Measure the stages of a request as named spans of time, on the host and on the device separately."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

DECODE_IMAGE = "decode image"
PREPROCESS = "preprocess"
TOKENIZE = "tokenize"
HOST_TO_DEVICE = "host to device"
ENQUEUE = "enqueue"
"""Time that the host takes to enqueue a graph on the device."""
COMPUTE = "compute"
"""Time of one graph, by the device's clock where it has one; on a CPU the time of the whole call."""
DEVICE_TO_HOST = "device to host"
POSTPROCESS = "postprocess"

STAGES = (DECODE_IMAGE, PREPROCESS, TOKENIZE, HOST_TO_DEVICE, ENQUEUE, COMPUTE, DEVICE_TO_HOST, POSTPROCESS)
"""All stages, in the order in which a request passes them."""


@dataclass(frozen=True, slots=True)
class Span:
    """One stage of one request, in nanoseconds of `time.perf_counter_ns`."""

    stage: str
    graph: str
    """Name of the graph; empty for stages that belong to no graph."""
    start_ns: int
    end_ns: int
    on_device: bool
    """Whether the device's own clock measured it: its length is exact then, its start is estimated by the host."""
    thread: int


@dataclass(slots=True, eq=False)
class Stages:
    """A collector of spans that is passed along with a request. Threads may share it; it is compared by identity."""

    spans: list[Span] = field(default_factory=list)

    def stage(self, stage: str, graph: str = "") -> AbstractContextManager[None]:
        """Return a context whose duration is recorded as a span."""
        return self._timed(stage, graph)

    def device(self, stage: str, graph: str, milliseconds: float) -> None:
        """Record a span of `milliseconds` by the device's clock that has just ended."""
        now = time.perf_counter_ns()
        self.spans.append(Span(stage, graph, now - round(milliseconds * 1e6), now, True, threading.get_ident()))

    @contextmanager
    def _timed(self, stage: str, graph: str) -> Iterator[None]:
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            self.spans.append(Span(stage, graph, start, time.perf_counter_ns(), False, threading.get_ident()))


class _Unmeasured(Stages):
    """A collector that discards all spans and costs next to nothing."""

    __slots__ = ()

    def stage(self, stage: str, graph: str = "") -> AbstractContextManager[None]:
        return _NOTHING

    def device(self, stage: str, graph: str, milliseconds: float) -> None:
        return None


_NOTHING = nullcontext()
UNMEASURED = _Unmeasured()
"""Default wherever stages are passed along."""
