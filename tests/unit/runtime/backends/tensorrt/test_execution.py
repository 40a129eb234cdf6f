"""Contexts of one shape: profiles and shapes are set once, addresses where they changed, and launches are replayed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends.cuda import CudaError
from internvl_edge.runtime.backends.tensorrt.contexts import ContextFactory
from internvl_edge.runtime.backends.tensorrt.execution import Execution
from internvl_edge.runtime.backends.tensorrt.memory import DeviceBuffer
from internvl_edge.runtime.backends.tensorrt.plans.library import load_library
from internvl_edge.runtime.backends.tensorrt.plans.plan import load_plan
from internvl_edge.runtime.bundle.engines import EngineRecord
from internvl_edge.runtime.errors import BackendError
from tests.unit.runtime.fake_cuda import FakeStream
from tests.unit.runtime.fake_plans import SM, BundleOnDevice, bundle_on_device


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BundleOnDevice]:
    found = bundle_on_device(tmp_path, monkeypatch, parts=True)
    with found.cuda.current():
        yield found


@pytest.fixture
def stream(here: BundleOnDevice) -> FakeStream:
    return here.cuda.stream()


def execution(here: BundleOnDevice, graph: str = "vision") -> Execution:
    library = load_library(here.flavour)
    records = EngineRecord.load(here.folder).graphs[graph].plans
    plans = [load_plan(library, here.folder, record, graph) for record in records]
    contexts = [ContextFactory(library, plan, graph, SM, growing=False).new() for plan in plans]
    return Execution(library, here.cuda, graph, plans, contexts)


def bound(here: BundleOnDevice, made: Execution) -> tuple[dict[str, int], DeviceBuffer]:
    scratch = DeviceBuffer(here.cuda)
    scratch.reserve(2048)
    addresses = {name: here.cuda.allocate(4096) for name in made.shapes}
    here.cuda.write(addresses["pixel_values"], np.zeros(4096, np.uint8))
    made.bind(addresses, scratch)
    return addresses, scratch


def test_shapes_follow_through_the_plans(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    made.shape(0, {"pixel_values": (5, 3, 4)}, stream)
    assert made.shapes == {
        "pixel_values": (5, 3, 4),
        "hidden": (5, 3, 4),
        "vision_states": (5, 2, 3),
        "image_embeds": (5, 3),
    }


def test_the_same_shape_and_the_same_addresses_change_nothing(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    made.shape(0, {"pixel_values": (5, 3, 4)}, stream)
    addresses, scratch = bound(here, made)
    before = [context.state for context in made.contexts]
    made.shape(0, {"pixel_values": (5, 3, 4)}, stream)
    made.bind(dict(addresses), scratch)
    assert [context.state for context in made.contexts] == before


def test_another_shape_frees_the_captured_graph(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    made.shape(0, {"pixel_values": (5, 3, 4)}, stream)
    bound(here, made)
    made.launch(stream)
    here.cuda.synchronize(stream)
    made.capture(stream)
    assert (made.captured, len(here.cuda.graphs), here.cuda.launched) == (True, 1, 0)
    made.launch(stream)
    here.cuda.synchronize(stream)
    assert here.cuda.launched == 1
    made.shape(0, {"pixel_values": (2, 3, 4)}, stream)
    assert (made.captured, here.cuda.graphs) == (False, [])


def test_another_address_frees_the_captured_graph(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    made.shape(0, {"pixel_values": (5, 3, 4)}, stream)
    addresses, scratch = bound(here, made)
    made.launch(stream)
    here.cuda.synchronize(stream)
    made.capture(stream)
    made.bind(addresses | {"hidden": here.cuda.allocate(4096)}, scratch)
    assert (made.captured, here.cuda.graphs) == (False, [])


def test_a_shape_that_is_refused_is_set_anew_the_next_time(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    with pytest.raises(BackendError, match=r"^graph vision: .* does not take pixel_values \[9, 3, 4\]"):
        made.shape(0, {"pixel_values": (9, 3, 4)}, stream)
    with pytest.raises(BackendError, match="pixel_values"):
        made.shape(0, {"pixel_values": (9, 3, 4)}, stream)
    made.shape(0, {"pixel_values": (8, 3, 4)}, stream)
    assert made.shapes["image_embeds"] == (8, 3)


def test_a_profile_is_selected_where_it_is_another_one(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here, "decoder")
    step = {
        "input_ids": (2, 1),
        "attention_mask": (2, 7),
        "position_ids": (2, 1),
        "past_key_values.0.key": (2, 2, 6, 3),
    }
    made.shape(1, step, stream)
    assert [context.active_optimization_profile for context in made.contexts] == [1]
    with pytest.raises(BackendError, match="does not take profile 2"):
        made.shape(2, step, stream)


def test_a_shape_that_does_not_follow_names_the_tensor(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    made.contexts[0].infer_shapes = lambda: ["hidden"]
    with pytest.raises(BackendError, match="does not know the shape of hidden"):
        made.shape(0, {"pixel_values": (1, 3, 4)}, stream)


def test_an_address_that_is_refused_leaves_nothing_to_build_on(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    made.shape(0, {"pixel_values": (1, 3, 4)}, stream)
    refuse = made.contexts[1].set_tensor_address
    made.contexts[1].set_tensor_address = lambda name, memory: False
    with pytest.raises(BackendError, match="does not place hidden"):
        bound(here, made)
    made.contexts[1].set_tensor_address = refuse
    bound(here, made)
    made.launch(stream)
    here.cuda.synchronize(stream)


def test_what_cannot_be_captured_stays_enqueued(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    made.shape(0, {"pixel_values": (1, 3, 4)}, stream)
    bound(here, made)
    here.trt.capturable = False
    with pytest.raises(CudaError, match=r"first_half\.plan cannot be captured"):
        made.capture(stream)
    assert not made.captured


def test_a_run_that_is_refused_names_the_plan(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    made.shape(0, {"pixel_values": (1, 3, 4)}, stream)
    bound(here, made)
    here.trt.runs_fail = True
    with pytest.raises(BackendError, match=r"does not run first_half\.plan \(.*illegal memory access"):
        made.launch(stream)


def test_closing_frees_the_graph_and_the_contexts(here: BundleOnDevice, stream: FakeStream) -> None:
    made = execution(here)
    made.shape(0, {"pixel_values": (1, 3, 4)}, stream)
    bound(here, made)
    made.launch(stream)
    here.cuda.synchronize(stream)
    made.capture(stream)
    made.close()
    assert (here.cuda.graphs, made.contexts) == ([], [])
