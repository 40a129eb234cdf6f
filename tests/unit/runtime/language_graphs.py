"""A small language model as export writes one: grouped heads, a rotation, a cache that is concatenated."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from internvl_edge.runtime.backends.session import TensorInfo

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD, HIDDEN, VOCABULARY = 2, 24, 4, 2, 8, 40, 19
_TYPES = {"float": (np.float32, -1e30), "float16": (np.float16, -30000.0), "bfloat16": (np.float32, -1e30)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Inputs of a chunk besides the cache."""

    inputs_embeds: np.ndarray
    attention_mask: np.ndarray
    position_ids: np.ndarray

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """Return the inputs by name."""
        return {name: getattr(self, name) for name in ("inputs_embeds", "attention_mask", "position_ids")}


def write_language_model(
    folder: Path, dtype: str = "float", normed: bool = False, kv_heads: int = KV_HEADS, follows_length: bool = False
) -> Path:
    """Write ``llm.onnx`` with random weights in a file beside it; `normed` norms the heads of q and k."""
    rng = np.random.default_rng(18)
    weights: dict[str, np.ndarray] = {}
    body = [_CONTEXT.format(type=dtype, onnx_type=_number(dtype), masked=_TYPES[dtype][1])]
    if follows_length:
        body.append("stretch = Cast<to=1>(rope_length) angles = Div(plain_angles, stretch)")
    else:
        body.append("angles = Identity(plain_angles)")
    body.append(_ANGLES.format(onnx_type=_number(dtype)))
    for layer in range(LAYERS):
        body.append(_layer(layer, normed, kv_heads))
        shapes = {
            **{"norm1": (WIDTH,), "norm2": (WIDTH,), "nq": (HEAD,), "nk": (HEAD,), "bq": (HEADS * HEAD,)},
            **{"wq": (HEADS * HEAD, WIDTH), "wk": (kv_heads * HEAD, WIDTH), "wv": (kv_heads * HEAD, WIDTH)},
            **{"wo": (WIDTH, HEADS * HEAD), "gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)},
        }
        for name, shape in shapes.items():
            scale = 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.2
            weights[f"{name}{layer}"] = scale * rng.standard_normal(shape) + (0 if len(shape) > 1 else 1)
    weights |= {"norm": 1 + 0.1 * rng.standard_normal(WIDTH), "head": rng.standard_normal((VOCABULARY, WIDTH))}
    path = folder / "llm.onnx"
    text = _HEAD.format(
        type=dtype,
        width=WIDTH,
        vocabulary=VOCABULARY,
        length=", int64[1] rope_length" if follows_length else "",
        past=_caches("past_key_values", "past", dtype, kv_heads),
        present=_caches("present", "total", dtype, kv_heads),
    )
    model = onnx.parser.parse_model(text + "{" + "\n".join([*body, _LOGITS.format(last=LAYERS)]) + "}")
    for name, values in weights.items():
        tensor = numpy_helper.from_array(values.astype(_TYPES[dtype][0]), name)
        if dtype == "bfloat16":
            bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            tensor = onnx.helper.make_tensor(name, TensorProto.BFLOAT16, values.shape, bits.tobytes(), raw=True)
        model.graph.initializer.append(tensor)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    return path


def chunk(rng: np.random.Generator, mask: np.ndarray, new: np.ndarray) -> Prompt:
    """Return a chunk with random embeddings whose mask `new` ``[R, n]`` follows `mask` ``[R, past]``."""
    joined = np.concatenate([mask, new], axis=1)
    positions = np.cumsum(joined, axis=1) - 1
    positions[joined == 0] = 1
    return Prompt(
        inputs_embeds=rng.standard_normal((*new.shape, WIDTH)).astype(np.float32),
        attention_mask=joined,
        position_ids=positions[:, -new.shape[1] :],
    )


def empty_cache(inputs: Mapping[str, TensorInfo], rows: int) -> dict[str, np.ndarray]:
    """Return an empty ``present.*`` for the past in `inputs`."""
    past = {name: info for name, info in inputs.items() if name.startswith("past_key_values.")}
    return {
        name.replace("past_key_values", "present"): np.zeros((rows, int(info.shape[1] or 0), 0, HEAD), info.dtype)
        for name, info in past.items()
    }


def _number(dtype: str) -> int:
    return {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[dtype]


def _caches(prefix: str, rows: str, dtype: str, kv_heads: int) -> str:
    names = [f"{prefix}.{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]
    return "".join(f', {dtype}[batch, {kv_heads}, {rows}, {HEAD}] "{name}"' for name in names)


def _layer(layer: int, normed: bool, kv_heads: int) -> str:
    norms = _NORMS if normed else "qn{i} = Identity(qs{i}) kn{i} = Identity(ks{i})"
    text = _PROJECTED + norms + _ATTENDED
    return text.format(i=layer, after=layer + 1, heads=HEADS, kv_heads=kv_heads, head=HEAD, packed=HEADS * HEAD)


_HEAD = """<ir_version: 10, opset_import: ["": 23]>
llm ({type}[batch, length, {width}] inputs_embeds, int64[batch, total] attention_mask, int64[batch, length] position_ids
{length}{past}) => (float[batch, {vocabulary}] logits{present})
"""
_CONTEXT = """
one = Constant<value_ints = [1]>() zero = Constant<value_ints = [0]>() ends = Constant<value_ints = [-1]>()
rows_and_heads = Constant<value_ints = [1, 2]>() start = Constant<value_int = 0>() each = Constant<value_int = 1>()
new = Shape<start = 1, end = 2>(inputs_embeds) held = Shape<start = 2, end = 3>("past_key_values.0.key")
all = Add(held, new) all_scalar = Squeeze(all) new_scalar = Squeeze(new) keys = Range(start, all_scalar, each)
queries = Range(start, new_scalar, each) places = Add(queries, held) columns = Unsqueeze(keys, zero)
lines = Unsqueeze(places, ends) causal = LessOrEqual(columns, lines)
counted = Unsqueeze(attention_mask, rows_and_heads) counts = Cast<to = 9>(counted) seen = And(causal, counts)
free = Constant<value_float = 0.0>() masked = Constant<value_float = {masked}>()
bias_fp32 = Where(seen, free, masked) bias = Cast<to = {onnx_type}>(bias_fp32)
frequencies = Constant<value_floats = [1.0, 0.3, 0.1, 0.03]>() places_last = Unsqueeze(position_ids, ends)
places_fp32 = Cast<to = 1>(places_last) plain_angles = Mul(places_fp32, frequencies)
x0 = Identity(inputs_embeds)
"""
_ANGLES = """
cos_fp32 = Cos(angles) sin_fp32 = Sin(angles)
cos = Cast<to = {onnx_type}>(cos_fp32) sin = Cast<to = {onnx_type}>(sin_fp32)
"""
_PROJECTED = """
a{i} = RMSNormalization<axis = -1, epsilon = 1e-6>(x{i}, norm1{i})
wqt{i} = Transpose<perm = [1, 0]>(wq{i}) qm{i} = MatMul(a{i}, wqt{i}) qb{i} = Add(qm{i}, bq{i})
wkt{i} = Transpose<perm = [1, 0]>(wk{i}) km{i} = MatMul(a{i}, wkt{i})
wvt{i} = Transpose<perm = [1, 0]>(wv{i}) vm{i} = MatMul(a{i}, wvt{i})
q_shape{i} = Constant<value_ints = [0, 0, {heads}, {head}]>()
k_shape{i} = Constant<value_ints = [0, 0, {kv_heads}, {head}]>()
qs{i} = Reshape(qb{i}, q_shape{i}) ks{i} = Reshape(km{i}, k_shape{i}) vs{i} = Reshape(vm{i}, k_shape{i})
"""
_NORMS = """
qn{i} = RMSNormalization<axis = -1, epsilon = 1e-6>(qs{i}, nq{i})
kn{i} = RMSNormalization<axis = -1, epsilon = 1e-6>(ks{i}, nk{i})
"""
_ATTENDED = """
qt{i} = Transpose<perm = [0, 2, 1, 3]>(qn{i}) kt{i} = Transpose<perm = [0, 2, 1, 3]>(kn{i})
v{i} = Transpose<perm = [0, 2, 1, 3]>(vs{i})
q{i} = RotaryEmbedding(qt{i}, cos, sin) k{i} = RotaryEmbedding(kt{i}, cos, sin)
"present.{i}.key" = Concat<axis = 2>("past_key_values.{i}.key", k{i})
"present.{i}.value" = Concat<axis = 2>("past_key_values.{i}.value", v{i})
o{i} = Attention(q{i}, "present.{i}.key", "present.{i}.value", bias)
ot{i} = Transpose<perm = [0, 2, 1, 3]>(o{i}) o_shape{i} = Constant<value_ints = [0, 0, {packed}]>()
op{i} = Reshape(ot{i}, o_shape{i}) wot{i} = Transpose<perm = [1, 0]>(wo{i}) ow{i} = MatMul(op{i}, wot{i})
y{i} = Add(x{i}, ow{i}) b{i} = RMSNormalization<axis = -1, epsilon = 1e-6>(y{i}, norm2{i})
gt{i} = Transpose<perm = [1, 0]>(gate{i}) g{i} = MatMul(b{i}, gt{i}) s{i} = Sigmoid(g{i}) gs{i} = Mul(g{i}, s{i})
ut{i} = Transpose<perm = [1, 0]>(up{i}) u{i} = MatMul(b{i}, ut{i}) h{i} = Mul(gs{i}, u{i})
dt{i} = Transpose<perm = [1, 0]>(down{i}) d{i} = MatMul(h{i}, dt{i}) x{after} = Add(y{i}, d{i})
"""
_LOGITS = """
end = Constant<value_ints = [9223372036854775807]>() last = Slice(x{last}, ends, end, one) row = Squeeze(last, one)
normed = RMSNormalization<axis = -1, epsilon = 1e-6>(row, norm) head_t = Transpose<perm = [1, 0]>(head)
logits_narrow = MatMul(normed, head_t) logits = Cast<to = 1>(logits_narrow)
"""
