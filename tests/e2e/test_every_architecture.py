"""The demo in fp16 and bf16: a plan of every graph for every architecture that TensorRT-RTX builds for."""

from pathlib import Path

import pytest

from internvl_edge.export.compile import export_bundle
from internvl_edge.export.options import ExportOptions
from internvl_edge.runtime.targets.sms import RTX_SMS
from internvl_edge.runtime.targets.targets import find_target
from tests.e2e.every_graph import build_every_graph

pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")

GRAPHS = {"vision", "query", "text", "decoder", "itm"}


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def bundle(request: pytest.FixtureRequest, emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp(request.param) / request.param
    export_bundle(ExportOptions(checkpoint=str(emoji / "checkpoint"), output=output, dtype=request.param))
    return output


@pytest.mark.parametrize("sm", RTX_SMS)
def test_every_graph_builds(bundle: Path, sm: int, tmp_path: Path) -> None:
    if bundle.name == "bf16" and not find_target(f"sm_{sm}").bf16:
        pytest.skip(f"sm_{sm} has no bf16")
    sizes = build_every_graph(bundle, sm, tmp_path)
    assert set(sizes) == GRAPHS
    assert min(sizes.values()) > 5_000_000, "a plan without its weights"
