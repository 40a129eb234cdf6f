"""Calls of the driver's C interface. All but those that open a device act on the current context."""

import ctypes
from functools import cache
from typing import Any

from internvl_edge.runtime.backends.cuda.driver import FAILURE_REMEDY, NO_MEMORY, CudaError, DeviceMemoryError

LIBCUDA = "libcuda.so.1"
_OUT_OF_MEMORY = 2
"""Value of CUDA_ERROR_OUT_OF_MEMORY."""


def call(function: str, *arguments: Any) -> None:
    """Call `function` of the driver, with ctypes as arguments.

    Raises:
        CudaError: the call fails.
    """
    code = getattr(_library(), function)(*arguments)
    if code == _OUT_OF_MEMORY:
        raise DeviceMemoryError(f"{function}: {NO_MEMORY}")
    if code != 0:
        raise CudaError(f"{function}: {_name_of(code)}; {FAILURE_REMEDY}")


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(LIBCUDA)


def _name_of(code: int) -> str:
    name = ctypes.c_char_p()
    if _library().cuGetErrorName(code, ctypes.byref(name)) != 0 or name.value is None:
        return f"CUDA error {code}"
    return name.value.decode()
