"""Use the device through the driver's own library by ctypes, which works where pycuda is not installed."""

import ctypes
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from internvl_edge.runtime.backends.cuda import graphs
from internvl_edge.runtime.backends.cuda.driver import CudaError, Event, Stream
from internvl_edge.runtime.backends.cuda.libcuda import call

logger = logging.getLogger(__name__)

_DEFAULT = 0
"""Value of CU_STREAM_DEFAULT and CU_EVENT_DEFAULT, and of pinned memory without flags."""
_BLOCKING_SYNC = 1
"""Value of CU_EVENT_BLOCKING_SYNC."""


class DriverHandle:
    """Owner of a ``CUstream`` or ``CUevent``."""

    def __init__(self, handle: int) -> None:
        self.handle = handle


class CtypesDriver:
    """`Cuda` over ``libcuda``, in the primary context of the first device, which other libraries share."""

    def __init__(self) -> None:
        device, context = ctypes.c_int(), ctypes.c_void_p()
        call("cuInit", ctypes.c_uint(0))
        call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context
        self._pinned: set[int] = set()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current in this thread."""
        call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        except BaseException:
            self._pop(quietly=True)  # it fails too on a broken device, and the first error has the reason
            raise
        self._pop(quietly=False)

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""
        address = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return int(address.value)

    def free(self, address: int) -> None:
        """Free memory that `allocate` returned."""
        call("cuMemFree_v2", ctypes.c_uint64(address))

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        """Return new page-locked host memory."""
        address = ctypes.c_void_p()
        size = max(size_bytes, 1)  # the driver refuses 0 bytes
        call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(_DEFAULT))
        place = int(address.value or 0)
        self._pinned.add(place)
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(place))
        return memory[:size_bytes]

    def free_pinned(self, memory: np.ndarray) -> None:
        """Free memory that `allocate_pinned` returned."""
        place = int(memory.ctypes.data)
        self._pinned.remove(place)
        call("cuMemFreeHost", ctypes.c_void_p(place))

    def stream(self) -> DriverHandle:
        """Return a new stream, destroyed with the object."""
        return self._made("cuStreamCreate", "cuStreamDestroy_v2", _DEFAULT)

    def event(self, *, blocking: bool) -> DriverHandle:
        """Return a new event, destroyed with the object."""
        return self._made("cuEventCreate", "cuEventDestroy_v2", _BLOCKING_SYNC if blocking else _DEFAULT)

    def record(self, event: Event, stream: Stream) -> None:
        """Record `event` after all work that `stream` has now."""
        call("cuEventRecord", ctypes.c_void_p(event.handle), ctypes.c_void_p(stream.handle))

    def wait(self, event: Event) -> None:
        """Wait until the device has reached `event`; other threads of Python run meanwhile."""
        call("cuEventSynchronize", ctypes.c_void_p(event.handle))

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the milliseconds between two events."""
        spent = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(spent), ctypes.c_void_p(start.handle), ctypes.c_void_p(end.handle))
        return float(spent.value)

    def synchronize(self, stream: Stream) -> None:
        """Wait for all work of `stream`; other threads of Python run meanwhile."""
        call("cuStreamSynchronize", ctypes.c_void_p(stream.handle))

    def copy_in(self, address: int, values: np.ndarray, stream: Stream) -> None:
        """Copy an array to the device."""
        source, size = ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(values.nbytes)
        call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, size, ctypes.c_void_p(stream.handle))

    def copy_out(self, values: np.ndarray, address: int, stream: Stream) -> None:
        """Copy an array from the device."""
        target, size = ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(values.nbytes)
        call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(address), size, ctypes.c_void_p(stream.handle))

    def copy(self, target: int, source: int, size_bytes: int, stream: Stream) -> None:
        """Copy memory within the device."""
        places = ctypes.c_uint64(target), ctypes.c_uint64(source)
        call("cuMemcpyDtoDAsync_v2", *places, ctypes.c_size_t(size_bytes), ctypes.c_void_p(stream.handle))

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> int:
        """Return the work that `enqueue` adds to `stream`, as one CUDA graph."""
        return graphs.capture(stream.handle, enqueue)

    def launch(self, graph: int, stream: Stream) -> None:
        """Launch a captured graph on `stream`."""
        graphs.launch(graph, stream.handle)

    def drop(self, graph: int) -> None:
        """Free a captured graph."""
        graphs.drop(graph)

    def _made(self, create: str, destroy: str, flags: int) -> DriverHandle:
        handle = ctypes.c_void_p()
        call(create, ctypes.byref(handle), ctypes.c_uint(flags))
        made = DriverHandle(int(handle.value or 0))
        ending = weakref.finalize(made, self._destroy, destroy, made.handle)
        ending.atexit = False  # the end of the process frees it, and other libraries may have closed the driver before
        return made

    def _destroy(self, function: str, handle: int) -> None:
        """Free a handle, in any thread in which the garbage collector runs."""
        try:
            with self.current():
                call(function, ctypes.c_void_p(handle))
        except CudaError as error:
            logger.info("%s: not freed (%s)", function, error)

    def _pop(self, *, quietly: bool) -> None:
        try:
            call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        except CudaError:
            if not quietly:
                raise
