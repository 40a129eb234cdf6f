"""Where the time of a request goes: spans of named stages, the host's and the device's apart."""

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
"""What the host spends on handing a graph to the device."""
COMPUTE = "compute"
"""One graph, on the device's clock where it has one; on a CPU the whole call."""
DEVICE_TO_HOST = "device to host"
POSTPROCESS = "postprocess"

STAGES = (DECODE_IMAGE, PREPROCESS, TOKENIZE, HOST_TO_DEVICE, ENQUEUE, COMPUTE, DEVICE_TO_HOST, POSTPROCESS)
"""In the order in which a request passes them."""


@dataclass(frozen=True, slots=True)
class Span:
    """One stage of one request, on the clock of `time.perf_counter_ns`."""

    stage: str
    graph: str
    """Empty where the stage is none of a graph's."""
    start_ns: int
    end_ns: int
    on_device: bool
    """Measured by the device's own clock: its length is sure, its start is the host's guess."""
    thread: int


@dataclass(slots=True, eq=False)
class Stages:
    """The spans of what runs while it is passed along; threads may share it. Two are never equal."""

    spans: list[Span] = field(default_factory=list)

    def stage(self, stage: str, graph: str = "") -> AbstractContextManager[None]:
        """Return a context whose time is a span."""
        return self._timed(stage, graph)

    def device(self, stage: str, graph: str, milliseconds: float) -> None:
        """Add a span of the device's clock that has just ended."""
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
    """Keeps nothing, and costs next to nothing."""

    __slots__ = ()

    def stage(self, stage: str, graph: str = "") -> AbstractContextManager[None]:
        return _NOTHING

    def device(self, stage: str, graph: str, milliseconds: float) -> None:
        return None


_NOTHING = nullcontext()
UNMEASURED = _Unmeasured()
"""The default wherever stages are passed along."""
