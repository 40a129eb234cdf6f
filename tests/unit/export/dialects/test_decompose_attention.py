"""Attention written out: every placement of the scale, packed and per head, with and without a mask."""

import numpy as np
import pytest

from internvl_edge.export.dialects.decompose_attention import DecomposeAttentionPass
from tests.unit.export.dialects.small_graphs import load, ops, require_same_outputs, require_untouched

PACKED = """g (float[b, n, 8] q, float[b, m, 8] k, float[b, m, 8] v, float[b, 1, n, m] mask) => (float[b, n, 8] y) {
  [block_attn] y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, mask)
}"""
PER_HEAD = """g (float[b, 2, n, 4] q, float[b, 2, m, 4] k, float[b, 2, m, 4] v) => (float[b, 2, n, 4] y) {
  [block_attn] y = Attention(q, k, v)
}"""
NORMED = """g (float[b, n, 8] x, float[8] gain, float[b, m, 8] k, float[b, m, 8] v) => (float[b, n, 8] y) {
  [q_norm] q = RMSNormalization<epsilon = 1e-6>(x, gain)
  [block_attn] y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
}"""
GROUPED = """g (float[b, 6, n, 4] q, float[b, 2, m, 4] k, float[b, 2, m, 4] v, float[b, 1, n, m] mask)
  => (float[b, 6, n, 4] y) {
  [block_attn] y = Attention(q, k, v, mask)
}"""
SCALES = ("query", "gain", "both", "keys", "scores")


def packed_feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    feeds = {
        name: rng.normal(size=(3, rows, 8)).astype(np.float32) for name, rows in zip("qkv", (5, 7, 7), strict=True)
    }
    return feeds | {"mask": np.where(rng.random((3, 1, 5, 7)) < 0.3, -3e4, 0).astype(np.float32)}


@pytest.mark.parametrize("keys", ["once", "twice"])
@pytest.mark.parametrize("scale", SCALES)
def test_packed_attention_with_a_mask(rng: np.random.Generator, scale: str, keys: str) -> None:
    model = require_same_outputs(PACKED, DecomposeAttentionPass(scale=scale, keys=keys), packed_feeds(rng))
    found = ops(model)
    assert [op for op in found if op in ("MatMul", "Add", "Softmax")] == ["MatMul", "Add", "Softmax", "MatMul"]
    assert found.count("Transpose") == {"once": 4, "twice": 5}[keys]
    assert found.count("Mul") == (2 if scale == "both" else 1)
    assert all(str(node.name).startswith("block_attn") for node in model.graph)


def test_heads_of_queries_and_keys_together(rng: np.random.Generator) -> None:
    text = PACKED.replace("b, m, 8", "b, n, 8").replace("1, n, m", "1, n, n")
    feeds = {name: rng.normal(size=(3, 5, 8)).astype(np.float32) for name in "qkv"}
    feeds["mask"] = np.where(rng.random((3, 1, 5, 5)) < 0.3, -3e4, 0).astype(np.float32)
    model = require_same_outputs(text, DecomposeAttentionPass(heads="together"), feeds)
    found = ops(model)
    assert (found.count("Concat"), found.count("Mul"), found.count("Transpose")) == (1, 1, 4)


def test_keys_of_other_rows_are_split_apart(rng: np.random.Generator) -> None:
    model = require_same_outputs(PACKED, DecomposeAttentionPass(heads="together"), packed_feeds(rng))
    assert "Concat" not in ops(model)


def test_keys_and_values_of_other_rows_together(rng: np.random.Generator) -> None:
    model = require_same_outputs(PACKED, DecomposeAttentionPass(values="with keys"), packed_feeds(rng))
    found = ops(model)
    assert (found.count("Concat"), found.count("Mul"), found.count("Transpose")) == (1, 1, 4)


@pytest.mark.parametrize("scale", SCALES)
def test_attention_per_head(rng: np.random.Generator, scale: str) -> None:
    feeds = {
        name: rng.normal(size=(3, 2, rows, 4)).astype(np.float32) for name, rows in zip("qkv", (1, 6, 6), strict=True)
    }
    model = require_same_outputs(PER_HEAD, DecomposeAttentionPass(scale=scale), feeds)
    assert "Reshape" not in ops(model)
    assert ops(model).count("Transpose") == 1


@pytest.mark.parametrize("rows", [1, 5])
def test_key_heads_that_serve_several_query_heads_are_not_repeated(rng: np.random.Generator, rows: int) -> None:
    feeds = {"q": rng.normal(size=(3, 6, rows, 4)).astype(np.float32)}
    feeds |= {name: rng.normal(size=(3, 2, 7, 4)).astype(np.float32) for name in "kv"}
    feeds["mask"] = np.where(rng.random((3, 1, rows, 7)) < 0.3, -3e4, 0).astype(np.float32)
    model = require_same_outputs(GROUPED, DecomposeAttentionPass(), feeds)
    found = ops(model)
    assert not {"Expand", "Tile", "Concat"} & set(found)
    assert found.count("MatMul") == 2
    assert all(str(node.name).startswith("block_attn") for node in model.graph)


def test_a_stated_scale_is_used(rng: np.random.Generator) -> None:
    text = PACKED.replace("<q_num", "<scale = 0.25, q_num")
    require_same_outputs(text, DecomposeAttentionPass(), packed_feeds(rng))


def test_the_scale_goes_into_the_gain_of_the_norm_before(rng: np.random.Generator) -> None:
    feeds = {name: rng.normal(size=(3, 5, 8)).astype(np.float32) for name in ("x", "k", "v")}
    gain = rng.normal(size=8).astype(np.float32)
    model = require_same_outputs(NORMED, DecomposeAttentionPass(scale="gain"), feeds, gain=gain)
    scaled = next(node for node in model.graph if node.op_type == "Mul")
    assert scaled.inputs[0] is model.graph.initializers["gain"]
    assert [user.op_type for user in scaled.outputs[0].consumers()] == ["RMSNormalization"]


def test_a_gain_that_others_read_stays(rng: np.random.Generator) -> None:
    text = NORMED.replace("=> (float[b, n, 8] y)", "=> (float[b, n, 8] y, float[b, n, 8] q)")
    feeds = {name: rng.normal(size=(3, 5, 8)).astype(np.float32) for name in ("x", "k", "v")}
    gain = rng.normal(size=8).astype(np.float32)
    model = require_same_outputs(text, DecomposeAttentionPass(scale="gain"), feeds, gain=gain)
    assert next(node for node in model.graph if node.op_type == "RMSNormalization").inputs[1].name == "gain"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("q_num_heads = 2", "is_causal = 1, q_num_heads = 2"),
        ("q_num_heads = 2", "softcap = 2.0, q_num_heads = 2"),
        ("kv_num_heads = 2", "kv_num_heads = 1"),
        ("float[b, m, 8] v", "float[b, m, 16] v"),
    ],
)
def test_other_attention_stays(old: str, new: str) -> None:
    text = PACKED.replace(old, new).replace("(float[b, n, 8] y)", "(float[b, n, w] y)")
    require_untouched(text, DecomposeAttentionPass())


def test_attention_that_writes_a_cache_stays() -> None:
    text = PER_HEAD.replace("y = Attention", "y, pk, pv = Attention")
    require_untouched(text, DecomposeAttentionPass())


def test_fp16_stays_fp16() -> None:
    model = load(PACKED.replace("float[", "float16["))
    DecomposeAttentionPass()(model)
    assert {value.dtype.name for node in model.graph for value in node.outputs if value.dtype} == {"FLOAT16"}
