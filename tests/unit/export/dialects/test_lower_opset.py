"""The older opset: imports, what moves, and what is refused by name."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.export.dialects.lower_opset import LowerOpsetPass
from internvl_edge.runtime.errors import EngineError
from tests.unit.export.dialects.small_graphs import load, require_same_outputs

PLAIN = """g (float[b, 12] x) => (float[b, 6] y) {
  [part] q, r = Split<axis = 1, num_outputs = 2>(x)
  [sum] s = Add(q, r)
  [act] y = Gelu(s)
}"""
QUANTIZED = """g (float[b, 12] x, float scale) => (float[b, 12] y) {
  [x_q] q = QuantizeLinear<output_dtype = 3>(x, scale)
  [x_dq] y = DequantizeLinear(q, scale)
}"""


def test_imports_and_format_version(rng: np.random.Generator) -> None:
    feeds = {"x": rng.normal(size=(2, 12)).astype(np.float32)}
    model = require_same_outputs(PLAIN, LowerOpsetPass(20), feeds, 0)
    assert (model.opset_imports[""], model.ir_version) == (20, 9)


def test_an_opset_is_never_raised() -> None:
    assert not LowerOpsetPass(23)(load(PLAIN)).modified


def test_the_type_of_codes_becomes_a_zero_point(rng: np.random.Generator) -> None:
    """int8 is not the default (uint8): forgetting the attribute would clip every negative value."""
    feeds = {"x": rng.normal(size=(2, 12)).astype(np.float32)}
    model = require_same_outputs(QUANTIZED, LowerOpsetPass(20), feeds, 0, scale=np.array(0.02, np.float32))
    zero = model.graph[0].inputs[2]
    assert zero is not None
    assert zero.dtype == ir.DataType.INT8
    assert zero.shape == ir.Shape([])
    assert "output_dtype" not in model.graph[0].attributes


def test_a_type_stated_twice_is_said_once(rng: np.random.Generator) -> None:
    text = QUANTIZED.replace("float scale)", "float scale, int8 zero)").replace("(x, scale)", "(x, scale, zero)")
    constants: dict[str, Any] = {"scale": np.array(0.02, np.float32), "zero": np.array(3, np.int8)}
    text = text.replace("(q, scale)", "(q, scale, zero)")
    model = require_same_outputs(
        text, LowerOpsetPass(20), {"x": rng.normal(size=(2, 12)).astype(np.float32)}, 0, **constants
    )
    assert model.graph[0].inputs[2] is model.graph.initializers["zero"]


def test_all_that_is_newer_is_named_at_once() -> None:
    text = """g (float[b, 6, 8] x, float[8] w, float[6, 4] scale) => (float[b, 6, 8] y) {
      [norm] a = RMSNormalization(x, w)
      [attn] b = Attention<q_num_heads = 2, kv_num_heads = 2>(a, x, x)
      [blocks] c = QuantizeLinear<block_size = 2, axis = 2, output_dtype = 3>(b, scale)
      [act] y = Gelu(b)
    }"""
    model = load(text)
    with pytest.raises(EngineError) as caught:
        LowerOpsetPass(20)(model)
    message = str(caught.value)
    assert "norm (RMSNormalization); attn (Attention); blocks (QuantizeLinear with block_size" in message
    assert "act" not in message
    assert "\n" not in message
    assert model.opset_imports[""] == 23
