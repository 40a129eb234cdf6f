"""A bundle as `export` writes it by default opens in the programs that people look at ONNX files with."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from internvl_edge.export.compile import export_bundle
from internvl_edge.export.plans.build import BuildOptions, build
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.runtime.bundle.bundle import Bundle


@pytest.fixture(scope="module", params=["written", "shared blocks"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, golden_a: Path) -> Iterator[Path]:
    """A bundle exported with the default `--weights`, where the file system shares blocks and where it does not."""
    output = tmp_path_factory.mktemp("readers") / "bundle"

    def ioctl(write: int, _: int, read: int) -> int:
        if request.param == "written":
            raise OSError(95, "Operation not supported")
        return os.write(write, os.pread(read, 1 << 30, 0))

    before = _state(golden_a / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcntl.ioctl", ioctl)
        report = export_bundle(ExportOptions(checkpoint=str(golden_a / "checkpoint"), output=output, dtype="fp32"))
    assert (report.shared_tensors > report.written_tensors) == (request.param == "shared blocks")
    assert _state(golden_a / "checkpoint") == before
    return output


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (stat.st_nlink, stat.st_mtime_ns) for name, stat in found.items()}


def _graphs(bundle: Path) -> list[Path]:
    return sorted(bundle.glob("onnx/*/*.onnx"))


def test_no_file_has_several_names(bundle: Path) -> None:
    assert {links for links, _ in _state(bundle).values()} == {1}


def test_onnx_loads_and_checks_every_graph(bundle: Path) -> None:
    assert len(_graphs(bundle)) == 5
    for graph in _graphs(bundle):
        onnx.load(graph)
        onnx.checker.check_model(graph, full_check=True)


def test_polygraphy_inspects_every_graph(bundle: Path) -> None:
    pytest.importorskip("polygraphy")
    for graph in _graphs(bundle):
        tool = [sys.executable, "-c", "from polygraphy.tools import main; main()"]
        command = [*tool, "inspect", "model", str(graph), "--show", "layers", "weights"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"Name: {graph.stem}" in done.stdout


def test_onnxslim_slims_every_graph(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxslim")
    for graph in _graphs(bundle):
        command = [sys.executable, "-m", "onnxslim", str(graph), str(tmp_path / graph.name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / graph.name).is_file()


def test_netron_shows_every_weight(bundle: Path) -> None:
    netron = importlib.util.find_spec("netron")
    if netron is None or netron.origin is None:
        pytest.skip("needs the package netron")
    if shutil.which("node") is None:
        pytest.skip("needs node, which runs netron's parser")
    script = Path(__file__).with_name("netron_read.mjs")
    for graph in _graphs(bundle):
        command = ["node", str(script), str(Path(netron.origin).parent), str(graph)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        model = onnx.load(graph)
        assert shown["nodes"] == len(model.graph.node)
        weights = {tensor.name: tensor.raw_data for tensor in model.graph.initializer if tensor.raw_data}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in weights.items()}
        assert len(shown["weights"]) > 10
        assert shown["weights"] == {name: digests[name] for name in shown["weights"]}


def test_a_kit_opens_too_and_leaves_the_bundle_alone(bundle: Path, tmp_path: Path) -> None:
    before = _state(bundle)
    build(bundle, BuildOptions(target="agx-orin-64gb", output=tmp_path / "kit"))
    assert _state(bundle) == before
    assert {links for links, _ in _state(tmp_path / "kit").values()} == {1}
    for graph in _graphs(tmp_path / "kit"):
        onnx.checker.check_model(graph, full_check=True)
    Bundle.open(tmp_path / "kit")
