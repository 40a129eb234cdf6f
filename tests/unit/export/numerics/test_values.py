"""What a value is by the operators around it: moved, taken, constant, or a mask."""

import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.export.numerics.values import (
    LARGEST,
    constants,
    is_from_table,
    is_narrow,
    masks,
    moved_inputs,
    only_moves,
    only_takes,
    typed,
)
from tests.unit.export.dialects.small_graphs import load

GRAPH = """g (float16[b, 4] x, int64[1] ids, bool[b, 4] allowed, float16[8, 4] table, int8[4] codes, float16 scale,
int64[2] shape, float16 open, float16 shut) => (float16[b, 4] y) {
  [dq] weight = DequantizeLinear(codes, scale)
  [cast] wide = Cast<to = 1>(weight)
  [reshape] moved = Reshape(weight, shape)
  [taken] rows = Gather(table, ids)
  [computed] twice = Add(weight, weight)
  [where] mask = Where(allowed, open, shut)
  [moved_mask] axis_mask = Reshape(mask, shape)
  [cast_mask] wide_mask = Cast<to = 1>(axis_mask)
  [choice] chosen = Where(allowed, x, shut)
  [scores] y = Add(chosen, axis_mask)
}"""


@pytest.fixture
def graph() -> ir.Graph:
    constant = {
        "table": np.zeros((8, 4), np.float16),
        "codes": np.zeros(4, np.int8),
        "scale": np.array(0.5, np.float16),
        "shape": np.array([1, 4]),
        "open": np.array(0, np.float16),
        "shut": np.array(-3e4, np.float16),
    }
    return load(GRAPH, **constant).graph


def names(values: set[ir.Value]) -> set[str]:
    return {str(value.name) for value in values}


def node(graph: ir.Graph, name: str) -> ir.Node:
    return next(node for node in graph if node.name == name)


def test_constants_are_weights_however_moved_cast_or_dequantized(graph: ir.Graph) -> None:
    weights = {"table", "codes", "scale", "shape", "open", "shut"}
    assert names(constants(graph)) == weights | {"weight", "wide", "moved"}


def test_rows_of_a_table_are_taken_from_a_constant(graph: ir.Graph) -> None:
    fixed = constants(graph)
    assert is_from_table(node(graph, "taken"), fixed)
    assert not is_from_table(node(graph, "reshape"), fixed)
    assert not is_from_table(node(graph, "taken"), set())


def test_masks_are_choices_between_constants_and_their_moves(graph: ir.Graph) -> None:
    assert names(masks(graph)) == {"mask", "axis_mask", "wide_mask"}


def test_inputs_whose_numbers_come_out(graph: ir.Graph) -> None:
    """Shapes and indexes are read, but no number of theirs is in the output."""
    read = {name: [str(value.name) for value in moved_inputs(node(graph, name))] for name in ("reshape", "taken")}
    assert read == {"reshape": ["weight"], "taken": ["table"]}
    joined = load("g (float[4] a, float[4] b) => (float[8] y) { y = Concat<axis = 0>(a, b) }").graph
    assert [value.name for value in moved_inputs(joined[0])] == ["a", "b"]


@pytest.mark.parametrize(
    ("op_type", "moves", "takes"),
    [
        ("Transpose", True, False),
        ("Pad", True, False),
        ("Slice", False, True),
        ("GatherND", False, True),
        ("Add", False, False),
        ("Cast", False, False),
    ],
)
def test_operators_that_move_and_that_take(op_type: str, moves: bool, takes: bool) -> None:
    found = ir.Node("", op_type, [])
    assert (only_moves(found), only_takes(found)) == (moves, takes)


def test_16_bit_floating_types_are_narrow() -> None:
    assert {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: pytest.approx(3.3895e38, rel=1e-4)} == LARGEST
    kinds = [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.INT16]
    assert [is_narrow(ir.Value(name="x", type=ir.TensorType(kind))) for kind in kinds] == [True, True, False, False]
    assert not is_narrow(None)
    assert not is_narrow(ir.Value(name="x"))


def test_missing_types_are_inferred() -> None:
    model = load("g (float16[b, 4] x) => (float16[b, 4] y) { a = Abs(x) y = Abs(a) }")
    assert typed(model) is model
    model.graph[0].outputs[0].type = None
    found = typed(model)
    assert found.graph[0].outputs[0].dtype == ir.DataType.FLOAT16
