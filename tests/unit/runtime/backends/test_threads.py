"""A graph with little work runs on one thread; what a user asks for is taken."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from internvl_edge.runtime.backends.onnxruntime import SPINNING, OnnxRuntimeSession
from internvl_edge.runtime.backends.session import SessionOptions
from internvl_edge.runtime.backends.threads import threads_for

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("weights", "rows", "threads"),
    [
        (3 * MILLION, 1, 1),
        (3 * MILLION, 4, 1),
        (3 * MILLION, 32, 0),
        (16 << 20, 1, 1),
        ((16 << 20) + 1, 1, 0),
        (300 * MILLION, 1, 0),
        (5_540 * MILLION, 1, 0),
    ],
)
def test_threads_follow_from_the_work_of_a_call(weights: int, rows: int, threads: int) -> None:
    assert threads_for(weights, rows) == threads


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    weights = numpy_helper.from_array(np.ones((1024, 1024), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1024])],
        [weights],
    )
    file = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), file)
    return file


@pytest.mark.parametrize(
    ("options", "threads", "spinning"),
    [
        (SessionOptions(), 1, "0"),
        (SessionOptions(rows=16), 1, "0"),
        (SessionOptions(rows=17), 0, "0"),
        (SessionOptions(threads=2), 2, None),
        (SessionOptions(threads=1, rows=64), 1, None),
    ],
)
def test_a_session_has_the_threads_of_its_graph_and_spins_only_on_those_asked_for(
    options: SessionOptions, threads: int, spinning: str | None, graph_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    class Noted(onnxruntime.InferenceSession):
        def __init__(self, model: Any, settings: Any, **others: Any) -> None:
            opened.append(settings)
            super().__init__(model, settings, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Noted)
    session = OnnxRuntimeSession(graph_file, options)
    (settings,) = opened
    assert settings.intra_op_num_threads == threads
    assert entry(settings, SPINNING) == spinning
    assert session.settings["threads"] == (str(threads) if threads else "all cores")
    np.testing.assert_allclose(session.run({"x": np.ones((2, 1024), np.float32)})["y"], 1024)


def entry(settings: Any, key: str) -> str | None:
    """Return the option of a session; None where it is ONNX Runtime's default."""
    try:
        return str(settings.get_session_config_entry(key))
    except RuntimeError:
        return None
