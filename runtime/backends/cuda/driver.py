"""The calls of CUDA that backends need, as a protocol, so that backends can be tested without a GPU."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from internvl_edge.runtime.errors import BackendError


class CudaError(BackendError):
    """A call of CUDA has failed."""


class DeviceMemoryError(CudaError):
    """The device has not enough free memory."""


NO_MEMORY = "the device has no memory left; lower the batch"
"""Finding and remedy of a `DeviceMemoryError`."""
FAILURE_REMEDY = "see the kernel's log (dmesg) if it comes again"
"""Remedy of other errors of CUDA."""


class Stream(Protocol):
    """A sequence of work on the device."""

    @property
    def handle(self) -> int:
        """Return the ``CUstream`` as an integer, as libraries take it."""
        ...


Event = Any
"""A point in a stream that can be waited for and timed, of a type that the driver defines."""


class Cuda(Protocol):
    """One device. All calls but `current` must be made inside ``with current()``, in any thread."""

    def current(self) -> AbstractContextManager[None]:
        """Return a context manager that makes the device's primary context current in this thread."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory.

        Raises:
            DeviceMemoryError: the device has not enough free memory.
        """
        ...

    def free(self, address: int) -> None:
        """Free memory that `allocate` returned."""
        ...

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        """Return new page-locked host memory ``uint8 [size_bytes]``, which the device reads and writes by itself."""
        ...

    def free_pinned(self, memory: np.ndarray) -> None:
        """Free memory that `allocate_pinned` returned."""
        ...

    def stream(self) -> Stream:
        """Return a new stream."""
        ...

    def event(self, *, blocking: bool) -> Event:
        """Return a new event; a thread that waits for it sleeps if it is `blocking`, else it polls."""
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """Record `event` after all work that `stream` has now."""
        ...

    def wait(self, event: Event) -> None:
        """Wait until the device has reached `event`."""
        ...

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the milliseconds between two events that the device has reached, by its clock."""
        ...

    def synchronize(self, stream: Stream) -> None:
        """Wait for all work of `stream`."""
        ...

    def copy_in(self, address: int, values: np.ndarray, stream: Stream) -> None:
        """Copy a contiguous array to the device, in the order of `stream`."""
        ...

    def copy_out(self, values: np.ndarray, address: int, stream: Stream) -> None:
        """Copy from the device into a contiguous array, in the order of `stream`."""
        ...

    def copy(self, target: int, source: int, size_bytes: int, stream: Stream) -> None:
        """Copy within the device, in the order of `stream`."""
        ...

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Any:
        """Return the work that `enqueue` adds to `stream` as one CUDA graph, without running it.

        Raises:
            CudaError: some of the work cannot be captured.
        """
        ...

    def launch(self, graph: Any, stream: Stream) -> None:
        """Launch a captured graph on `stream`."""
        ...

    def drop(self, graph: Any) -> None:
        """Free a captured graph that is not running."""
        ...
