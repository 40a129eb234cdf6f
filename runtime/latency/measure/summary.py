"""The statistics of one measurement, with notes on whether they can be trusted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.layer_times.layers import LayerTime
from internvl_edge.runtime.latency.measure.calls import Call
from internvl_edge.runtime.latency.measure.measure import Measured
from internvl_edge.runtime.latency.measure.percentiles import Distribution, calls_needed, distribution
from internvl_edge.runtime.latency.measure.stage_times import StageTime, stage_times
from internvl_edge.runtime.latency.measure.steady_state import RULE, TOLERANCE, drift
from internvl_edge.runtime.latency.sensors.device_state import DeviceSample, energy_j

UNSTABLE_PERCENT = 5.0
"""Coefficient of variation above which a case is noted as unstable. trtexec warns above 1 % of times of the device's
clock, which times of a host with shared cores always exceed."""
_CORRELATED = 0.3
"""Autocorrelation of neighbouring calls above which the intervals are noted as too narrow."""
_ENQUEUE_BOUND = 0.8
"""Part of the compute time above which enqueueing is noted as the bottleneck: trtexec's threshold."""
_CLOCK_DROP = 0.05
"""Relative decrease of the clock above which it is noted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """Statistics of one stage of one graph over all calls."""

    stage: str
    graph: str
    on_device: bool
    per_call: float
    """Mean number of spans in a call."""
    mean_ms: float
    median_ms: float
    share: float
    """Part of the host's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSummary:
    """Summary of the device's state during the measurement; None for values that the device does not report."""

    source: str
    readings: int
    power_w: float | None
    joule_per_row: float | None
    """Energy for each row, that is, each picture or text."""
    temperature_c: float | None
    """Highest temperature."""
    clock_mhz: tuple[float, float] | None
    """Lowest and highest clock."""
    throttled: tuple[str, ...]
    """Reasons for throttling, each once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The statistics of one case."""

    measured: Measured
    host: Distribution
    latency: Distribution
    enqueue: Distribution
    h2d: Distribution
    compute: Distribution
    d2h: Distribution
    throughput_qps: float
    rows_per_s: float
    stages: tuple[StageSummary, ...]
    board: DeviceSummary | None
    layers: tuple[LayerTime, ...]
    layer_info: Mapping[str, Any] | None
    """Description of the layers in the form of TensorRT's engine inspector; None if the backend has none."""
    notes: tuple[str, ...]
    """Sentences on what limits the meaning of the figures."""

    @property
    def title(self) -> str:
        """Return a title with name, batch and streams."""
        streams = f", {self.measured.streams} streams" if self.measured.streams > 1 else ""
        return f"{self.measured.name}, batch {self.measured.batch}{streams}"

    @property
    def on_device(self) -> bool:
        """Return whether a device's own clock timed the work; a processor is timed by the host."""
        return any(span.on_device for call in self.measured.calls for span in call.spans)

    @property
    def host_ms(self) -> list[float]:
        """Return the time of each call on the host's clock, in order."""
        return [call.host.length_ms for call in self.measured.calls]


def summarize(
    measured: Measured,
    percents: Sequence[float],
    source: str = "",
    layers: Sequence[LayerTime] = (),
    info: Mapping[str, Any] | None = None,
) -> Summary:
    """Return the summary of a measurement; `source` names the source of the readings of the device's state."""
    calls = measured.calls
    host = distribution([call.host.length_ms for call in calls], percents)
    enqueue = distribution([call.enqueue.length_ms for call in calls], percents)
    h2d = distribution([call.h2d.length_ms for call in calls], percents)
    compute = distribution([call.compute.length_ms for call in calls], percents)
    d2h = distribution([call.d2h.length_ms for call in calls], percents)
    board = _device_summary(measured, source)
    throughput = len(calls) / measured.wall_s if measured.wall_s > 0 else 0.0
    return Summary(
        measured=measured,
        host=host,
        latency=distribution([call.latency_ms for call in calls], percents),
        enqueue=enqueue,
        h2d=h2d,
        compute=compute,
        d2h=d2h,
        throughput_qps=throughput,
        rows_per_s=throughput * measured.batch,
        stages=tuple(_stages(calls, host.mean_ms)),
        board=board,
        layers=tuple(layers),
        layer_info=info,
        notes=(*_notes(measured, host), *_bound_notes(enqueue, h2d, compute, d2h), *_device_notes(measured, board)),
    )


def _stages(calls: Sequence[Call], host_mean_ms: float) -> Iterator[StageSummary]:
    every = [span for call in calls for span in call.spans]
    in_call: list[Mapping[tuple[str, str, bool], StageTime]] = [
        {(time.graph, time.stage, time.on_device): time for time in stage_times(call.spans)} for call in calls
    ]
    for total in stage_times(every):
        key = (total.graph, total.stage, total.on_device)
        times = [found[key].milliseconds if key in found else 0.0 for found in in_call]
        mean = float(np.mean(times))
        yield StageSummary(
            stage=total.stage,
            graph=total.graph,
            on_device=total.on_device,
            per_call=total.calls / len(calls),
            mean_ms=mean,
            median_ms=float(np.median(times)),
            share=mean / host_mean_ms if host_mean_ms > 0 else 0.0,
        )


def _device_summary(measured: Measured, source: str) -> DeviceSummary | None:
    samples = measured.samples
    if not samples:
        return None
    joule = energy_j(samples, measured.start_ns, measured.end_ns)
    rows = len(measured.calls) * measured.batch
    clocks = [sample.clock_mhz for sample in samples if sample.clock_mhz is not None]
    heat = [sample.temperature_c for sample in samples if sample.temperature_c is not None]
    return DeviceSummary(
        source=source,
        readings=len(samples),
        power_w=None if joule is None else joule / measured.wall_s,
        joule_per_row=None if joule is None else joule / rows,
        temperature_c=max(heat, default=None),
        clock_mhz=(min(clocks), max(clocks)) if clocks else None,
        throttled=tuple(dict.fromkeys(reason for sample in samples for reason in sample.throttled)),
    )


def _notes(measured: Measured, host: Distribution) -> Iterator[str]:
    warm_up, moved = measured.warm_up, drift([call.host.length_ms for call in measured.calls])
    if measured.stopped:
        yield f"stopped early: {host.count} calls in {measured.wall_s:.1f} s"
    if not warm_up.steady:
        found = "too few calls to tell" if warm_up.spread is None else f"they differ by {warm_up.spread:.1%}"
        yield f"not steady after {warm_up.seconds:.1f} s of warm-up ({RULE}: {found})"
    if abs(moved) > TOLERANCE:
        yield f"drift: the last third of the calls is {abs(moved):.1%} {'slower' if moved > 0 else 'faster'}"
    if host.variation_percent > UNSTABLE_PERCENT:
        yield f"unstable: coefficient of variation {host.variation_percent:.1f} %; lock clocks, leave the machine alone"
    if host.outliers:
        worst = host.max_ms / host.median_ms if host.median_ms > 0 else 0.0
        yield f"outliers: {host.outliers} of {host.count} calls, the slowest {worst:.1f} x the median"
    if host.autocorrelation > _CORRELATED:
        yield f"calls follow each other (correlation {host.autocorrelation:.2f}): the intervals are too narrow"
    open_ended = [item.percent for item in host.percentiles if item.high_ms is None and 0 < item.percent < 100]
    for percent in open_ended:
        yield f"percentile {percent:g}: no upper bound from {host.count} calls; {calls_needed(percent / 100)} give one"


def _bound_notes(enqueue: Distribution, h2d: Distribution, compute: Distribution, d2h: Distribution) -> Iterator[str]:
    if enqueue.median_ms > _ENQUEUE_BOUND * compute.median_ms > 0:
        yield "throughput may be bound by Enqueue Time rather than Compute Time; use CUDA graphs or more streams"
    for copied, direction in ((h2d, "host-to-device"), (d2h, "device-to-host")):
        if copied.median_ms >= compute.median_ms > 0:
            yield f"throughput may be bound by {direction} copies rather than Compute Time"


def _device_notes(measured: Measured, board: DeviceSummary | None) -> Iterator[str]:
    if board is None:
        return
    if board.throttled:
        yield f"throttled: {', '.join(board.throttled)}"
    if drop := clock_drop(measured.samples):
        yield f"throttled: the clock fell by {drop:.0%} while measuring"


def clock_drop(samples: Sequence[DeviceSample]) -> float:
    """Return the relative decrease of the median clock from the first to the last quarter; 0 if it is at most 5 %."""
    clocks = [sample.clock_mhz for sample in samples if sample.clock_mhz is not None]
    quarter = len(clocks) // 4
    if quarter == 0:
        return 0.0
    first, last = float(np.median(clocks[:quarter])), float(np.median(clocks[-quarter:]))
    drop = 1 - last / first if first > 0 else 0.0
    return drop if drop > _CLOCK_DROP else 0.0
