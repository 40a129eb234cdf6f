"""Measurement of the cases of a bundle, one after the other, with the times of layers if wanted."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from internvl_edge.runtime.backends.layer_times.layer_info import layer_info
from internvl_edge.runtime.backends.layer_times.layers import LayerInfo, LayerTime, LayerTimes
from internvl_edge.runtime.latency.cases import ON_PROCESSOR, layer_inputs
from internvl_edge.runtime.latency.measure.measure import Case, MeasureOptions, measure
from internvl_edge.runtime.latency.measure.summary import Summary, summarize
from internvl_edge.runtime.latency.sensors.device_state import DeviceMonitor, Sensor
from internvl_edge.runtime.latency.sensors.nvidia_smi import NvidiaSmiSensor
from internvl_edge.runtime.latency.sensors.nvml import NvmlSensor
from internvl_edge.runtime.latency.sensors.tegrastats import TegrastatsSensor
from internvl_edge.runtime.model import InternVL
from internvl_edge.runtime.progress import Progress, Silent

LAYER_RUNS = 20
"""Runs of a graph over which the times of its layers are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Settings of the measurement and of its summary."""

    measure: MeasureOptions
    percents: Sequence[float] = (50.0, 90.0, 95.0, 99.0)
    layers: bool = False
    """Whether the layers of each graph are timed in further runs, where the backend supports it."""


def run_cases(
    model: InternVL,
    cases: Sequence[Case],
    options: BenchOptions,
    stop: threading.Event,
    progress: Progress | None = None,
) -> Iterator[Summary]:
    """Yield the summary of each case as soon as it is measured; the event `stop` ends the measurement early."""
    progress = progress or Silent()
    watch = DeviceMonitor(find_sensor())
    source = watch.sensor.name if watch.sensor is not None else ""
    try:
        for index, case in enumerate(cases, 1):
            if stop.is_set():
                return
            label = f"Case {index} of {len(cases)}, {case.name}"
            with progress.task(label, options.measure.longest_seconds, "s") as advance:
                measured = measure(case, options.measure, stop, watch, advance)
                if measured is None:
                    return
                layers, info = _layers(model, case) if options.layers and not stop.is_set() else ([], None)
            yield summarize(measured, options.percents, source, layers, info)
    finally:
        watch.close()
        model.close()


def _layers(model: InternVL, case: Case) -> tuple[list[LayerTime], Mapping[str, Any] | None]:
    """Return the times of a graph's layers and their description; none for a request or an unsupported backend."""
    if not case.graph:
        return [], None
    session = model.session(case.graph)
    inputs = layer_inputs(model, case.graph, case.phase, case.batch)
    layers = session.layer_times(inputs, LAYER_RUNS) if isinstance(session, LayerTimes) else []
    if isinstance(session, LayerInfo):
        return layers, session.layer_info(inputs)
    if not layers:
        return layers, None
    on_device = session.backend not in ON_PROCESSOR
    return layers, layer_info(layers, [*session.inputs, *session.outputs], on_device=on_device)


_SOURCES: tuple[Callable[[], Sensor], ...] = (TegrastatsSensor, NvmlSensor, NvidiaSmiSensor)
"""Sources in order of preference: a Jetson's NVML reports no power, so tegrastats is first."""


def find_sensor() -> Sensor | None:
    """Return the first source that works here, or None."""
    for source in _SOURCES:
        try:
            return source()
        except (ImportError, OSError):
            continue
    return None
