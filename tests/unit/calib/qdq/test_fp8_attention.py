"""Attention in FP8: what is rewritten, what stays, and outputs that are those of float attention but for rounding."""

import math

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from internvl_edge.calib.qdq.fp8_attention import PROBABILITY_SCALE, QuantizeAttentionPass
from internvl_edge.calib.recipes.recipe import AttentionRange

HEADER = '<ir_version: 11, opset_import: ["": 23]>\n'
PACKED = """g (float[b, 6, 16] q, float[b, 9, 16] k, float[b, 9, 16] v) => (float[b, 6, 16] y) {
  y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
}"""
SPLIT = """g (float[b, 2, 6, 8] q, float[b, 2, 9, 8] k, float[b, 2, 9, 8] v) => (float[b, 2, 6, 8] y) {
  y = Attention(q, k, v)
}"""
SQNR_DB = 23.0
"""Of the output. E4M3 rounds a value by 2.6 % rms (31.7 dB): probabilities and v once each, and the scores, of about 1
here, by twice that, which moves probabilities as much: together 5.2 %, 25.7 dB."""

layouts = pytest.mark.parametrize("text", [PACKED, SPLIT], ids=["packed", "split"])
masks = pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])


def load(text: str, name: str = "block.attn/Attention") -> ir.Model:
    """Return the graph with its attention called `name`."""
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(HEADER + text))
    model = ir.from_proto(proto)
    attention(model).name = name
    return model


def attention(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.op_type == "Attention")


def with_mask(text: str) -> str:
    return text.replace("] v)", "] v, float[b, 1, 6, 9] mask)").replace("(q, k, v)\n", "(q, k, v, mask)\n")


def with_cache(text: str) -> str:
    caches = "".join(f", float[b, 2, 4, 8] past_{part}" for part in "kv")
    text = (
        with_mask(text).replace("6, 9] mask", f"6, 13] mask{caches}").replace(", mask)\n", ", mask, past_k, past_v)\n")
    )
    return text.replace("  y = ", "  y, present_k, present_v = ")


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], feeds)[0])


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.fixture
def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Heads apart, ``[B, H, N, D]``, and a mask whose last keys are hidden."""
    sizes = {"q": 6, "k": 9, "v": 9}
    found = {name: rng.normal(size=(3, 2, rows, 8)).astype(np.float32) for name, rows in sizes.items()}
    lengths = np.array([7, 9, 4]).reshape(3, 1, 1, 1)
    mask = np.where(np.arange(9) < lengths, 0, -3e4).astype(np.float32)
    return found | {"mask": np.repeat(mask, 6, axis=2)}


def laid_out(feeds: dict[str, np.ndarray], text: str, *, masked: bool) -> dict[str, np.ndarray]:
    """Return the inputs in the layout of `text`."""
    found = {name: packed(feeds[name]) if text is PACKED else feeds[name] for name in "qkv"}
    return found | {"mask": feeds["mask"]} if masked else found


def packed(x: np.ndarray) -> np.ndarray:
    batch, heads, rows, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, rows, heads * width)


def ranges(feeds: dict[str, np.ndarray]) -> AttentionRange:
    q, k, v = (float(np.abs(feeds[name]).max()) for name in "qkv")
    return AttentionRange(q=q, k=k, v=v)


def fake(x: np.ndarray, scale: float) -> np.ndarray:
    scaled = np.clip(x / np.float32(scale), -448, 448)
    return scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(scale)


def in_fp8(feeds: dict[str, np.ndarray], found: AttentionRange, factor: float, *, masked: bool) -> np.ndarray:
    """Return attention ``[B, H, N, D]`` with q (scaled), k, v and the probabilities rounded to FP8, in NumPy."""
    q = fake(feeds["q"] * np.float32(factor), found.q * factor / 448)
    scores = q @ fake(feeds["k"], found.k / 448).swapaxes(2, 3)
    scores = scores + feeds["mask"] if masked else scores
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return fake(probabilities, 1 / 448) @ fake(feeds["v"], found.v / 448)


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum()))


@layouts
@masks
@pytest.mark.parametrize("scale", [None, 0.2])
def test_outputs_are_those_of_attention_but_for_fp8(
    text: str, masked: bool, scale: float | None, feeds: dict[str, np.ndarray]
) -> None:
    def graph() -> ir.Model:
        model = load(with_mask(text) if masked else text)
        if scale is not None:
            attention(model).attributes["scale"] = ir.AttrFloat32("scale", scale)
        return model

    inputs = laid_out(feeds, text, masked=masked)
    plain, model = run(graph(), inputs), graph()
    found = ranges(feeds)
    assert QuantizeAttentionPass({"block.attn": found})(model).modified
    assert "Attention" not in ops(model)
    assert ops(model).count("QuantizeLinear") == ops(model).count("DequantizeLinear") == 4
    output = run(model, inputs)
    assert sqnr_db(plain, output) > SQNR_DB
    wanted = in_fp8(feeds, found, scale or 1 / math.sqrt(8), masked=masked)
    wanted = packed(wanted) if output.ndim == 3 else wanted
    np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-5)  # order of summation


def test_hidden_keys_count_for_nothing(feeds: dict[str, np.ndarray]) -> None:
    model = load(with_mask(SPLIT))
    QuantizeAttentionPass({"block.attn": ranges(feeds)})(model)
    inputs = laid_out(feeds, SPLIT, masked=True)
    before = run(model, inputs)
    inputs["v"] = np.where(inputs["mask"][:, :, :1].swapaxes(2, 3) < 0, 99.0, inputs["v"]).astype(np.float32)
    np.testing.assert_array_equal(run(model, inputs), before)


def test_probabilities_use_all_codes() -> None:
    """The scale is fixed: 1 is the largest code, and the smallest share that is not lost is 2^-10 of 1/448."""
    assert PROBABILITY_SCALE * 448 == 1
    model = load(SPLIT)
    QuantizeAttentionPass({"block.attn": AttentionRange(q=1, k=1, v=1)})(model)
    held = model.graph.initializers["block.attn/probabilities_scale"].const_value
    assert held is not None
    assert float(held.numpy()) == np.float32(1 / 448)


def test_what_exceeds_a_range_saturates(feeds: dict[str, np.ndarray]) -> None:
    found = AttentionRange(q=1.0, k=1.5, v=0.5)
    model = load(SPLIT)
    QuantizeAttentionPass({"block.attn": found})(model)
    output = run(model, laid_out(feeds, SPLIT, masked=False))
    np.testing.assert_allclose(output, in_fp8(feeds, found, 1 / math.sqrt(8), masked=False), rtol=1e-5, atol=1e-5)
    assert np.abs(output).max() <= 0.5 * (1 + 1 / 16), "a mean of clipped values, and the shares rounded"


@layouts
def test_silence_stays_silent(text: str, feeds: dict[str, np.ndarray]) -> None:
    model = load(text)
    QuantizeAttentionPass({"block.attn": AttentionRange(q=0, k=0, v=0)})(model)
    inputs = {name: np.zeros_like(value) for name, value in laid_out(feeds, text, masked=False).items()}
    np.testing.assert_array_equal(run(model, inputs), 0)


@layouts
def test_a_second_run_changes_nothing(text: str, feeds: dict[str, np.ndarray]) -> None:
    model = load(text)
    quantize = QuantizeAttentionPass({"block.attn": ranges(feeds)})
    assert quantize(model).modified
    before = serialized(model)
    assert not quantize(model).modified
    assert serialized(model) == before


@layouts
def test_attention_without_a_range_stays(text: str, feeds: dict[str, np.ndarray]) -> None:
    for name in ("clip_projector.cross_attn/Attention", "block.attn.inner/Attention", "Attention"):
        model = load(text, name)
        before = serialized(model)
        assert not QuantizeAttentionPass({"block.attn": ranges(feeds)})(model).modified
        assert serialized(model) == before
    assert not QuantizeAttentionPass({})(load(text)).modified


def test_only_the_attention_of_a_module_is_rewritten(feeds: dict[str, np.ndarray]) -> None:
    text = SPLIT.replace("y = Attention(q, k, v)", "r = Relu(q)\n  h = Attention(r, k, v)\n  y = Softmax(h)")
    model = load(text)
    model.graph[0].name, model.graph[2].name = "block.attn/Relu", "block.attn/Softmax"
    QuantizeAttentionPass({"block.attn": ranges(feeds)})(model)
    assert (ops(model)[0], ops(model)[-1]) == ("Relu", "Softmax")
    assert ops(model).count("Softmax") == 2


def test_an_output_of_the_graph_keeps_its_name(feeds: dict[str, np.ndarray]) -> None:
    model = load(PACKED)
    QuantizeAttentionPass({"block.attn": ranges(feeds)})(model)
    assert [value.name for value in model.graph.outputs] == ["y"]


@pytest.mark.parametrize(
    "text",
    [
        SPLIT.replace("Attention(", "Attention<is_causal = 1>("),
        SPLIT.replace("Attention(", "Attention<softcap = 2.0>("),
        with_cache(SPLIT),
    ],
    ids=["causal", "softcap", "cache"],
)
def test_attention_of_another_kind_stays(text: str, feeds: dict[str, np.ndarray]) -> None:
    """What the rewriting would leave out would be another function."""
    model = load(text)
    before = serialized(model)
    assert not QuantizeAttentionPass({"block.attn": ranges(feeds)})(model).modified
    assert serialized(model) == before


@layouts
def test_types_are_those_of_the_graph(text: str, feeds: dict[str, np.ndarray]) -> None:
    model = load(text.replace("float[", "float16["))
    QuantizeAttentionPass({"block.attn": ranges(feeds)})(model)
    scales = {value.dtype for name, value in model.graph.initializers.items() if name.endswith(("_scale", "factor"))}
    assert scales == {ir.DataType.FLOAT16}
    inputs = laid_out(feeds, text, masked=False)
    half = run(model, {name: value.astype(np.float16) for name, value in inputs.items()})
    assert half.dtype == np.float16
    assert sqnr_db(run(load(text), inputs), half.astype(np.float32)) > SQNR_DB
