"""Open the device: through pycuda where it is installed and loads, otherwise through the driver itself."""

import logging
from functools import cache
from importlib import import_module
from typing import Any

from internvl_edge.runtime.backends.cuda.ctypes_driver import CtypesDriver
from internvl_edge.runtime.backends.cuda.device import Device, find_device
from internvl_edge.runtime.backends.cuda.driver import Cuda
from internvl_edge.runtime.backends.cuda.pycuda_driver import PycudaDriver
from internvl_edge.runtime.errors import BackendError, one_line

logger = logging.getLogger(__name__)


@cache
def open_cuda() -> Cuda:
    """Return the first device, always as the same object.

    Raises:
        BackendError: there is no device, or the driver does not start it.
    """
    device = find_device()
    if not isinstance(device, Device):
        raise BackendError(f"CUDA: {device}; install the driver, or choose --backend onnxruntime")
    pycuda = import_pycuda(device)
    return CtypesDriver() if pycuda is None else PycudaDriver(pycuda)


def import_pycuda(device: Device) -> Any:
    """Return the module ``pycuda.driver``; None where it is not installed, or was compiled for another driver."""
    try:
        return import_module("pycuda.driver")
    except ModuleNotFoundError:
        return None
    except (ImportError, OSError) as error:
        logger.warning(
            "pycuda: does not load (%s), so the driver is called without it; to use it, compile it with the headers of "
            "CUDA %s or older, or uninstall it",
            one_line(error),
            device.driver,
        )
        return None
