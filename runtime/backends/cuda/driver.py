"""What a backend asks of CUDA: a protocol, so that its logic runs against a fake as well."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from internvl_edge.runtime.errors import BackendError


class CudaError(BackendError):
    """A call of CUDA that failed."""


class DeviceMemoryError(CudaError):
    """No memory is left on the device."""


class Stream(Protocol):
    """An order of work on the device."""

    @property
    def handle(self) -> int:
        """Return the ``CUstream`` that libraries take."""
        ...


Event = Any
"""A place in a stream that can be waited for and timed; what it is, the driver knows."""


class Cuda(Protocol):
    """One device. Every call but `current` is made inside ``with current()``, by whatever thread."""

    def current(self) -> AbstractContextManager[None]:
        """Return a context in which the device's primary context is this thread's."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory.

        Raises:
            DeviceMemoryError: there is none left.
        """
        ...

    def free(self, address: int) -> None:
        """Free what `allocate` gave."""
        ...

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        """Return new host memory ``uint8 [size_bytes]`` that the device copies from and to by itself."""
        ...

    def free_pinned(self, memory: np.ndarray) -> None:
        """Free what `allocate_pinned` gave."""
        ...

    def stream(self) -> Stream:
        """Return a new stream."""
        ...

    def event(self, *, blocking: bool) -> Event:
        """Return a new event; who waits for it sleeps if it is `blocking`, else polls."""
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """Put `event` behind what `stream` holds."""
        ...

    def wait(self, event: Event) -> None:
        """Wait until the device has passed `event`."""
        ...

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the time between two events that have passed, on the device's clock."""
        ...

    def synchronize(self, stream: Stream) -> None:
        """Wait for all that `stream` holds."""
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
        """Return what `enqueue` puts into `stream` as one CUDA graph; nothing of it runs.

        Raises:
            CudaError: something in it cannot be captured.
        """
        ...

    def launch(self, graph: Any, stream: Stream) -> None:
        """Put a captured graph into `stream`."""
        ...

    def drop(self, graph: Any) -> None:
        """Free a captured graph that does not run."""
        ...
