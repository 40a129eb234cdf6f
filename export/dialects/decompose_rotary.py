"""Decompose RotaryEmbedding into products with the cosine and sine of each row's position."""

import onnx_ir as ir

from internvl_edge.calib.qdq.node_writer import NodeWriter

_Angles = dict[tuple[ir.Value, ir.Value | None, int], ir.Value]
"""(table, positions, axis of the heads) -> rows of the table at these positions, broadcast over heads.

Without positions the table has a row for each row of x."""


class DecomposeRotaryPass(ir.passes.InPlacePass):
    """Rewrite ``RotaryEmbedding(x, cos, sin, positions)`` to ``[a cos - b sin, b cos + a sin]`` of x's halves a, b.

    Rows of a table are gathered once for all nodes with the same positions.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every rotary that pairs the two halves of whole heads."""
        gathered: _Angles = {}
        modified = False
        for node in list(model.graph):
            if _is_halves(node):
                _rewrite(model.graph, node, gathered)
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_halves(node: ir.Node) -> bool:
    if node.op_type != "RotaryEmbedding" or len(node.inputs) < 3 or any(value is None for value in node.inputs):
        return False
    if node.attributes.get_int("interleaved", 0) or node.attributes.get_int("rotary_embedding_dim", 0):
        return False
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or not isinstance(shape[-1], int):
        return False
    return len(shape) == 4 or node.attributes.get_int("num_heads", 0) > 0


def _rewrite(graph: ir.Graph, node: ir.Node, gathered: _Angles) -> None:
    x, cos_table, sin_table, *rest = node.inputs
    positions = rest[0] if rest else None
    assert x is not None
    assert x.shape is not None
    assert cos_table is not None
    assert sin_table is not None
    write = NodeWriter(graph, node)
    packed = len(x.shape) == 3
    width = x.shape[-1]
    assert isinstance(width, int)
    heads = node.attributes.get_int("num_heads", 1)
    if packed:
        x = write.op("Reshape", [x, write.ints(0, 0, heads, width // heads)], "heads")
    axis = 2 if packed else 1
    cos = _at(write, cos_table, positions, axis, "cos", gathered)
    sin = _at(write, sin_table, positions, axis, "sin", gathered)
    a, b = write.parts(x, "halves", 2, axis=-1)
    turned_a = write.op("Sub", [write.op("Mul", [a, cos], "a_cos"), write.op("Mul", [b, sin], "b_sin")], "turned_a")
    turned_b = write.op("Add", [write.op("Mul", [b, cos], "b_cos"), write.op("Mul", [a, sin], "a_sin")], "turned_b")
    turned = write.op("Concat", [turned_a, turned_b], "turned", axis=-1)
    if packed:
        turned = write.op("Reshape", [turned, write.ints(0, 0, width)], "packed")
    write.replace(turned)


def _at(
    write: NodeWriter, table: ir.Value, positions: ir.Value | None, axis: int, name: str, gathered: _Angles
) -> ir.Value:
    """Return the rows ``[B, n, D / 2]`` of `table` at `positions`, with an axis of 1 for the heads."""
    key = (table, positions, axis)
    if key not in gathered:
        rows = table
        if positions is not None:
            rows = write.op("Gather", [table, positions], f"{name}_rows", axis=0)
        gathered[key] = write.op("Unsqueeze", [rows, write.ints(axis)], name)
    return gathered[key]
