"""Use the device through pycuda, in its primary context, which other libraries share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.cuda import graphs
from internvl_edge.runtime.backends.cuda.driver import (
    FAILURE_REMEDY,
    NO_MEMORY,
    CudaError,
    DeviceMemoryError,
    Event,
    Stream,
)
from internvl_edge.runtime.errors import first_line


class PycudaDriver:
    """`Cuda` over the module ``pycuda.driver``."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._allocations: dict[int, Any] = {}
        driver.init()
        self._context = driver.Device(0).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current in this thread; errors of CUDA become `CudaError`."""
        self._context.push()
        try:
            yield
        except self._driver.MemoryError as error:
            raise DeviceMemoryError(f"CUDA: {NO_MEMORY}") from error
        except self._driver.Error as error:
            raise CudaError(f"CUDA: {first_line(error)}; {FAILURE_REMEDY}") from error
        finally:
            self._driver.Context.pop()

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""
        allocation = self._driver.mem_alloc(size_bytes)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Free memory that `allocate` returned."""
        self._allocations.pop(address).free()

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        """Return new page-locked host memory."""
        memory: np.ndarray = self._driver.pagelocked_empty(size_bytes, np.uint8)
        return memory

    def free_pinned(self, memory: np.ndarray) -> None:
        """Free memory that `allocate_pinned` returned."""
        memory.base.free()  # type: ignore[union-attr]

    def stream(self) -> Any:
        """Return a new stream."""
        return self._driver.Stream()

    def event(self, *, blocking: bool) -> Event:
        """Return a new event."""
        flags = self._driver.event_flags
        return self._driver.Event(flags.BLOCKING_SYNC if blocking else flags.DEFAULT)

    def record(self, event: Event, stream: Stream) -> None:
        """Record `event` after all work that `stream` has now."""
        event.record(stream)

    def wait(self, event: Event) -> None:
        """Wait until the device has reached `event`; other threads of Python run meanwhile."""
        event.synchronize()

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the milliseconds between two events."""
        return float(end.time_since(start))

    def synchronize(self, stream: Any) -> None:
        """Wait for all work of `stream`."""
        stream.synchronize()

    def copy_in(self, address: int, values: np.ndarray, stream: Stream) -> None:
        """Copy an array to the device."""
        self._driver.memcpy_htod_async(address, values, stream)

    def copy_out(self, values: np.ndarray, address: int, stream: Stream) -> None:
        """Copy an array from the device."""
        self._driver.memcpy_dtoh_async(values, address, stream)

    def copy(self, target: int, source: int, size_bytes: int, stream: Stream) -> None:
        """Copy memory within the device."""
        self._driver.memcpy_dtod_async(target, source, size_bytes, stream)

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> int:
        """Return the work that `enqueue` adds to `stream`, as one CUDA graph."""
        return graphs.capture(stream.handle, enqueue)

    def launch(self, graph: int, stream: Stream) -> None:
        """Launch a captured graph on `stream`."""
        graphs.launch(graph, stream.handle)

    def drop(self, graph: int) -> None:
        """Free a captured graph."""
        graphs.drop(graph)
