"""Graphs to lower, their weights beside them as a bundle has them, and what ONNX Runtime makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from internvl_edge.runtime.backends.lowering.cpu import lower

HEAD = '<ir_version: 10, opset_import: ["": 23]>\n'
ONNX_TYPES = {"bfloat16": TensorProto.BFLOAT16}


def write_graph(folder: Path, text: str, weights: dict[str, Any]) -> Path:
    """Write the graph `text` with `weights` in a file of their own: arrays, or (array, ONNX type) of raw bits."""
    model = onnx.parser.parse_model(HEAD + text)
    for name, value in weights.items():
        values, dtype = value if isinstance(value, tuple) else (value, None)
        tensor = numpy_helper.from_array(np.asarray(values), name)
        if dtype is not None:
            tensor.data_type = dtype
        model.graph.initializer.append(tensor)
    path = folder / "graph.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    return path


def reference(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run the file as it is, without any of ONNX Runtime's own rewriting."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    outputs: list[np.ndarray] = onnxruntime.InferenceSession(str(path), options).run(None, inputs)
    return outputs


def lowered_model(path: Path) -> onnx.ModelProto:
    """Return the lowered graph as `onnx` reads it."""
    return onnx.ModelProto.FromString(lower(path).model)


def op_types(model: onnx.ModelProto) -> list[str]:
    """Return the operators in order."""
    return [node.op_type for node in model.graph.node]
