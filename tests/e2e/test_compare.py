"""`internvl-edge compare`: a bundle against its checkpoint, against itself, and against a copy with a broken block."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from internvl_edge.export.check.compare import CompareOptions, Comparison, compare
from internvl_edge.export.check.compare_report import comparison_json, comparison_text
from internvl_edge.runtime.bundle.bundle import sha256_file
from internvl_edge.runtime.bundle.manifest import FileInfo, Manifest
from internvl_edge.runtime.errors import EdgeError, InputError
from tests.e2e.conftest import Run
from tests.tolerances import SAME_GRAPH_DB

BROKEN = "vision_model.encoder.layers.3"


@pytest.fixture(scope="module")
def data(emoji: Path) -> Path:
    return emoji / "data" / "test.jsonl"


@pytest.fixture(scope="module")
def broken(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with the layer scale of one block's MLP turned round: its fc2 adds what it should take away."""
    folder = tmp_path_factory.mktemp("broken") / "bundle"
    shutil.copytree(demo_bundle, folder)
    manifest = Manifest.load(folder / "manifest.json")
    name = manifest.graphs["vision"].file
    file = folder / name
    model = onnx.load(file, load_external_data=False)
    last = [node for node in model.graph.node if node.name.startswith(BROKEN) and node.op_type == "Add"][-1]
    last.op_type = "Sub"
    onnx.save(model, file)
    info = FileInfo(bytes=file.stat().st_size, sha256=sha256_file(file))
    replace(manifest, files={**manifest.files, name: info}).save(folder / "manifest.json")
    return folder


def compared(a: Path, b: Path, data: Path, *graphs: str) -> Comparison:
    return compare(a, b, CompareOptions(data=data, sample_count=2, graphs=graphs or None))


def test_every_block_of_every_graph_equals_the_checkpoint(demo_bundle: Path, emoji: Path, data: Path) -> None:
    found = compared(demo_bundle, emoji / "checkpoint", data)
    assert [graph.graph for graph in found.graphs] == ["vision", "query", "text", "decoder", "itm"]
    assert {len(graph.blocks) for graph in found.graphs} == {6}
    assert min(item.sqnr_db for graph in found.graphs for item in (*graph.blocks, *graph.outputs)) > SAME_GRAPH_DB
    assert found.first_divergence is None


def test_a_bundle_equals_itself(demo_bundle: Path, pictures: Path) -> None:
    found = compared(demo_bundle, demo_bundle, pictures, "vision", "query")
    assert comparison_text(found).endswith("no divergence: every block and every output is equal")
    parts: list[dict[str, Any]] = comparison_json(found)["graphs"]
    assert all(item["equal"] and item["sqnr_db"] is None for part in parts for item in part["blocks"])


def test_the_broken_block_is_named_with_its_remedy(broken: Path, demo_bundle: Path, run: Run, data: Path) -> None:
    done = run("compare", broken, demo_bundle, "--data", data, "--sample-count", 2, "--graphs", "vision,query")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("first divergence: vision falls below 20 dB at vision_model.encoder.layers.3 ")
    content = json.loads(run("compare", broken, demo_bundle, "--data", data, "--sample-count", 2, "--json").stdout)
    assert content["first_divergence"]["steepest"] == BROKEN
    # Each graph is fed by the reference: what follows the broken one is equal.
    query = next(graph for graph in content["graphs"] if graph["graph"] == "query")
    assert all(item["equal"] for item in query["blocks"])


def test_two_sides_of_different_models(demo_bundle: Path, golden_a: Path, data: Path) -> None:
    with pytest.raises(EdgeError, match=r"do not match .*hidden"):
        compared(demo_bundle, golden_a / "checkpoint", data)


def test_all_that_is_wrong_at_once() -> None:
    with pytest.raises(InputError, match=r"--sample-count 0.*; --graphs visoin: unknown.*; --threshold-db nan"):
        CompareOptions(data=Path("x"), sample_count=0, graphs=("visoin",), threshold_db=np.nan)
