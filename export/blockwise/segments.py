"""Run a graph on ONNX Runtime in segments cut between blocks, so that it may be larger than memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx.utils import Extractor

from internvl_edge.calib.heap import trim_heap
from internvl_edge.export.canonical.block_names import block_of, part_of
from internvl_edge.runtime.backends.onnxruntime import SPINNING
from internvl_edge.runtime.backends.threads import threads_for

DEFAULT_LIMIT_BYTES = 400 << 20
"""Most bytes of weights in a segment, by their stored size: above one block of InternViT-6B (246 MB in fp16).

A block of QLLaMA with cross-attention has 486 MB; blocks above the limit are segments of their own.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive nodes of a graph, with the names of the values that enter and leave them."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: int
    weight_bytes: int


def cut(graph: ir.Graph, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> list[Segment]:
    """Return the segments of `graph`, cut between blocks, with at most `limit_bytes` of weights each if possible.

    A part of a large matrix is a segment of its own.
    """
    groups: list[list[ir.Node]] = []
    held = 0
    for run in _runs(graph):
        size = sum(_weight_bytes(node) for node in run)
        alone = part_of(run[0].name) is not None
        if not groups or alone or held + size > limit_bytes:
            groups.append([])
            held = limit_bytes if alone else 0
        groups[-1] += run
        held += size
    return _segments(graph, groups)


Rerun = Callable[[Mapping[str, np.ndarray]], onnx.ModelProto | None]
"""Callback after each segment with its outputs: returns another graph to run the segment with again, or None."""


def run_segments(
    proto: onnx.ModelProto,
    segments: Sequence[Segment],
    folder: Path,
    feeds: Mapping[str, np.ndarray],
    rerun: Rerun | None = None,
) -> dict[str, np.ndarray]:
    """Return the outputs of `proto`, whose weights are in `folder`; the segments run one after the other."""
    values = dict(feeds)
    whole = len(segments) == 1
    extractor = Extractor(proto) if not whole else None
    outputs = {output.name for output in proto.graph.output}
    for index, segment in enumerate(segments):
        held = values if whole else {name: values[name] for name in segment.inputs}
        found = _run(_part(extractor, segment) if extractor is not None else proto, folder, held)
        if rerun is not None and (other := rerun(found)) is not None:
            found = _run(other if whole else _part(Extractor(other), segment), folder, held)
        values |= found
        needed = outputs.union(*(later.inputs for later in segments[index + 1 :]))
        values = {name: value for name, value in values.items() if name in needed}
        trim_heap()
    return values


def _part(extractor: Extractor, segment: Segment) -> onnx.ModelProto:
    return extractor.extract_model(list(segment.inputs), list(segment.outputs))


def _run(proto: onnx.ModelProto, folder: Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    # No optimization: constant folding would cast and transpose a copy of every weight, for a session that runs once.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    # Nodes run in the order of the graph; otherwise nodes that measure values run last and all values stay in memory.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.log_severity_level = 3
    options.intra_op_num_threads = threads_for(_weights(proto), max(map(_rows, feeds.values()), default=1))
    options.add_session_config_entry(SPINNING, "0")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _weights(proto: onnx.ModelProto) -> int:
    return sum(prod(tensor.dims) for tensor in proto.graph.initializer)


def _rows(values: np.ndarray) -> int:
    return values.shape[0] if values.ndim else 1


def _runs(graph: ir.Graph) -> list[list[ir.Node]]:
    """Return the nodes in order, in groups that are split where a block, or a part of a matrix, begins or ends."""
    runs: list[list[ir.Node]] = []
    last: str | None = "nothing yet"
    for node in graph:
        block = part_of(node.name) or block_of(node.name)
        if block != last:
            runs.append([])
            last = block
        runs[-1].append(node)
    return runs


def _weight_bytes(node: ir.Node) -> int:
    held = (value.const_value for value in node.inputs if value is not None and value.is_initializer())
    return sum(tensor.nbytes for tensor in held if tensor is not None)


def _segments(graph: ir.Graph, groups: Sequence[Sequence[ir.Node]]) -> list[Segment]:
    graph_inputs, graph_outputs = list(graph.inputs), set(graph.outputs)
    home = {value: index for index, nodes in enumerate(groups) for node in nodes for value in node.outputs}
    segments = []
    for index, nodes in enumerate(groups):
        read = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None)
        inputs = [v for v in read if v in graph_inputs or (v in home and home[v] != index)]
        outputs = [
            v
            for node in nodes
            for v in node.outputs
            if v in graph_outputs or any(home[user.outputs[0]] != index for user in v.consumers())
        ]
        held = sum(_weight_bytes(node) for node in nodes)
        segments.append(Segment(inputs=_names(inputs), outputs=_names(outputs), nodes=len(nodes), weight_bytes=held))
    return segments


def _names(values: Sequence[ir.Value]) -> tuple[str, ...]:
    return tuple(str(value.name) for value in values)
