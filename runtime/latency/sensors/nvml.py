"""Readings of an NVIDIA GPU through NVML, by the package nvidia-ml-py (it is imported as `pynvml`)."""

from importlib import import_module
from typing import Any

from internvl_edge.runtime.latency.sensors.device_state import DeviceSample, now_ns, reasons


class NvmlSensor:
    """The first GPU.

    Raises:
        ImportError: the package is not installed.
        OSError: the driver or a GPU is not there.
    """

    name = "NVML"

    def __init__(self) -> None:
        pynvml: Any = import_module("pynvml")
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            self._gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    def read(self) -> DeviceSample:
        """Return the reading of now; what this GPU does not support is None."""
        nvml, gpu = self._nvml, self._gpu
        power_mw = self._asked(nvml.nvmlDeviceGetPowerUsage, gpu)
        mask = self._asked(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu)
        return DeviceSample(
            time_ns=now_ns(),
            power_w=None if power_mw is None else power_mw / 1e3,
            temperature_c=self._asked(nvml.nvmlDeviceGetTemperature, gpu, nvml.NVML_TEMPERATURE_GPU),
            clock_mhz=self._asked(nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_SM),
            throttled=reasons(mask or 0),
        )

    def close(self) -> None:
        """Let NVML go."""
        self._nvml.nvmlShutdown()

    def _asked(self, question: Any, *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None  # this GPU does not tell; the others still count
