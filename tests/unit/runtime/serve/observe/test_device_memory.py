"""The memory of GPUs in use, from an NVML that is there, fails, or is missing."""

import sys
from types import SimpleNamespace

import pytest

from internvl_edge.runtime.serve.observe.device_memory import memory_reader

USED = {0: 3 << 30, 1: 0}


def nvml(init: object = lambda: None) -> SimpleNamespace:
    return SimpleNamespace(
        nvmlInit=init,
        nvmlDeviceGetCount=lambda: len(USED),
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu {index}",
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=USED[int(gpu.split()[1])], total=80 << 30),
    )


def test_each_gpu_has_its_bytes_and_they_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    read = memory_reader()
    assert read() == {"gpu0": 3 << 30, "gpu1": 0}
    monkeypatch.setitem(USED, 1, 5)
    assert read()["gpu1"] == 5


def no_driver() -> None:
    raise RuntimeError("NVML Shared Library Not Found")


@pytest.mark.parametrize("module", [None, nvml(no_driver)], ids=["no package", "no driver"])
def test_without_nvml_there_is_none(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert memory_reader()() == {}
