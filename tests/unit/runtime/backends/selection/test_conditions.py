"""Conditions of the machine are read from the texts of its tools."""

from pathlib import Path

import pytest

from internvl_edge.runtime.backends.selection.conditions import cpu_clock, host_conditions, power_mode


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [("2201600", "2201600", "locked at 2201 MHz"), ("115200", "2201600", "up to 2201 MHz, free")],
)
def test_a_locked_clock_is_reported(tmp_path: Path, low: str, high: str, expected: str) -> None:
    for name, value in (("governor", "schedutil"), ("min_freq", low), ("max_freq", high)):
        (tmp_path / f"scaling_{name}").write_text(f"{value}\n")
    assert cpu_clock(tmp_path) == {"governor": "schedutil", "cpu clock": expected}


def test_a_machine_without_cpufreq_has_no_clock(tmp_path: Path) -> None:
    assert cpu_clock(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", "MAXN (0)"),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2\n", "MODE_30W (2)"),
        ("", ""),
    ],
)
def test_nvpmodel(text: str, mode: str) -> None:
    assert power_mode(text) == mode


def test_this_machine_has_a_processor_and_versions() -> None:
    found = host_conditions()
    assert int(found["cores"]) >= 1
    assert {"processor", "machine", "python", "numpy", "internvl-edge"} <= set(found)
    assert all(found.values())
