"""The content of ``--export-layer-info``: the layers of a graph in the format of TensorRT's engine inspector.

Field names and strings are those of an engine with detailed profiling verbosity, so that readers of such files
(NVIDIA's Engine Explorer, TREx) find types, shapes and edges, which connect layers by the names of tensors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from internvl_edge.runtime.backends.layer_times.layers import LayerTensor, LayerTime

_FORMATS = {
    "Row major linear FP32": ("float", "f32"),
    "Row major linear FP16 format": ("float16", "f16"),
    "Row major linear BFloat16 format": ("bfloat16", "bf16"),
    "Row major linear FP8 format": ("float8e4m3fn", "f8e4m3"),
    "Row major Int8 format": ("int8", "i8"),
    "Row major linear UInt8 format": ("uint8", "u8"),
    "Row major linear Int32": ("int32", "i32"),
    "Row major linear Int64 format": ("int64", "i64"),
    "Row major linear BOOL": ("bool", "boolean"),
    "Double": ("double", "f64"),
    "Int16": ("int16", "i16"),
    "UInt16": ("uint16", "u16"),
    "UInt32": ("uint32", "u32"),
    "UInt64": ("uint64", "u64"),
}
"""Types in ONNX Runtime and OpenVINO for each name of a dense tensor in the inspector."""
_FORMAT_OF = {dtype: name for name, dtypes in _FORMATS.items() for dtype in dtypes}
UNKNOWN_FORMAT = "Unknown format"
"""The inspector's name of types that it does not know, as those of strings."""
_WEIGHT_TYPES = {"float": "Float", "f32": "Float", "float16": "Half", "f16": "Half", "int8": "Int8", "i8": "Int8"}
_KINDS = {
    "MatrixMultiply": (
        *("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat"),
        *("DynamicQuantizeMatMul", "QLinearMatMul", "MatMulNBits", "FullyConnected"),
    ),
    "SoftMax": ("Softmax",),
    "ElementWise": ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Eltwise", "Multiply", "Subgraph"),
    "Reduce": ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "Reduce"),
    "Shuffle": ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
    "Slice": ("Slice", "StridedSlice", "Split"),
    "Reformat": ("Cast", "Convert", "Reorder", "ReorderInput", "ReorderOutput"),
    "Quantize": ("QuantizeLinear",),
    "Dequantize": ("DequantizeLinear",),
    "Concat": ("Concat", "Concatenation"),
}
"""Operators for each of TensorRT's kinds of layers."""
_KIND_OF = {op: kind for kind, ops in _KINDS.items() for op in ops}
_CONVOLUTIONS = ("Conv", "FusedConv", "Convolution")
_SPATIAL_RANK = 4
"""Number of axes of a convolution's weights ``[out, in, height, width]``."""


def layer_info(layers: Sequence[LayerTime], bindings: Sequence[str], *, on_device: bool = False) -> Mapping[str, Any]:
    """Return ``{"Layers": [...], "Bindings": [...]}`` for a backend without an inspector; on a GPU if `on_device`."""
    location = "Device" if on_device else "Host"
    return {"Layers": [_layer(layer, location) for layer in layers], "Bindings": list(bindings)}


def _layer(layer: LayerTime, location: str) -> dict[str, Any]:
    return {
        "Name": layer.name,
        "LayerType": layer.op,
        "Inputs": [_tensor(tensor, location) for tensor in layer.inputs],
        "Outputs": [_tensor(tensor, location) for tensor in layer.outputs],
        **_parameters(layer),
        "TacticName": layer.tactic or layer.op,
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: {layer.name}]",
    }


def _tensor(tensor: LayerTensor, location: str) -> dict[str, Any]:
    return {
        "Name": tensor.name,
        "Location": location,
        "Dimensions": list(tensor.shape),
        "Format/Datatype": _FORMAT_OF.get(tensor.dtype, UNKNOWN_FORMAT),
    }


def _parameters(layer: LayerTime) -> dict[str, Any]:
    """Return the kind of a layer with its weights, and the geometry of a convolution, which readers need."""
    weights = next((tensor for tensor in layer.weights if len(tensor.shape) > 1), None)
    fields: dict[str, Any] = {"ParameterType": _KIND_OF.get(layer.op, layer.op)}
    if weights is not None and weights.dtype in _WEIGHT_TYPES:
        fields["Weights"] = {"Type": _WEIGHT_TYPES[weights.dtype], "Count": weights.values}
    if (
        layer.op in _CONVOLUTIONS
        and weights is not None
        and len(weights.shape) == _SPATIAL_RANK
        and layer.inputs
        and layer.outputs
    ):
        _, in_maps, *kernel = weights.shape
        fields |= {
            "ParameterType": "Convolution",
            "Kernel": kernel,
            "Groups": max(layer.inputs[0].shape[1] // in_maps, 1),
            "OutMaps": layer.outputs[0].shape[1],  # not from the weights, which may be padded
            "HasBias": int(any(len(tensor.shape) == 1 for tensor in layer.weights)),
        }
    return fields
