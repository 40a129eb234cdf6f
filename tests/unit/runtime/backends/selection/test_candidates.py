"""Backends that may run graphs here: plans that fit, a GPU that ONNX Runtime knows, and what is left out."""

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from internvl_edge.runtime.backends import SessionOptions
from internvl_edge.runtime.backends.cuda import Device
from internvl_edge.runtime.backends.selection import candidates
from internvl_edge.runtime.backends.selection.candidates import Candidate, find_candidates
from internvl_edge.runtime.bundle.bundle import Bundle
from tests.unit.runtime.toy_bundle import write_toy_bundle

GPU = Device(name="NVIDIA L4", sm=89, memory_bytes=3 << 30, driver="12.6")
OPTIONS = SessionOptions()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(candidates, "find_spec", lambda name: None)
    return write_toy_bundle(tmp_path / "b")


def add_plans(bundle: Bundle) -> str:
    """Write two records of plans, and return the digest of both."""
    contents = [b"{1}", b"{2}"]
    for target, content in zip(("l4", "orin"), contents, strict=True):
        (bundle.path / "engines" / target).mkdir(parents=True)
        (bundle.path / "engines" / target / "engine.json").write_bytes(content)
    return hashlib.sha256(b"{1}{2}").hexdigest()


@pytest.mark.parametrize("reason", ["", "no GPU here"])
def test_plans_are_candidates_of_the_flavours_that_can_run_them(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    caplog.set_level("INFO")
    digest = add_plans(bundle)
    monkeypatch.setattr(
        "internvl_edge.runtime.backends.tensorrt.open.unavailable",
        lambda bundle, flavour, options: reason or ("another version" if flavour == "tensorrt" else ""),
    )
    found = find_candidates(bundle, OPTIONS)
    assert found == ([] if reason else [Candidate(backend="tensorrt_rtx", version=digest)])
    assert f"tensorrt is left out: {reason or 'another version'}" in caplog.text


def test_without_plans_tensorrt_is_not_asked(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "internvl_edge.runtime.backends.tensorrt.open", None)
    assert find_candidates(bundle, OPTIONS) == []


@pytest.mark.parametrize(
    ("device", "providers", "first"),
    [
        ("none: no driver", ["CUDAExecutionProvider"], "onnxruntime"),
        (GPU, ["CPUExecutionProvider"], "onnxruntime"),
        (GPU, ["CUDAExecutionProvider", "CPUExecutionProvider"], "onnxruntime_cuda"),
    ],
)
def test_cuda_takes_a_gpu_and_an_onnxruntime_that_was_built_for_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, device: object, providers: list[str], first: str
) -> None:
    monkeypatch.setattr(candidates, "find_spec", lambda name: object() if name == "onnxruntime" else None)
    monkeypatch.setattr("internvl_edge.runtime.backends.cuda.find_device", lambda: device)
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(get_available_providers=lambda: providers))
    found = [candidate.backend for candidate in find_candidates(bundle, OPTIONS)]
    assert found == [first] if first == "onnxruntime" else [first, "onnxruntime"]


def test_a_module_of_no_package_has_its_place_as_version(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise candidates.PackageNotFoundError(package)

    place = SimpleNamespace(origin="/opt/openvino/__init__.py")
    monkeypatch.setattr(candidates, "version", missing)
    monkeypatch.setattr(candidates, "find_spec", lambda name: place if name == "openvino" else None)
    assert find_candidates(bundle, OPTIONS) == [Candidate(backend="openvino", version="/opt/openvino/__init__.py")]
