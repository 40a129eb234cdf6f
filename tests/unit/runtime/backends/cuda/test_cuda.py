"""The layer over CUDA, with the driver's library and pycuda replaced by recorders: calls, their order, their errors."""

import ctypes
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.backends.cuda import Cuda, CudaError, Device, DeviceMemoryError, graphs, libcuda
from internvl_edge.runtime.backends.cuda.kernels import KernelLoader
from internvl_edge.runtime.backends.cuda.open import import_pycuda, open_cuda
from internvl_edge.runtime.backends.cuda.pycuda_driver import PycudaDriver
from internvl_edge.runtime.backends.tensorrt.plans.attention_plugin import KernelDriver
from internvl_edge.runtime.errors import BackendError

DEVICE = Device(name="NVIDIA Fake", sm=87, memory_bytes=1 << 30, driver="12.2")
STREAM = 0x7F00_0000_1000
"""A handle that does not fit into 32 bits."""


class Recorder:
    """A libcuda whose functions note their arguments; out parameters get numbers, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.codes: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def __getattr__(self, name: str) -> Callable[..., int]:
        def function(*arguments: Any) -> int:
            if name == "cuGetErrorName":
                arguments[1]._obj.value = b"CUDA_ERROR_TOLD"
                return 0
            self.calls.append((name, [getattr(each, "value", each) for each in arguments]))
            if name == "cuLaunchKernel":
                self.calls[-1][1].append(_parameters(arguments[9]))
            for argument in arguments:
                if hasattr(argument, "_obj"):
                    argument._obj.value = 0xABC0_0000_0000 + len(self.calls)
            return self.codes.get(name, 0)

        return function


def _parameters(pointers: Any) -> list[tuple[int, int]]:
    """Return each parameter of a kernel as 32 and as 64 bits; the fake reads them as the driver does, by address."""
    return [(ctypes.c_uint32.from_address(each).value, each) for each in pointers]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(libcuda, "_library", lambda: recorder)
    return recorder


def test_a_failure_has_the_drivers_name(recorder: Recorder) -> None:
    recorder.codes["cuGraphLaunch"] = 700
    with pytest.raises(CudaError, match=r"^cuGraphLaunch: CUDA_ERROR_TOLD; see the kernel's log"):
        graphs.launch(1, STREAM)


def test_out_of_memory_is_its_own_error(recorder: Recorder) -> None:
    recorder.codes["cuGraphInstantiateWithFlags"] = 2
    with pytest.raises(DeviceMemoryError, match="no memory left"):
        graphs.capture(STREAM, lambda: None)
    assert recorder.names[-1] == "cuGraphDestroy"


def test_a_graph_is_captured_instantiated_launched_and_freed(recorder: Recorder) -> None:
    graph = graphs.capture(STREAM, lambda: recorder.calls.append(("enqueued", [])))
    graphs.launch(graph, STREAM)
    graphs.drop(graph)
    assert recorder.names == [
        "cuStreamBeginCapture_v2",
        "enqueued",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphDestroy",
        "cuGraphLaunch",
        "cuGraphExecDestroy",
    ]
    assert recorder.calls[0][1] == [STREAM, 1]
    assert recorder.calls[5][1] == [graph, STREAM]
    assert recorder.calls[6][1] == [graph]


@pytest.mark.parametrize("ends", [0, 901])
def test_a_capture_that_fails_on_the_way_is_ended(recorder: Recorder, ends: int) -> None:
    recorder.codes["cuStreamEndCapture"] = ends

    def enqueue() -> None:
        raise BackendError("refused")

    with pytest.raises(BackendError, match=r"^refused$"):
        graphs.capture(STREAM, enqueue)
    assert recorder.names[:2] == ["cuStreamBeginCapture_v2", "cuStreamEndCapture"]
    assert ("cuGraphDestroy" in recorder.names) == (ends == 0)


def test_a_kernel_is_loaded_and_launched_with_its_parameters(recorder: Recorder) -> None:
    loader: KernelDriver = KernelLoader()
    function = loader.load(b"// ptx", "vit_attention", 64 << 10)
    pointer = 0x7FFF_0000_0042
    loader.launch(function, (4, 2, 1), 128, 64 << 10, [("u64", pointer), ("u32", 577)], STREAM)
    assert recorder.names == ["cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute", "cuLaunchKernel"]
    assert recorder.calls[0][1][1] == b"// ptx"
    assert recorder.calls[1][1][2] == b"vit_attention"
    assert recorder.calls[2][1] == [function, 8, 64 << 10]
    arguments = recorder.calls[3][1]
    assert arguments[:9] == [function, 4, 2, 1, 128, 1, 1, 64 << 10, STREAM]
    assert arguments[10] is None
    assert [low for low, _ in arguments[11]] == [pointer & 0xFFFF_FFFF, 577]


def test_little_shared_memory_is_not_asked_for(recorder: Recorder) -> None:
    KernelLoader().load(b"", "kernel", 48 << 10)
    assert "cuFuncSetAttribute" not in recorder.names


class FakeError(Exception):
    """``pycuda.driver.Error``."""


class FakeMemoryError(FakeError):
    """``pycuda.driver.MemoryError``."""


class FakePycuda:
    """``pycuda.driver``, as far as it is used."""

    Error = FakeError
    MemoryError = FakeMemoryError
    event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.context = SimpleNamespace(push=lambda: self.calls.append(("push",)))
        self.Context = SimpleNamespace(pop=lambda: self.calls.append(("pop",)))

    def init(self) -> None:
        self.calls.append(("init",))

    def Device(self, index: int) -> Any:  # noqa: N802
        return SimpleNamespace(retain_primary_context=lambda: self.context)

    def mem_alloc(self, size: int) -> Any:
        if size > 1 << 20:
            raise FakeMemoryError("cuMemAlloc failed: out of memory")
        calls = self.calls

        class Allocation:
            def __int__(self) -> int:
                return 0x1000

            def free(self) -> None:
                calls.append(("free", size))

        return Allocation()

    def pagelocked_empty(self, size: int, dtype: Any) -> np.ndarray:
        return np.asarray(_Pinned(size, self.calls), dtype)

    def Event(self, flags: int) -> Any:  # noqa: N802
        return SimpleNamespace(flags=flags, time_since=lambda start: 1.5)

    def memcpy_htod_async(self, *arguments: Any) -> None:
        self.calls.append(("htod", *arguments))

    def memcpy_dtoh_async(self, *arguments: Any) -> None:
        self.calls.append(("dtoh", *arguments))

    def memcpy_dtod_async(self, *arguments: Any) -> None:
        self.calls.append(("dtod", *arguments))


class _Pinned:
    """The allocation that pycuda hangs under its arrays as their base."""

    def __init__(self, size: int, calls: list[tuple[Any, ...]]) -> None:
        self._held, self._calls = np.zeros(size, np.uint8), calls
        self.__array_interface__ = self._held.__array_interface__

    def free(self) -> None:
        self._calls.append(("free pinned",))


@pytest.fixture
def pycuda() -> FakePycuda:
    return FakePycuda()


def test_the_primary_context_is_current_for_as_long_as_it_is_held(pycuda: FakePycuda) -> None:
    cuda: Cuda = PycudaDriver(pycuda)
    with cuda.current():
        address = cuda.allocate(64)
        cuda.free(address)
    assert pycuda.calls == [("init",), ("push",), ("free", 64), ("pop",)]


def test_pycudas_errors_become_ours_and_the_context_leaves(pycuda: FakePycuda) -> None:
    cuda = PycudaDriver(pycuda)
    with pytest.raises(DeviceMemoryError, match="no memory left"), cuda.current():
        cuda.allocate(2 << 20)
    with pytest.raises(CudaError, match=r"^CUDA: cuCtxSynchronize failed; see the kernel's log"), cuda.current():
        raise FakeError("cuCtxSynchronize failed\nmore of it")
    assert pycuda.calls.count(("push",)) == pycuda.calls.count(("pop",)) == 2


def test_pinned_memory_is_freed_by_its_allocation(pycuda: FakePycuda) -> None:
    cuda = PycudaDriver(pycuda)
    memory = cuda.allocate_pinned(16)
    assert (memory.dtype, memory.shape) == (np.uint8, (16,))
    cuda.free_pinned(memory)
    assert pycuda.calls[-1] == ("free pinned",)


def test_events_poll_or_sleep(pycuda: FakePycuda) -> None:
    cuda = PycudaDriver(pycuda)
    assert [cuda.event(blocking=blocking).flags for blocking in (False, True)] == [0, 1]
    assert cuda.elapsed_ms(cuda.event(blocking=True), cuda.event(blocking=True)) == 1.5


def test_copies_name_target_source_and_stream(pycuda: FakePycuda) -> None:
    cuda, values, stream = PycudaDriver(pycuda), np.zeros(4), SimpleNamespace(handle=STREAM)
    cuda.copy_in(1, values, stream)
    cuda.copy_out(values, 2, stream)
    cuda.copy(3, 4, 5, stream)
    assert [call[0] for call in pycuda.calls[1:]] == ["htod", "dtoh", "dtod"]
    assert pycuda.calls[1][1:] == (1, values, stream)
    assert pycuda.calls[2][1:] == (values, 2, stream)
    assert pycuda.calls[3][1:] == (3, 4, 5, stream)


def test_graphs_take_the_streams_handle(pycuda: FakePycuda, recorder: Recorder) -> None:
    cuda, stream = PycudaDriver(pycuda), SimpleNamespace(handle=STREAM)
    graph = cuda.capture(stream, lambda: None)
    cuda.launch(graph, stream)
    cuda.drop(graph)
    assert recorder.names[-2:] == ["cuGraphLaunch", "cuGraphExecDestroy"]


def test_pycuda_that_is_not_installed_is_not_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert import_pycuda(DEVICE) is None
    assert not caplog.messages


def test_pycuda_that_is_newer_than_the_driver_is_left_out_and_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(name: str) -> None:
        raise ImportError("libcuda.so.1: version or symbol\nundefined symbol: cuEventElapsedTime_v2")

    monkeypatch.setattr("internvl_edge.runtime.backends.cuda.open.import_module", load)
    assert import_pycuda(DEVICE) is None
    (reported,) = caplog.messages
    assert "undefined symbol: cuEventElapsedTime_v2), so the driver is called without it" in reported
    assert "CUDA 12.2 or older" in reported
    assert "\n" not in reported


def test_a_pycuda_that_loads_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("pycuda"), ModuleType("pycuda.driver")
    package.driver = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    assert import_pycuda(DEVICE) is module


def test_no_device_is_said_before_pycuda_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("internvl_edge.runtime.backends.cuda.open.find_device", lambda: "no CUDA device")
    open_cuda.cache_clear()
    with pytest.raises(
        BackendError, match=r"^CUDA: no CUDA device; install the driver, or choose --backend onnxruntime$"
    ):
        open_cuda()
