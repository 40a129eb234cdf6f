"""The demo in fp16 and bf16: a plan of every graph for every architecture that TensorRT-RTX builds for."""

from pathlib import Path

import pytest

from internvl_edge.runtime.targets.sms import RTX_SMS
from internvl_edge.runtime.targets.targets import find_target
from tests.e2e.every_graph import GENERATIONS, build_generation
from tests.exports import Exports

pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")

GRAPHS = {"vision", "query", "text", "decoder", "itm"}


def test_every_architecture_is_of_a_generation() -> None:
    assert sorted(sm for first, others in GENERATIONS.items() for sm in (first, *others)) == list(RTX_SMS)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("sm", GENERATIONS)
def test_every_graph_builds(exports: Exports, emoji: Path, dtype: str, sm: int, tmp_path: Path) -> None:
    if dtype == "bf16" and not find_target(f"sm_{sm}").bf16:
        pytest.skip(f"sm_{sm} has no bf16")
    bundle = exports.bundle(emoji / "checkpoint", dtype=dtype, samples=emoji / "data" / "test.jsonl")
    sizes = build_generation(bundle, sm, tmp_path)
    assert set(sizes) == GRAPHS
    assert min(sizes.values()) > 5_000_000, "a plan without its weights"
