"""Memory on the device and page-locked memory on the host that grow to the largest size requested and are kept."""

from math import prod
from typing import Any

import numpy as np

from internvl_edge.runtime.backends.cuda import Cuda


class DeviceBuffer:
    """Device memory that loses its content when it grows. It may grow or be freed only while no work uses it."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.address, self.size_bytes = 0, 0

    def reserve(self, size_bytes: int) -> int:
        """Return the address of at least `size_bytes`.

        Raises:
            DeviceMemoryError: the device has not enough free memory.
        """
        if size_bytes > self.size_bytes:
            self.free()
            self.address = self._cuda.allocate(size_bytes)
            self.size_bytes = size_bytes
        return self.address

    def free(self) -> None:
        """Give the memory back; a second call does nothing."""
        if self.size_bytes:
            self._cuda.free(self.address)
            self.address, self.size_bytes = 0, 0


class PinnedBuffer:
    """Page-locked host memory, from and to which the device copies while the host continues."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._memory: np.ndarray | None = None

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Return an array in the memory, which grows if needed."""
        size_bytes = prod(shape) * dtype.itemsize
        if self._memory is None or size_bytes > len(self._memory):
            self.free()
            self._memory = self._cuda.allocate_pinned(size_bytes)
        return self._memory[:size_bytes].view(dtype).reshape(shape)

    def free(self) -> None:
        """Give the memory back; a second call does nothing."""
        if self._memory is not None:
            self._cuda.free_pinned(self._memory)
            self._memory = None
