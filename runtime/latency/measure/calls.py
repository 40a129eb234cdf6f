"""One measured call: its times apart, as trtexec's trace has them, from the spans of its stages."""

from collections.abc import Sequence
from dataclasses import dataclass

from internvl_edge.runtime.stages import COMPUTE, DEVICE_TO_HOST, ENQUEUE, HOST_TO_DEVICE, Span

_NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """When a part of a call began, and how long it took; parts of several graphs are added up."""

    start_ms: float
    length_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. Times count from the start of the measurement; what a backend does not tell apart has length 0."""

    stream: int
    host: Part
    """As the caller saw it."""
    enqueue: Part
    h2d: Part
    compute: Part
    d2h: Part
    spans: tuple[Span, ...]

    @property
    def latency_ms(self) -> float:
        """The way through the device, as trtexec defines it: copy in, compute, copy out."""
        return self.h2d.length_ms + self.compute.length_ms + self.d2h.length_ms


def call_of(start_ns: int, end_ns: int, spans: Sequence[Span], stream: int, origin_ns: int) -> Call:
    """Return the call that ran from `start_ns` to `end_ns`."""
    enqueue, h2d, compute, d2h = (
        _part(spans, stage, start_ns, origin_ns) for stage in (ENQUEUE, HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST)
    )
    host = Part(start_ms=(start_ns - origin_ns) / _NS_PER_MS, length_ms=(end_ns - start_ns) / _NS_PER_MS)
    return Call(stream=stream, host=host, enqueue=enqueue, h2d=h2d, compute=compute, d2h=d2h, spans=tuple(spans))


def _part(spans: Sequence[Span], stage: str, otherwise_ns: int, origin_ns: int) -> Part:
    """Return the sum of a stage's spans; a graph that was timed by the device's clock counts by that alone."""
    found = [span for span in spans if span.stage == stage]
    on_device = {span.graph for span in found if span.on_device}
    counted = [span for span in found if span.on_device or span.graph not in on_device]
    if not counted:
        return Part(start_ms=(otherwise_ns - origin_ns) / _NS_PER_MS, length_ms=0.0)
    return Part(
        start_ms=(min(span.start_ns for span in counted) - origin_ns) / _NS_PER_MS,
        length_ms=sum(span.end_ns - span.start_ns for span in counted) / _NS_PER_MS,
    )
