"""Classify the values of a graph: 16-bit ones, constants, masks, and those that are only moved."""

import onnx
import onnx_ir as ir

from internvl_edge.runtime.numbers.tensor_types import BFLOAT16, FLOAT16

LARGEST = {ir.DataType(row.onnx): row.largest for row in (FLOAT16, BFLOAT16)}
"""16-bit type -> its largest finite value."""

_MOVING = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Concat", "Identity", "Flatten", "Pad"})
"""Operators whose outputs hold all numbers of their inputs and no others."""
_TAKING = frozenset({"Split", "Slice", "Gather", "GatherND"})
"""Operators whose outputs hold some of the numbers of their first input and no others."""
_TAKES_INDEXES = {"Reshape": 1, "Unsqueeze": 1, "Squeeze": 1, "Expand": 1, "Pad": 1}
"""Operator -> number of its leading inputs whose numbers are moved; the others are shapes or axes."""


def typed(model: ir.Model) -> ir.Model:
    """Return `model` with the type of every value known; nodes that a rewriting inserted may lack types."""
    values = [value for node in model.graph for value in node.outputs if not node.domain]
    if all(value.dtype is not None for value in values):
        return model
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


def is_narrow(value: ir.Value | None) -> bool:
    """Return whether `value` has a 16-bit floating type."""
    return value is not None and value.dtype in LARGEST


def only_moves(node: ir.Node) -> bool:
    """Return whether every output holds all numbers of the inputs, and no others."""
    return node.op_type in _MOVING


def only_takes(node: ir.Node) -> bool:
    """Return whether every output holds some of the numbers of the first input, and no others."""
    return node.op_type in _TAKING


def moved_inputs(node: ir.Node) -> list[ir.Value]:
    """Return the inputs whose numbers are in the outputs of a node that only moves or takes."""
    count = 1 if only_takes(node) else _TAKES_INDEXES.get(node.op_type, len(node.inputs))
    return [value for value in node.inputs[:count] if value is not None]


def constants(graph: ir.Graph) -> set[ir.Value]:
    """Return weights and tables, also after nodes that move, cast or dequantize them.

    Their reach is known when weights are written. Values computed from them by other nodes are not included.
    """
    found: set[ir.Value] = set(graph.initializers.values())
    for node in graph:
        read = moved_inputs(node) if only_moves(node) else [value for value in node.inputs if value is not None]
        kept = only_moves(node) or node.op_type in ("Cast", "DequantizeLinear")
        if kept and read and all(value in found for value in read):
            found |= set(node.outputs)
    return found


def is_from_table(node: ir.Node, fixed: set[ir.Value]) -> bool:
    """Return whether a node takes rows or parts of a constant."""
    return only_takes(node) and all(value in fixed for value in moved_inputs(node))


def masks(graph: ir.Graph) -> set[ir.Value]:
    """Return the masks that are added to scores: Where nodes between two constants, also after moves and casts."""
    fixed = constants(graph)
    found: set[ir.Value] = set()
    for node in graph:
        chosen = node.op_type == "Where" and all(value in fixed for value in node.inputs[1:])
        moved = (only_moves(node) or node.op_type == "Cast") and any(value in found for value in node.inputs)
        if chosen or moved:
            found |= set(node.outputs)
    return found
