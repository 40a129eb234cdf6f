"""The one place that talks to CUDA: the device that is here, its memory and streams, captured launches, kernels."""

from internvl_edge.runtime.backends.cuda.device import Device, find_device
from internvl_edge.runtime.backends.cuda.driver import Cuda, CudaError, DeviceMemoryError, Event, Stream

__all__ = ["Cuda", "CudaError", "Device", "DeviceMemoryError", "Event", "Stream", "find_device"]
