"""Output in the form of trtexec, for tools that read its output: `sampleReporting.cpp` of TensorRT 8.6 to 10.

Numbers have six significant digits, as in a C++ stream. On a processor there are no copies and no times of a GPU, so
the summary lacks these lines.
"""

import json
from collections.abc import Sequence
from typing import Any

from internvl_edge.runtime.backends.layer_times.layers import LayerTime
from internvl_edge.runtime.latency.measure.calls import Call, Part
from internvl_edge.runtime.latency.measure.percentiles import Distribution
from internvl_edge.runtime.latency.measure.summary import Summary


def summary_lines(summary: Summary) -> list[str]:
    """Return the lines of the performance summary, with trtexec's names and order."""
    compute_s = summary.compute.mean_ms * summary.compute.count / 1e3
    return [
        "=== Performance summary ===",
        f"Throughput: {_number(summary.throughput_qps)} qps",
        *(f"{name}: {distribution_text(times)}" for name, times in named_parts(summary).items()),
        f"Total Host Walltime: {_number(summary.measured.wall_s)} s",
        f"Total {_compute(summary)}: {_number(compute_s)} s",
    ]


def named_parts(summary: Summary) -> dict[str, Distribution]:
    """Return the parts of a call by trtexec's names; on a processor, those that exist there."""
    if not summary.on_device:
        return {"Latency": summary.latency, _compute(summary): summary.compute}
    return {
        "Latency": summary.latency,
        "Enqueue Time": summary.enqueue,
        "H2D Latency": summary.h2d,
        _compute(summary): summary.compute,
        "D2H Latency": summary.d2h,
    }


def _compute(summary: Summary) -> str:
    return "GPU Compute Time" if summary.on_device else "Compute Time"


def distribution_text(times: Distribution) -> str:
    """Return a text as ``min = 1 ms, max = 2 ms, mean = 1.5 ms, median = 1.5 ms, percentile(90%) = 1.9 ms``."""
    parts = [
        f"min = {_number(times.min_ms)} ms",
        f"max = {_number(times.max_ms)} ms",
        f"mean = {_number(times.mean_ms)} ms",
        f"median = {_number(times.median_ms)} ms",
        *(f"percentile({_number(item.percent)}%) = {_number(item.value_ms)} ms" for item in times.percentiles),
    ]
    return ", ".join(parts)


def times_json(calls: Sequence[Call]) -> str:
    """Return the content of ``--exportTimes``: start, end and length of each part of each call, in ms."""
    rows = [json.dumps(_times(call), separators=(", ", " : ")) for call in calls]
    return _array(rows)


def profile_json(layers: Sequence[LayerTime]) -> str:
    """Return the content of ``--exportProfile``: the number of runs, then each layer."""
    total = sum(layer.total_ms for layer in layers)
    count = max((len(layer.times_ms) for layer in layers), default=0)
    rows: list[dict[str, Any]] = [{"count": count}]
    rows += [
        {
            "name": layer.name,
            "timeMs": _rounded(layer.total_ms),
            "averageMs": _rounded(layer.mean_ms),
            "medianMs": _rounded(layer.median_ms),
            "percentage": _rounded(layer.total_ms / total * 100 if total > 0 else 0.0),
        }
        for layer in layers
    ]
    return _array([json.dumps(row, separators=(", ", " : ")) for row in rows])


def _times(call: Call) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, part in (("Enq", call.enqueue), ("H2d", call.h2d), ("Compute", call.compute), ("D2h", call.d2h)):
        values[f"start{name}Ms"], values[f"end{name}Ms"] = _edges(part)
    lengths = {"h2dMs": call.h2d, "computeMs": call.compute, "d2hMs": call.d2h}
    values |= {name: _rounded(part.length_ms) for name, part in lengths.items()}
    return values | {"latencyMs": _rounded(call.latency_ms)}


def _edges(part: Part) -> tuple[float, float]:
    return _rounded(part.start_ms), _rounded(part.start_ms + part.length_ms)


def _array(rows: Sequence[str]) -> str:
    """Return a JSON array with one row on each line and commas at their start, as trtexec writes it."""
    lines = [f"{', ' if index else '  '}{_spaced(row)}" for index, row in enumerate(rows)]
    return "\n".join(["[", *lines, "]"]) + "\n"


def _spaced(row: str) -> str:
    return f"{{ {row[1:-1]} }}"


def _number(value: float) -> str:
    return f"{value:.6g}"


def _rounded(value: float) -> float:
    """Return the value in ms rounded to a nanosecond, the resolution of the clock."""
    return round(value, 6)
