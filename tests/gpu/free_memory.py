"""Whether a model of 300 M parameters fits into the free memory of the machine and the memory of the device."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from internvl_edge.runtime.backends.cuda import Device

_HOST_BYTES = 8 << 30
"""Export and verification hold the model in fp32 and in fp16 at once; a build takes 2 GiB after that."""
_DISK_BYTES = 4 << 30
"""Weights once, and two plans of their size for each of two libraries."""
_DEVICE_BYTES = 3 << 30
"""Weights, and the activations of eight pictures of 1,025 tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeMemory:
    """Bytes that are free on the machine, and all that the device has."""

    host_bytes: int
    disk_bytes: int
    device_bytes: int


def free_memory(folder: Path, device: Device) -> FreeMemory:
    """Return what is free on this machine and on the disk that `folder` is on."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    return FreeMemory(host_bytes=available, disk_bytes=shutil.disk_usage(folder).free, device_bytes=device.memory_bytes)


def lacking_for_large(free: FreeMemory) -> str | None:
    """Return what InternViT-300M lacks here, in a sentence; None: it fits."""
    needs = (
        ("host memory", free.host_bytes, _HOST_BYTES),
        ("disk", free.disk_bytes, _DISK_BYTES),
        ("device memory", free.device_bytes, _DEVICE_BYTES),
    )
    lacking = [
        f"{needed >> 30} GiB of {what}, of which {found / 2**30:.1f} GiB are here"
        for what, found, needed in needs
        if found < needed
    ]
    return f"InternViT-300M needs {' and '.join(lacking)}." if lacking else None
