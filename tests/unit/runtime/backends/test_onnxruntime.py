"""ONNX Runtime behind the protocol: casts of width, one error for all wrong inputs, clear refusals."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from internvl_edge.runtime.backends import Session, SessionOptions, require_backend
from internvl_edge.runtime.backends.onnxruntime import OnnxRuntimeSession, Provider
from internvl_edge.runtime.errors import BackendError, InputError

HEAD = '<ir_version: 10, opset_import: ["": 23]>\n'


def write(folder: Path, graph: str, name: str = "graph.onnx") -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(onnx.parser.parse_model(HEAD + graph), folder / name)
    return folder / name


@pytest.fixture
def session(tmp_path: Path) -> OnnxRuntimeSession:
    graph = """
    toy (float[batch, 3] x, float16[batch, length] h, int64[length] ids)
    => (float[batch, 3] sum, float16[batch, length] twice)
    {
        start = Constant<value = int64[1] {0}>()
        rows = Gather<axis = 1>(h, ids)
        wide = Cast<to = 1>(rows)
        axes = Constant<value = int64[1] {1}>()
        total = ReduceSum<keepdims = 1>(wide, axes)
        sum = Add(x, total)
        twice = Add(h, h)
    }
    """
    return OnnxRuntimeSession(write(tmp_path, graph), SessionOptions())


def test_floats_and_integers_are_cast_to_the_graphs_width(session: Session) -> None:
    inputs = {"x": np.ones((2, 3)), "h": np.full((2, 2), 1.5, np.float32), "ids": np.array([0, 1], np.int32)}
    outputs = session.run(inputs)
    assert list(outputs) == ["sum", "twice"]
    assert outputs["twice"].dtype == np.float32  # on the CPU fp16 is computed in fp32
    np.testing.assert_array_equal(outputs["sum"], np.full((2, 3), 4, np.float32))
    np.testing.assert_array_equal(outputs["twice"], np.full((2, 2), 3))


def test_only_the_named_outputs_come_back(session: Session) -> None:
    inputs = {"x": np.ones((1, 3)), "h": np.ones((1, 1)), "ids": np.array([0])}
    assert list(session.run(inputs, ["twice"])) == ["twice"]


def test_inputs_may_be_strided(session: Session) -> None:
    x = np.arange(12.0).reshape(3, 4)[:, ::2].T  # [2, 3], not contiguous
    outputs = session.run({"x": x, "h": np.zeros((2, 1)), "ids": np.array([0])})
    np.testing.assert_array_equal(outputs["sum"], x)


def test_everything_wrong_with_the_inputs_is_said_at_once(session: Session) -> None:
    with pytest.raises(InputError) as caught:
        session.run({"x": np.ones((2, 4)), "ids": np.ones(3, np.float32), "y": np.ones(1)}, ["sum", "product"])
    message = str(caught.value)
    assert "\n" not in message
    assert "graph graph: " in message
    assert "input h is missing" in message
    assert "no input y" in message
    assert "no output product" in message
    assert "x has shape [2, 4] instead of [batch, 3]" in message
    assert "ids is float32 instead of int64" in message


def test_one_axis_name_has_one_size(session: Session) -> None:
    with pytest.raises(InputError, match="axis batch is 3 in h but 2 in x; axis length is 4 in ids but 1 in h"):
        session.run({"x": np.ones((2, 3)), "h": np.ones((3, 1)), "ids": np.zeros(4, np.int64)})


def test_integers_are_no_floats_and_text_is_neither(session: Session) -> None:
    with pytest.raises(InputError, match="x is int64 instead of float32; h is <U1 instead of float32"):
        session.run({"x": np.ones((1, 3), np.int64), "h": np.array([["a"]]), "ids": np.array([0])})


def test_a_failure_at_run_time_is_one_line(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackendError) as caught:
        session.run({"x": np.ones((1, 3)), "h": np.ones((1, 1)), "ids": np.array([7])})
    assert "graph.onnx: failed at run time" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # said once, by the exception


def test_bf16_at_the_border_crosses_it_in_fp32(tmp_path: Path) -> None:
    path = write(tmp_path, "toy (bfloat16[2] x) => (bfloat16[2] y) { y = Identity(x) }")
    session = OnnxRuntimeSession(path, SessionOptions())
    np.testing.assert_array_equal(session.run({"x": np.array([1.5, -2])})["y"], np.array([1.5, -2], np.float32))


def test_what_numpy_cannot_hold_is_refused_on_opening(tmp_path: Path) -> None:
    path = write(tmp_path, "toy (float8e4m3fn[2] x) => (float8e4m3fn[2] y) { y = Identity(x) }")
    with pytest.raises(BackendError, match=r"NumPy cannot hold its tensor\(float8e4m3fn\); export with"):
        OnnxRuntimeSession(path, SessionOptions())


@pytest.mark.parametrize("folder", ["fp32", "bf16"])
def test_a_broken_file_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "vision.onnx").write_bytes(b"not a protobuf")
    with pytest.raises(
        BackendError, match=r"vision\.onnx: ONNX Runtime refuses the graph \(.*; export the bundle again"
    ) as caught:
        OnnxRuntimeSession(tmp_path / folder / "vision.onnx", SessionOptions())
    assert "\n" not in str(caught.value)


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"not installed; pip install 'internvl-edge\[cpu\]'"):
        OnnxRuntimeSession(tmp_path / "vision.onnx", SessionOptions())


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_the_library_lacks_names_the_extra(
    tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=rf"backend onnxruntime_{provider}: .*pip install 'internvl-edge\[gpu\]'$"):
        OnnxRuntimeSession(tmp_path / "vision.onnx", SessionOptions(), provider)


def test_a_provider_that_falls_back_in_silence_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "toy (float[2] x) => (float[2] y) { y = Neg(x) }")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    opened = onnxruntime.InferenceSession(str(path))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda file, settings, providers: opened)
    with pytest.raises(BackendError, match="CUDAExecutionProvider does not load on this machine; install the driver"):
        OnnxRuntimeSession(path, SessionOptions(), "cuda")


class Exhausted:
    """A session whose device has no memory left."""

    def run(self, names: object, feeds: object) -> None:
        raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 9\nmore")


def test_no_memory_at_run_time_names_what_to_lower(session: OnnxRuntimeSession) -> None:
    session._session = Exhausted()
    with pytest.raises(BackendError, match=r"^graph graph: out of memory \(.*size 9\); lower the batch, the beams"):
        session.run({"x": np.ones((1, 3)), "h": np.ones((1, 1)), "ids": np.array([0])})


def test_no_memory_on_opening_names_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError("std::bad_alloc")

    path = write(tmp_path, "toy (float[2] x) => (float[2] y) { y = Neg(x) }")
    monkeypatch.setattr(onnxruntime, "InferenceSession", exhausted)
    with pytest.raises(
        BackendError, match=r"graph graph: no memory to open it .*; close other graphs, or export to int8"
    ):
        OnnxRuntimeSession(path, SessionOptions())


def test_an_unknown_backend_names_the_known() -> None:
    require_backend("auto")
    with pytest.raises(BackendError, match=r"'tensorflow': unknown; choose from auto, .*onnxruntime"):
        require_backend("tensorflow")
