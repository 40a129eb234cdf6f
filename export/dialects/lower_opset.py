"""Lower a graph to an older opset, and refuse nodes that the older opset does not have."""

import numpy as np
import onnx
import onnx_ir as ir

from internvl_edge.runtime.errors import EngineError

_IR_VERSIONS = {20: 9, 21: 10, 22: 10, 23: 11}
"""Opset -> version of the ONNX file format that was released with it, which a parser of that time can read."""


class LowerOpsetPass(ir.passes.InPlacePass):
    """Make the graph import `opset` instead of a newer one.

    QuantizeLinear's ``output_dtype`` (opset 21) becomes a zero point of that type. All other operators of our graphs
    have the same meaning since opset 20; attributes and operators that `opset` does not have are refused.
    """

    def __init__(self, opset: int) -> None:
        super().__init__()
        self._opset = opset

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower the opset of `model`.

        Raises:
            EngineError: with all nodes that the opset does not have.
        """
        if model.opset_imports.get("", 0) <= self._opset:
            return ir.passes.PassResult(model, False)
        if self._opset < 21:
            for node in list(model.graph):
                _move_output_dtype(model.graph, node)
        if wrong := [text for node in model.graph if (text := _finding(node, self._opset))]:
            listed = "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
            raise EngineError(
                f"{model.graph.name}: opset {self._opset} cannot say {listed}; decompose these or raise it"
            )
        model.opset_imports[""] = self._opset
        model.ir_version = min(model.ir_version, _IR_VERSIONS[self._opset])
        return ir.passes.PassResult(model, True)


def _move_output_dtype(graph: ir.Graph, node: ir.Node) -> None:
    """Replace the attribute ``output_dtype`` of a QuantizeLinear by a zero point of that type."""
    stated = node.attributes.get_int("output_dtype", 0)
    if node.op_type != "QuantizeLinear" or "output_dtype" not in node.attributes:
        return
    scale = node.inputs[1]
    if stated and len(node.inputs) < 3 and scale is not None and scale.shape is not None and scale.shape.is_static():
        zeros = np.zeros(scale.shape.numpy(), ir.DataType(stated).numpy())
        tensor = ir.tensor(zeros, name=f"{node.name}/zero_point")
        zero = ir.Value(
            name=tensor.name, shape=ir.Shape(zeros.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(zero)
        node.resize_inputs(3)
        node.replace_input_with(2, zero)
    if len(node.inputs) >= 3 or not stated:
        del node.attributes["output_dtype"]


def _finding(node: ir.Node, opset: int) -> str | None:
    """Return the operator or attributes of `node` that the opset does not have, in words, or None."""
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return f"{node.name} ({node.op_type})"
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    return f"{node.name} ({node.op_type} with {', '.join(unknown)})" if unknown else None
