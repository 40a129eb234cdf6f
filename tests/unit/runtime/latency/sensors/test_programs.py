"""The programs that print a board's state: stand-ins on the path that print, fail, or print nothing."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from internvl_edge.runtime.latency.sensors import tegrastats
from internvl_edge.runtime.latency.sensors.nvidia_smi import NvidiaSmiSensor
from internvl_edge.runtime.latency.sensors.tegrastats import TegrastatsSensor
from tests.tolerances import HANG_S

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a shell script of this name in front of all other programs."""

    def write(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return path

    return write


def test_tegrastats_is_read_line_by_line_and_ended(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tegrastats, "_FIRST_LINE_S", HANG_S)
    program("tegrastats", 'test "$1 $2" = "--interval 100" || exit 1\necho "VDD_IN 4300/4200 GPU@41C"\nexec sleep 60')
    sensor = TegrastatsSensor()
    found = sensor.read()
    sensor.close()
    assert (found.power_w, found.temperature_c) == (4.3, 41.0)


def test_tegrastats_that_prints_nothing_is_no_sensor(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tegrastats, "_FIRST_LINE_S", 0.05)
    program("tegrastats", "exec sleep 60")
    with pytest.raises(OSError, match="tegrastats prints nothing"):
        TegrastatsSensor()


def test_nvidia_smi_is_asked_for_the_first_gpu(program: Program) -> None:
    program("nvidia-smi", 'test "$1" = "--id=0" || exit 1\necho "250.5, 63, 1755, 0x0000000000000004"')
    sensor = NvidiaSmiSensor()
    found = sensor.read()
    sensor.close()
    assert (found.power_w, found.temperature_c, found.clock_mhz) == (250.5, 63.0, 1755.0)
    assert found.throttled == ("software power cap",)


def test_nvidia_smi_without_a_gpu_is_no_sensor(program: Program) -> None:
    program("nvidia-smi", "exit 9")
    with pytest.raises(OSError, match="nvidia-smi: "):
        NvidiaSmiSensor()


def test_a_reading_that_fails_is_empty(program: Program) -> None:
    path = program("nvidia-smi", 'echo "1, 2, 3, 0x0"')
    sensor = NvidiaSmiSensor()
    path.unlink()
    found = sensor.read()
    assert (found.power_w, found.temperature_c, found.clock_mhz, found.throttled) == (None, None, None, ())


@pytest.mark.parametrize(("sensor", "name"), [(TegrastatsSensor, "tegrastats"), (NvidiaSmiSensor, "nvidia-smi")])
def test_a_program_that_is_not_there_is_no_sensor(monkeypatch: pytest.MonkeyPatch, sensor: type, name: str) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=f"{name} is not there"):
        sensor()
