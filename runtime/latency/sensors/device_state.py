"""The state of a device during a measurement: power, temperature, clock and reasons for throttling."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

INTERVAL_S = 0.1
"""Seconds between two readings: devices update their power about ten times a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One reading; None for values that the device does not report."""

    time_ns: int
    power_w: float | None = None
    temperature_c: float | None = None
    clock_mhz: float | None = None
    throttled: tuple[str, ...] = ()
    """Reasons for a clock below the requested one."""


class Sensor(Protocol):
    """A source of readings."""

    @property
    def name(self) -> str:
        """Return the name of the library or program."""
        ...

    def read(self) -> DeviceSample:
        """Return the current reading; it may wait for one for up to a second."""
        ...

    def close(self) -> None:
        """Close the source."""
        ...


class DeviceMonitor:
    """A thread that reads a sensor during a measurement; without a sensor there are no readings."""

    def __init__(self, sensor: Sensor | None, interval_s: float = INTERVAL_S) -> None:
        self.sensor = sensor
        self._interval_s = interval_s

    @contextmanager
    def during(self) -> Iterator[Sequence[DeviceSample]]:
        """Yield a list to which readings, at least one, are added until the block ends."""
        samples: list[DeviceSample] = []
        if self.sensor is None:
            yield samples
            return
        over = threading.Event()
        thread = threading.Thread(target=self._collect, args=(self.sensor, samples, over), daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            over.set()
            thread.join()

    def _collect(self, sensor: Sensor, samples: list[DeviceSample], over: threading.Event) -> None:
        while True:
            samples.append(sensor.read())
            if over.wait(self._interval_s):
                samples.append(sensor.read())
                return

    def close(self) -> None:
        """Close the sensor."""
        if self.sensor is not None:
            self.sensor.close()


def energy_j(samples: Sequence[DeviceSample], start_ns: int, end_ns: int) -> float | None:
    """Return the energy in joules between two times, by the trapezoid rule; None for fewer than two readings of power.

    Before the first and after the last reading, the power counts as constant.
    """
    points = [(sample.time_ns, sample.power_w) for sample in samples if sample.power_w is not None]
    if len(points) < 2 or end_ns <= start_ns:
        return None
    inside = [(stamp, power) for stamp, power in points if start_ns < stamp < end_ns]
    line = [(start_ns, _power_at(points, start_ns)), *inside, (end_ns, _power_at(points, end_ns))]
    return sum((after[0] - before[0]) * (before[1] + after[1]) / 2 for before, after in pairwise(line)) / 1e9


def _power_at(points: Sequence[tuple[int, float]], stamp: int) -> float:
    """Return the power at a time, interpolated between readings, or that of the nearest reading outside them."""
    if stamp <= points[0][0]:
        return points[0][1]
    for before, after in pairwise(points):
        if stamp <= after[0]:
            share = (stamp - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0.0
            return before[1] + share * (after[1] - before[1])
    return points[-1][1]


def now_ns() -> int:
    """Return the current time on the clock of the spans."""
    return time.perf_counter_ns()


_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Bit of NVML's throttle reasons -> text. Left out are idle (0x1), application clocks (0x2), sync boost (0x10) and
display clocks (0x100), which are settings and no throttling."""


def reasons(mask: int) -> tuple[str, ...]:
    """Return the reasons whose bits are set in `mask`."""
    return tuple(text for bit, text in _REASONS.items() if mask & bit)
