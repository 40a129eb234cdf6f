"""A bf16 graph in fp32 arithmetic: the same weights, and no value of 16 bits left."""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from internvl_edge.export.blockwise.widen import widen_bfloat16
from tests.unit.export.dialects.small_graphs import load, ops, run

NARROW = """g (bfloat16[b, 4] x, bfloat16[4, 4] w, bfloat16[4] unused, float[4] bias) => (bfloat16[b, 4] y) {
  [first] a = MatMul(x, w)
  [second] c = MatMul(a, w)
  [wide] d = Cast<to = 1>(c)
  [add] e = Add(d, bias)
  [back] y = Cast<to = 16>(e)
}"""


def widened(rng: np.random.Generator) -> tuple[ir.Model, np.ndarray]:
    w = rng.normal(size=(4, 4)).astype(ml_dtypes.bfloat16)
    unused = np.zeros(4, ml_dtypes.bfloat16)
    return widen_bfloat16(load(NARROW, w=w, unused=unused, bias=np.ones(4, np.float32))), w


def test_every_value_is_fp32_and_weights_are_cast_once(rng: np.random.Generator) -> None:
    model, _ = widened(rng)
    assert ops(model) == ["Cast", "MatMul", "MatMul", "Cast", "Add", "Cast"]
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    assert ir.DataType.BFLOAT16 not in {value.dtype for value in values}
    assert [node.attributes.get_int("to") for node in model.graph if node.op_type == "Cast"] == [1, 1, 1]
    assert model.graph.initializers["w"].dtype == ir.DataType.BFLOAT16


def test_outputs_are_those_of_fp32_arithmetic_on_the_same_weights(rng: np.random.Generator) -> None:
    model, w = widened(rng)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    wide = w.astype(np.float32)
    np.testing.assert_allclose(run(model, {"x": x})[0], x @ wide @ wide + 1, rtol=1e-5, atol=1e-5)


def test_a_graph_without_bf16_stays_as_it_is() -> None:
    text = "g (float16[b, 4] x, float[4] w) => (float[b, 4] y) { a = Cast<to = 1>(x) y = Mul(a, w) }"
    model = widen_bfloat16(load(text, w=np.ones(4, np.float32)))
    assert ops(model) == ["Cast", "Mul"]
    assert model.graph.inputs[0].dtype == ir.DataType.FLOAT16
