"""Which TensorRT is found, and which of them builds for a target here."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets import flavour
from internvl_edge.runtime.targets.capability import REQUIRED_CALLS, V3_CALLS
from internvl_edge.runtime.targets.flavour import flavour_for, found_flavours, launches_plugins, load_flavour
from internvl_edge.runtime.targets.targets import find_target

RTX_MODULES = ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings")


def library(version: str, calls: tuple[str, ...] = REQUIRED_CALLS) -> ModuleType:
    """A module that has `calls`, and does nothing."""
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    for path in calls:
        *owners, last = path.split(".")
        place: object = module
        for owner in owners:
            if not hasattr(place, owner):
                setattr(place, owner, SimpleNamespace())
            place = getattr(place, owner)
        setattr(place, last, None)
    return module


def absent(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def device(monkeypatch: pytest.MonkeyPatch, sm: int | None) -> None:
    found = "no NVIDIA driver" if sm is None else Device(name="GPU", sm=sm, memory_bytes=8 << 30, driver="12.6")
    monkeypatch.setattr(flavour, "find_device", lambda: found)


def test_tensorrt_rtx_builds_for_what_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")
    device(monkeypatch, 87)
    absent(monkeypatch, "tensorrt")
    found = flavour_for(find_target("rtx-5090"))
    assert found is not None
    assert (found.name, found.capabilities.stream_build) == ("tensorrt_rtx", True)
    assert 120 in found.capabilities.compute_capabilities
    assert found.version == found.trt.__version__
    assert [other.name for other in found_flavours()] == ["tensorrt_rtx"]


def test_the_standard_library_builds_for_the_device_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", library("10.3.0"))
    device(monkeypatch, 87)
    found = flavour_for(find_target("orin-nano-8gb"))
    assert found is not None
    assert (found.name, found.version, found.capabilities.attention) == ("tensorrt", "10.3.0", False)


def test_for_another_device_nothing_here_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", library("10.3.0"))
    for sm in (87, None):
        device(monkeypatch, sm)
        assert flavour_for(find_target("h100")) is None


def test_the_device_itself_does_without_tensorrt_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, *RTX_MODULES)
    monkeypatch.setitem(sys.modules, "tensorrt", library("10.9.0.34"))
    device(monkeypatch, 89)
    found = flavour_for(find_target("l4"))
    assert found is not None
    assert found.name == "tensorrt"


def test_plugins_that_our_runtime_launches_want_a_device_and_say_what_lacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    calls = (*REQUIRED_CALLS, *V3_CALLS)
    monkeypatch.setitem(sys.modules, "tensorrt", library("10.3.0", calls))
    device(monkeypatch, 87)
    assert launches_plugins(load_flavour("tensorrt"))
    assert caplog.text == ""
    device(monkeypatch, None)
    assert not launches_plugins(load_flavour("tensorrt"))
    assert "tensorrt 10.3.0: no plugins through Python: no NVIDIA driver" in caplog.text
    monkeypatch.setitem(sys.modules, "tensorrt", library("10.3.0"))
    device(monkeypatch, 87)
    assert not launches_plugins(load_flavour("tensorrt"))


def test_a_target_of_an_rtx_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, *RTX_MODULES, "tensorrt")
    device(monkeypatch, None)
    with pytest.raises(EngineError, match=r"^tensorrt_rtx: not installed .*pip install 'internvl-edge\[rtx\]'$"):
        flavour_for(find_target("l4"))
    assert found_flavours() == ()


def test_a_device_without_its_library_is_reported_with_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "tensorrt")
    device(monkeypatch, 87)
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    with pytest.raises(EngineError, match=r"^tensorrt: not installed .*internvl-edge\[gpu\].*--system-site-packages$"):
        flavour_for(find_target("orin-nano-8gb"))


def test_a_library_that_is_too_old_names_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    old = tuple(path for path in REQUIRED_CALLS if not path.startswith("ParserError.node_"))
    monkeypatch.setitem(sys.modules, "tensorrt", library("8.5.2", old))
    with pytest.raises(EngineError) as caught:
        load_flavour("tensorrt")
    assert str(caught.value).startswith("tensorrt: 8.5.2 lacks ParserError.node_name, ParserError.node_operator; ")
    assert "10.3 or later" in str(caught.value)


def test_libraries_that_do_not_load_are_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = "libnvinfer.so.10: cannot open shared object file"
    (tmp_path / "tensorrt.py").write_text(f"raise OSError({words!r})\n")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=words):
        load_flavour("tensorrt")
