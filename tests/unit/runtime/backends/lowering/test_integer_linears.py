"""Products of bytes: the same codes and sums as the Q/DQ graph, in the kernels' form."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.lowering.cpu import lower
from internvl_edge.runtime.backends.lowering.integer_linears import fuse_linears, shift_activations
from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from tests.unit.runtime.lowered_graphs import lowered_model, op_types, reference, write_graph

SCALED_SUM_RELATIVE = 1e-6
"""Of the largest value: one sum is scaled instead of each factor, and fp32 rounds at 6e-8 a step."""

LINEAR = """
linear (float[batch, 5, 32] x) => (float[batch, 5, 48] y)
{
    wide = DequantizeLinear<axis = 0>(w, w_scale)
    turned = Transpose<perm = [1, 0]>(wide)
    codes = QuantizeLinear(x, x_scale, zero)
    rounded = DequantizeLinear(codes, x_scale, zero)
    product = MatMul(rounded, turned)
    y = Add(product, bias)
}
"""


@pytest.fixture
def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "w": rng.integers(-127, 128, (48, 32)).astype(np.int8),
        "w_scale": rng.uniform(0.001, 0.01, 48).astype(np.float32),
        "x_scale": np.float32(2**-5),
        "zero": np.int8(0),
        "bias": rng.normal(size=48).astype(np.float32),
    }


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    x = rng.normal(size=(3, 5, 32)).astype(np.float32) * 3  # beyond 4, the largest code, on both sides
    x.flat[:3] = (-100, 100, 0.5 * 2**-5)  # far beyond, and a tie
    return {"x": x}


def test_a_linear_becomes_one_integer_product(
    tmp_path: Path, weights: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    path, fed = write_graph(tmp_path, LINEAR, weights), inputs(rng)
    assert op_types(lowered_model(path)) == ["QuantizeLinear", "Transpose", "MatMulIntegerToFloat"]
    session = OnnxRuntimeSession(path, SessionOptions(threads=1))
    assert session.settings["integer products"] == "1"
    found, (expected,) = session.run(fed)["y"], reference(path, fed)
    np.testing.assert_allclose(found, expected, atol=SCALED_SUM_RELATIVE * np.abs(expected).max())


def test_sums_are_exact_to_the_bit_where_scales_are_powers_of_two(
    tmp_path: Path, weights: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    weights["w_scale"] = np.exp2(rng.integers(-9, -3, 48)).astype(np.float32)
    weights["bias"] = np.zeros(48, np.float32)
    path, fed = write_graph(tmp_path, LINEAR, weights), inputs(rng)
    codes = np.clip(np.rint(fed["x"] / weights["x_scale"]), -128, 127).astype(np.int64)
    sums = codes @ weights["w"].astype(np.int64).T
    found = OnnxRuntimeSession(path, SessionOptions(threads=1)).run(fed)["y"]
    np.testing.assert_array_equal(found, (sums * 2.0**-5 * weights["w_scale"]).astype(np.float32))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("session.x64quantprecision", "1"), ("session.disable_prepacking", "1")],
    ids=["processor without VNNI", "mapped weights"],
)
def test_every_way_to_sum_gives_the_same_bits(
    tmp_path: Path, weights: dict[str, np.ndarray], rng: np.random.Generator, setting: str, value: str
) -> None:
    lowered, fed = lower(write_graph(tmp_path, LINEAR, weights)), inputs(rng)
    found = []
    for extra in ({}, {setting: value}):
        options = onnxruntime.SessionOptions()
        for key, item in {**lowered.config, **extra}.items():
            options.add_session_config_entry(key, item)
        found.append(onnxruntime.InferenceSession(lowered.model, options).run(None, fed)[0])
    np.testing.assert_array_equal(*found)


def test_a_weight_of_two_linears_is_transposed_once(
    tmp_path: Path, weights: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    text = LINEAR.replace("=> (", "=> (float[batch, 5, 48] z, ")
    text = text.replace("y = Add", "z = MatMul(rounded, turned) y = Add")
    path, fed = write_graph(tmp_path, text, weights), inputs(rng)
    assert op_types(lowered_model(path)).count("Transpose") == 1
    found = OnnxRuntimeSession(path, SessionOptions(threads=1)).run(fed)
    np.testing.assert_array_equal(found["y"], found["z"] + weights["bias"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("axis = 0", "axis = 1"),  # scales of input channels: no kernel has them
        ("MatMul(rounded, turned)", "MatMul(x, turned)"),  # not quantized
        ("perm = [1, 0]", "perm = [0, 1]"),
    ],
)
def test_near_misses_stay(
    tmp_path: Path, weights: dict[str, np.ndarray], rng: np.random.Generator, old: str, new: str
) -> None:
    square = {"w": weights["w"][:32], "w_scale": weights["w_scale"][:32], "bias": weights["bias"][:32]}
    path, fed = write_graph(tmp_path, LINEAR.replace(old, new).replace("48", "32"), weights | square), inputs(rng)
    assert "MatMul" in op_types(lowered_model(path))
    found, (expected,) = OnnxRuntimeSession(path, SessionOptions(threads=1)).run(fed)["y"], reference(path, fed)
    np.testing.assert_allclose(found, expected, atol=SCALED_SUM_RELATIVE * np.abs(expected).max())


def test_codes_that_are_read_otherwise_keep_their_type(
    tmp_path: Path, weights: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    text = LINEAR.replace("=> (", "=> (int8[batch, 5, 32] codes, ")
    path, fed = write_graph(tmp_path, text, weights), inputs(rng)
    assert "MatMul" in op_types(lowered_model(path))
    assert onnxruntime.InferenceSession(lower(path).model, options_of(path)).run(["codes"], fed)[0].dtype == np.int8


def test_a_sum_that_others_read_keeps_its_bias_apart(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    text = LINEAR.replace("=> (", "=> (float[batch, 5, 48] product, ")
    assert op_types(lowered_model(write_graph(tmp_path, text, weights)))[-2:] == ["MatMulIntegerToFloat", "Add"]


def test_a_sum_that_is_added_to_itself_has_no_bias(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    path = write_graph(tmp_path, LINEAR.replace("Add(product, bias)", "Add(product, product)"), weights)
    assert op_types(lowered_model(path))[-2:] == ["MatMulIntegerToFloat", "Add"]


def test_one_number_for_all_channels_is_no_bias(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    path = write_graph(tmp_path, LINEAR, weights | {"bias": np.ones(1, np.float32)})
    assert op_types(lowered_model(path))[-2:] == ["MatMulIntegerToFloat", "Add"]


def test_weights_stay_in_their_file(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    stored = {tensor.name: tensor for tensor in lowered_model(write_graph(tmp_path, LINEAR, weights)).graph.initializer}
    assert stored["w"].data_location == onnx.TensorProto.EXTERNAL


def options_of(path: Path) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    for key, value in lower(path).config.items():
        options.add_session_config_entry(key, value)
    return options


def test_each_pass_counts_what_it_changed_and_changes_nothing_the_second_time(
    tmp_path: Path, weights: dict[str, np.ndarray]
) -> None:
    model = OnnxModel(write_graph(tmp_path, LINEAR, weights).read_bytes(), tmp_path)
    assert fuse_linears(model) == 0, "codes that are signed still"
    assert (shift_activations(model), shift_activations(model)) == (1, 0)
    assert (fuse_linears(model), fuse_linears(model)) == (1, 0)
