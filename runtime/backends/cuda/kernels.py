"""Load kernels from PTX and launch them, for attention plugins."""

import ctypes
from collections.abc import Sequence

from internvl_edge.runtime.backends.cuda.libcuda import call

_MAX_DYNAMIC_SHARED = 8
"""Value of CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
_SHARED_WITHOUT_ASKING = 48 << 10
"""Bytes of shared memory that a kernel may use on every device without an attribute."""
_TYPES = {"u64": ctypes.c_uint64, "u32": ctypes.c_uint32}


class KernelLoader:
    """A `KernelDriver`. Functions stay loaded until the process ends, like the plugins that use them."""

    def load(self, ptx: bytes, entry: str, shared_bytes: int) -> int:
        """Return the handle of function `entry` of `ptx`, which may use `shared_bytes` of shared memory.

        Raises:
            CudaError: the driver does not compile it for this device.
        """
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(ptx))
        call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(entry.encode()))
        if shared_bytes > _SHARED_WITHOUT_ASKING:
            call("cuFuncSetAttribute", function, ctypes.c_int(_MAX_DYNAMIC_SHARED), ctypes.c_int(shared_bytes))
        return int(function.value or 0)

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        arguments: Sequence[tuple[str, int]],
        stream: int,
    ) -> None:
        """Launch `function` on the stream with this handle.

        Raises:
            CudaError: the launch is refused.
        """
        values = [_TYPES[kind](value) for kind, value in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = [ctypes.c_uint(size) for size in (*grid, threads, 1, 1, shared_bytes)]
        call("cuLaunchKernel", ctypes.c_void_p(function), *sizes, ctypes.c_void_p(stream), pointers, None)
