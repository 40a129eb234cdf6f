"""Find the CUDA device of this machine with the NVIDIA driver's own library; no other CUDA library is needed."""

import ctypes
from dataclasses import dataclass

from internvl_edge.runtime.backends.cuda.libcuda import LIBCUDA

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""Values of CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The first CUDA device."""

    name: str
    sm: int
    memory_bytes: int
    driver: str
    """CUDA version that the driver supports, as ``12.6``."""


def find_device() -> Device | str:
    """Return the first device, or in a few words the reason why there is none."""
    try:
        cuda = ctypes.CDLL(LIBCUDA)
    except OSError:
        return f"no NVIDIA driver: {LIBCUDA} is not there"
    handle = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGet(ctypes.byref(handle), 0) != 0:
        return "no CUDA device: the driver finds none"
    name, memory, version = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t(), ctypes.c_int()
    cuda.cuDeviceGetName(name, _NAME_BYTES, handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return Device(
        name=name.value.decode(errors="replace"),
        sm=10 * _attribute(cuda, _CAPABILITY_MAJOR, handle) + _attribute(cuda, _CAPABILITY_MINOR, handle),
        memory_bytes=memory.value,
        driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def _attribute(cuda: ctypes.CDLL, attribute: int, handle: ctypes.c_int) -> int:
    value = ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
    return value.value
