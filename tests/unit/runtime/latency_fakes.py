"""A session that takes a known time, and measurements made of known numbers."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from internvl_edge.runtime.backends.session import TensorInfo
from internvl_edge.runtime.latency.measure.calls import Call, call_of
from internvl_edge.runtime.latency.measure.measure import Measured
from internvl_edge.runtime.latency.measure.steady_state import WarmUp
from internvl_edge.runtime.stages import COMPUTE, DEVICE_TO_HOST, ENQUEUE, HOST_TO_DEVICE, UNMEASURED, Span, Stages

MS = 1_000_000


class SleepingSession:
    """Sleeps in place of a graph; `null` does not even that."""

    backend = "sleeping"
    settings: Mapping[str, str] = {"sleeping": "1.0"}
    outputs: Mapping[str, TensorInfo] = {}

    def __init__(self, seconds: float = 0.0) -> None:
        self.inputs = {"x": TensorInfo("x", np.dtype(np.float32), ("batch",))}
        self._seconds = seconds

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, stages: Stages = UNMEASURED
    ) -> dict[str, np.ndarray]:
        with stages.stage(COMPUTE, "graph"):
            if self._seconds:
                time.sleep(self._seconds)
        return {}

    def close(self) -> None: ...


def device_call(index: int, compute_ms: float) -> Call:
    """A call at `index` x 10 ms: 1 ms in, 0.2 ms to enqueue, the graph by the device's clock, 0.5 ms out."""
    start = index * 10 * MS
    out = 2 * MS + round(compute_ms * MS)
    spans = [
        Span(HOST_TO_DEVICE, "vision", start, start + MS, True, 1),
        Span(ENQUEUE, "vision", start + MS, start + MS + MS // 5, False, 1),
        Span(COMPUTE, "vision", start + 2 * MS, start + out, True, 1),
        Span(DEVICE_TO_HOST, "vision", start + out, start + out + MS // 2, True, 1),
    ]
    return call_of(start, start + out + MS, spans, stream=0, origin_ns=0)


def measured(times_ms: Sequence[float], name: str = "vision", batch: int = 2, **more: object) -> Measured:
    """A measurement whose calls computed for `times_ms`; the host saw 3 ms more."""
    calls = [device_call(index, time_ms) for index, time_ms in enumerate(times_ms)]
    fields = {
        "name": name,
        "graph": name,
        "phase": "",
        "batch": batch,
        "shape": f"{batch} x 3 x 4 x 4",
        "rows": "pictures",
        "streams": 1,
        "settings": {"backend": "fake", "CUDA graph": "on"},
        "open_ms": 50.0,
        "first_ms": 9.0,
        "warm_up": WarmUp(calls=20, seconds=1.0, steady=True, spread=0.01),
        "calls": calls,
        "start_ns": 0,
        "end_ns": len(calls) * 10 * MS,
    }
    return Measured(**(fields | more))  # type: ignore[arg-type]
