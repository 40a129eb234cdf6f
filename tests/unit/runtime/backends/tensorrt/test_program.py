"""One graph on one lane: which runs are captured, which contexts are kept, and what is held where."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from internvl_edge.runtime.backends.cuda import CudaError
from internvl_edge.runtime.backends.session import TensorInfo
from internvl_edge.runtime.backends.tensorrt.contexts import ContextFactory
from internvl_edge.runtime.backends.tensorrt.execution import Execution
from internvl_edge.runtime.backends.tensorrt.lanes import Lane
from internvl_edge.runtime.backends.tensorrt.plans.library import load_library
from internvl_edge.runtime.backends.tensorrt.plans.plan import load_plan
from internvl_edge.runtime.backends.tensorrt.program import DeviceTensor, GraphOnDevice, Program, Replay
from internvl_edge.runtime.bundle.engines import EngineRecord
from internvl_edge.runtime.stages import COMPUTE, UNMEASURED, Stages
from tests.unit.runtime.fake_plans import FUNCTIONS, SCRATCH, SM, BundleOnDevice, bundle_on_device
from tests.unit.runtime.fake_tensorrt import IProfiler


class Programs:
    """A program of one graph of `bundle_on_device`; counts executions and kernels that are kept."""

    def __init__(self, here: BundleOnDevice, graph: str) -> None:
        library = load_library(here.flavour)
        plans = [
            load_plan(library, here.folder, record, graph)
            for record in EngineRecord.load(here.folder).graphs[graph].plans
        ]
        info = here.bundle.manifest.graphs[graph]
        self.executions = self.kept = 0

        def new_execution() -> Execution:
            self.executions += 1
            contexts = [ContextFactory(library, plan, graph, SM, growing=False).new() for plan in plans]
            return Execution(library, here.cuda, graph, plans, contexts)

        def keep_kernels() -> None:
            self.kept += 1

        self.graph = GraphOnDevice(
            name=graph,
            plans=plans,
            inputs={s.name: TensorInfo(s.name, np.dtype(s.dtype), s.shape) for s in info.inputs},
            outputs={s.name: TensorInfo(s.name, np.dtype(s.dtype), s.shape) for s in info.outputs},
            new_execution=new_execution,
            keep_kernels=keep_kernels,
            replay=Replay(on=True),
        )
        self.lane = Lane(here.cuda, 0, spin=False)
        self.program = Program(self.graph, here.cuda, self.lane)

    def vision(self, batch: int, stages: Stages = UNMEASURED) -> np.ndarray:
        pixels = np.arange(batch * 12, dtype=np.float32).reshape(batch, 3, 4)
        found = self.program.run({"pixel_values": pixels}, 0, ["image_embeds"], stages)
        np.testing.assert_array_equal(found["image_embeds"], FUNCTIONS["whole"](pixel_values=pixels)["image_embeds"])
        return found["image_embeds"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BundleOnDevice]:
    found = bundle_on_device(tmp_path, monkeypatch, parts=True)
    with found.cuda.current():
        yield found


def test_the_second_run_of_a_shape_captures_and_later_ones_replay(here: BundleOnDevice) -> None:
    programs = Programs(here, "vision")
    launched = []
    for _ in range(4):
        programs.vision(2)
        launched.append((len(here.cuda.graphs), here.cuda.launched))
    assert launched == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert programs.kept == 1, "kernels are kept where a shape is new"


def test_the_shape_that_ran_longest_ago_makes_room(here: BundleOnDevice) -> None:
    programs = Programs(here, "vision")
    for batch in (1, 2, 3, 4):
        programs.vision(batch)
    assert programs.executions == 4
    programs.vision(1)
    programs.vision(5)
    assert (programs.executions, programs.kept) == (4, 5), "that of the batch of 2 was taken"
    programs.vision(1)
    assert programs.kept == 5
    programs.vision(2)
    assert programs.kept == 6


def test_a_capture_that_fails_stops_all_further_ones(here: BundleOnDevice, caplog: pytest.LogCaptureFixture) -> None:
    programs = Programs(here, "vision")
    here.cuda.captures_fail = True
    for _ in range(3):
        programs.vision(1)
    assert not programs.graph.replay.on
    here.cuda.captures_fail = False
    programs.vision(1)
    assert here.cuda.graphs == []
    assert caplog.text.count("runs without CUDA graphs") == 1


def test_a_failure_that_is_known_is_not_reported_again(caplog: pytest.LogCaptureFixture) -> None:
    replay = Replay(on=True)
    for _ in range(2):
        replay.stop("vision", CudaError("no"))
    assert [record.message for record in caplog.records] == [
        "graph vision: runs without CUDA graphs, capturing one failed (no)"
    ]


def test_held_tensors_are_read_where_they_are_and_never_captured(here: BundleOnDevice) -> None:
    programs = Programs(here, "text")
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    address, out = here.cuda.allocate(ids.nbytes), here.cuda.allocate(64)
    here.cuda.write(address, ids)
    held = {"input_ids": DeviceTensor(address, (2, 3)), "text_embeds": DeviceTensor(out, (2, 3))}
    for _ in range(4):
        assert programs.program.run({}, 0, [], UNMEASURED, held) == {}
    np.testing.assert_array_equal(here.cuda.read(out, 24).view(np.float32), [6, 6, 6, 15, 15, 15])
    assert here.cuda.graphs == []
    assert programs.program._buffers == {}, "all tensors are held"


def test_scratch_memory_is_that_of_the_largest_plan(here: BundleOnDevice) -> None:
    programs = Programs(here, "vision")
    programs.vision(1)
    assert programs.graph.scratch_bytes == programs.lane.scratch.size_bytes == SCRATCH["second_half"]


def test_profiled_runs_have_contexts_of_their_own_and_give_them_back(here: BundleOnDevice) -> None:
    programs = Programs(here, "vision")
    reported: list[str] = []

    class Profiler(IProfiler):
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            reported.append(layer_name)

    stages = Stages()
    pixels = {"pixel_values": np.ones((1, 3, 4), np.float32)}
    programs.program.run_profiled(pixels, 0, Profiler(), 3, stages)
    assert reported == ["vision.encoder.first_half/mlp", "vision.encoder.second_half/mlp"] * 3
    assert len([span for span in stages.spans if span.stage == COMPUTE]) == 3
    programs.vision(1)
    assert len(reported) == 6


def test_contexts_with_shapes_are_lent_and_nothing_runs(here: BundleOnDevice) -> None:
    programs = Programs(here, "vision")
    with programs.program.shaped(0, {"pixel_values": (3, 3, 4)}) as contexts:
        assert [context.get_tensor_shape("hidden") for context in contexts] == [(3, 3, 4)] * 2
    assert here.cuda.launched == 0
    assert programs.lane.stream.waiting == []


def test_closing_frees_all_but_the_lanes_own(here: BundleOnDevice) -> None:
    programs = Programs(here, "vision")
    for _ in range(3):
        programs.vision(2)
    programs.program.close()
    assert here.cuda.held == programs.lane.scratch.size_bytes
    assert (here.cuda.pinned, here.cuda.graphs) == ([], [])
