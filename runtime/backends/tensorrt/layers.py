"""Layer by layer: times from TensorRT's profiler, descriptions from its engine inspector."""

import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from internvl_edge.runtime.profile.layers import LayerTime

_UNTOLD = "layer"
"""The kind of a layer whose plan was built without details."""


class LayerClock:
    """Collects what contexts with its `profiler` report: each layer's time, run after run."""

    def __init__(self, trt: ModuleType) -> None:
        self.times: dict[str, list[float]] = {}
        self.profiler = _profiler(trt, self.times)

    def layers(self, runs: int, info: Mapping[str, Any]) -> list[LayerTime]:
        """Return the layers in order, with the times of the last `runs` runs; `info` tells their kinds."""
        kinds = {layer["Name"]: layer["LayerType"] for layer in info["Layers"] if isinstance(layer, dict)}
        return [
            LayerTime(name=name, op=kinds.get(name, _UNTOLD), times_ms=tuple(times[-runs:]))
            for name, times in self.times.items()
        ]


def inspected(trt: ModuleType, engines: Sequence[Any], contexts: Sequence[Any]) -> Mapping[str, Any]:
    """Return ``{"Layers": [...], "Bindings": [...]}`` of plans that run one behind the other.

    `contexts` have the shapes set: without them the inspector tells neither sizes nor formats of what varies. A layer
    is an object if its plan was built with details, else its name.
    """
    found: dict[str, list[Any]] = {"Layers": [], "Bindings": []}
    for engine, context in zip(engines, contexts, strict=True):
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        content = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON) or "{}")
        for part, entries in found.items():
            entries += [entry for entry in content.get(part, ()) if entry not in entries]
    return found


def _profiler(trt: ModuleType, times: dict[str, list[float]]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    return Profiler()
