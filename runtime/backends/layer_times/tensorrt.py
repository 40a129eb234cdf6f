"""Read layer times from TensorRT's profiler, and descriptions of layers from its engine inspector.

An engine with several optimization profiles has all its layers once for each profile, and the names for profile N > 0
end in ``[profile N]``. Only the layers of the profile of the run are returned, under their names in profile 0.
"""

import json
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from internvl_edge.runtime.backends.layer_times.layers import LayerTime

_UNKNOWN_KIND = "layer"
"""Kind of layers whose plan was built without details."""
_PROFILE = re.compile(r"\s*\[profile +(\d+)\]")


class LayerTimer:
    """A collector of the times of layers in each run, from contexts that use its `profiler`."""

    def __init__(self, trt: ModuleType) -> None:
        self.times: dict[str, list[float]] = {}
        self.profiler = _profiler(trt, self.times)

    def layers(self, runs: int, info: Mapping[str, Any]) -> list[LayerTime]:
        """Return the layers in order with the times of the last `runs` runs, and kinds from the inspector's `info`."""
        kinds = {layer["Name"]: layer["LayerType"] for layer in info["Layers"] if isinstance(layer, dict)}
        return [
            LayerTime(name=(shown := _plain(name)), op=kinds.get(shown, _UNKNOWN_KIND), times_ms=tuple(times[-runs:]))
            for name, times in self.times.items()
        ]


def inspected(trt: ModuleType, engines: Sequence[Any], contexts: Sequence[Any], profile: int) -> Mapping[str, Any]:
    """Return ``{"Layers": [...], "Bindings": [...]}`` of the plans of a graph, in the order in which they run.

    `profile` and the shapes are set in `contexts`: without them the inspector reports neither sizes nor formats of
    dynamic tensors. A layer is an object if its plan was built with details, else its name.
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
    """Return the layers or bindings of one profile under their plain names; all where names have no profile."""
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
