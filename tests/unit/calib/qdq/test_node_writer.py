"""Nodes and constants that are written into a graph: names, types and places."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from internvl_edge.calib.qdq.node_writer import NodeWriter, initializer, make_node

TEXT = """<ir_version: 11, opset_import: ["": 23]>
g (float16[b, 4] x) => (float16[b, 4] y) { y = Relu(x) }"""


@pytest.fixture
def graph() -> ir.Graph:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(TEXT)))
    model.graph.node(0).name = "block/Relu"
    return model.graph


def test_a_node_stands_in_front_of_its_anchor_under_its_name(graph: ir.Graph) -> None:
    anchor, x = graph.node(0), graph.inputs[0]
    made = NodeWriter(graph, anchor).op("Neg", [x], "negated")
    assert [node.name for node in graph] == ["block/Relu/negated", "block/Relu"]
    assert (made.name, made.dtype) == ("block/Relu/negated", ir.DataType.FLOAT16)
    assert NodeWriter(graph, anchor, "block").op("Neg", [made], "twice").name == "block/twice"


def test_types_of_two_values_change_apart(graph: ir.Graph) -> None:
    made = NodeWriter(graph, graph.node(0)).op("Cast", [graph.inputs[0]], "wide", to=ir.DataType.FLOAT.value)
    made.dtype = ir.DataType.FLOAT
    assert graph.inputs[0].dtype == ir.DataType.FLOAT16


def test_a_node_can_be_called_other_than_its_output() -> None:
    x = ir.Value(name="x")
    node = make_node("Cast", [x], "a/Cast", {"to": 1}, output="a/wide", dtype=ir.DataType.FLOAT, shape=ir.Shape([2]))
    assert (node.name, node.outputs[0].name, node.graph) == ("a/Cast", "a/wide", None)
    assert (node.outputs[0].dtype, list(node.outputs[0].shape or ())) == (ir.DataType.FLOAT, [2])
    assert node.attributes.get_int("to") == 1


def test_a_constant_is_made_once(graph: ir.Graph) -> None:
    first = initializer(graph, "two", np.array(2, np.float32))
    assert initializer(graph, "two", np.array(2, np.float32)) is first
    write = NodeWriter(graph, graph.node(0))
    assert write.number(2.0, ir.DataType.FLOAT16) is write.number(2.0, ir.DataType.FLOAT16)
    assert write.number(2.0, ir.DataType.FLOAT) is not write.number(2.0, ir.DataType.FLOAT16)
    assert write.ints(0, -1).const_value is not None
    assert write.constant("scale", np.ones(3, np.float32)).name == "block/Relu/scale"


def test_what_is_made_takes_the_place_of_the_anchor(graph: ir.Graph) -> None:
    write = NodeWriter(graph, graph.node(0))
    write.replace(write.op("Abs", [graph.inputs[0]], "positive"))
    (node,) = graph
    assert (node.op_type, node.name, graph.outputs[0].name) == ("Abs", "block/Relu", "y")
    assert graph.outputs[0] is node.outputs[0]
