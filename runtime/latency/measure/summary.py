"""The figures of one measurement, and what a reader should know before trusting them."""

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
"""Coefficient of variation above which a mean says little. trtexec warns from 1 % of a device's own clock on, which a
host that shares its cores never keeps."""
_CORRELATED = 0.3
_ENQUEUE_BOUND = 0.8
"""Of the compute time: trtexec's threshold."""
_CLOCK_DROP = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """One stage over all calls, per call."""

    stage: str
    graph: str
    on_device: bool
    per_call: float
    """How often it ran in a call."""
    mean_ms: float
    median_ms: float
    share: float
    """Of the host's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSummary:
    """What the board told during the measurement; None where it does not tell."""

    source: str
    readings: int
    power_w: float | None
    joule_per_row: float | None
    """A row is a picture, or a text."""
    temperature_c: float | None
    """The highest."""
    clock_mhz: tuple[float, float] | None
    """Lowest and highest."""
    throttled: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One case, ready to be written."""

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
    board: BoardSummary | None
    layers: tuple[LayerTime, ...]
    layer_info: Mapping[str, Any] | None
    """The layers as TensorRT's engine inspector tells them; None where the backend does not."""
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Name, batch and streams."""
        streams = f", {self.measured.streams} streams" if self.measured.streams > 1 else ""
        return f"{self.measured.name}, batch {self.measured.batch}{streams}"

    @property
    def on_device(self) -> bool:
        """Whether a device's own clock timed the work; a processor is timed by the host alone."""
        return any(span.on_device for call in self.measured.calls for span in call.spans)

    @property
    def host_ms(self) -> list[float]:
        """The calls as the host saw them, in their order."""
        return [call.host.length_ms for call in self.measured.calls]


def summarize(
    measured: Measured,
    percents: Sequence[float],
    source: str = "",
    layers: Sequence[LayerTime] = (),
    info: Mapping[str, Any] | None = None,
) -> Summary:
    """Return the summary of a measurement; `source` names what read the board."""
    calls = measured.calls
    host = distribution([call.host.length_ms for call in calls], percents)
    enqueue = distribution([call.enqueue.length_ms for call in calls], percents)
    h2d = distribution([call.h2d.length_ms for call in calls], percents)
    compute = distribution([call.compute.length_ms for call in calls], percents)
    d2h = distribution([call.d2h.length_ms for call in calls], percents)
    board = _board(measured, source)
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
        notes=(*_notes(measured, host), *_bound_notes(enqueue, h2d, compute, d2h), *_board_notes(measured, board)),
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


def _board(measured: Measured, source: str) -> BoardSummary | None:
    samples = measured.samples
    if not samples:
        return None
    joule = energy_j(samples, measured.start_ns, measured.end_ns)
    rows = len(measured.calls) * measured.batch
    clocks = [sample.clock_mhz for sample in samples if sample.clock_mhz is not None]
    heat = [sample.temperature_c for sample in samples if sample.temperature_c is not None]
    return BoardSummary(
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


def _board_notes(measured: Measured, board: BoardSummary | None) -> Iterator[str]:
    if board is None:
        return
    if board.throttled:
        yield f"throttled: {', '.join(board.throttled)}"
    if drop := clock_drop(measured.samples):
        yield f"throttled: the clock fell by {drop:.0%} while measuring"


def clock_drop(samples: Sequence[DeviceSample]) -> float:
    """Return how much the median clock of the last quarter lies below that of the first; 0 if by no more than 5 %."""
    clocks = [sample.clock_mhz for sample in samples if sample.clock_mhz is not None]
    quarter = len(clocks) // 4
    if quarter == 0:
        return 0.0
    first, last = float(np.median(clocks[:quarter])), float(np.median(clocks[-quarter:]))
    drop = 1 - last / first if first > 0 else 0.0
    return drop if drop > _CLOCK_DROP else 0.0
