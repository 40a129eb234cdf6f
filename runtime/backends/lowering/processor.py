"""Find out which instructions for bytes and bf16 the processor has."""

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "AMD64")
_EXACT = ("avx512_vnni", "avx_vnni", "amx_int8")
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Flags of bf16 products on x86, on x86 with tiles, and on Arm."""


def sums_of_bytes_saturate(machine: str | None = None, cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether products of bytes are summed in 16 bits, as on x86 without VNNI; True on x86 if not known."""
    if (machine or platform.machine()) not in _X86:
        return False
    flags = _flags(cpuinfo)
    return not any(flag in flags for flag in _EXACT)


def multiplies_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether the processor has instructions for products of bf16 matrices; False if not known."""
    flags = _flags(cpuinfo)
    return any(flag in flags for flag in _BF16)


def _flags(cpuinfo: Path) -> list[str]:
    """Return the names of the processor's extensions from Linux; empty on other systems."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
