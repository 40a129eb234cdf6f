"""A graph that the Triton around this process runs: what it is asked, and what it answers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.bundle.manifest import GraphInfo, TensorSpec
from internvl_edge.runtime.errors import BackendError, InputError
from internvl_edge.runtime.package.server_graph import ServerGraph
from internvl_edge.runtime.stages import COMPUTE, Stages
from tests.unit.runtime.graph_uses import USES

INFO = GraphInfo(
    file="onnx/fp16/vision.onnx",
    inputs=(TensorSpec(name="pixel_values", dtype="float16", shape=("batch", 2)),),
    outputs=(
        TensorSpec(name="vision_states", dtype="float16", shape=("batch", 2)),
        TensorSpec(name="image_embeds", dtype="float32", shape=("batch", 1)),
    ),
    use=USES["vision"],
)


class Server:
    """What Triton's Python backend offers; it doubles its input, and sums it."""

    TRITONSERVER_MEMORY_CPU = 0

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.asked: list[Any] = []

    def PreferredMemory(self, kind: int, number: int) -> tuple[int, int]:  # noqa: N802
        return kind, number

    def Tensor(self, name: str, values: np.ndarray) -> Any:  # noqa: N802
        assert values.flags.c_contiguous
        return SimpleNamespace(name=name, values=values)

    def InferenceRequest(self, **settings: Any) -> Any:  # noqa: N802
        self.asked.append(settings)
        (given,) = settings["inputs"]
        found = {"vision_states": given.values * 2, "image_embeds": given.values.sum(axis=1, keepdims=True)}
        response = SimpleNamespace(
            found={name: found[name] for name in settings["requested_output_names"]},
            has_error=lambda: bool(self.error),
            error=lambda: SimpleNamespace(message=lambda: self.error),
        )
        return SimpleNamespace(exec=lambda: response)

    def get_output_tensor_by_name(self, response: Any, name: str) -> Any:
        return SimpleNamespace(as_numpy=lambda: response.found[name])


def graph(server: Any) -> ServerGraph:
    return ServerGraph(server, "vision", INFO)


def test_all_outputs_in_the_graphs_type_and_order() -> None:
    server, stages = Server(), Stages()
    values = np.arange(8, dtype=np.float64).reshape(2, 4)[:, ::2]  # strided, and wider than the graph
    found = graph(server).run({"pixel_values": values}, stages=stages)
    assert list(found) == ["vision_states", "image_embeds"]
    np.testing.assert_array_equal(found["vision_states"], values * 2)
    np.testing.assert_array_equal(found["image_embeds"], [[2], [10]])
    (asked,) = server.asked
    assert asked["inputs"][0].values.dtype == np.float16
    assert (asked["model_name"], asked["preferred_memory"]) == ("vision", (0, 0))
    assert [(span.stage, span.graph) for span in stages.spans] == [(COMPUTE, "vision")]


def test_only_the_outputs_that_are_named() -> None:
    server = Server()
    assert list(graph(server).run({"pixel_values": np.ones((1, 2))}, ["image_embeds"])) == ["image_embeds"]
    assert server.asked[0]["requested_output_names"] == ["image_embeds"]


def test_wrong_arrays_are_the_findings_of_every_backend() -> None:
    server = Server()
    with pytest.raises(InputError, match="input pixel_values is missing; no input x; no output y"):
        graph(server).run({"x": np.ones(1)}, ["y"])
    assert server.asked == []


def test_what_the_server_refuses_is_one_line() -> None:
    with pytest.raises(BackendError, match=r"^graph vision: the server refuses it \(no room\); see its log$"):
        graph(Server("no room")).run({"pixel_values": np.ones((1, 2))})


def test_it_says_who_computes_and_closing_does_nothing() -> None:
    made = graph(Server())
    made.close()
    assert (made.backend, made.settings) == ("triton", {"server": "triton"})
    assert made.inputs["pixel_values"].dtype == np.float16
    assert made.outputs["image_embeds"].shape == ("batch", 1)
