"""What becomes of a graph that holds our plugins, by what the library takes; the library is a stand-in."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import onnx
import pytest

from internvl_edge.export.engine import builder
from internvl_edge.export.engine.builder import PlanInfo, build_plan
from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.errors import EngineError
from internvl_edge.runtime.targets.capability import capabilities
from internvl_edge.runtime.targets.flavour import Flavour
from internvl_edge.runtime.targets.targets import find_target

ORIN = Device(name="Orin", sm=87, memory_bytes=8 << 30, driver="12.6")
PREFER_AOT = 1 << 3


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A TensorRT on an Orin that builds every graph and knows every plugin."""
    found = MagicMock()
    found.ILogger = type("ILogger", (), {})
    found.NetworkDefinitionCreationFlag = MagicMock(STRONGLY_TYPED=1, PREFER_AOT_PYTHON_PLUGINS=3)
    made = found.Builder.return_value
    made.create_network.return_value.num_inputs = 0
    made.build_serialized_network.return_value = b"plan"
    monkeypatch.setattr(builder, "find_device", lambda: ORIN)
    return found


def built(
    trt: MagicMock, monkeypatch: pytest.MonkeyPatch, folder: Path, versions: tuple[str, ...], **able: bool
) -> PlanInfo:
    """Build a graph with a plugin of each version by a library that is `able`."""
    row = replace(capabilities(ModuleType("trt")), strongly_typed_flag=True, **able)
    flavour = Flavour(name="tensorrt", trt=trt, version="10.3.0", capabilities=row)
    monkeypatch.setattr(builder, "load_flavour", lambda name: flavour)
    nodes = "".join(
        f'y{i} = internvl.vit_attention_plain <plugin_version = "{version}", variant = "heads=2 head_dim=64"> (x)\n'
        for i, version in enumerate(versions)
    )
    outputs = ", ".join(f"float16[1, 8, 128] y{i}" for i in range(len(versions)))
    text = (
        f'<ir_version: 10, opset_import: ["": 20, "internvl": 1]> g (float16[1, 8, 384] x) => ({outputs}) {{ {nodes} }}'
    )
    onnx.save(onnx.parser.parse_model(text), folder / "vision.onnx")
    return build_plan(
        folder / "vision.onnx", folder / "p.plan", target=find_target("orin-nano-8gb"), profiles=[], flavour="tensorrt"
    )


def registered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return what will be registered how, and for which device."""
    found: list[tuple[str, int]] = []
    plugins = "internvl_edge.export.plugins"

    def ahead_of_time(trt: Any, listed: Any, *, sm: int) -> None:
        found.append(("ahead of time", sm))

    def through_python(trt: Any, listed: Any, sm: int, driver: Any) -> None:
        assert hasattr(driver, "launch")
        found.append(("through Python", sm))

    monkeypatch.setattr(f"{plugins}.tensorrt_plugins.register_plugins", ahead_of_time)
    monkeypatch.setattr(f"{plugins}.v3_plugin.register_v3", through_python)
    return found


def test_a_plan_records_what_our_runtime_must_register(
    trt: MagicMock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = registered(monkeypatch)
    info = built(trt, monkeypatch, tmp_path, ("3",), plugins_v3=True)
    assert found == [("through Python", 87)]
    assert info.plugins == (("vit_attention_plain", "3"),)
    trt.Builder.return_value.create_network.assert_called_once_with(1 << 1)


def test_kernels_in_the_plan_need_nothing_on_the_device(
    trt: MagicMock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = registered(monkeypatch)
    info = built(trt, monkeypatch, tmp_path, ("1",), plugins_aot=True)
    assert found == [("ahead of time", 87)]
    assert info.plugins == ()
    trt.Builder.return_value.create_network.assert_called_once_with(1 << 1 | PREFER_AOT)


def test_a_plugin_of_another_version_is_refused_by_name_and_version(
    trt: MagicMock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registered(monkeypatch)
    registry = trt.get_plugin_registry.return_value
    registry.get_creator = lambda name, version, namespace: object() if version == "3" else None
    with pytest.raises(EngineError, match=r"no plugin internvl::vit_attention_plain version 1; .* --attention plugin"):
        built(trt, monkeypatch, tmp_path, ("1", "3"), plugins_v3=True)
    assert not list(tmp_path.glob("*.plan*"))


def test_kernels_are_not_timed_without_a_device(
    trt: MagicMock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(builder, "find_device", lambda: "no CUDA device: the driver finds none")
    with pytest.raises(
        EngineError, match=r"^vision.onnx: its attention kernels are timed on the device; no CUDA device"
    ):
        built(trt, monkeypatch, tmp_path, ("3",), plugins_v3=True)


def test_a_library_without_plugins_names_them_all(
    trt: MagicMock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"holds internvl::vit_attention_plain, and tensorrt 10.3.0 takes no"):
        built(trt, monkeypatch, tmp_path, ("1",))
