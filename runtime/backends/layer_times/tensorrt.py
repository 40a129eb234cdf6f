"""Layer by layer: times from TensorRT's profiler, descriptions from its engine inspector.

An engine of several optimization profiles has all its layers once for each: names of those of profile N > 0 end in
``[profile N]``. A run has one profile, so only that one's layers are told, and by the names that profile 0 has.
"""

import json
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from internvl_edge.runtime.backends.layer_times.layers import LayerTime

_UNKNOWN_KIND = "layer"
"""The kind of a layer whose plan was built without details."""
_PROFILE = re.compile(r"\s*\[profile +(\d+)\]")


class LayerTimer:
    """Collects what contexts with its `profiler` report: each layer's time, run after run."""

    def __init__(self, trt: ModuleType) -> None:
        self.times: dict[str, list[float]] = {}
        self.profiler = _profiler(trt, self.times)

    def layers(self, runs: int, info: Mapping[str, Any]) -> list[LayerTime]:
        """Return the layers in order, with the times of the last `runs` runs; `info` tells their kinds."""
        kinds = {layer["Name"]: layer["LayerType"] for layer in info["Layers"] if isinstance(layer, dict)}
        return [
            LayerTime(name=(shown := _plain(name)), op=kinds.get(shown, _UNKNOWN_KIND), times_ms=tuple(times[-runs:]))
            for name, times in self.times.items()
        ]


def inspected(trt: ModuleType, engines: Sequence[Any], contexts: Sequence[Any], profile: int) -> Mapping[str, Any]:
    """Return ``{"Layers": [...], "Bindings": [...]}`` of plans that run one behind the other.

    `contexts` have `profile` and the shapes set: without them the inspector tells neither sizes nor formats of what
    varies. A layer is an object if its plan was built with details, else its name.
    """
    found: dict[str, list[Any]] = {"Layers": [], "Bindings": []}
    for engine, context in zip(engines, contexts, strict=True):
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        content = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON) or "{}")
        for part, entries in found.items():
            selected = _of_profile(content.get(part, ()), profile)
            entries += [entry for entry in selected if entry not in entries]
    return found


def _of_profile(entries: Sequence[Any], profile: int) -> list[Any]:
    """Return the layers or bindings of one profile by their plain names; all where none is told apart."""
    chosen = [entry for entry in entries if _profile_of(entry) == profile]
    return [_renamed(entry) for entry in chosen or entries]


def _profile_of(entry: Any) -> int:
    found = _PROFILE.search(entry["Name"] if isinstance(entry, dict) else entry)
    return int(found[1]) if found else 0


def _renamed(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return _plain(entry)
    sides = {side: [_renamed(tensor) for tensor in entry[side]] for side in ("Inputs", "Outputs") if side in entry}
    return {**entry, "Name": _plain(entry["Name"]), **sides}


def _plain(name: str) -> str:
    return _PROFILE.sub("", name)


def _profiler(trt: ModuleType, times: dict[str, list[float]]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    return Profiler()
