"""Readings of an NVIDIA GPU through NVML, with the package nvidia-ml-py, whose module is `pynvml`."""

from importlib import import_module
from typing import Any

from internvl_edge.runtime.latency.sensors.device_state import DeviceSample, now_ns, reasons


class NvmlSensor:
    """A sensor of the first GPU.

    Raises:
        ImportError: The package is not installed.
        OSError: The driver or a GPU is missing.
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
        """Return the current reading; values that this GPU does not support are None."""
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
        """Shut down NVML."""
        self._nvml.nvmlShutdown()

    def _asked(self, question: Any, *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None  # this GPU does not support the value
