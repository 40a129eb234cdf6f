"""The diagnosis of this machine, and of a bundle on a target: predictions, and what blocks it."""

from dataclasses import replace
from pathlib import Path

import pytest

from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.bundle.manifest import Manifest
from internvl_edge.runtime.errors import BundleError, EngineError
from internvl_edge.runtime.inspect import doctor
from internvl_edge.runtime.inspect.doctor import GraphPrediction, diagnose, diagnosis_text
from internvl_edge.runtime.targets.estimate import host_peak_bytes, plan_seconds
from tests.unit.runtime.toy_bundle import write_toy_bundle

GPU = Device(name="NVIDIA L4", sm=89, memory_bytes=3 << 30, driver="12.6")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_device", lambda: "none: no driver")


def test_a_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = diagnose(None, None)
    assert (found.device, found.target, found.blocks, found.graphs) == ("none: no driver", None, (), ())
    assert found.packages["numpy"] is not None
    lines = diagnosis_text(found).splitlines()
    assert lines[-1] == "GPU: none: no driver"
    assert any(line.split() == ["pycuda", "not", "installed"] for line in lines) == (found.packages["pycuda"] is None)
    monkeypatch.setattr(doctor, "find_device", lambda: GPU)
    assert diagnosis_text(diagnose(None, None)).splitlines()[-1] == "GPU: NVIDIA L4, sm_89, 3.00 GiB, CUDA 12.6"


def test_a_bundle_has_a_forecast_for_each_graph(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "b")
    found = diagnose(bundle.path, "agx-orin-64gb")
    (graph,) = found.graphs
    assert (graph.name, graph.plan_bytes) == ("vision", 0)
    assert graph.activation_bytes == 8 * (3 * 4 * 4 + 3) * 4, "eight pictures in and out, as floats"
    assert (graph.build_host_bytes, graph.build_seconds) == (host_peak_bytes(0), plan_seconds(0))
    assert (found.builds_with, found.blocks) == (None, ())
    text = diagnosis_text(found)
    assert "target agx-orin-64gb (sm_87): built on the device, from a kit" in text
    assert text.endswith("\nnothing blocks it")
    content = found.to_json()
    assert content["graphs"][0]["name"] == "vision"
    assert sorted(content["target"]) == ["name", "sheet", "sm"]


@pytest.mark.parametrize(
    ("precision", "target", "graphs", "told"),
    [
        ("fp8", "agx-orin-64gb", 1, "fp8"),
        ("fp32", "orin-nano-8gb", 1 << 40, "all plans together are predicted to need 1024.00 GiB, orin-nano-8gb has"),
        ("fp32", "sm_87", 1 << 40, ""),
    ],
    ids=["no units", "no room", "no sheet"],
)
def test_what_blocks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, target: str, graphs: int, told: str
) -> None:
    bundle = write_toy_bundle(tmp_path / "b")
    replace(Manifest.load(bundle.path / "manifest.json"), precision=precision).save(bundle.path / "manifest.json")
    forecast = GraphPrediction(
        name="vision", plan_bytes=graphs, activation_bytes=0, build_host_bytes=1, build_seconds=1.0
    )
    monkeypatch.setattr(doctor, "_predictions", lambda bundle: [forecast])
    found = diagnose(bundle.path, target)
    assert [told in block for block in found.blocks] == ([True] if told else [])
    assert ("blocked: " in diagnosis_text(found)) == bool(told)


def test_a_library_that_builds_for_the_target_is_named_or_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(target: object) -> None:
        raise EngineError("TensorRT-RTX is not installed; pip install 'internvl-edge[rtx]'")

    monkeypatch.setattr(doctor, "flavour_for", lacking)
    found = diagnose(None, "rtx-4090")
    assert found.blocks == ("TensorRT-RTX is not installed; pip install 'internvl-edge[rtx]'",)
    assert "blocked: TensorRT-RTX is not installed" in diagnosis_text(found)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        diagnose(tmp_path, None)
    with pytest.raises(EngineError, match="rtx-4091"):
        diagnose(None, "rtx-4091")
