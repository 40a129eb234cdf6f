"""Islands in fp32: where Casts stand, what stays, and outputs that are those of the graph before."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.export.models.layers import MASKED
from internvl_edge.export.numerics.islands import KeepWidePass, islands_of, keep_wide, wide_borders
from internvl_edge.export.numerics.reach import run_rounded
from tests.unit.export.dialects.small_graphs import load, ops, require_same_outputs, run

MLP = """g (float16[b, 8] x, float16[8, 8] w1, float16[8] bias, float16[8, 8] w2) => (float16[b, 8] y) {
  [fc1_Transpose] t1 = Transpose<perm = [1, 0]>(w1)
  [fc1] h = MatMul(x, t1)
  [fc1_Add] z = Add(h, bias)
  [act_Gelu] g = Gelu(z)
  [fc2_Transpose] t2 = Transpose<perm = [1, 0]>(w2)
  [fc2] p = MatMul(g, t2)
  [Add] y = Add(x, p)
}"""
QUANTIZED = """g (float16[b, 8] x, float16 s, int8 z, int8[8, 8] codes, float16[8] ws, float16[8] bias)
=> (float16[b, 8] y) {
  [fc1_Q] q = QuantizeLinear(x, s, z)
  [fc1_DQ] d = DequantizeLinear(q, s, z)
  [fc1_weight_DQ] w = DequantizeLinear<axis = 0>(codes, ws)
  [fc1_Transpose] t = Transpose<perm = [1, 0]>(w)
  [fc1] h = MatMul(d, t)
  [other] o = Add(d, bias)
  [fc1_Add] k = Add(h, bias)
  [fc2_Q] r = QuantizeLinear(k, s, z)
  [fc2_DQ] e = DequantizeLinear(r, s, z)
  [sum] y = Add(e, o)
}"""
FP16 = 2e-2
"""Of values up to 8: a few roundings of fp16 less than before."""


@pytest.fixture
def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {"w1": (8, 8), "bias": (8,), "w2": (8, 8)}
    return {name: (0.4 * rng.normal(size=shape)).astype(np.float16) for name, shape in shapes.items()}


def test_what_makes_and_reads_the_values_is_fp32(weights: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    feeds = {"x": rng.normal(size=(3, 8)).astype(np.float16)}
    model = require_same_outputs(MLP, KeepWidePass(frozenset({"z"})), feeds, FP16, **weights)
    types = {str(node.name): node.outputs[0].dtype for node in model.graph}
    wide = {name for name, dtype in types.items() if dtype == ir.DataType.FLOAT}
    assert wide == {"fc1/fp32", "bias/fp32", "fc1_Add", "act_Gelu"}
    assert ops(model).count("Cast") == 3
    assert types["act_Gelu/fp16"] == ir.DataType.FLOAT16
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT16


def test_values_between_two_nodes_of_an_island_are_not_cast(weights: dict[str, np.ndarray]) -> None:
    model = keep_wide(load(MLP, **weights), frozenset({"h", "z"}))
    types = {str(node.name): node.outputs[0].dtype for node in model.graph}
    assert [types[name] for name in ("fc1", "fc1_Add", "act_Gelu", "fc1_Transpose")] == [ir.DataType.FLOAT] * 4
    assert types["fc2"] == types["Add"] == types["fc2_Transpose"] == ir.DataType.FLOAT16
    casts = [str(node.name) for node in model.graph if node.op_type == "Cast"]
    assert sorted(casts) == ["act_Gelu/fp16", "bias/fp32", "fc1/x/fp32", "w1/fp32"]


def test_an_overflowing_graph_becomes_finite(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    """The function is kept: what h is made larger by, w2 is divided by; fp16 runs show infinity without the island."""
    weights["w1"] = (weights["w1"].astype(np.float32) * 2**15).astype(np.float16)
    weights["bias"][:] = 0
    weights["w2"] = (weights["w2"].astype(np.float32) / 2**8).astype(np.float16)
    x = np.linspace(-8, 8, 8, dtype=np.float32)[None]
    ir.save(load(MLP, **weights), tmp_path / "g.onnx")
    _, before = run_rounded(tmp_path / "g.onnx", {"x": x})
    over = frozenset(reach.value for reach in before if reach.overflows)
    assert over == {"h", "z", "g"}
    ir.save(keep_wide(load(MLP, **weights), over), tmp_path / "g.onnx")
    found, after = run_rounded(tmp_path / "g.onnx", {"x": x})
    assert not any(reach.overflows for reach in after)
    h = x @ weights["w1"].astype(np.float32).T
    expected = x + np.where(h > 0, h, 0) @ weights["w2"].astype(np.float32).T
    np.testing.assert_allclose(found["y"], expected, rtol=2e-3)


def test_other_names_change_nothing(weights: dict[str, np.ndarray]) -> None:
    model = load(MLP, **weights)
    text = str(ir.to_proto(model))
    assert not KeepWidePass(frozenset({"nothing"}), frozenset({"no node"}))(model).modified
    assert str(ir.to_proto(model)) == text
    assert islands_of(model.graph, frozenset({"nothing"})) == ()


def test_an_output_that_overflows_is_given_out_in_fp32(
    weights: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    feeds = {"x": rng.normal(size=(3, 8)).astype(np.float16)}
    model = require_same_outputs(MLP, KeepWidePass(frozenset({"y"})), feeds, FP16, **weights)
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    assert wide_borders(load(MLP, **weights).graph, frozenset({"y"})) == {"y"}


def test_an_input_that_overflows_is_taken_in_fp32(weights: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    model = keep_wide(load(MLP, **weights), frozenset({"x"}))
    assert model.graph.inputs[0].dtype == ir.DataType.FLOAT
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT16
    x = rng.normal(size=(3, 8)).astype(np.float16)
    (expected,) = run(load(MLP, **weights), {"x": x})
    (found,) = run(model, {"x": x.astype(np.float32)})
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), atol=FP16)


def test_what_only_moves_a_value_goes_along() -> None:
    text = """g (float16[b, 2, 8] x, float16[b, 2, 8] past, int64[2] shape)
    => (float16[b, 4, 8] present, float16[n, 8] y) {
      [k] k = Mul(x, x)
      [Concat] present = Concat<axis = 1>(past, k)
      [Reshape] r = Reshape(present, shape)
      [y] y = Tanh(r)
    }"""
    model = load(text, shape=np.array([-1, 8]))
    assert wide_borders(model.graph, frozenset({"k"})) == {"present"}
    assert wide_borders(model.graph, frozenset({"past"})) == {"past", "present"}
    assert islands_of(model.graph, frozenset({"k"})) == ("k", "Concat", "Reshape", "y")
    keep_wide(model, frozenset({"past"}))
    assert [value.dtype for value in model.graph.inputs] == [ir.DataType.FLOAT16, ir.DataType.FLOAT]
    assert [value.dtype for value in model.graph.outputs] == [ir.DataType.FLOAT, ir.DataType.FLOAT16]


def test_parts_of_a_split_are_cast_apart() -> None:
    text = """g (float16[b, 8] x, float16[8] w) => (float16[b, 4] a, float16[b, 4] c) {
      [qkv] h = Mul(x, w)
      [qkv_Split] p, q = Split<axis = 1, num_outputs = 2>(h)
      [a] a = Tanh(p)
      [c] c = Tanh(q)
    }"""
    weights = {"w": np.ones(8, np.float16)}
    model = require_same_outputs(
        text, KeepWidePass(frozenset({"h"})), {"x": np.ones((1, 8), np.float16)}, FP16, **weights
    )
    names = [str(node.name) for node in model.graph]
    assert len(set(names)) == len(names)
    assert [node.outputs[0].dtype for node in model.graph if node.op_type == "Tanh"] == [ir.DataType.FLOAT16] * 2


def test_a_mask_is_deep_enough_for_scores_of_fp32() -> None:
    """Scores of 1e5 outweigh a mask of -30000; in fp32 the masked key must still count for nothing."""
    text = """g (float16[b, n, 8] q, float16[b, n, 8] k, float16[b, n, 8] v,
      bool[n, n] allowed, float16 open, float16 shut) => (float16[b, n, 8] y) {
      mask = Where(allowed, open, shut)
      [attn_Attention] y = Attention<q_num_heads = 1, kv_num_heads = 1>(q, k, v, mask)
    }"""
    numbers = {"open": np.array(0, np.float16), "shut": np.array(MASKED, np.float16)}
    model = keep_wide(load(text, **numbers), frozenset(), frozenset({"attn_Attention"}))
    q = np.full((1, 2, 8), 200, np.float16)
    k = np.stack([np.full(8, -200), np.full(8, 200)])[None].astype(np.float16)  # the second key is masked for row 0
    v = np.stack([np.full(8, 1), np.full(8, 2)])[None].astype(np.float16)
    (found,) = run(model, {"q": q, "k": k, "v": v, "allowed": np.tri(2, dtype=bool)})
    np.testing.assert_array_equal(found[0, :, 0], [1, 2])
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT16
    assert ops(model).count("Mul") == 1


def test_quantized_products_stay_products_of_codes(rng: np.random.Generator) -> None:
    """DequantizeLinear gives fp32 itself: with a Cast between, a builder would multiply floats."""
    constants = {
        "s": np.array(0.05, np.float16),
        "z": np.array(0, np.int8),
        "codes": rng.integers(-127, 128, (8, 8)).astype(np.int8),
        "ws": np.full(8, 2e-3, np.float16),
        "bias": rng.normal(size=8).astype(np.float16),
    }
    feeds = {"x": rng.normal(size=(3, 8)).astype(np.float16)}
    model = require_same_outputs(QUANTIZED, KeepWidePass(frozenset({"h", "k"})), feeds, 0.06, **constants)
    by_name = {str(node.name): node for node in model.graph}
    product = by_name["fc1"]
    sources = [value.producer() for value in product.inputs if value is not None]
    assert [source.op_type for source in sources if source is not None] == ["DequantizeLinear", "Transpose"]
    assert {value.dtype for value in product.inputs if value is not None} == {ir.DataType.FLOAT}
    assert "fc1_weight_DQ" not in by_name  # its only reader reads the one in fp32
    assert by_name["fc1_DQ"].outputs[0].dtype == ir.DataType.FLOAT16  # another reader stays in fp16
    assert by_name["fc2_Q"].inputs[1].name == "s/fp32"  # type: ignore[union-attr]
    assert by_name["fc2_DQ"].outputs[0].dtype == ir.DataType.FLOAT16
