"""Statistics of a bundle's graphs: operators, parameters, bytes, and FLOPs at given sizes; no weight is read."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from internvl_edge.runtime.backends.lowering.onnx_model import Node, OnnxModel, Tensor
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import GraphInfo, ReachInfo, TensorSpec
from internvl_edge.runtime.errors import BundleError
from internvl_edge.runtime.inspect.shapes import Shapes, type_bytes

DEFAULT_SIZES = {"batch": 1, "texts": 1, "length": 80}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStats:
    """The statistics of one graph."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: Mapping[str, int]
    parameters: int
    """Number of values in external tensors: weights and rotary tables."""
    weight_bytes: int
    flops: int
    """Twice the multiply-accumulate operations of matrix products, convolutions and attention at `sizes`."""
    sizes: Mapping[str, int]
    weights: frozenset[tuple[str, int]]
    """(file, offset) of every weight; weights of two graphs with equal places are shared."""
    closest: ReachInfo | None = None
    """The 16-bit value that came closest to its limit during verification."""
    islands: tuple[ReachInfo, ...] = ()
    """Values that are kept in fp32, since they would overflow 16 bits."""
    fp32_nodes: int = 0
    """Number of nodes that compute in fp32 for these values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStats:
    """The statistics of a bundle; shared weights count once."""

    precision: str
    graphs: tuple[GraphStats, ...]
    weight_bytes: int
    files_bytes: int


def inspect_bundle(path: Path, sizes: Mapping[str, int] | None = None) -> BundleStats:
    """Return the statistics of every graph of the bundle in folder `path`.

    Raises:
        BundleError: The folder is no bundle, files are missing, or one is no ONNX graph.
    """
    bundle = Bundle.open(path, verify=False)
    manifest = bundle.manifest
    graphs = []
    shared: dict[tuple[str, int], int] = {}
    for name, info in manifest.graphs.items():
        model = load_graph(bundle, name)
        bound = axis_sizes(info, manifest.model.num_query_tokens, sizes)
        stats = graph_stats(name, model, info.inputs, info.outputs, bound)
        graphs.append(replace(stats, closest=info.closest, islands=info.islands, fp32_nodes=len(info.fp32_nodes)))
        shared |= {place: _bytes(tensor) for place, tensor in _weights(model).items()}
    return BundleStats(
        precision=manifest.precision,
        graphs=tuple(graphs),
        weight_bytes=sum(shared.values()),
        files_bytes=sum(info.bytes for info in manifest.files.values()),
    )


def load_graph(bundle: Bundle, name: str) -> OnnxModel:
    """Return graph `name` of `bundle`; no weight is read.

    Raises:
        BundleError: The file is no ONNX graph.
    """
    file = bundle.graph_file(name)
    try:
        return OnnxModel(file.read_bytes(), file.parent)
    except ValueError as error:
        raise BundleError(f"{file}: is no ONNX graph ({error}); export the bundle again") from error


def graph_stats(
    name: str,
    model: OnnxModel,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
) -> GraphStats:
    """Return the statistics of one graph with its dynamic axes bound to `sizes`.

    Raises:
        ExportError: `sizes` lacks dynamic axes of the inputs, all of which the message names; or the graph lacks a
            shape that FLOPs depend on.
    """
    weights = _weights(model)
    shapes = Shapes(name, model, sizes)
    return GraphStats(
        name=name,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        ops=dict(Counter(node.op_type for node in model.nodes).most_common()),
        parameters=sum(tensor.size for tensor in weights.values()),
        weight_bytes=sum(_bytes(tensor) for tensor in weights.values()),
        flops=sum(_node_flops(node, shapes) for node in model.nodes),
        sizes=dict(sizes),
        weights=frozenset(weights),
    )


def to_json(stats: BundleStats) -> dict[str, Any]:
    """Return `stats` as a JSON object."""
    graphs = [{k: v for k, v in asdict(graph).items() if k != "weights"} for graph in stats.graphs]
    return {**asdict(stats), "graphs": graphs}


def stats_text(stats: BundleStats) -> str:
    """Return `stats` as text, a few lines for each graph."""
    lines = []
    for graph in stats.graphs:
        sizes = ", ".join(f"{axis} {size}" for axis, size in graph.sizes.items())
        lines.append(
            f"{graph.name}: {graph.parameters:,} parameters, {graph.weight_bytes / 1e6:,.1f} MB, "
            f"{graph.flops / 1e9:,.3f} GFLOP at {sizes}"
        )
        lines += [f"  in   {_spec_text(spec)}" for spec in _abridged(graph.inputs)]
        lines += [f"  out  {_spec_text(spec)}" for spec in _abridged(graph.outputs)]
        lines.append("  ops  " + ", ".join(f"{op} {count}" for op, count in graph.ops.items()))
        lines += _reach_lines(graph)
    lines.append(
        f"bundle: {stats.precision}, {stats.weight_bytes / 1e6:,.1f} MB of weights (shared ones once), "
        f"{stats.files_bytes / 1e6:,.1f} MB of files"
    )
    return "\n".join(lines)


def _reach_lines(graph: GraphStats) -> Iterator[str]:
    """Yield lines on the largest 16-bit value of a graph and on the values that are kept in fp32."""
    if graph.closest is not None:
        reach = graph.closest
        yield f"  16-bit values reach {reach.largest:.3g} of {reach.limit:.5g}, in {reach.place}"
    if graph.islands:
        listed = ", ".join(f"{island.place} {island.largest:.3g}" for island in graph.islands)
        yield f"  {graph.fp32_nodes} nodes are fp32, since 16 bits would overflow: {listed}"


def axis_sizes(info: GraphInfo, queries: int, wanted: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the sizes of a graph's axes; a graph with a cache is counted for one token after queries and `length`."""
    sizes = {**DEFAULT_SIZES, **(wanted or {})}
    if info.use.phases:
        past = queries + sizes["length"]
        sizes |= {"length": 1, "past": past, "total": past + 1}
    axes = {size for spec in info.inputs for size in spec.shape}
    return {axis: size for axis, size in sizes.items() if axis in axes}


def external_bytes(model: OnnxModel) -> int:
    """Return the bytes of all external tensors."""
    return sum(_bytes(tensor) for tensor in _weights(model).values())


def _weights(model: OnnxModel) -> dict[tuple[str, int], Tensor]:
    """Return the external tensors by place; tensors in the graph file itself are constants, not weights."""
    return {tensor.place: tensor for tensor in model.initializers.values() if tensor.is_external}


def _bytes(tensor: Tensor) -> int:
    return type_bytes(tensor.dtype, tensor.size)


def _node_flops(node: Node, shapes: Shapes) -> int:
    if node.op_type == "MatMul":
        return 2 * _count(node.outputs[0], shapes) * shapes[node.inputs[0]][-1]
    if node.op_type == "Gemm":
        inner = 0 if node.integer("transA", 0) else 1
        return 2 * _count(node.outputs[0], shapes) * shapes[node.inputs[0]][inner]
    if node.op_type == "Conv":
        return 2 * _count(node.outputs[0], shapes) * math.prod(shapes[node.inputs[1]][1:])
    if node.op_type == "Attention":  # q k^T takes one MAC for each key and value of q; p v, for each of the output
        keys = shapes[node.inputs[1]][-2]  # ``[B, N, H*D]`` or ``[B, H, N, D]``
        return 2 * keys * (_count(node.inputs[0], shapes) + _count(node.outputs[0], shapes))
    return 0


def _count(value: str, shapes: Shapes) -> int:
    return math.prod(shapes[value])


def _abridged(specs: Sequence[TensorSpec]) -> list[TensorSpec | str]:
    """Return `specs`, with one line in place of the caches of all layers but the first and last."""
    caches = [spec for spec in specs if spec.name.startswith(("present.", "past_key_values."))]
    rest: list[TensorSpec | str] = [spec for spec in specs if spec not in caches]
    if len(caches) <= 4:
        return [*rest, *caches]
    return [*rest, *caches[:2], f"... {len(caches) - 4} more", *caches[-2:]]


def _spec_text(spec: TensorSpec | str) -> str:
    if isinstance(spec, str):
        return spec
    return f"{spec.name} {spec.dtype} [{', '.join(str(dim) for dim in spec.shape)}]"
