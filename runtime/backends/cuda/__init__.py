"""All calls of CUDA: find the device, allocate memory, create streams, capture graphs, launch kernels."""

from internvl_edge.runtime.backends.cuda.device import Device, find_device
from internvl_edge.runtime.backends.cuda.driver import Cuda, CudaError, DeviceMemoryError, Event, Stream

__all__ = ["Cuda", "CudaError", "Device", "DeviceMemoryError", "Event", "Stream", "find_device"]
