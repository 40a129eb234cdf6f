"""Which known target the device at hand is, by the name that its driver gives."""

import re

from internvl_edge.runtime.cuda import Device
from internvl_edge.runtime.targets.targets import Target, find_target

_NAMES = (
    ("t4", r"(Tesla|NVIDIA) T4"),
    ("a100", r"(NVIDIA )?A100-SXM4-80GB"),
    ("a10", r"NVIDIA A10"),
    ("rtx-3090", r"(NVIDIA )?GeForce RTX 3090"),
    ("l4", r"NVIDIA L4"),
    ("l40s", r"NVIDIA L40S"),
    ("rtx-4090", r"NVIDIA GeForce RTX 4090"),
    ("h100", r"NVIDIA H100 80GB HBM3"),
    ("h200", r"NVIDIA H200"),
    ("gh200", r"NVIDIA GH200 (96GB HBM3|480GB)"),
    ("b200", r"NVIDIA B200"),
    ("rtx-5090", r"NVIDIA GeForce RTX 5090"),
    ("dgx-spark", r"NVIDIA GB10"),
)
"""Target -> the whole name: an "RTX 4090 Laptop GPU" or an "A100-PCIE-40GB" has another data sheet. Jetsons are not
here: their driver says "Orin" for modules of several sheets."""


def device_target(device: Device) -> Target:
    """Return the target whose data sheet is that of `device`, else a bare one of its SM.

    Raises:
        EngineError: no TensorRT of ours knows the SM.
    """
    for name, pattern in _NAMES:
        target = find_target(name)
        if target.sm == device.sm and re.fullmatch(pattern, device.name):
            return target
    return find_target(f"sm_{device.sm}")
