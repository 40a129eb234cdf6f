"""Small graphs with module paths as node names, in ONNX text: a tower of vision blocks, and one step of a decoder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

HEADER = '<ir_version: 11, opset_import: ["": 23]>\n'
WIDTH, HIDDEN, TOKENS, HEADS = 256, 512, 32, 4

_BLOCK = """
  [{p}__norm1] n1{i} = RMSNormalization<stash_type = 1, epsilon = 1e-6>(x{i}, gain)
  [{p}__attn__qkv] qkv{i} = MatMul(n1{i}, wqkv{i})
  [{p}__attn__qkv_Split] q{i}, k{i}, v{i} = Split<axis = 2, num_outputs = 3>(qkv{i})
  [{p}__attn_Attention] a{i} = Attention<q_num_heads = 4, kv_num_heads = 4>(q{i}, k{i}, v{i})
  [{p}__attn__proj] o{i} = MatMul(a{i}, wproj{i})
  [{p}_Add] r{i} = Add(x{i}, o{i})
  [{p}__norm2] n2{i} = RMSNormalization<stash_type = 1, epsilon = 1e-6>(r{i}, gain)
  [{p}__mlp__fc1] h{i} = MatMul(n2{i}, wfc1{i})
  [{p}__mlp__act_Gelu] g{i} = Gelu(h{i})
  [{p}__mlp__fc2] m{i} = MatMul(g{i}, wfc2{i})
  [{p}_Add_1] x{j} = Add(r{i}, m{i})"""

_STEP = """g (float16[b, 1, 256] x, float16[b, 4, past, 64] past_key, float16[b, 4, past, 64] past_value,
  float16[b, 1, 1, total] mask)
=> (float16[b, 1, 256] y, float16[b, 4, total, 64] key, float16[b, 4, total, 64] value) {
  heads = Constant<value_ints = [0, 0, 4, 64]>()
  flat = Constant<value_ints = [0, 0, 256]>()
  eighth = Constant<value_float = 0.125>()
  scale = Cast<to = 10>(eighth)
  [layers__0__attn__q] q0 = MatMul(x, wq)
  [layers__0__attn__k] k0 = MatMul(x, wk)
  [layers__0__attn__v] v0 = MatMul(x, wv)
  q1 = Reshape(q0, heads)
  k1 = Reshape(k0, heads)
  v1 = Reshape(v0, heads)
  q2 = Transpose<perm = [0, 2, 1, 3]>(q1)
  k2 = Transpose<perm = [0, 2, 1, 3]>(k1)
  v2 = Transpose<perm = [0, 2, 1, 3]>(v1)
  [layers__0__attn_Concat] key = Concat<axis = 2>(past_key, k2)
  [layers__0__attn_Concat_1] value = Concat<axis = 2>(past_value, v2)
  kt = Transpose<perm = [0, 1, 3, 2]>(key)
  qs = Mul(q2, scale)
  [layers__0__attn_MatMul] scores = MatMul(qs, kt)
  masked = Add(scores, mask)
  [layers__0__attn_Softmax] p = Softmax<axis = -1>(masked)
  [layers__0__attn_MatMul_1] a = MatMul(p, value)
  a1 = Transpose<perm = [0, 2, 1, 3]>(a)
  a2 = Reshape(a1, flat)
  [layers__0__attn__o] o = MatMul(a2, wo)
  [layers__0_Add] y = Add(o, x)
}"""


def write_tower(
    path: Path, rng: np.random.Generator, blocks: int, dtype: str = "float16", batch: str | int = "batch"
) -> Path:
    """Write a tower of pre-norm blocks, ``x [batch, 32, 256]`` to ``y``, all of `dtype`."""
    body = "".join(_BLOCK.format(p=f"encoder__layers__{i}", i=i, j=i + 1) for i in range(blocks))
    rows = "float" if dtype == "float32" else dtype
    text = (
        f"g ({rows}[{batch}, {TOKENS}, {WIDTH}] x) => ({rows}[{batch}, {TOKENS}, {WIDTH}] y) {{\n"
        f"  [embed] x0 = Relu(x){body}\n  [head] y = Relu(x{blocks})\n}}"
    )
    shapes: dict[str, tuple[int, ...]] = {"gain": (WIDTH,)}
    for i in range(blocks):
        shapes |= {f"wqkv{i}": (WIDTH, 3 * WIDTH), f"wproj{i}": (WIDTH, WIDTH)}
        shapes |= {f"wfc1{i}": (WIDTH, HIDDEN), f"wfc2{i}": (HIDDEN, WIDTH)}
    return _write(path, text, {name: value.astype(dtype) for name, value in _weights(shapes, rng).items()})


def write_int8_product(path: Path, rng: np.random.Generator) -> Path:
    """Write norm, a product of int8 codes with a scale for each output, and GELU; ``x [batch, 32, 256]``."""
    text = f"""g (float16[batch, {TOKENS}, {WIDTH}] x) => (float16[batch, {TOKENS}, {HIDDEN}] y) {{
      [layers__0__norm] n = RMSNormalization<stash_type = 1, epsilon = 1e-6>(x, gain)
      [layers__0__fc1_QuantizeLinear] codes = QuantizeLinear(n, step, zero)
      [layers__0__fc1_DequantizeLinear] wide = DequantizeLinear(codes, step, zero)
      [layers__0__fc1__weight_DequantizeLinear] w = DequantizeLinear<axis = 1>(weight, steps, zeros)
      [layers__0__fc1] h = MatMul(wide, w)
      [layers__0__act_Gelu] y = Gelu(h)
    }}"""
    values = _weights({"gain": (WIDTH,)}, rng) | {
        "step": np.array(0.02, np.float16),
        "zero": np.array(0, np.int8),
        "weight": rng.integers(-127, 128, (WIDTH, HIDDEN)).astype(np.int8),
        "steps": rng.uniform(1e-3, 2e-3, HIDDEN).astype(np.float16),
        "zeros": np.zeros(HIDDEN, np.int8),
    }
    return _write(path, text, values)


def write_decoder_step(path: Path, rng: np.random.Generator) -> Path:
    """Write one new token's attention on a cache, which grows by it; batch 1."""
    shapes = dict.fromkeys(("wq", "wk", "wv", "wo"), (WIDTH, WIDTH))
    return _write(path, _STEP, _weights(shapes, rng))


def _weights(shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.normal(size=shape, scale=0.06).astype(np.float16) for name, shape in shapes.items()}


def _write(path: Path, text: str, weights: Mapping[str, np.ndarray]) -> Path:
    """Write the graph `text` with `weights`; in nodes' names ``__`` is a dot, ``_`` before a capital a slash."""
    model = onnx.parser.parse_model(HEADER + text)
    for node in model.graph.node:
        name = node.name.replace("__", ".")
        head, _, tail = name.rpartition("_") if not name.endswith("_1") else name[:-2].rpartition("_")
        ending = name[len(head) + 1 :]
        node.name = f"{head}/{ending}" if head and tail[:1].isupper() else name
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, path)
    return path
