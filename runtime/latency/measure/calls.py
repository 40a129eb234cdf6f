"""The parts of one measured call, as in trtexec's trace, computed from the spans of its stages."""

from collections.abc import Sequence
from dataclasses import dataclass

from internvl_edge.runtime.stages import COMPUTE, DEVICE_TO_HOST, ENQUEUE, HOST_TO_DEVICE, Span

_NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Start and duration of one part of a call; the durations of several graphs are added."""

    start_ms: float
    length_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, with times from the start of the measurement; parts that a backend does not report have length 0."""

    stream: int
    host: Part
    """The whole call as the caller measures it."""
    enqueue: Part
    """Submission of the work to the device."""
    h2d: Part
    """Copy from host to device."""
    compute: Part
    """Computation."""
    d2h: Part
    """Copy from device to host."""
    spans: tuple[Span, ...]
    """Spans of all stages of the call."""

    @property
    def latency_ms(self) -> float:
        """Return the latency as trtexec defines it: copy to the device, computation, copy to the host."""
        return self.h2d.length_ms + self.compute.length_ms + self.d2h.length_ms


def call_of(start_ns: int, end_ns: int, spans: Sequence[Span], stream: int, origin_ns: int) -> Call:
    """Return the call that ran from `start_ns` to `end_ns`."""
    enqueue, h2d, compute, d2h = (
        _part(spans, stage, start_ns, origin_ns) for stage in (ENQUEUE, HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST)
    )
    host = Part(start_ms=(start_ns - origin_ns) / _NS_PER_MS, length_ms=(end_ns - start_ns) / _NS_PER_MS)
    return Call(stream=stream, host=host, enqueue=enqueue, h2d=h2d, compute=compute, d2h=d2h, spans=tuple(spans))


def _part(spans: Sequence[Span], stage: str, otherwise_ns: int, origin_ns: int) -> Part:
    """Return the sum of a stage's spans; for a graph with spans of the device's clock, only these are added."""
    found = [span for span in spans if span.stage == stage]
    on_device = {span.graph for span in found if span.on_device}
    counted = [span for span in found if span.on_device or span.graph not in on_device]
    if not counted:
        return Part(start_ms=(otherwise_ns - origin_ns) / _NS_PER_MS, length_ms=0.0)
    return Part(
        start_ms=(min(span.start_ns for span in counted) - origin_ns) / _NS_PER_MS,
        length_ms=sum(span.end_ns - span.start_ns for span in counted) / _NS_PER_MS,
    )
