"""Check, before an export starts, that the installed ONNX Runtime can run quantized graphs of our opset."""

import onnx_ir as ir

from internvl_edge.calib.qdq.node_writer import make_node
from internvl_edge.export.canonical.opset import IR_VERSION, OPSET
from internvl_edge.runtime.errors import ExportError


def require_quantized_kernels(opset: int = OPSET) -> None:
    """Check that ONNX Runtime has the QuantizeLinear of `opset`, by opening a graph of one node.

    Release 1.23, the newest for Python 3.10, has QuantizeLinear up to opset 21 only.

    Raises:
        ExportError: ONNX Runtime cannot open the graph.
    """
    import onnxruntime

    try:
        onnxruntime.InferenceSession(_one_quantizer(opset), providers=["CPUExecutionProvider"])
    except Exception as error:  # types of ONNX Runtime have no common public base
        raise ExportError(
            f"--precision: onnxruntime {onnxruntime.__version__} does not compute QuantizeLinear of opset {opset};"
            " install onnxruntime 1.24.1 or later, on Python 3.11 or later"
        ) from error


def _one_quantizer(opset: int) -> bytes:
    values = ir.Value(name="values", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    scale = ir.Value(name="scale", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT))
    zero = ir.Value(name="zero", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT8))
    node = make_node("QuantizeLinear", [values, scale, zero], "codes", dtype=ir.DataType.INT8, shape=ir.Shape([1]))
    graph = ir.Graph([values, scale, zero], node.outputs, nodes=[node], opset_imports={"": opset}, name="quantizer")
    return bytes(ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString())
