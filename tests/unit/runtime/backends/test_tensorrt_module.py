"""The module of a flavour, or what to install."""

import sys
from types import ModuleType

import pytest

from internvl_edge.runtime.backends.tensorrt_module import import_tensorrt, message_line, tensorrt_version


def test_the_last_module_of_a_flavour_is_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert import_tensorrt("tensorrt_rtx") is sys.modules["tensorrt_rtx_bindings"]


@pytest.mark.parametrize(
    ("flavour", "module", "extra"),
    [("tensorrt_rtx", "onnxruntime_ep_nv_tensorrt_rtx", "rtx"), ("tensorrt", "tensorrt", "gpu")],
)
def test_an_absent_one_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, flavour: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"^not installed \(.*{module}.*\); .*'internvl-edge\[{extra}\]'"):
        import_tensorrt(flavour)


def test_a_version_is_found_where_there_is_one() -> None:
    module = ModuleType("tensorrt")
    assert tensorrt_version(module) == "of unknown version"
    module.__version__ = "10.3.0"  # type: ignore[attr-defined]
    assert tensorrt_version(module) == "10.3.0"


def test_a_message_loses_its_place_in_the_library() -> None:
    said = "[builder.cpp] no room.\n  In buildEngine at /src/builder.cpp:12)"
    assert message_line(said) == "[builder.cpp] no room)"
