"""The remedy that a Jetson gets, and its extra, which needs nothing that it would have to compile."""

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from internvl_edge.runtime.backends import jetson
from tests.project import PROJECT

EXTRAS = PROJECT["optional-dependencies"]
COMPILED_THERE = {"pycuda", "tensorrt", "onnxruntime-gpu"}
"""Source alone, or wheels for other boards."""


@pytest.mark.parametrize(
    ("on_jetson", "in_environment", "reported"),
    [
        (False, False, "pip install 'internvl-edge[gpu]'"),
        (
            False,
            True,
            "pip install 'internvl-edge[gpu]', or on a Jetson make the environment with --system-site-packages",
        ),
        (True, False, "this is a Jetson: install JetPack's own (sudo apt install nvidia-jetpack)"),
        (
            True,
            True,
            "this is a Jetson: install JetPack's own (sudo apt install nvidia-jetpack), and make the environment with "
            "--system-site-packages",
        ),
    ],
)
def test_where_tensorrt_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_jetson: bool, in_environment: bool, reported: str
) -> None:
    release = tmp_path / "nv_tegra_release"
    if on_jetson:
        release.write_text("# R36 (release), REVISION: 4.0")
    monkeypatch.setattr(jetson, "RELEASE_FILE", release)
    monkeypatch.setattr(sys, "base_prefix", "/usr" if in_environment else sys.prefix)
    assert jetson.tensorrt_remedy() == reported


def test_the_extra_has_wheels_alone() -> None:
    names = {Requirement(line).name for line in EXTRAS["jetson"]}
    assert not names & COMPILED_THERE
    assert "onnxruntime" in names


def test_numpy_2_stays_out_of_jetpack_6() -> None:
    """TensorRT 10.3's bindings for plugins are of NumPy 1; JetPack 6 has Python 3.10, JetPack 7 has 3.12."""
    (numpy,) = [Requirement(line) for line in EXTRAS["jetson"] if Requirement(line).name == "numpy"]
    assert numpy.marker is not None
    assert numpy.marker.evaluate({"python_version": "3.10"})
    assert not numpy.marker.evaluate({"python_version": "3.12"})
    assert not numpy.specifier.contains("2.0.0")
    assert numpy.specifier.contains("1.26.4")


def test_no_extra_takes_a_compiler_for_cuda() -> None:
    assert not [name for name, lines in EXTRAS.items() for line in lines if Requirement(line).name == "pycuda"]
