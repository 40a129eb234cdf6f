"""fp16 and bf16 graphs in fp32: constants exactly, types everywhere, large tables where they lie."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.lowering.widen import INLINE_VALUES
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from tests.unit.runtime.lowered_graphs import lowered_model, op_types, write_graph

TEXT = """
embed (int64[n] ids, {narrow}[n, 8] x) => ({narrow}[n, 8] y)
{{
    rows = Gather<axis = 0>(table, ids)
    moved = Add(rows, x)
    y = Mul(moved, gain)
}}
"""
ROWS = INLINE_VALUES // 8 + 1


def narrow_bits(values: np.ndarray, narrow: str) -> tuple[np.ndarray, int]:
    """Return values that fp16 and bf16 hold exactly, as bits of that type."""
    if narrow == "float16":
        return values.astype(np.float16), onnx.TensorProto.FLOAT16
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16), onnx.TensorProto.BFLOAT16


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_a_narrow_graph_computes_in_fp32(tmp_path: Path, rng: np.random.Generator, narrow: str) -> None:
    table, gain = rng.integers(-64, 64, (ROWS, 8)) / 8, rng.integers(1, 9, 8) / 4
    stored = {"table": narrow_bits(table, narrow), "gain": narrow_bits(gain, narrow)}
    path = write_graph(tmp_path, TEXT.format(narrow=narrow), stored)
    session = OnnxRuntimeSession(path, SessionOptions(threads=1))
    x = rng.normal(size=(3, 8)).astype(np.float32)
    y = session.run({"ids": np.array([0, ROWS - 1, 5]), "x": x})["y"]
    assert y.dtype == np.float32
    assert session.settings["floats"] == f"fp32 for {'fp16' if narrow == 'float16' else 'bf16'}"
    np.testing.assert_array_equal(y, (table[[0, ROWS - 1, 5]].astype(np.float32) + x) * gain.astype(np.float32))


def test_only_the_rows_of_a_large_table_are_widened(tmp_path: Path, rng: np.random.Generator) -> None:
    stored = {"table": rng.normal(size=(ROWS, 8)).astype(np.float16), "gain": np.ones(8, np.float16)}
    model = lowered_model(write_graph(tmp_path, TEXT.format(narrow="float16"), stored))
    assert op_types(model)[:2] == ["Gather", "Cast"]
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    assert (table.data_type, table.data_location) == (onnx.TensorProto.FLOAT16, onnx.TensorProto.EXTERNAL)


def test_a_large_matrix_is_cast_once_for_all_its_readers(tmp_path: Path, rng: np.random.Generator) -> None:
    text = "two (float16[1, 300] x) => (float16[1, 300] y) { h = MatMul(x, w) y = MatMul(h, w) }"
    path = write_graph(tmp_path, text, {"w": (rng.normal(size=(300, 300)) / 300).astype(np.float16)})
    assert op_types(lowered_model(path)) == ["Cast", "MatMul", "MatMul"]


def test_types_that_nodes_name_are_widened(tmp_path: Path) -> None:
    text = "cast (float[2] x) => (float[2] y) { b = Cast<to = 16>(x) c = Mul(b, b) y = Cast<to = 1>(c) }"
    session = OnnxRuntimeSession(write_graph(tmp_path, text, {}), SessionOptions(threads=1))
    x = np.array([3, 0.1], np.float32)
    np.testing.assert_array_equal(session.run({"x": x})["y"], x * x)


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
@pytest.mark.parametrize("raw", [True, False])
def test_a_constant_node_is_widened(tmp_path: Path, dtype: int, raw: bool) -> None:
    held = onnx.helper.make_tensor("held", dtype, [2], [0.5, -3.0])  # in integers, as the package writes it
    if raw:
        held = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(held), "held")
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], value=held),
        onnx.helper.make_node("Cast", ["c"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [onnx.helper.make_tensor_value_info("y", 1, [2])])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 23)])
    onnx.save(model, tmp_path / "g.onnx")
    session = OnnxRuntimeSession(tmp_path / "g.onnx", SessionOptions(threads=1))
    np.testing.assert_array_equal(session.run({})["y"], [0.5, -3])


def test_an_fp32_graph_is_left_as_it_is(tmp_path: Path, rng: np.random.Generator) -> None:
    text = "plain (float[1, 8] x) => (float[1, 8] y) { y = MatMul(x, w) }"
    path = write_graph(tmp_path, text, {"w": rng.normal(size=(8, 8)).astype(np.float32)})
    assert "floats" not in OnnxRuntimeSession(path, SessionOptions(threads=1)).settings
    assert op_types(lowered_model(path)) == ["MatMul"]


def test_a_graph_with_branches_is_left_as_it_is(tmp_path: Path) -> None:
    text = """
    branch (bool c, float16[2] x) => (float16[2] y)
    {
        y = If(c) <
            then_branch = a () => (float16[2] p) { p = Neg(x) },
            else_branch = b () => (float16[2] q) { q = Abs(x) }
        >
    }
    """
    model = lowered_model(write_graph(tmp_path, text, {}))
    assert [value.type.tensor_type.elem_type for value in model.graph.output] == [onnx.TensorProto.FLOAT16]
    onnx.checker.check_model(model)
