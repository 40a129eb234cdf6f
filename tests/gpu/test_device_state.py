"""The readings of a device's state during a measurement, and what a measurement makes of them."""

import time

import pytest

from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.latency.bench import find_sensor
from internvl_edge.runtime.latency.sensors.device_state import DeviceMonitor, energy_j, now_ns
from tests.gpu.agree import Record
from tests.gpu.marks import GPU

pytestmark = GPU
BUSY_S = 2.0


def test_the_board_tells_power_heat_and_clock_while_it_works(device: Device, record_property: Record) -> None:
    import torch

    sensor = find_sensor()
    if sensor is None:
        pytest.skip("No source of readings: neither tegrastats, nor NVML's package nvidia-ml-py, nor nvidia-smi.")
    watch = DeviceMonitor(sensor)
    weights = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    start = now_ns()
    with watch.during() as samples:
        while (now_ns() - start) / 1e9 < BUSY_S:
            weights @ weights
            torch.cuda.synchronize()
    end = now_ns()
    time.sleep(BUSY_S)
    idle = sensor.read()
    watch.close()
    joule = energy_j(samples, start, end)
    record_property("sensor", sensor.name)
    record_property("readings", len(samples))
    record_property("busy_w", None if joule is None else joule / ((end - start) / 1e9))
    record_property("idle_w", idle.power_w)
    heat = [sample.temperature_c for sample in samples if sample.temperature_c is not None]
    assert len(samples) >= 5, f"{device.name}: {len(samples)} readings in {BUSY_S} s"
    assert heat, "no temperature"
    assert 0 < min(heat) <= max(heat) < 120
    if joule is not None and idle.power_w is not None:
        assert joule / ((end - start) / 1e9) > idle.power_w, "work takes no more power than idling"
