"""What is inside a bundle's graphs: operators, parameters, bytes, and FLOPs for given sizes; no weight is read."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from internvl_edge.runtime.bundle import Bundle
from internvl_edge.runtime.errors import ExportError
from internvl_edge.runtime.manifest import TensorSpec

DEFAULT_SIZES = {"batch": 1, "texts": 1, "length": 80}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStats:
    """One graph, counted."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: Mapping[str, int]
    parameters: int
    """Values that lie outside the graph file: the weights, and rotary tables."""
    weight_bytes: int
    flops: int
    """2 x multiply-accumulate of matrix products, convolutions and attention at `sizes`."""
    sizes: Mapping[str, int]
    weights: frozenset[tuple[str, int]]
    """(file, offset) of every weight: what graphs share is told by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStats:
    """A bundle, counted; weights that graphs share count once."""

    precision: str
    graphs: tuple[GraphStats, ...]
    weight_bytes: int
    files_bytes: int


def inspect_bundle(path: Path, sizes: Mapping[str, int] | None = None) -> BundleStats:
    """Return the statistics of every graph of the bundle in folder `path`.

    Raises:
        BundleError: it is no bundle, or files are missing.
    """
    bundle = Bundle.open(path, verify=False)
    manifest = bundle.manifest
    graphs = []
    shared: dict[tuple[str, int], int] = {}
    for name, info in manifest.graphs.items():
        model = ir.load(bundle.graph_file(name))
        graphs.append(
            graph_stats(
                name, model, info.inputs, info.outputs, axis_sizes(name, manifest.model.num_query_tokens, sizes)
            )
        )
        shared |= {place: tensor.nbytes for place, tensor in _weights(model).items()}
    return BundleStats(
        precision=manifest.precision,
        graphs=tuple(graphs),
        weight_bytes=sum(shared.values()),
        files_bytes=sum(info.bytes for info in manifest.files.values()),
    )


def graph_stats(
    name: str,
    model: ir.Model,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
) -> GraphStats:
    """Return the statistics of one graph with its dynamic axes bound to `sizes`.

    Raises:
        ExportError: an input has dynamic axes that `sizes` does not name, all of them listed.
    """
    weights = _weights(model)
    bound = bind_axes(model, sizes)
    return GraphStats(
        name=name,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        ops=dict(Counter(node.op_type for node in model.graph).most_common()),
        parameters=sum(math.prod(tensor.shape.numpy()) for tensor in weights.values()),
        weight_bytes=sum(tensor.nbytes for tensor in weights.values()),
        flops=sum(_node_flops(node) for node in bound.graph),
        sizes=dict(sizes),
        weights=frozenset(weights),
    )


def to_json(stats: BundleStats) -> dict[str, Any]:
    """Return `stats` as JSON holds it."""
    graphs = [{k: v for k, v in asdict(graph).items() if k != "weights"} for graph in stats.graphs]
    return {**asdict(stats), "graphs": graphs}


def stats_text(stats: BundleStats) -> str:
    """Return `stats` as a few lines a graph."""
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
    lines.append(
        f"bundle: {stats.precision}, {stats.weight_bytes / 1e6:,.1f} MB of weights (shared ones once), "
        f"{stats.files_bytes / 1e6:,.1f} MB of files"
    )
    return "\n".join(lines)


def axis_sizes(graph: str, queries: int | None, wanted: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the sizes of the axes of `graph`; the decoder is counted for one token behind queries and `length`."""
    sizes = {**DEFAULT_SIZES, **(wanted or {})}
    if graph == "text":
        return {"texts": sizes["texts"], "length": sizes["length"]}
    if graph == "decoder":
        past = (queries or 0) + sizes["length"]
        return {"batch": sizes["batch"], "length": 1, "past": past, "total": past + 1}
    if graph == "itm":
        return {"batch": sizes["batch"], "length": sizes["length"]}
    return {"batch": sizes["batch"]}


def _weights(model: ir.Model) -> dict[tuple[str, int], ir.ExternalTensor]:
    """Return the external tensors by place; what lies inside the graph file are constants of its arithmetic."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return {(str(t.location), t.offset or 0): t for t in tensors if isinstance(t, ir.ExternalTensor)}


def bind_axes(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """Return a copy of `model` with numbers for its dynamic axes, inferred through by ONNX.

    Raises:
        ExportError: an input has dynamic axes that `sizes` does not name, all of them listed.
    """
    if unbound := sorted(_axes(model) - sizes.keys()):
        raise ExportError(f"{model.graph.name}: no size for axes {', '.join(unbound)}; FLOPs need one for each")
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    return ir.from_proto(inferred)


def _axes(model: ir.Model) -> set[str]:
    """Return the names of the dynamic axes of the inputs."""
    dims = (dim for value in model.graph.inputs for dim in value.shape or ())
    return {str(dim.value) for dim in dims if not isinstance(dim, int)}


def _node_flops(node: ir.Node) -> int:
    if node.op_type == "MatMul":
        return 2 * _count(node.outputs[0]) * _dim(node.inputs[0], -1)
    if node.op_type == "Gemm":
        inner = 0 if node.attributes.get_int("transA", 0) else 1
        return 2 * _count(node.outputs[0]) * _dim(node.inputs[0], inner)
    if node.op_type == "Conv":
        kernel = _shape(node.inputs[1])
        return 2 * _count(node.outputs[0]) * math.prod(kernel[1:])
    if node.op_type == "Attention":  # q k^T meets every key once per value of q, p v once per value of the output
        keys = _dim(node.inputs[1], -2)  # ``[B, N, H*D]`` or ``[B, H, N, D]``
        return 2 * keys * (_count(node.inputs[0]) + _count(node.outputs[0]))
    return 0


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        raise ValueError(f"shape of {value.name if value is not None else None} is not known")
    return tuple(dim for dim in value.shape if isinstance(dim, int))


def value_bytes(value: ir.Value) -> int:
    """Return the bytes of `value`, whose shape is bound; 0 for one that no inference knows."""
    if value.shape is None or value.dtype is None or not all(isinstance(dim, int) for dim in value.shape):
        return 0
    return math.ceil(_count(value) * value.dtype.itemsize)


def _count(value: ir.Value | None) -> int:
    return math.prod(_shape(value))


def _dim(value: ir.Value | None, axis: int) -> int:
    return _shape(value)[axis]


def _abridged(specs: Sequence[TensorSpec]) -> list[TensorSpec | str]:
    """Return `specs` with the caches of all layers but the first and last as one line."""
    caches = [spec for spec in specs if spec.name.startswith(("present.", "past_key_values."))]
    rest: list[TensorSpec | str] = [spec for spec in specs if spec not in caches]
    if len(caches) <= 4:
        return [*rest, *caches]
    return [*rest, *caches[:2], f"... {len(caches) - 4} more", *caches[-2:]]


def _spec_text(spec: TensorSpec | str) -> str:
    if isinstance(spec, str):
        return spec
    return f"{spec.name} {spec.dtype} [{', '.join(str(dim) for dim in spec.shape)}]"
