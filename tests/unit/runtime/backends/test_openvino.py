"""OpenVINO behind the protocol: widths, names of axes, buffers that are used again, threads, refusals in one line."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.array_cache import ArrayCache, open_cache
from internvl_edge.runtime.backends.layer_times.layers import LayerTimes
from internvl_edge.runtime.backends.openvino import OpenVinoSession, process_core
from internvl_edge.runtime.bundle.manifest import TensorSpec
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.stages import COMPUTE, Stages

pytest.importorskip("openvino", reason="needs openvino: pip install 'internvl-edge[openvino]'")

HEAD = '<ir_version: 10, opset_import: ["": 23]>\n'
TOY = """
toy (float[batch, 3] x, float16[batch, length] h, int64[length] ids)
=> (float[batch, 3] sum, float16[batch, length] twice)
{
    rows = Gather<axis = 1>(h, ids)
    wide = Cast<to = 1>(rows)
    axes = Constant<value = int64[1] {1}>()
    total = ReduceSum<keepdims = 1>(wide, axes)
    sum = Add(x, total)
    twice = Add(h, h)
}
"""
AXES = (
    TensorSpec(name="x", dtype="float32", shape=("batch", 3)),
    TensorSpec(name="h", dtype="float16", shape=("batch", "length")),
    TensorSpec(name="ids", dtype="int64", shape=("length",)),
)


def write(folder: Path, graph: str) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(onnx.parser.parse_model(HEAD + graph), folder / "graph.onnx")
    return folder / "graph.onnx"


@pytest.fixture
def session(tmp_path: Path) -> OpenVinoSession:
    return OpenVinoSession(write(tmp_path, TOY), SessionOptions(threads=1), declared=AXES)


def test_narrow_floats_cross_the_border_in_fp32(session: OpenVinoSession) -> None:
    inputs = {"x": np.ones((2, 3)), "h": np.full((2, 2), 1.5, np.float16), "ids": np.array([0, 1], np.int32)}
    outputs = session.run(inputs)
    assert list(outputs) == ["sum", "twice"]
    assert outputs["twice"].dtype == np.float32
    np.testing.assert_array_equal(outputs["sum"], np.full((2, 3), 4, np.float32))
    np.testing.assert_array_equal(outputs["twice"], np.full((2, 2), 3))


@pytest.mark.parametrize("bf16", [False, True])
def test_a_processor_computes_in_bf16_where_that_was_allowed(
    tmp_path: Path, rng: np.random.Generator, bf16: bool
) -> None:
    path = write(tmp_path, "product (float[n, 256] x, float[256, 256] w) => (float[n, 256] y) { y = MatMul(x, w) }")
    session = OpenVinoSession(path, SessionOptions(threads=1, bf16=bf16))
    x, w = (rng.normal(size=(256, 256)).astype(np.float32) for _ in range(2))
    error = np.abs(session.run({"x": x, "w": w})["y"] - x @ w).max()
    has_units = "BF16" in process_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if bf16 and has_units:
        assert session.settings["computes in"] == "bf16"
        assert 1e-2 < error < 1, "products of 256 values of 8 bits each"
    else:
        assert session.settings["computes in"] == "f32"
        assert error < 1e-3


def test_ctrl_c_is_python_s_after_sessions_came_and_went(tmp_path: Path) -> None:
    """In a process of its own: a stack for signals that was freed ends it with a segmentation fault."""
    code = """
import gc, signal, sys
from pathlib import Path
from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.openvino import OpenVinoSession
signal.signal(signal.SIGINT, signal.default_int_handler)
sessions = [OpenVinoSession(Path(sys.argv[1]), SessionOptions(threads=1)) for _ in range(2)]
while sessions:
    sessions.pop(0).close()
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code, write(tmp_path, TOY)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_only_the_named_outputs_come_back(session: OpenVinoSession) -> None:
    assert list(session.run({"x": np.ones((1, 3)), "h": np.ones((1, 1)), "ids": np.array([0])}, ["twice"])) == ["twice"]


def test_inputs_may_be_strided(session: OpenVinoSession) -> None:
    x = np.arange(12.0).reshape(3, 4)[:, ::2].T  # [2, 3], not contiguous
    outputs = session.run({"x": x, "h": np.zeros((2, 1)), "ids": np.array([0])})
    np.testing.assert_array_equal(outputs["sum"], x)


def test_inputs_may_be_read_only(session: OpenVinoSession) -> None:
    x = np.broadcast_to(np.ones(3, np.float32), (1, 3))
    h = np.ones((1, 1), np.float32)
    h.flags.writeable = False
    outputs = session.run({"x": x, "h": h, "ids": np.broadcast_to(np.int64(0), (1,))})
    np.testing.assert_array_equal(outputs["sum"], np.full((1, 3), 2))


def test_outputs_are_the_callers_to_keep(session: OpenVinoSession) -> None:
    inputs = {"x": np.ones((1, 3)), "h": np.ones((1, 1)), "ids": np.array([0])}
    kept = session.run(inputs)["sum"]
    session.run({**inputs, "x": np.full((1, 3), 8.0)})
    np.testing.assert_array_equal(kept, np.full((1, 3), 2))
    kept[:] = 0
    np.testing.assert_array_equal(session.run(inputs)["sum"], np.full((1, 3), 2))


def test_threads_share_a_session(session: OpenVinoSession) -> None:
    def run(value: int) -> float:
        size = 1 + value % 3  # shapes change as well
        inputs = {"x": np.full((size, 3), float(value)), "h": np.zeros((size, 1)), "ids": np.array([0])}
        found = session.run(inputs)["sum"]
        assert found.shape == (size, 3)
        assert np.ptp(found) == 0
        return float(found[0, 0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(200))) == list(range(200))


def test_everything_wrong_with_the_inputs_is_said_at_once(session: OpenVinoSession) -> None:
    with pytest.raises(InputError) as caught:
        session.run({"x": np.ones((2, 4)), "ids": np.ones(3, np.float32), "y": np.ones(1)}, ["product"])
    for words in ("input h is missing", "no input y", "no output product", "x has shape [2, 4] instead of [batch, 3]"):
        assert words in str(caught.value)
    with pytest.raises(InputError, match="axis batch is 3 in h but 2 in x"):
        session.run({"x": np.ones((2, 3)), "h": np.ones((3, 1)), "ids": np.array([0])})


def test_axes_without_names_are_refused_by_openvino_in_one_line(tmp_path: Path) -> None:
    graph = "toy (float[a, 3] x, float[b, 3] z) => (float[c, 3] y) { y = Add(x, z) }"
    session = OpenVinoSession(write(tmp_path, graph), SessionOptions())
    assert session.inputs["x"].shape == (None, 3)
    with pytest.raises(
        BackendError, match=r"graph\.onnx: failed at run time \(.*mismatch\); check its inputs"
    ) as caught:
        session.run({"x": np.ones((2, 3)), "z": np.ones((5, 3))})
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(session.run({"x": np.ones((2, 3)), "z": np.ones((2, 3))})["y"], np.full((2, 3), 2))


def test_a_graph_keeps_its_exactness(tmp_path: Path) -> None:
    graph = "toy (float[n, 64] x, float[64, 64] w) => (float[n, 64] y) { y = MatMul(x, w) }"
    session = OpenVinoSession(write(tmp_path, graph), SessionOptions())
    assert session.settings["computes in"] == "f32"
    x = np.full((4, 64), 1 + 2.0**-12, np.float32)  # bf16 would read 1
    found = session.run({"x": x, "w": np.eye(64, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(found, x)


def test_bf16_is_float32_at_the_border(tmp_path: Path) -> None:
    graph = "toy (bfloat16[n] x) => (bfloat16[n] y) { y = Add(x, x) }"
    session = OpenVinoSession(write(tmp_path, graph), SessionOptions())
    assert session.outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(session.run({"x": np.array([1.5, -2.0])})["y"], [3, -4])


def test_the_time_of_a_run_is_one_span(session: OpenVinoSession) -> None:
    stages = Stages()
    session.run({"x": np.ones((1, 3)), "h": np.ones((1, 1)), "ids": np.array([0])}, stages=stages)
    assert [(span.stage, span.graph) for span in stages.spans] == [(COMPUTE, "graph")]


def test_layers_are_distinguished(session: OpenVinoSession) -> None:
    assert isinstance(session, LayerTimes)
    layers = session.layer_times({"x": np.ones((1, 3)), "h": np.ones((1, 1)), "ids": np.array([0])}, 30)
    assert layers
    assert all(len(layer.times_ms) == 30 for layer in layers)
    assert any(layer.op == "Gather" and layer.kind.startswith("Gather (") for layer in layers)


def test_settings_name_what_changes_a_time(session: OpenVinoSession) -> None:
    assert session.backend == "openvino"
    assert session.settings["threads"] == "1"
    assert set(session.settings) == {"openvino", "device", "computes in", "threads"}


def test_a_decoders_cache_is_of_arrays(session: OpenVinoSession) -> None:
    assert isinstance(open_cache(session, {}, 1, 1), ArrayCache)


def test_closing_twice_does_nothing(session: OpenVinoSession) -> None:
    session.close()
    session.close()


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    head = '<ir_version: 10, opset_import: ["": 23, "internvl": 1]>\n'
    model = onnx.parser.parse_model(head + "toy (float[2] x) => (float[2] y) { y = internvl.attention(x) }")
    onnx.save(model, tmp_path / "vision.onnx")
    with pytest.raises(
        BackendError, match=r"vision\.onnx: OpenVINO refuses the graph \(.*internvl\.attention"
    ) as caught:
        OpenVinoSession(tmp_path / "vision.onnx", SessionOptions())
    assert "\n" not in str(caught.value)


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"not installed; pip install 'internvl-edge\[openvino\]'"):
        OpenVinoSession(tmp_path / "vision.onnx", SessionOptions())


def test_a_missing_gpu_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    monkeypatch.setattr(openvino.Core, "available_devices", ["CPU"])
    with pytest.raises(BackendError, match="backend openvino_gpu: OpenVINO finds no GPU here"):
        OpenVinoSession(write(tmp_path, TOY), SessionOptions(), "GPU")
