"""Sizes of axes from expressions over names, and bytes of values by type, beside ONNX's own shape inference."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from internvl_edge.runtime.errors import ExportError
from internvl_edge.runtime.inspect.shapes import Shapes, axis_size, peak_activation_bytes, type_bytes

HEADER = '<ir_version: 11, opset_import: ["": 23]>\n'
SIZES = {"batch": 2, "past": 5, "length": 7}


def read(text: str) -> OnnxModel:
    return OnnxModel(onnx.parser.parse_model(HEADER + text).SerializeToString(), Path())


@pytest.mark.parametrize(
    ("axis", "size"),
    [
        (9, 9),
        (0, 0),
        ("batch", 2),
        ("past + length", 12),
        ("length - 8", -1),
        ("4*batch*(length + 1)", 64),
        ("(length + 3)//4", 2),
        ("length % 4", 3),
        ("batch**3", 8),
        ("-past + length", 2),
        ("Max(1, past - length)", 1),
        ("min(past, length)", 5),
        ("other", None),
        ("batch + other", None),
        ("length // (batch - 2)", None),
        ("past.real", None),
        ("unk__0 ?", None),
        (None, None),
    ],
)
def test_the_size_of_an_axis(axis: int | str | None, size: int | None) -> None:
    assert axis_size(axis, SIZES) == size


@pytest.mark.parametrize("name", [name for name in ir.DataType.__members__ if name not in ("UNDEFINED", "STRING")])
def test_bytes_of_every_type(name: str) -> None:
    assert type_bytes(ir.DataType[name].value, 16) == ir.DataType[name].itemsize * 16


def test_axes_of_inputs_need_sizes_and_expressions_follow() -> None:
    model = read("g (float[b, n] x, int64[q] y) => (float[b, n] z) { z = Neg(x) }")
    with pytest.raises(ExportError, match=r"^g: no size for axes n, q; FLOPs need one for each"):
        Shapes("g", model, {"b": 1})
    assert Shapes("g", model, {"b": 1, "n": 4, "q": 1})["z"] == (1, 4)


def test_a_scalar_is_no_unknown_shape() -> None:
    shapes = Shapes("g", read("g (float x) => (float y) { h = Neg(x)\n y = Neg(h) }"), {})
    assert shapes["x"] == ()
    assert shapes.bytes("x") == 4
    assert shapes.find("h") is None
    assert shapes.bytes("h") == 0


def test_the_most_that_is_alive_at_once() -> None:
    """x (4 KiB) lives until the second node, h (4 KiB) until the third, y is an output: 3 at the second node."""
    model = read(
        """g (float[b, 1024] x) => (float[b, 1024] z) <float[b, 1024] h, float[b, 1024] y> {
          h = Neg(x)
          y = Add(x, h)
          z = Add(y, y)
        }"""
    )
    assert peak_activation_bytes("g", model, {"b": 1}) == 3 * 4096
    assert peak_activation_bytes("g", model, {"b": 2}) == 6 * 4096
