"""Rewrite a bf16 graph to compute in fp32 on the same weights, as ONNX Runtime has no bf16 kernels for CPUs."""

import onnx_ir as ir

from internvl_edge.calib.qdq.node_writer import make_node

_NARROW, _WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def widen_bfloat16(model: ir.Model) -> ir.Model:
    """Return `model` with every bf16 value in fp32 and a Cast after every bf16 weight.

    The rewritten graph does not show the rounding of bf16 arithmetic. A graph without bf16 is unchanged.
    """
    graph = model.graph
    casts: dict[ir.Value, ir.Value] = {}
    for value in list(graph.initializers.values()):
        if value.dtype == _NARROW:
            cast = make_node("Cast", [value], f"{value.name}/Cast", {"to": _WIDE.value}, output=f"{value.name}/widened")
            casts[value] = cast.outputs[0]
    for node in list(graph):
        _widen_node(graph, node, casts)
    for value in graph.inputs:
        _widen_value(value)
    return model


def _widen_node(graph: ir.Graph, node: ir.Node, casts: dict[ir.Value, ir.Value]) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None and value in casts:
            wide = casts[value]
            if wide.producer().graph is None:  # type: ignore[union-attr]
                graph.insert_before(node, wide.producer())  # type: ignore[arg-type]
            node.replace_input_with(index, wide)
    if node.op_type == "Cast" and node.attributes.get_int("to") == _NARROW:
        node.attributes["to"] = ir.AttrInt64("to", _WIDE)
    for value in node.outputs:
        _widen_value(value)


def _widen_value(value: ir.Value) -> None:
    if value.dtype == _NARROW:
        value.dtype = _WIDE
