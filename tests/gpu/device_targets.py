"""Which known target the device at hand is, by the name that its driver gives."""

import re

from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.targets.data_sheet import Target
from internvl_edge.runtime.targets.devices import TARGETS
from internvl_edge.runtime.targets.targets import find_target


def device_target(device: Device) -> Target:
    """Return the target whose data sheet is that of `device`, else a bare one of its SM.

    Raises:
        EngineError: no TensorRT of ours knows the SM.
    """
    for target in TARGETS:
        if target.driver_name and target.sm == device.sm and re.fullmatch(target.driver_name, device.name):
            return target
    return find_target(f"sm_{device.sm}")
