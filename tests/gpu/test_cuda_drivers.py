"""Both ways to the device, pycuda's and the driver's own: memory, streams, events, graphs, and plans on them."""

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest

from internvl_edge.export.plans.build import BuildOptions
from internvl_edge.runtime.backends.cuda import Cuda, Device
from internvl_edge.runtime.backends.cuda.ctypes_driver import CtypesDriver
from internvl_edge.runtime.backends.cuda.open import import_pycuda
from internvl_edge.runtime.backends.cuda.pycuda_driver import PycudaDriver
from internvl_edge.runtime.backends.session import SessionOptions
from internvl_edge.runtime.backends.tensorrt import open as opening
from internvl_edge.runtime.backends.tensorrt import open_tensorrt
from internvl_edge.runtime.bundle.bundle import Bundle
from tests.gpu.agree import Record, require_agreement
from tests.gpu.built import Built
from tests.gpu.cases import case_of
from tests.gpu.marks import GPU

pytestmark = GPU

_BYTES = 4 << 20


@pytest.fixture(params=["ctypes", "pycuda"])
def cuda(request: pytest.FixtureRequest, device: Device) -> Iterator[Cuda]:
    if request.param == "ctypes":
        yield CtypesDriver()
        return
    module = import_pycuda(device)
    if module is None:
        pytest.skip("pycuda is not installed, or was compiled for another driver.")
    yield PycudaDriver(module)


def test_values_go_there_and_back(cuda: Cuda, record_property: Record) -> None:
    with cuda.current():
        stream, first, second = cuda.stream(), cuda.allocate(_BYTES), cuda.allocate(_BYTES)
        staged, landed = cuda.allocate_pinned(_BYTES), cuda.allocate_pinned(_BYTES)
        staged[:] = np.arange(_BYTES) % 251
        start, end = cuda.event(blocking=True), cuda.event(blocking=False)
        cuda.record(start, stream)
        cuda.copy_in(first, staged, stream)
        cuda.copy(second, first, _BYTES, stream)
        cuda.copy_out(landed, second, stream)
        cuda.record(end, stream)
        cuda.wait(end)
        np.testing.assert_array_equal(landed, staged)
        record_property("ms_for_8_MiB_and_back", cuda.elapsed_ms(start, end))
        assert cuda.elapsed_ms(start, end) > 0
        for address in (first, second):
            cuda.free(address)
        for memory in (staged, landed):
            cuda.free_pinned(memory)


def test_a_graph_replays_copies(cuda: Cuda) -> None:
    with cuda.current():
        stream, address = cuda.stream(), cuda.allocate(_BYTES)
        staged, landed = cuda.allocate_pinned(_BYTES), cuda.allocate_pinned(_BYTES)

        def enqueue() -> None:
            cuda.copy_in(address, staged, stream)
            cuda.copy_out(landed, address, stream)

        graph = cuda.capture(stream, enqueue)
        for value in (1, 2):
            staged[:] = value
            cuda.launch(graph, stream)
            cuda.synchronize(stream)
            assert (landed == value).all()
        cuda.drop(graph)
        cuda.free(address)
        cuda.free_pinned(staged)
        cuda.free_pinned(landed)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_plans_run_on_it(
    cuda: Cuda,
    built: Callable[..., Built],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
    cuda_graph: bool,
) -> None:
    demo = built("fp16", BuildOptions())
    monkeypatch.setattr(opening, "open_cuda", lambda: cuda)
    case = case_of(demo.model, "vision")
    options = SessionOptions(cuda_graph=cuda_graph)
    with closing(open_tensorrt(Bundle.open(demo.bundle), "vision", options, demo.flavour.name)) as session:
        for _ in range(4):
            found = session.run(case.inputs)
        record_property("cuda_graph", session.settings["CUDA graph"])
    require_agreement(found, case.expected, "fp16", record_property)
