"""Layers of a graph: their modules by name, and what ONNX Runtime's profiler reports of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.layer_times.layers import UNMAPPED, LayerTime, LayerTimes, module_path, module_times
from internvl_edge.runtime.backends.layer_times.onnxruntime import layers_of_trace
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vision_model.encoder.layers.0.attn/Attention", "vision_model.encoder.layers.0.attn"),
        ("vision_model.encoder.layers.3.mlp.fc1", "vision_model.encoder.layers.3.mlp.fc1"),
        ("{ForeignNode[a.layers.0.norm1/Mul...a.layers.0.mlp.fc2/Add]}", "a.layers.0"),
        ("a.layers.0.fc1 + a.layers.1.fc1", "a.layers"),
        ("vision/Shape", "vision"),
        ("a.b + c.d", UNMAPPED),
        ("BiasGelu_token_0", UNMAPPED),
        ("", UNMAPPED),
    ],
)
def test_the_module_is_in_the_name(name: str, path: str) -> None:
    assert module_path(name) == path


def test_modules_add_up_their_layers() -> None:
    layers = [
        LayerTime(name="a.b/MatMul", op="MatMul", times_ms=(2.0, 4.0)),
        LayerTime(name="a.b/Add", op="Add", times_ms=(1.0, 1.0)),
        LayerTime(name="a.c", op="MatMul", times_ms=(12.0, 12.0)),
    ]
    first, second = module_times(layers)
    assert (first.path, first.mean_ms, first.share) == ("a.c", 12.0, 0.75)
    assert (second.path, second.mean_ms, second.layers, second.ops) == ("a.b", 4.0, 2, ("MatMul", "Add"))


def test_the_first_run_of_a_trace_does_not_count() -> None:
    def event(name: str, index: int, microseconds: int) -> dict[str, object]:
        shape = [{"float": [1, 3]}]
        args = {"op_name": "MatMul", "node_index": str(index), "input_type_shape": shape, "output_type_shape": shape}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": args}

    runs = [[event("m.a", 1, 900), event("m.a", 2, 70)], [event("m.a", 1, 10), event("m.a", 2, 30)]]
    events = [{"cat": "Session", "name": "model_run", "dur": 1, "args": {}}, *(item for run in runs for item in run)]
    first, second = layers_of_trace(events, 1)
    assert (first.name, first.op, first.times_ms) == ("m.a", "MatMul", (0.01,))
    assert second.times_ms == (0.03,)
    assert [tensor[1:] for tensor in (*first.inputs, *first.outputs)] == [("float", (1, 3))] * 2
    assert len({tensor.name for layer in (first, second) for tensor in (*layer.inputs, *layer.outputs)}) == 4


def test_onnxruntime_reports_its_layers(tmp_path: Path) -> None:
    graph = """<ir_version: 10, opset_import: ["": 23]>
    toy (float[batch, 8] x, float[8, 8] w) => (float[batch, 8] y) {
        product = MatMul(x, w)
        y = Softmax(product)
    }"""
    model = onnx.parser.parse_model(graph)
    for node, name in zip(model.graph.node, ("tower.layers.0.fc", "tower.layers.0/Softmax"), strict=True):
        node.name = name
    onnx.save(model, tmp_path / "toy.onnx")
    session = OnnxRuntimeSession(tmp_path / "toy.onnx", SessionOptions(threads=1))
    assert isinstance(session, LayerTimes)
    before = set(tmp_path.iterdir())
    layers = session.layer_times({"x": np.ones((2, 8)), "w": np.eye(8)}, 4)
    assert [(layer.op, layer.path) for layer in layers] == [
        ("MatMul", "tower.layers.0.fc"),
        ("Softmax", "tower.layers.0"),
    ]
    assert all(len(layer.times_ms) == 4 and layer.total_ms >= 0 for layer in layers)
    assert layers[0].inputs == (("x", "float", (2, 8)), ("w", "float", (8, 8)))
    assert layers[0].outputs == layers[1].inputs == (("product", "float", (2, 8)),)
    assert set(tmp_path.iterdir()) == before
    assert not list(Path.cwd().glob("profile*.json"))
