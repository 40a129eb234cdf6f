"""Readings of boards: each source's text, energy by integration, and what counts as throttling."""

import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_edge.runtime.latency.bench import find_sensor
from internvl_edge.runtime.latency.measure.summary import clock_drop
from internvl_edge.runtime.latency.sensors import nvidia_smi, tegrastats
from internvl_edge.runtime.latency.sensors.device_state import DeviceMonitor, DeviceSample, energy_j
from internvl_edge.runtime.latency.sensors.nvml import NvmlSensor

ORIN_AGX = (
    "11-21-2025 08:49:48 RAM 13983/62780MB (lfb 424x4MB) SWAP 126/31390MB (cached 0MB) CPU [90%@2201,100%@2201] "
    "EMC_FREQ 1%@2133 GR3D_FREQ 14%@[407,407] VIC_FREQ 115 NVDLA0_FREQ @1600 APE 174 CV0@73.625C CPU@77.281C "
    "Tboard@62C SOC2@70C Tdiode@62.25C SOC0@69.531C CV1@72.5C GPU@69.125C tj@77.281C SOC1@68.968C CV2@67.25C "
    "VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW VIN_SYS_5V0 4968mW/5048mW VDDQ_VDD2_1V8AO 1091mW/1091mW"
)
XAVIER_NX = (
    "RAM 3347/7467MB (lfb 896x4MB) SWAP 0/3733MB (cached 0MB) CPU [21%@1190,19%@1190] EMC_FREQ 13%@2133 "
    "GR3D_FREQ 61%@1109 APE 150 MTS fg 0% bg 0% VDD_IN 5336/4970 VDD_CPU_GPU_CV 2617/2336 VDD_SOC 1478/1318 "
    "CV0@-256C GPU@49.2C PMIC@50.0C AO@48.5C thermal@50.187C"
)
NANO = "RAM 900/3956MB (lfb 1x4MB) CPU [9%@102,off] GR3D_FREQ 99%@921 GPU@41C POM_5V_IN 4300/4100 POM_5V_GPU 900/850"


@pytest.mark.parametrize(
    ("line", "watt", "celsius", "megahertz"),
    [
        (ORIN_AGX, 22.430, 77.281, 407.0),  # three rails; the fourth is fed from one of them
        (XAVIER_NX, 5.336, 49.2, 1109.0),
        (NANO, 4.3, 41.0, 921.0),
        ("RAM 900/3956MB (lfb 1x4MB) GR3D_FREQ 0%", None, None, None),
    ],
)
def test_tegrastats(line: str, watt: float | None, celsius: float | None, megahertz: float | None) -> None:
    found = tegrastats.parse_line(line, 5)
    assert found == DeviceSample(time_ns=5, power_w=watt, temperature_c=celsius, clock_mhz=megahertz)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("412.87, 63, 1755, 0x0000000000000004\n", (412.87, 63.0, 1755.0, ("software power cap",))),
        ("14.30, 41, 210, 0x0000000000000001\n", (14.3, 41.0, 210.0, ())),
        ("[N/A], 52, 1300, 0x0000000000000060", (None, 52.0, 1300.0, None)),
        ("[N/A], [N/A], [N/A], [N/A]", (None, None, None, ())),
        ("", (None, None, None, ())),
    ],
)
def test_nvidia_smi(line: str, expected: tuple[Any, ...]) -> None:
    found = nvidia_smi.parse_line(line, 5)
    assert (found.power_w, found.temperature_c, found.clock_mhz) == expected[:3]
    thermal = ("software thermal slowdown", "hardware thermal slowdown")
    assert found.throttled == (thermal if expected[3] is None else expected[3])


def test_nvml_asks_in_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that answers as NVML does: milliwatts, degrees, megahertz, a mask; power is not supported at first."""

    class NVMLError(Exception):
        pass

    def power(handle: object) -> int:
        if supported:
            return 250_500
        raise NVMLError("Not Supported")

    fake, supported = ModuleType("pynvml"), False
    answers = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetPowerUsage": power,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 71,
        "nvmlDeviceGetClockInfo": lambda handle, clock: 1410,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x48,
        "NVML_TEMPERATURE_GPU": 0,
        "NVML_CLOCK_SM": 1,
    }
    for name, answer in answers.items():
        setattr(fake, name, answer)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    sensor = NvmlSensor()
    assert sensor.read().power_w is None
    supported = True
    found = sensor.read()
    sensor.close()
    assert (found.power_w, found.temperature_c, found.clock_mhz) == (250.5, 71, 1410)
    assert found.throttled == ("hardware slowdown", "hardware thermal slowdown")


def test_without_a_board_there_is_no_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as not installed
    assert find_sensor() is None


def line_of(base: float, slope: float, times: list[int]) -> list[DeviceSample]:
    return [DeviceSample(time_ns=time, power_w=base + slope * time) for time in times]


@given(
    base=st.floats(1, 500),
    slope=st.floats(0, 1e-8),
    inner=st.lists(st.integers(1, 10**10 - 1), max_size=20, unique=True),
    span=st.tuples(st.integers(0, 10**10), st.integers(0, 10**10)).filter(lambda pair: pair[0] < pair[1]),
)
def test_the_energy_of_a_rising_power_is_exact(
    base: float, slope: float, inner: list[int], span: tuple[int, int]
) -> None:
    samples = line_of(base, slope, sorted([0, *inner, 10**10]))
    start, end = span
    exact = (base * (end - start) + slope * (end**2 - start**2) / 2) / 1e9
    assert energy_j(samples, start, end) == pytest.approx(exact, rel=1e-9)


def test_readings_at_the_edges_are_held() -> None:
    samples = line_of(10.0, 0.0, [4 * 10**9, 5 * 10**9])
    assert energy_j(samples, 0, 10 * 10**9) == pytest.approx(100.0)


def test_one_reading_or_none_gives_no_energy() -> None:
    assert energy_j([], 0, 10) is None
    assert energy_j(line_of(10.0, 0.0, [5]), 0, 10) is None
    assert energy_j([DeviceSample(time_ns=1), DeviceSample(time_ns=2)], 0, 10) is None


def test_a_watch_reads_first_and_last() -> None:
    class Sensor:
        name = "counting"
        reads = 0
        closed = False

        def read(self) -> DeviceSample:
            self.reads += 1
            return DeviceSample(time_ns=self.reads)

        def close(self) -> None:
            self.closed = True

    sensor = Sensor()
    watch = DeviceMonitor(sensor, interval_s=60)
    with watch.during() as samples:
        pass
    watch.close()
    assert [sample.time_ns for sample in samples] == [1, 2]
    assert sensor.closed


def test_a_falling_clock_is_reported() -> None:
    def at(clocks: list[float]) -> list[DeviceSample]:
        return [DeviceSample(time_ns=index, clock_mhz=clock) for index, clock in enumerate(clocks)]

    assert clock_drop(at([1900.0] * 8 + [1520.0] * 8)) == pytest.approx(0.2)
    assert clock_drop(at([1900.0] * 8 + [1890.0] * 8)) == 0.0
    assert clock_drop(at([1900.0, 100.0])) == 0.0
