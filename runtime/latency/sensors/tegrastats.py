"""Readings of a Jetson from its program `tegrastats`, which prints a line in each interval."""

import re
import shutil
import subprocess
import threading

from internvl_edge.runtime.latency.sensors.device_state import INTERVAL_S, DeviceSample, now_ns

_WHOLE = ("VDD_IN", "POM_5V_IN")
"""Rails that supply the whole module; not every module has one."""
_BEHIND = ("VDDQ_VDD2_1V8AO",)
"""Rails that another listed rail supplies (VIN_SYS_5V0 of AGX Orin); adding them would count their power twice."""
_FIRST_LINE_S = 2.0


class TegrastatsSensor:
    """A sensor that gives the values of the program's latest line.

    Raises:
        OSError: The program is missing or prints nothing.
    """

    name = "tegrastats"

    def __init__(self) -> None:
        program = shutil.which("tegrastats")
        if program is None:
            raise FileNotFoundError("tegrastats is not there")
        command = [program, "--interval", str(round(INTERVAL_S * 1e3))]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._latest: DeviceSample | None = None
        self._arrived = threading.Event()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()
        if not self._arrived.wait(_FIRST_LINE_S):
            self.close()
            raise OSError("tegrastats prints nothing")

    def read(self) -> DeviceSample:
        """Return the latest reading, with the time of its line."""
        return self._latest or DeviceSample(time_ns=now_ns())

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        self._process.wait()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._latest = parse_line(line, now_ns())
                self._arrived.set()


def parse_line(line: str, time_ns: int) -> DeviceSample:
    """Return the reading of one line of L4T 32 to 36: milliwatts with or without their unit, clocks with or without [].

    If no rail supplies the whole module, the power is the sum of the listed rails, which is less than the true power.
    """
    rails = {name: int(value) for name, value in re.findall(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?!\w)", line)}
    rails = {name: value for name, value in rails.items() if name not in ("RAM", "SWAP", "IRAM", *_BEHIND)}
    whole = [rails[name] for name in _WHOLE if name in rails]
    power_mw = whole[0] if whole else sum(rails.values()) if rails else None
    heat = {name.lower(): float(value) for name, value in re.findall(r"(\w+)@(-?\d+(?:\.\d+)?)C\b", line)}
    clock = re.search(r"GR3D_FREQ \d+%@\[?(\d+)", line)
    return DeviceSample(
        time_ns=time_ns,
        power_w=None if power_mw is None else power_mw / 1e3,
        temperature_c=heat.get("tj", heat.get("gpu")),
        clock_mhz=float(clock[1]) if clock else None,
    )
