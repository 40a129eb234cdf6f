"""q, k, v of a rotated attention split into heads in one go: packed, per head, and behind a cache."""

import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.export.dialects.join_heads import JoinHeadsPass
from tests.unit.export.dialects.small_graphs import load, ops, require_same_outputs

PACKED = """g (float[b, n, 8] q, float[b, n, 8] k, float[b, n, 8] v, float[b, 1, n, n] mask,
  float[9, 2] cos, float[9, 2] sin, int64[b, n] at) => (float[b, n, 8] y) {
  [block_q] rq = RotaryEmbedding<num_heads = 2>(q, cos, sin, at)
  [block_k] rk = RotaryEmbedding<num_heads = 2>(k, cos, sin, at)
  [block_attn] y = Attention<q_num_heads = 2, kv_num_heads = 2>(rq, rk, v, mask)
}"""
CACHED = """g (float[b, n, 8] q, float[b, n, 8] k, float[b, n, 8] v, float[b, 2, p, 4] past_k, float[b, 2, p, 4] past_v,
  float[9, 2] cos, float[9, 2] sin, int64[b, n] at) => (float[b, 2, n, 4] y, float keys, float values) {
  shape = Constant<value_ints = [0, 0, 2, 4]>()
  q4 = Reshape(q, shape)
  k4 = Reshape(k, shape)
  v4 = Reshape(v, shape)
  qh = Transpose<perm = [0, 2, 1, 3]>(q4)
  kh = Transpose<perm = [0, 2, 1, 3]>(k4)
  vh = Transpose<perm = [0, 2, 1, 3]>(v4)
  [block_q] rq = RotaryEmbedding(qh, cos, sin, at)
  [block_k] rk = RotaryEmbedding(kh, cos, sin, at)
  [block_keys] keys = Concat<axis = 2>(past_k, rk)
  [block_values] values = Concat<axis = 2>(past_v, vh)
  [block_attn] y = Attention(rq, keys, values)
}""".replace("float keys, float values", "float[b, 2, t, 4] keys, float[b, 2, t, 4] values")
KEPT = (
    CACHED.replace("float[b, 2, p, 4] past_k, float[b, 2, p, 4] past_v,\n", "")
    .replace("float[b, 2, t, 4] keys, float[b, 2, t, 4] values", "float[b, 2, n, 4] rk, float[b, 2, n, 4] vh")
    .replace("  [block_keys] keys = Concat<axis = 2>(past_k, rk)\n", "")
    .replace("  [block_values] values = Concat<axis = 2>(past_v, vh)\n", "")
    .replace("(rq, keys, values)", "(rq, rk, vh)")
)


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    angles = rng.uniform(0, np.pi, (9, 2))
    made = {name: rng.normal(size=(3, 5, 8)).astype(np.float32) for name in "qkv"}
    tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    return made | tables | {"at": rng.integers(0, 9, (3, 5))}


def test_packed_attention_with_a_mask(rng: np.random.Generator) -> None:
    mask = np.where(rng.random((3, 1, 5, 5)) < 0.3, -3e4, 0).astype(np.float32)
    model = require_same_outputs(PACKED, JoinHeadsPass(), feeds(rng) | {"mask": mask})
    attention = next(node for node in model.graph if node.op_type == "Attention")
    assert "q_num_heads" not in attention.attributes
    assert attention.inputs[0] is not None
    assert list(attention.inputs[0].shape or ())[1:] == [2, ir.SymbolicDim("n"), 4]


def test_behind_a_cache(rng: np.random.Generator) -> None:
    past = {name: rng.normal(size=(3, 2, 4, 4)).astype(np.float32) for name in ("past_k", "past_v")}
    model = require_same_outputs(CACHED, JoinHeadsPass(), feeds(rng) | past)
    keys = next(node for node in model.graph if node.name == "block_keys")
    assert keys.inputs[1] is not None
    assert keys.inputs[1].producer().op_type == "Split"  # type: ignore[union-attr]


def test_keys_and_values_that_are_kept(rng: np.random.Generator) -> None:
    require_same_outputs(KEPT, JoinHeadsPass(), feeds(rng))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (PACKED.replace("rk = RotaryEmbedding<num_heads = 2>(k, cos, sin, at)", "rk = Identity(k)"), "not rotated"),
        (PACKED.replace("(k, cos, sin, at)", "(k, sin, cos, at)"), "other angles"),
        (PACKED.replace("kv_num_heads = 2", "kv_num_heads = 1"), "fewer key heads"),
        (KEPT.replace("perm = [0, 2, 1, 3]>(v4)", "perm = [0, 1, 2, 3]>(v4)"), "v is not split"),
    ],
)
def test_others_stay(text: str, why: str) -> None:
    model = load(text)
    before = ops(model)
    assert not JoinHeadsPass()(model).modified, why
    assert ops(model) == before
