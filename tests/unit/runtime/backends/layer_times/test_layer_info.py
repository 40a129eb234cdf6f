"""The file of layers as readers of TensorRT's engine inspector take it: fields, formats, names, edges."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.layer_times import onnxruntime as onnxruntime_layers
from internvl_edge.runtime.backends.layer_times.layer_info import UNKNOWN_FORMAT, layer_info
from internvl_edge.runtime.backends.layer_times.layers import LayerTensor, LayerTime
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession
from tests.layer_reader import ELEMENT_BYTES, read_layers

TOWER = """<ir_version: 10, opset_import: ["": 23]>
tower (float[batch, 4, 8, 8] x) => (float[batch, 16, 2] y, float[batch, 16, 2, 2] patches) {
    patches = Conv<kernel_shape = [4, 4], strides = [4, 4]>(x, kernel, bias)
    shape = Constant<value = int64[3] {0, 16, 4}>()
    rows = Reshape(patches, shape)
    turned = MatMul(rows, weight)
    soft = Softmax(turned)
    two = Add(soft, turned)
    y = Mul(two, soft)
}"""
FEEDS = {"x": np.ones((3, 4, 8, 8), np.float32)}


@pytest.fixture
def graph(tmp_path: Path, rng: np.random.Generator) -> Path:
    model = onnx.parser.parse_model(TOWER)
    for name, shape in (("kernel", (16, 4, 4, 4)), ("bias", (16,)), ("weight", (4, 2))):
        values = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for index, node in enumerate(model.graph.node):
        node.name = f"tower.layers.{index}"
    onnx.save(model, tmp_path / "tower.onnx")
    return tmp_path / "tower.onnx"


def require_readable(info: Any, weight_bytes: int) -> None:
    found = read_layers(info)
    assert found.tensors
    assert (found.unknown, found.problems, found.unwritten, found.unread) == ([], [], [], [])
    assert len(found.edges) >= len(info["Layers"]) - 2, "each layer but those at the border is joined to another"
    assert found.weight_bytes == weight_bytes
    (convolution,) = [layer for layer in info["Layers"] if layer["ParameterType"] == "Convolution"]
    assert (convolution["Kernel"], convolution["Groups"], convolution["OutMaps"]) == ([4, 4], 1, 16)
    assert [tensor["Dimensions"] for tensor in convolution["Outputs"]] == [[3, 16, 2, 2]]


def test_onnxruntimes_layers_are_read(graph: Path) -> None:
    session = OnnxRuntimeSession(graph, SessionOptions(threads=1))
    layers = session.layer_times(FEEDS, 2)
    require_readable(layer_info(layers, [*session.inputs, *session.outputs]), 4 * (16 * 4 * 4 * 4 + 4 * 2))


def test_openvinos_layers_are_read(graph: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    from internvl_edge.runtime.backends.openvino import OpenVinoSession

    session = OpenVinoSession(graph, SessionOptions(threads=1))
    layers = session.layer_times(FEEDS, 30)
    require_readable(layer_info(layers, ["x", "y", "patches"]), 4 * (16 * 4 * 4 * 4 + 4 * 2))


QUANTIZED = """<ir_version: 10, opset_import: ["": 23]>
tower (float[batch, 5, 64] x) => (float[batch, 5, 64] q, float[batch, 5, 64] k) {
    scale = Constant<value = float {0.02}>()
    zero = Constant<value = int8 {0}>()
    codes = QuantizeLinear(x, scale, zero)
    rounded = DequantizeLinear(codes, scale, zero)
    weight = DequantizeLinear<axis = 1>(kernel, scales)
    product = MatMul(rounded, weight)
    left, right = Split<axis = 2, num_outputs = 2>(product)
    q = Softmax(left)
    k = Tanh(right)
}"""


def test_nodes_that_openvino_calls_the_same_are_distinguished(tmp_path: Path, rng: np.random.Generator) -> None:
    """A scale that it moves behind a split becomes a node a branch, all of one name."""
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    from internvl_edge.runtime.backends.openvino import OpenVinoSession

    model = onnx.parser.parse_model(QUANTIZED)
    kernel = rng.integers(-127, 128, (64, 128)).astype(np.int8)
    for name, values in (("kernel", kernel), ("scales", rng.random(128, np.float32))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "tower.onnx")
    session = OpenVinoSession(tmp_path / "tower.onnx", SessionOptions(threads=1))
    layers = session.layer_times({"x": np.ones((3, 5, 64), np.float32)}, 50)
    found = read_layers(layer_info(layers, ["x", "q", "k"]))
    assert (found.unknown, found.problems, found.unwritten, found.unread) == ([], [], [], [])
    assert found.edges


def test_a_graph_without_room_to_be_written_has_tensors_of_no_layer_in_common(
    graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime_layers.shutil, "disk_usage", lambda folder: type("", (), {"free": 10})())
    layers = OnnxRuntimeSession(graph, SessionOptions(threads=1)).layer_times(FEEDS, 1)
    found = read_layers(layer_info(layers, ["x", "y"]))
    assert (found.unknown, found.edges) == ([], [])
    assert "tensors of layers are not named" in caplog.text


def test_a_graph_that_cannot_be_written_leaves_the_times(
    graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = OnnxRuntimeSession(graph, SessionOptions(threads=1))
    opened = session._opened

    def refuse(files: onnxruntime_layers.ProfileFiles) -> Any:
        if files.graph is not None:
            raise RuntimeError("Unable to serialize model")
        return opened(files)

    monkeypatch.setattr(session, "_opened", refuse)
    layers = session.layer_times(FEEDS, 2)
    assert all(layer.total_ms >= 0 for layer in layers)
    assert read_layers(layer_info(layers, ["x", "y"])).edges == []
    assert "the graph cannot be written (Unable to serialize model)" in caplog.text


def test_fields_are_those_of_the_inspector() -> None:
    layer = LayerTime(
        name="a.b",
        op="MatMul",
        tactic="gemm_f16",
        times_ms=(1.0,),
        inputs=(LayerTensor("x", "float16", (1, 3)),),
        weights=(LayerTensor("w", "float16", (3, 5)),),
        outputs=(LayerTensor("y", "bfloat16", (1, 5)),),
    )
    info = layer_info([layer], ["x", "y"])
    assert list(info) == ["Layers", "Bindings"]
    assert info["Layers"] == [
        {
            "Name": "a.b",
            "LayerType": "MatMul",
            "Inputs": [
                {
                    "Name": "x",
                    "Location": "Host",
                    "Dimensions": [1, 3],
                    "Format/Datatype": "Row major linear FP16 format",
                }
            ],
            "Outputs": [
                {
                    "Name": "y",
                    "Location": "Host",
                    "Dimensions": [1, 5],
                    "Format/Datatype": "Row major linear BFloat16 format",
                }
            ],
            "ParameterType": "MatrixMultiply",
            "Weights": {"Type": "Half", "Count": 15},
            "TacticName": "gemm_f16",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: a.b]",
        }
    ]


@pytest.mark.parametrize(
    "dtype",
    [
        *("float", "float16", "bfloat16", "float8e4m3fn", "int8", "uint8", "int32", "int64", "bool", "double"),
        *("f32", "f16", "bf16", "f8e4m3", "i8", "u8", "i32", "i64", "boolean", "f64"),
    ],
)
def test_every_type_has_a_format_that_is_known(dtype: str) -> None:
    layer = LayerTime(name="a", op="b", times_ms=(1.0,), outputs=(LayerTensor("y", dtype, (2,)),))
    (tensor,) = layer_info([layer], ["y"])["Layers"][0]["Outputs"]
    assert tensor["Format/Datatype"] in ELEMENT_BYTES


def test_what_is_no_number_is_unknown_by_the_inspectors_words() -> None:
    layer = LayerTime(name="a", op="b", times_ms=(1.0,), outputs=(LayerTensor("y", "string", (2,)),))
    assert layer_info([layer], [])["Layers"][0]["Outputs"][0]["Format/Datatype"] == UNKNOWN_FORMAT
