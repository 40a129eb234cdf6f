"""Memory of the GPUs that is in use, as NVML reports it."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def memory_reader() -> Callable[[], Mapping[str, int]]:
    """Return a function that gives the bytes in use of each GPU, by name; without NVML or a GPU it gives none."""
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # the package, the driver or the GPU is missing, and each raises an error of its own
        return dict

    def used() -> Mapping[str, int]:
        gpus = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        return {f"gpu{index}": nvml.nvmlDeviceGetMemoryInfo(gpu).used for index, gpu in enumerate(gpus)}

    return used
