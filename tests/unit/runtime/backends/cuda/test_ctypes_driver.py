"""Memory, streams, events and graphs through the driver's library, over one that enforces the order of calls."""

import ctypes
import gc
import sys
import threading

import numpy as np
import pytest

from internvl_edge.runtime.backends.cuda import Cuda, CudaError, Device, DeviceMemoryError, find_device
from internvl_edge.runtime.backends.cuda.ctypes_driver import CtypesDriver
from internvl_edge.runtime.backends.cuda.open import open_cuda
from internvl_edge.runtime.backends.tensorrt.lanes import Lanes
from internvl_edge.runtime.backends.tensorrt.memory import DeviceBuffer, PinnedBuffer
from tests.unit.runtime.backends.cuda.conftest import CAPACITY


@pytest.fixture
def cuda(driver: ctypes.CDLL) -> Cuda:
    return CtypesDriver()


def test_the_device_is_the_drivers(driver: ctypes.CDLL) -> None:
    assert find_device() == Device(name="NVIDIA Fake Orin", sm=87, memory_bytes=CAPACITY, driver="12.6")


def test_it_is_taken_where_pycuda_is_not_installed(driver: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    opened = open_cuda()
    assert isinstance(opened, CtypesDriver)
    assert open_cuda() is opened
    assert driver.fake_retained() == 1, "the primary context is retained once, for the process"


def test_values_go_there_and_back_in_the_order_of_a_stream(cuda: Cuda, driver: ctypes.CDLL) -> None:
    values = np.arange(1000, dtype=np.float32)
    with cuda.current():
        stream, first, second = cuda.stream(), cuda.allocate(values.nbytes), cuda.allocate(values.nbytes)
        assert first > 1 << 32, "an address of 64 bits"
        staged, landed = cuda.allocate_pinned(values.nbytes), cuda.allocate_pinned(values.nbytes)
        staged.view(np.float32)[:] = values
        cuda.copy_in(first, staged, stream)
        cuda.copy(second, first, values.nbytes, stream)
        cuda.copy_out(landed, second, stream)
        assert not np.array_equal(landed.view(np.float32), values), "nothing is there before the stream got there"
        cuda.synchronize(stream)
        np.testing.assert_array_equal(landed.view(np.float32), values)
        part = np.empty(10, np.float32)
        cuda.copy_out(part, second + 4 * 990, stream)
        cuda.synchronize(stream)
        np.testing.assert_array_equal(part, values[990:])
        for address in (first, second):
            cuda.free(address)
        for memory in (staged, landed):
            cuda.free_pinned(memory)
        del stream
    gc.collect()
    assert driver.fake_live() == 0, "everything was given back"
    assert driver.fake_depth() == 0


def test_events_measure_the_devices_time(cuda: Cuda) -> None:
    with cuda.current():
        stream, address = cuda.stream(), cuda.allocate(64)
        start, end = cuda.event(blocking=False), cuda.event(blocking=True)
        cuda.record(start, stream)
        cuda.copy_in(address, np.zeros(64, np.uint8), stream)
        cuda.record(end, stream)
        with pytest.raises(CudaError, match="cuEventElapsedTime"):
            cuda.elapsed_ms(start, end)
        cuda.wait(end)
        assert cuda.elapsed_ms(start, end) == 1.0, "the copy and the second mark, half a millisecond each"


def test_a_graph_replays_what_was_captured(cuda: Cuda, driver: ctypes.CDLL) -> None:
    _replay(cuda)
    gc.collect()
    assert driver.fake_live() == 0, "graphs, memory and the stream were given back"


def _replay(cuda: Cuda) -> None:
    source, landed = np.zeros(4, np.float32), np.zeros(4, np.float32)
    with cuda.current():
        stream, address = cuda.stream(), cuda.allocate(16)

        def enqueue() -> None:
            cuda.copy_in(address, source, stream)
            cuda.copy_out(landed, address, stream)

        graph = cuda.capture(stream, enqueue)
        for value in (1.0, 2.0):
            source[:] = value
            cuda.launch(graph, stream)
            cuda.synchronize(stream)
            assert landed.tolist() == [value] * 4
        cuda.drop(graph)
        with pytest.raises(CudaError, match="cuGraphLaunch: CUDA_ERROR_INVALID_HANDLE"):
            cuda.launch(graph, stream)
        with pytest.raises(CudaError, match="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            cuda.capture(stream, lambda: cuda.synchronize(stream))
        cuda.synchronize(stream)  # the failed capture was ended
        cuda.free(address)


def test_out_of_memory_is_its_own_error_and_leaves_the_context(cuda: Cuda, driver: ctypes.CDLL) -> None:
    with pytest.raises(DeviceMemoryError, match="no memory left"), cuda.current():
        cuda.allocate(CAPACITY + 1)
    with pytest.raises(DeviceMemoryError), cuda.current():
        cuda.allocate_pinned(CAPACITY + 1)
    assert driver.fake_depth() == 0


def test_misuse_is_an_error_with_the_drivers_name(cuda: Cuda) -> None:
    with pytest.raises(CudaError, match="cuMemAlloc_v2: CUDA_ERROR_INVALID_CONTEXT"):
        cuda.allocate(16)
    with cuda.current():
        address, stream = cuda.allocate(16), cuda.stream()
        with pytest.raises(CudaError, match="cuMemcpyHtoDAsync_v2: CUDA_ERROR_INVALID_VALUE"):
            cuda.copy_in(address, np.zeros(17, np.uint8), stream)
        cuda.free(address)
        with pytest.raises(CudaError, match="cuMemFree_v2"):
            cuda.free(address)
        memory = cuda.allocate_pinned(16)
        cuda.free_pinned(memory)
        with pytest.raises(KeyError):
            cuda.free_pinned(memory)


def test_a_lost_device_says_the_first_error(cuda: Cuda, driver: ctypes.CDLL) -> None:
    def lose() -> None:
        with cuda.current():
            stream = cuda.stream()
            driver.fake_lose_device(700)
            cuda.synchronize(stream)

    with pytest.raises(CudaError, match="cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"):
        lose()
    with pytest.raises(CudaError, match="cuCtxPopCurrent_v2"), cuda.current():
        pass
    driver.fake_lose_device(0)


def test_each_thread_has_its_own_current_context(cuda: Cuda, driver: ctypes.CDLL) -> None:
    found: list[object] = []

    def other() -> None:
        try:
            cuda.allocate(16)
        except CudaError as error:
            found.append(error)
        with cuda.current():
            found.append(cuda.allocate(16))

    with cuda.current():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        cuda.free(int(str(found[1])))
    assert isinstance(found[0], CudaError)


def test_a_stream_is_destroyed_by_whatever_thread_drops_it(cuda: Cuda, driver: ctypes.CDLL) -> None:
    with cuda.current():
        held = [cuda.stream(), cuda.event(blocking=True)]
    assert driver.fake_live() == 2
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert (driver.fake_live(), driver.fake_depth()) == (0, 0)


def test_lanes_and_buffers_of_the_backend_work_on_it(cuda: Cuda, driver: ctypes.CDLL) -> None:
    lanes = Lanes(cuda, 2, spin=False)
    buffer, staging = DeviceBuffer(cuda), PinnedBuffer(cuda)
    with lanes.free() as lane:
        for size in (4, 16, 8):
            buffer.reserve(4 * size)
            given = staging.array((size,), np.dtype(np.float32))
            given[:] = size
            for mark in range(3):
                lane.mark(mark)
            cuda.copy_in(buffer.address, given, lane.stream)
            lane.mark(3)
            lane.wait()
            assert lane.spans_ms() == [0.5, 0.5, 1.0]
        assert staging.array((0,), np.dtype(np.float32)).size == 0
        buffer.free()
        staging.free()
    lanes.free_memory()
    del lane, lanes
    gc.collect()
    assert driver.fake_live() == 0


def test_pinned_memory_of_no_bytes(cuda: Cuda) -> None:
    with cuda.current():
        memory = cuda.allocate_pinned(0)
        assert memory.shape == (0,)
        cuda.free_pinned(memory)
