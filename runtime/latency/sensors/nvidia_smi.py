"""Readings of an NVIDIA GPU from the driver's program nvidia-smi, for machines without NVML's Python package."""

import shutil
import subprocess

from internvl_edge.runtime.latency.sensors.device_state import DeviceSample, now_ns, reasons

FIELDS = "power.draw,temperature.gpu,clocks.sm,clocks_throttle_reasons.active"
_TIMEOUT_S = 5


class NvidiaSmiSensor:
    """A sensor of the first GPU; each reading starts the program, which takes tens of milliseconds.

    Raises:
        OSError: The program or a GPU is missing.
    """

    name = "nvidia-smi"

    def __init__(self) -> None:
        program = shutil.which("nvidia-smi")
        if program is None:
            raise FileNotFoundError("nvidia-smi is not there")
        self._command = [program, "--id=0", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"]
        self._ask()

    def read(self) -> DeviceSample:
        """Return the current reading, without values if the program fails."""
        try:
            return parse_line(self._ask(), now_ns())
        except OSError:
            return DeviceSample(time_ns=now_ns())

    def close(self) -> None:
        """Do nothing, since nothing stays open."""

    def _ask(self) -> str:
        try:
            done = subprocess.run(self._command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        except subprocess.SubprocessError as error:
            raise OSError(f"nvidia-smi: {error}") from error
        return done.stdout


def parse_line(text: str, time_ns: int) -> DeviceSample:
    """Return the reading of one line of `FIELDS`; ``[N/A]`` and other words become None."""
    cells = [cell.strip() for cell in text.strip().split("\n")[0].split(",")]
    power, temperature, clock, mask = (*cells, "", "", "", "")[:4]
    return DeviceSample(
        time_ns=time_ns,
        power_w=_number(power),
        temperature_c=_number(temperature),
        clock_mhz=_number(clock),
        throttled=reasons(int(mask, 16)) if mask.startswith("0x") else (),
    )


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
