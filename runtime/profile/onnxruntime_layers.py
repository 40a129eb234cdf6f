"""Layer times from ONNX Runtime's profiler: its trace of a session's runs, read back."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.profile.layers import LayerTime

_SUFFIX = "_kernel_time"
_US_PER_MS = 1e3


def profiled_layers(
    open_session: Callable[[Path], Any], inputs: Mapping[str, np.ndarray], runs: int
) -> list[LayerTime]:
    """Return the layers of an ``InferenceSession``, after one run that does not count and `runs` that do.

    `open_session` opens it with ``enable_profiling`` set and the given ``profile_file_prefix``.
    """
    with tempfile.TemporaryDirectory(prefix="internvl-edge-") as folder:
        session = open_session(Path(folder) / "profile")
        for _ in range(runs + 1):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return layers_of_trace(events, runs)


def layers_of_trace(events: Sequence[Mapping[str, Any]], runs: int) -> list[LayerTime]:
    """Return the layers of the last `runs` runs in a trace, in the order in which they ran."""
    kernels = [event for event in events if event.get("cat") == "Node" and str(event["name"]).endswith(_SUFFIX)]
    times: dict[tuple[str, str], list[float]] = {}
    seen: dict[tuple[str, str], Mapping[str, Any]] = {}
    for event in kernels:
        key = str(event["name"]).removesuffix(_SUFFIX), str(event["args"].get("node_index", ""))
        times.setdefault(key, []).append(float(event["dur"]) / _US_PER_MS)
        seen.setdefault(key, event["args"])
    return [
        LayerTime(
            name=key[0],
            op=str(seen[key].get("op_name", "")),
            times_ms=tuple(values[-runs:]),
            inputs=_tensors(seen[key].get("input_type_shape", ())),
            outputs=_tensors(seen[key].get("output_type_shape", ())),
        )
        for key, values in times.items()
    ]


def _tensors(entries: Sequence[Mapping[str, Sequence[int]]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((dtype, tuple(shape)) for entry in entries for dtype, shape in entry.items())
