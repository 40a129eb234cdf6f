"""q, k, v of an attention split into heads in one go: of one product, normed, rotated, per head, and behind a cache."""

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

WHOLE = """g (float[b, n, 24] qkv) => (float[b, n, 8] y) {
  [block_split] q, k, v = Split<axis = -1, num_outputs = 3>(qkv)
  [block_attn] y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
}"""
NORMED = """g (float[b, n, 24] qkv, float[8] of_q, float[8] of_k) => (float[b, n, 8] y) {
  [block_split] q, k, v = Split<axis = -1, num_outputs = 3>(qkv)
  [block_q] nq = RMSNormalization<epsilon = 1e-6>(q, of_q)
  [block_k] nk = RMSNormalization(k, of_k)
  [block_attn] y = Attention<q_num_heads = 2, kv_num_heads = 2, scale = 0.3>(nq, nk, v)
}"""


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


def test_parts_of_one_product_are_moved_together(rng: np.random.Generator) -> None:
    model = require_same_outputs(WHOLE, JoinHeadsPass(), {"qkv": rng.normal(size=(3, 5, 24)).astype(np.float32)})
    transposed = [node for node in model.graph if node.op_type == "Transpose"]
    assert len(transposed) == 2, "one for q, k and v, one back"
    assert "Concat" not in ops(model)
    attention = next(node for node in model.graph if node.op_type == "Attention")
    assert attention.name == "block_attn", "its path tells the module"


def test_norms_are_over_all_heads_and_applied_to_each(rng: np.random.Generator) -> None:
    gains = {name: rng.normal(size=8).astype(np.float32) for name in ("of_q", "of_k")}
    rows = rng.normal(size=(3, 5, 24)).astype(np.float32) * np.array([1, 4, 0.01, 3, 0], np.float32)[:, None]
    model = require_same_outputs(NORMED, JoinHeadsPass(), {"qkv": rows} | gains)
    assert "RMSNormalization" not in [node.op_type for node in model.graph if node.outputs[0].uses()]


def test_statistics_of_an_fp16_norm_are_fp32(rng: np.random.Generator) -> None:
    """Squares of 300 overflow fp16; what is left is one rounding of values up to 1 in the sums of attention."""
    rows = (300 * rng.normal(size=(3, 5, 24))).astype(np.float16)
    text = NORMED.replace("float[", "float16[")
    gains = {name: np.ones(8, np.float16) for name in ("of_q", "of_k")}
    require_same_outputs(text, JoinHeadsPass(), {"qkv": rows} | gains, atol=float(np.abs(rows).max()) * 2**-9)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (PACKED.replace("rk = RotaryEmbedding<num_heads = 2>(k, cos, sin, at)", "rk = Identity(k)"), "not rotated"),
        (PACKED.replace("(k, cos, sin, at)", "(k, sin, cos, at)"), "other angles"),
        (PACKED.replace("kv_num_heads = 2", "kv_num_heads = 1"), "fewer key heads"),
        (WHOLE.replace("(q, k, v)", "(k, q, v)"), "parts in another order"),
        (
            WHOLE.replace("float[b, n, 24] qkv", "float[b, n, 8] q, float[b, n, 8] k, float[b, n, 8] v").replace(
                "[block_split] q, k, v = Split<axis = -1, num_outputs = 3>(qkv)", ""
            ),
            "three products, nothing behind",
        ),
        (NORMED.replace("RMSNormalization(k, of_k)", "Mul(k, of_k)"), "k is not normed"),
        (KEPT.replace("perm = [0, 2, 1, 3]>(v4)", "perm = [0, 1, 2, 3]>(v4)"), "v is not split"),
    ],
)
def test_others_stay(text: str, why: str) -> None:
    model = load(text)
    before = ops(model)
    assert not JoinHeadsPass()(model).modified, why
    assert ops(model) == before
