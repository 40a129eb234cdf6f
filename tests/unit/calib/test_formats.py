"""Codes and fake quantization, bit for bit those of ONNX Runtime's QuantizeLinear and DequantizeLinear."""

from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from internvl_edge.calib.formats import SMALLEST_NORMAL, encode, fake_quantize, scale_of, sqnr_db
from internvl_edge.runtime.numbers.formats import FP8, INT8, QUANTIZED, Format

CODES = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
both = pytest.mark.parametrize("form", [row.weights for row in QUANTIZED.values()], ids=list(QUANTIZED))


@cache
def session(form: str, channels: int | None, back: bool) -> ort.InferenceSession:
    """Return Q alone, or Q and DQ; per tensor, or along axis 0. FP8 codes are given as the bytes they are made of."""
    shape = [] if channels is None else [channels]
    x = [None] if channels is None else [channels, None]
    axis = {} if channels is None else {"axis": 0}
    kind = TensorProto.FLOAT if back else CODES[form]
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q" if back else "y"], **axis)]
    if back:
        nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], **axis))
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, x),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, shape),
        ],
        [helper.make_tensor_value_info("y", kind, x)],
        [helper.make_tensor("zero", CODES[form], shape, [0] * (channels or 1))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnx_fake(form: Format, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    found = session(form.name, x.shape[0] if scale.ndim else None, True).run(None, {"x": x, "scale": scale})
    return np.asarray(found[0])


def onnx_codes(form: Format, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the codes of one tensor as bytes."""
    made = session(form.name, x.shape[0] if scale.ndim else None, False)
    inputs = {"x": ort.OrtValue.ortvalue_from_numpy(x), "scale": ort.OrtValue.ortvalue_from_numpy(scale)}
    binding = made.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    output = torch.empty(x.shape, dtype=torch.uint8)
    binding.bind_output("y", "cpu", 0, CODES[form.name], x.shape, output.data_ptr())
    made.run_with_iobinding(binding)
    return output.numpy()


VALUES = arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e4, 1e4, width=32))
SCALES = st.floats(2.0**-20, 2.0**10, width=32).map(np.float32)


@both
@settings(max_examples=80)
@given(x=VALUES, scale=SCALES)
def test_fake_is_what_the_nodes_give_back(form: Format, x: np.ndarray, scale: np.float32) -> None:
    found = fake_quantize(torch.from_numpy(x.copy()), torch.tensor(scale), form).numpy()
    np.testing.assert_array_equal(found, onnx_fake(form, x, np.array(scale)))


@both
def test_ties_go_to_the_even_code(form: Format) -> None:
    halves = np.arange(-300, 301, dtype=np.float32) / 2
    found = fake_quantize(torch.from_numpy(halves), torch.tensor(1.0), form).numpy()
    np.testing.assert_array_equal(found, onnx_fake(form, halves, np.array(1, np.float32)))
    wanted = {"int8": [0, 2, 2, -2], "fp8": [0.5, 1.5, 2.5, -1.5]}[form.name]
    np.testing.assert_array_equal(fake_quantize(torch.tensor([0.5, 1.5, 2.5, -1.5]), torch.tensor(1.0), form), wanted)


@both
def test_what_exceeds_the_range_saturates(form: Format) -> None:
    x = np.array([1e30, -1e30, np.inf, -np.inf, 500, -500], np.float32)
    scale = np.array(0.5, np.float32)
    found = fake_quantize(torch.from_numpy(x), torch.tensor(0.5), form).numpy()
    np.testing.assert_array_equal(found, onnx_fake(form, x, scale))
    low = {"int8": -128, "fp8": -448}[form.name]
    np.testing.assert_array_equal(found[:2], [form.largest * 0.5, low * 0.5])


@both
def test_codes_per_channel_are_those_of_the_node(form: Format, rng: np.random.Generator) -> None:
    weight = (rng.normal(size=(6, 50)) * [[1e-5], [1e-2], [1], [30], [0], [1e3]]).astype(np.float32)
    scale = scale_of(torch.from_numpy(weight).abs().amax(dim=1), form, "float32")
    codes = encode(torch.from_numpy(weight), scale[:, None], form)
    assert codes.dtype == {"int8": torch.int8, "fp8": torch.float8_e4m3fn}[form.name]
    np.testing.assert_array_equal(codes.view(torch.uint8).numpy(), onnx_codes(form, weight, scale.numpy()))
    wide = codes.float() * scale[:, None]
    np.testing.assert_array_equal(wide.numpy(), onnx_fake(form, weight, scale.numpy()))
    np.testing.assert_array_equal(wide.numpy(), fake_quantize(torch.from_numpy(weight), scale[:, None], form).numpy())
    assert (codes.float().abs().amax(dim=1)[scale > 1e-30] == form.largest).all(), "every row uses its largest code"


def test_int8_weights_leave_the_lowest_code_unused() -> None:
    x = torch.tensor([-1000.0, -127.6, 1000.0])
    np.testing.assert_array_equal(encode(x, torch.tensor(1.0), INT8), [-127, -127, 127])
    np.testing.assert_array_equal(fake_quantize(x, torch.tensor(1.0), INT8), [-128, -128, 127])


def test_neither_changes_its_input() -> None:
    for form in (INT8, FP8):
        x = torch.tensor([0.3, 900.0])
        encode(x, torch.tensor(1.0), form)
        fake_quantize(x, torch.tensor(1.0), form)
        np.testing.assert_array_equal(x, np.array([0.3, 900.0], np.float32))


@both
@settings(max_examples=80)
@given(amax=st.floats(0, 60000, width=32), dtype=st.sampled_from(list(SMALLEST_NORMAL)))
def test_a_scale_maps_the_largest_value_to_the_largest_code(form: Format, amax: float, dtype: str) -> None:
    scale = scale_of(torch.tensor(amax), form, dtype)
    stored = getattr(torch, dtype)
    assert scale.dtype == torch.float32
    assert scale == scale.to(stored).float(), "the graph stores another number"
    assert scale >= torch.finfo(stored).smallest_normal, "subnormal"
    if amax / form.largest > 2 * SMALLEST_NORMAL[dtype]:
        assert float(scale) * form.largest == pytest.approx(amax, rel=EPS[dtype])
        assert float(encode(torch.tensor(-amax), scale, form).float()) == -form.largest
    assert float(fake_quantize(torch.tensor(0.0), scale, form)) == 0.0


@both
def test_rounding_moves_a_value_by_half_a_step_at_most(form: Format, rng: np.random.Generator) -> None:
    """Half a step is half a scale of INT8, and of FP8 a sixteenth of the value or half the smallest number."""
    x = torch.from_numpy(rng.uniform(-1, 1, 5000).astype(np.float32))
    scale = scale_of(torch.tensor(1.0), form, "float32")
    error = (fake_quantize(x, scale, form) - x).abs()
    bound = scale / 2 if form.name == "int8" else torch.maximum(x.abs() / 16, scale * 2.0**-10)
    assert (error <= bound * (1 + 1e-5)).all()
    assert (error / bound).max() > 0.9, "the format is finer than it says"


def test_sqnr_by_hand() -> None:
    reference = torch.tensor([3.0, 4.0])
    assert sqnr_db(reference, torch.tensor([3.0, 4.5])) == pytest.approx(20.0)
    assert sqnr_db(reference, torch.zeros(2)) == pytest.approx(0.0)
    assert sqnr_db(reference, reference) == 200.0
    assert sqnr_db(torch.zeros(2), torch.zeros(2)) == 200.0
    assert sqnr_db(torch.zeros(2), reference) == -200.0
    assert sqnr_db(reference, torch.tensor([3.0, torch.nan])) == -200.0
    assert sqnr_db(reference, torch.tensor([3.0, torch.inf])) == -200.0


def test_fp8_keeps_small_values_that_int8_loses() -> None:
    x = torch.tensor([1e-3, 1.0])
    for form, kept in ((INT8, 0.0), (FP8, 1e-3)):
        assert float(fake_quantize(x, scale_of(x.max(), form, "float32"), form)[0]) == pytest.approx(kept, rel=1 / 16)
