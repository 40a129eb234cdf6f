"""What the processor's instructions do with bytes."""

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "AMD64")
_EXACT = ("avx512_vnni", "avx_vnni", "amx_int8")


def sums_of_bytes_saturate(machine: str | None = None, cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether products of unsigned and signed bytes are summed in 16 bits: x86 without VNNI, or not known."""
    if (machine or platform.machine()) not in _X86:
        return False
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return True
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return not any(flag in flags for flag in _EXACT)
