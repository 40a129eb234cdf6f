"""Which source of board readings answers here."""

from collections.abc import Callable

from internvl_edge.runtime.profile.board import Sensor
from internvl_edge.runtime.profile.nvidia_smi import NvidiaSmiSensor
from internvl_edge.runtime.profile.nvml import NvmlSensor
from internvl_edge.runtime.profile.tegrastats import TegrastatsSensor

_SOURCES: tuple[Callable[[], Sensor], ...] = (TegrastatsSensor, NvmlSensor, NvidiaSmiSensor)
"""A Jetson's own program first: its NVML tells no power."""


def find_sensor() -> Sensor | None:
    """Return the first source that answers, or None."""
    for source in _SOURCES:
        try:
            return source()
        except (ImportError, OSError):
            continue
    return None
