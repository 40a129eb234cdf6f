"""Read layer times from ONNX Runtime's profiler, and the layers' tensors from the optimized graph that it writes."""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.layer_times.layers import LayerTensor, LayerTime
from internvl_edge.runtime.backends.lowering.onnx_model import Node, OnnxModel, Tensor

logger = logging.getLogger(__name__)

_NO_TENSORS = "tensors of layers are not named"

_SUFFIX = "_kernel_time"
_US_PER_MS = 1e3
_DTYPES = {1: "float", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 16: "bfloat16"}
"""The profiler's name of each TensorProto.DataType."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFiles:
    """The files that a profiled session writes."""

    trace: Path
    """Prefix of the path of the trace."""
    graph: Path | None
    """Path of the optimized graph; None if it is not written."""


def profiled_layers(
    open_session: Callable[[ProfileFiles], Any], inputs: Mapping[str, np.ndarray], runs: int, graph_bytes: int | None
) -> list[LayerTime]:
    """Return the layers of an ``InferenceSession`` after one warm-up run and `runs` measured ones.

    `open_session` opens the session, which writes the given files. `graph_bytes` is the size on disk of the optimized
    graph and of its weights, which ONNX Runtime writes beside it; None where it cannot write them. Layers have no
    tensors then.
    """
    with tempfile.TemporaryDirectory(prefix="internvl-edge-") as folder:
        graph = Path(folder) / "graph.onnx" if _has_room(Path(folder), graph_bytes) else None
        session, graph = _opened(open_session, Path(folder) / "profile", graph)
        for _ in range(runs + 1):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        model = OnnxModel(graph.read_bytes(), Path(folder)) if graph is not None else None
        return layers_of_trace(events, runs, model)


def layers_of_trace(events: Sequence[Mapping[str, Any]], runs: int, model: OnnxModel | None = None) -> list[LayerTime]:
    """Return the layers of the last `runs` runs in a trace, in the order of running; `model` is the optimized graph."""
    kernels = [event for event in events if event.get("cat") == "Node" and str(event["name"]).endswith(_SUFFIX)]
    times: dict[tuple[str, str], list[float]] = {}
    seen: dict[tuple[str, str], Mapping[str, Any]] = {}
    for event in kernels:
        key = str(event["name"]).removesuffix(_SUFFIX), str(event["args"].get("node_index", ""))
        times.setdefault(key, []).append(float(event["dur"]) / _US_PER_MS)
        seen.setdefault(key, event["args"])
    nodes = _nodes_by_name(model)
    constants = model.initializers if model is not None else {}
    return [
        _layer(key, seen[key], tuple(values[-runs:]), _next(nodes, *key), constants) for key, values in times.items()
    ]


def _opened(open_session: Callable[[ProfileFiles], Any], trace: Path, graph: Path | None) -> tuple[Any, Path | None]:
    """Return a session and the path of the graph that it wrote, or None where it cannot write one."""
    try:
        return open_session(ProfileFiles(trace=trace, graph=graph)), graph
    except Exception as error:  # the library's exception classes have no other common base
        if graph is None:
            raise
        logger.warning("layers: the graph cannot be written (%s); %s", error, _NO_TENSORS)
        return open_session(ProfileFiles(trace=trace, graph=None)), None


def _has_room(folder: Path, graph_bytes: int | None) -> bool:
    if graph_bytes is None:
        return False
    free = shutil.disk_usage(folder).free
    if free < 2 * graph_bytes:
        logger.warning(
            "layers: %s has %.1f GiB, too little to write the graph of %.1f GiB to; %s",
            folder.parent,
            free / 2**30,
            graph_bytes / 2**30,
            _NO_TENSORS,
        )
    return free >= 2 * graph_bytes


def _nodes_by_name(model: OnnxModel | None) -> dict[str, list[Node]]:
    nodes: dict[str, list[Node]] = {}
    for node in model.nodes if model is not None else ():
        nodes.setdefault(node.name or node.op_type, []).append(node)
    return nodes


def _next(nodes: dict[str, list[Node]], name: str, index: str) -> Node | None:
    """Return and remove the first node with that name, since nodes of one name run in their order.

    A node without a name is reported by its operator and index.
    """
    waiting = nodes.get(name) or nodes.get(name.removesuffix(f"_{index}"))
    return waiting.pop(0) if waiting else None


def _layer(
    key: tuple[str, str],
    reported: Mapping[str, Any],
    times_ms: tuple[float, ...],
    node: Node | None,
    constants: Mapping[str, Tensor],
) -> LayerTime:
    """Return one layer, with types and shapes of tensors from the profiler and names from the graph."""
    name = " ".join(key)
    inputs = _named(
        _reported(reported.get("input_type_shape", ())), node.inputs if node else (), constants, f"{name} input"
    )
    return LayerTime(
        name=key[0],
        op=str(reported.get("op_name", "")),
        times_ms=times_ms,
        inputs=tuple(tensor for tensor in inputs if tensor.name not in constants),
        weights=tuple(tensor for tensor in inputs if tensor.name in constants),
        outputs=_named(
            _reported(reported.get("output_type_shape", ())), node.outputs if node else (), {}, f"{name} output"
        ),
    )


def _reported(entries: Sequence[Mapping[str, Sequence[int]]]) -> list[tuple[str, tuple[int, ...]]]:
    """Return the types and shapes that the profiler reports: all but those of constants that a kernel has repacked."""
    return [(dtype, tuple(shape)) for entry in entries for dtype, shape in entry.items()]


def _named(
    reported: list[tuple[str, tuple[int, ...]]], names: Sequence[str], constants: Mapping[str, Tensor], otherwise: str
) -> tuple[LayerTensor, ...]:
    """Return the tensors of a node, with unique names where its names do not fit the reported tensors."""
    given = [name for name in names if name]  # an omitted input has no name and is not reported
    missing = len(given) - len(reported)
    found, rest = [], list(reported)
    for name in given:
        constant = constants.get(name)
        if constant is not None and missing > 0 and (not rest or rest[0][1] != constant.shape):
            missing -= 1
            found.append(LayerTensor(name, _DTYPES.get(constant.dtype, ""), constant.shape))
        elif rest:
            found.append(LayerTensor(name, *rest.pop(0)))
    if len(found) == len(given) and not rest:
        return tuple(found)
    return tuple(LayerTensor(f"{otherwise} {index}", *tensor) for index, tensor in enumerate(reported))
