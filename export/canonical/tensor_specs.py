"""Describe a graph and its inputs and outputs for the manifest."""

import onnx_ir as ir

from internvl_edge.runtime.bundle.graph_roles import GraphUse
from internvl_edge.runtime.bundle.manifest import GraphInfo, TensorSpec


def graph_info(file: str, model: ir.Model, use: GraphUse) -> GraphInfo:
    """Return the manifest's description of graph `model` in `file`, which the runtime uses as `use` says."""
    inputs, outputs = (tuple(map(tensor_spec, values)) for values in (model.graph.inputs, model.graph.outputs))
    return GraphInfo(file=file, inputs=inputs, outputs=outputs, use=use)


def tensor_spec(value: ir.Value) -> TensorSpec:
    """Return name, NumPy type and shape of `value`; dynamic axes have names."""
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    dtype = {"FLOAT": "float32"}.get(value.dtype.name, value.dtype.name.lower())
    return TensorSpec(name=str(value.name), dtype=dtype, shape=shape)
