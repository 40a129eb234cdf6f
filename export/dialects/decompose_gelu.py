"""Decompose Gelu into Erf, for parsers without the operator."""

import math

import onnx_ir as ir

from internvl_edge.calib.qdq.node_writer import NodeWriter


class DecomposeGeluPass(ir.passes.InPlacePass):
    """Rewrite ``Gelu(x)`` to ``0.5 x (1 + erf(x / sqrt(2)))``, in fp32 as the operator computes it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every exact GELU; the tanh approximation is another function and stays."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "Gelu" and node.attributes.get_string("approximate", "none") == "none":
                _rewrite(model.graph, node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    x = node.inputs[0]
    assert x is not None
    assert x.dtype is not None
    write = NodeWriter(graph, node)
    wide = write.cast(x, ir.DataType.FLOAT, "Cast")
    erf = write.op("Erf", [write.op("Div", [wide, write.number(math.sqrt(2), wide.dtype)], "Div")], "Erf")
    half = write.op("Mul", [wide, write.number(0.5, wide.dtype)], "Half")
    result = write.op("Mul", [half, write.op("Add", [erf, write.number(1.0, wide.dtype)], "Add")], "Mul")
    write.replace(write.cast(result, x.dtype, "CastBack"))
