"""Decompose RMSNormalization into operators that every opset has."""

import onnx_ir as ir

from internvl_edge.calib.qdq.node_writer import NodeWriter


class DecomposeNormsPass(ir.passes.InPlacePass):
    """Rewrite ``RMSNormalization(x, gain)`` over the last axis to ``cast(x / sqrt(mean(x^2) + eps)) * gain``.

    Statistics are fp32, and the gain is applied in the graph's type, as in the reference and the operator.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every norm over the last axis with fp32 statistics."""
        modified = False
        for node in list(model.graph):
            if is_rms_norm(node):
                _rewrite(model.graph, node)
                modified = True
        return ir.passes.PassResult(model, modified)


def is_rms_norm(node: ir.Node) -> bool:
    """Return whether `node` is an RMSNormalization of the last axis with a gain and fp32 statistics."""
    if node.op_type != "RMSNormalization" or len(node.inputs) != 2:
        return False
    x, gain = node.inputs
    fp32 = node.attributes.get_int("stash_type", 1) == ir.DataType.FLOAT.value
    known = x is not None and gain is not None and x.dtype is not None and x.shape is not None
    return fp32 and known and node.attributes.get_int("axis", -1) in (-1, len(x.shape or ()) - 1)  # type: ignore[union-attr]


def root_mean_square(write: NodeWriter, norm: ir.Node, rows: ir.Value) -> ir.Value:
    """Return ``sqrt(mean(rows^2) + epsilon)`` of fp32 `rows`, ``[..., 1]``, with the epsilon of `norm`."""
    squares = write.op("Mul", [rows, rows], "Square")
    mean = write.op("ReduceMean", [squares, write.ints(-1)], "ReduceMean", keepdims=1)
    epsilon = write.number(norm.attributes.get_float("epsilon", 1e-5), ir.DataType.FLOAT)
    return write.op("Sqrt", [write.op("Add", [mean, epsilon], "Add")], "Sqrt")


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    x, gain = node.inputs
    assert x is not None
    assert x.dtype is not None
    assert gain is not None
    write = NodeWriter(graph, node)
    wide = write.cast(x, ir.DataType.FLOAT, "Cast")
    unit = write.op("Div", [wide, root_mean_square(write, node, wide)], "Div")
    unit.shape = x.shape
    write.replace(write.op("Mul", [write.cast(unit, x.dtype, "CastBack"), gain], "Mul"))
