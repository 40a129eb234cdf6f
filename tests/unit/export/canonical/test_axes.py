"""Axes that torch calls s10 and s70 get the names of the specification, wherever they stand."""

import onnx_ir as ir
import pytest
import torch

from internvl_edge.export.canonical.axes import name_axes
from internvl_edge.export.canonical.tensor_specs import graph_info, tensor_spec
from internvl_edge.export.models.graph_modules.specs import GraphInput
from internvl_edge.runtime.bundle.manifest import GraphInfo, TensorSpec
from tests.unit.export.dialects.small_graphs import load
from tests.unit.runtime.graph_uses import USES

CACHED = """g (float[s10, 4] x, float[s10, s7] past) => (float[s10, t] y, int64[2] other) {
  y = Concat<axis = 1>(past, x)
  other = Shape(x)
}"""


def shapes(model: ir.Model) -> dict[str, list[int | str | None]]:
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return {
        str(value.name): [dim if isinstance(dim, int) else dim.value for dim in value.shape]
        for value in values
        if value.shape is not None
    }


def spec(name: str, *shape: int | str) -> GraphInput:
    return GraphInput(name=name, dtype=torch.float32, shape=shape)


@pytest.mark.parametrize(
    ("total", "renamed"),
    [
        ("s7 + 4", "past + 4"),
        ("4 + s7", "past + 4"),
        ("s7 + s10", "past + batch"),
        ("s10 + s7", "past + batch"),
        ("s77 + s7", "s77 + past"),
        ("2*s7", "2*past"),
        ("other", "other"),
    ],
)
def test_sums_of_symbols_become_sums_of_names_in_one_order(total: str, renamed: str) -> None:
    model = load(CACHED)
    model.graph.outputs[0].shape = ir.Shape(["s10", total])
    name_axes(model, [spec("x", "batch", 4), spec("past", "batch", "past")])
    assert shapes(model) == {"x": ["batch", 4], "past": ["batch", "past"], "y": ["batch", renamed], "other": [2]}


def test_an_input_takes_the_shape_of_its_specification() -> None:
    """An axis that torch found to be of one size only stays dynamic for the reader where the specification says so."""
    model = load("g (float[1, 4] x) => (float[1, 4] y) { y = Identity(x) }")
    name_axes(model, [spec("x", "batch", 4)])
    assert shapes(model) == {"x": ["batch", 4], "y": [1, 4]}


def test_what_has_no_shape_keeps_none() -> None:
    model = load("g (float[s0, 4] x) => (float[s0, 4] y) { a = Abs(x) y = Abs(a) }")
    next(iter(model.graph)).outputs[0].shape = None
    model.graph.outputs[0].shape = ir.Shape([None, 4])
    name_axes(model, [spec("x", "batch", 4)])
    assert shapes(model) == {"x": ["batch", 4], "y": [None, 4]}


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (ir.DataType.FLOAT, "float32"),
        (ir.DataType.FLOAT16, "float16"),
        (ir.DataType.BFLOAT16, "bfloat16"),
        (ir.DataType.INT64, "int64"),
        (ir.DataType.BOOL, "bool"),
    ],
)
def test_a_tensor_as_the_manifest_has_it(dtype: ir.DataType, name: str) -> None:
    value = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(["batch", 3, "past + 4"]))
    assert tensor_spec(value) == TensorSpec(name="x", dtype=name, shape=("batch", 3, "past + 4"))


def test_a_graph_as_the_manifest_has_it() -> None:
    model = load("g (float[batch, 4] x, int64[2] n) => (float16[batch, 4] y) { y = Cast<to = 10>(x) }")
    assert graph_info("onnx/vision.onnx", model, USES["vision"]) == GraphInfo(
        file="onnx/vision.onnx",
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=("batch", 4)),
            TensorSpec(name="n", dtype="int64", shape=(2,)),
        ),
        outputs=(TensorSpec(name="y", dtype="float16", shape=("batch", 4)),),
        use=USES["vision"],
    )
