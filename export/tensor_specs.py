"""What the manifest says of an input or output of a graph."""

import onnx_ir as ir

from internvl_edge.runtime.manifest import TensorSpec


def tensor_spec(value: ir.Value) -> TensorSpec:
    """Return name, NumPy type and shape of `value`; dynamic axes have names."""
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    dtype = {"FLOAT": "float32"}.get(value.dtype.name, value.dtype.name.lower())
    return TensorSpec(name=str(value.name), dtype=dtype, shape=shape)
