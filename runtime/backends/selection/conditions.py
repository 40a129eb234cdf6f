"""Find the conditions of this machine that times depend on: processor, governor, power mode, versions."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_CPUINFO = Path("/proc/cpuinfo")
_TIMEOUT_S = 5
_MODEL_KEYS = ("model name", "Model", "Hardware", "CPU part")


def host_conditions() -> dict[str, str]:
    """Return the conditions by name, without those that the machine does not report."""
    from internvl_edge.runtime.backends.cuda import Device, find_device

    found = {"processor": _processor(), "cores": str(_cores()), "machine": platform.machine()}
    device = find_device()
    if isinstance(device, Device):
        found["device"] = f"{device.name} (sm_{device.sm}), CUDA {device.driver}"
    found |= cpu_clock(_CPUFREQ)
    if mode := _power_mode():
        found["power mode"] = mode
    found["python"] = platform.python_version()
    for package in ("internvl-edge", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def cpu_clock(folder: Path) -> dict[str, str]:
    """Return governor and clock limits from a ``cpufreq`` folder of sysfs; empty where there is none."""
    values = {
        name: path.read_text().strip()
        for name in ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
        if (path := folder / name).is_file()
    }
    found = {"governor": values["scaling_governor"]} if "scaling_governor" in values else {}
    low, high = values.get("scaling_min_freq", ""), values.get("scaling_max_freq", "")
    if low.isdigit() and high.isdigit():
        locked = low == high
        found["cpu clock"] = f"locked at {int(low) // 1000} MHz" if locked else f"up to {int(high) // 1000} MHz, free"
    return found


def power_mode(text: str) -> str:
    """Return name and number of the power mode from the output of ``nvpmodel -q``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("NV Power Mode:")]
    numbers = [line for line in lines if line.isdigit()]
    return " ".join([*names[:1], *(f"({number})" for number in numbers[:1])])


def _power_mode() -> str:
    program = shutil.which("nvpmodel")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown (nvpmodel -q needs root here)"
    return power_mode(done.stdout)


def _processor() -> str:
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    pairs = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    known = {key.strip(): value.strip() for key, value in pairs.items()}
    return next((known[key] for key in _MODEL_KEYS if key in known), platform.processor() or "unknown")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
