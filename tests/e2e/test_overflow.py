"""An fp16 export whose values fp16 cannot hold says so and keeps them in fp32, wherever in the model they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from internvl_edge.calib.data.synthetic import synthetic_pixels
from internvl_edge.export import compile as compile_module
from internvl_edge.export.blockwise.segments import cut, run_segments
from internvl_edge.export.compile import export_bundle
from internvl_edge.export.dialects import FEWEST_LAUNCHES, PORTABLE, Dialect, lower
from internvl_edge.export.export_report import report_text
from internvl_edge.export.run.options import ExportOptions
from internvl_edge.runtime import InternVL
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.errors import VerificationError
from tests.e2e.every_graph import build_every_graph
from tests.e2e.overflowing import HEADS, QUERIES, WIDTH, Weights, chat, infinite_values, internvl, vision, write
from tests.exports import Exports
from tests.tolerances import FP16_RELATIVE

DIALECTS = {"joined": FEWEST_LAUNCHES, "portable": PORTABLE, "plugin": Dialect(attention="plugin")}
Checkpoint = tuple[Weights, dict[str, Any]]


def _hidden_values() -> Checkpoint:
    """fc1 grows what norm2 gives, fc2 takes it back: GELU is linear far from 0."""
    weights, config = vision()
    for part in ("weight", "bias"):
        weights[f"encoder.layers.1.mlp.fc1.{part}"] *= 2**16
    weights["encoder.layers.1.mlp.fc2.weight"] /= 2**13
    return weights, config


def _scores() -> Checkpoint:
    """One channel of q and k is 600 in every row: all scores are moved by 90000, which softmax does not see."""
    weights, config = vision()
    for head in range(HEADS):
        for part in range(2):
            row = part * WIDTH + head * WIDTH // HEADS
            weights["encoder.layers.0.attn.qkv.weight"][row] = 0
            weights["encoder.layers.0.attn.qkv.bias"][row] = 600
    return weights, config


def _residual() -> Checkpoint:
    """A massive activation: one channel of the residual stream that stays to the end, and goes to other graphs."""
    weights, config = internvl()
    weights["vision_model.encoder.layers.0.mlp.fc2.bias"][5] = 30000
    weights["vision_model.encoder.layers.0.ls2"][5] = 8
    return weights, config


def _gated() -> Checkpoint:
    weights, config = internvl()
    weights["qllama.model.layers.1.post_attention_layernorm.weight"] *= 8
    weights["qllama.model.layers.1.mlp.up_proj.weight"] *= 4096
    weights["qllama.model.layers.1.mlp.down_proj.weight"] /= 4096
    return weights, config


def _cache() -> Checkpoint:
    weights, config = internvl()
    weights["qllama.model.layers.0.self_attn.v_proj.weight"] *= 65536
    return weights, config


def _masked() -> Checkpoint:
    weights, config = internvl()
    for part in "qk":
        weights[f"qllama.model.layers.0.self_attn.{part}_proj.weight"] *= 300
    return weights, config


def _pools() -> Checkpoint:
    weights, config = internvl()
    for name in ("clip_projector", "clip_projector2"):
        weights[f"{name}.norm1_v.weight"] *= 64
        weights[f"{name}.norm1_v.bias"] *= 64
        weights[f"{name}.cross_attn.v.weight"] *= 4096
    return weights, config


def _connector() -> Checkpoint:
    weights, config = chat()
    weights["mlp1.1.weight"] *= 2**17
    return weights, config


def _everywhere(place: str) -> dict[str, set[str]]:
    """Return that `place` is an island of every graph that QLLaMA's blocks are in."""
    return {graph: {place} for graph in ("query", "text", "decoder", "itm")}


CASES: dict[str, tuple[Callable[[], Checkpoint], dict[str, set[str]]]] = {
    "hidden": (
        _hidden_values,
        {"vision": {"encoder.layers.1.mlp.fc1", "encoder.layers.1.mlp.fc1/Add", "encoder.layers.1.mlp.act/Gelu"}},
    ),
    "scores": (_scores, {"vision": {"encoder.layers.0.attn/Attention (scores)"}}),
    "residual": (
        _residual,
        {
            "vision": {"encoder.layers.0/Mul_1", "encoder.layers.0/Add_1", "encoder.layers.1/Add_1"},
            "query": {"vision_states"},
            "itm": {"vision_states"},
        },
    ),
    "gated": (_gated, _everywhere("qllama.model.layers.1.mlp/Mul_1")),
    "cache": (
        _cache,
        {
            "query": {"qllama.model.layers.0.self_attn.v_proj"},
            "decoder": {"past_key_values.0.value", "qllama.model.layers.0.self_attn.v_proj"},
        },
    ),
    "masked": (
        _masked,
        _everywhere("qllama.model.layers.0.self_attn/Attention (scores)"),
    ),
    "pools": (
        _pools,
        {
            "vision": {"clip_projector.cross_attn.v", "clip_projector.cross_attn/Attention"},
            "query": {"clip_projector2.cross_attn.v", "clip_projector2.cross_attn/Attention"},
        },
    ),
    "connector": (_connector, {"connector": {"mlp1.1", "mlp1.2/Gelu", "mlp1.3/Add"}}),
}
"""Case -> its checkpoint, and for each graph some places that must be among its islands."""


def _feeds(bundle: Bundle) -> dict[str, dict[str, np.ndarray]]:
    """Return inputs of every graph; those that other graphs make are taken from these."""
    model = bundle.manifest.model
    opened = InternVL.open(bundle.path, backend="onnxruntime")
    pixels = {"pixel_values": synthetic_pixels(model.vision.image_size, 2)}
    found = {"vision": pixels}
    states = {"vision_states": opened.run_graph("vision", pixels)["vision_states"]}
    ids = {"input_ids": np.array([[1, 30, 12, 7, 99], [1, 5, 250, 0, 0]])}
    found |= {"connector": states, "query": states, "text": ids, "itm": {**states, **ids}}
    if "decoder" in bundle.manifest.graphs:
        made = opened.run_graph("query", states)
        cache = {n.replace("present", "past_key_values"): v for n, v in made.items() if n.startswith("present")}
        found["decoder"] = {
            "input_ids": np.array([[1, 30, 12], [1, 5, 9]]),
            "attention_mask": np.ones((2, QUERIES + 3), np.int64),
            "position_ids": np.tile(QUERIES + np.arange(3), (2, 1)),
            **cache,
        }
    return found


@pytest.fixture(scope="module", params=list(CASES))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    make, _ = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    graphs = ("vision", "connector") if request.param == "connector" else None
    checkpoint = write(folder / "checkpoint", *make())
    report = export_bundle(ExportOptions(checkpoint=str(checkpoint), output=folder / "bundle", graphs=graphs))
    return request.param, folder / "bundle", report_text(report)


def test_what_overflows_is_kept_in_fp32_and_told(exported: tuple[str, Path, str]) -> None:
    case, folder, text = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    for graph, wanted in CASES[case][1].items():
        found = {island["place"].removeprefix("vision_model.") for island in manifest["graphs"][graph]["islands"]}
        assert wanted <= found, graph
        assert f"{graph}: {len(manifest['graphs'][graph]['fp32_nodes'])} nodes in fp32" in text
    for graph, entry in manifest["graphs"].items():
        assert entry["closest"]["largest"] * 4 <= entry["closest"]["limit"], graph
        assert bool(entry["islands"]) == bool(entry["fp32_nodes"])


def test_no_value_of_16_bits_is_infinite(exported: tuple[str, Path, str]) -> None:
    _, folder, _ = exported
    bundle = Bundle.open(folder)
    feeds = _feeds(bundle)
    for name in bundle.manifest.graphs:
        assert infinite_values(bundle.graph_file(name), feeds[name]) == []


def test_graphs_that_feed_each_other_agree_on_types(exported: tuple[str, Path, str]) -> None:
    _, folder, _ = exported
    graphs = Bundle.open(folder).manifest.graphs
    made = {output.name: output.dtype for graph in graphs.values() for output in graph.outputs}
    for graph in graphs.values():
        for taken in graph.inputs:
            source = taken.name.replace("past_key_values", "present")
            assert taken.dtype == made.get(source, taken.dtype)


@pytest.mark.parametrize(
    "dialect", [FEWEST_LAUNCHES, PORTABLE, Dialect(attention="plugin")], ids=["joined", "portable", "plugin"]
)
def test_dialects_keep_islands(
    exported: tuple[str, Path, str], dialect: Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    case, folder, _ = exported
    bundle = Bundle.open(folder)
    feeds = _feeds(bundle)
    for name, info in bundle.manifest.graphs.items():
        file = bundle.graph_file(name)
        expected = _run(ir.load(file), file.parent, feeds[name])
        found = _run(lower(ir.load(file), dialect), file.parent, feeds[name])
        for output, values in expected.items():
            largest = max(1.0, float(np.abs(values).max()))
            np.testing.assert_allclose(found[output], values, atol=FP16_RELATIVE * largest, rtol=0)
        if dialect.attention == "plugin" and any("/Attention" in island.place for island in info.islands):
            assert "no attention kernel: it is kept in fp32, since values of it overflow 16 bits" in caplog.text, case


def _run(model: ir.Model, folder: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    taken = {str(v.name): feeds[str(v.name)].astype(v.dtype.numpy()) for v in model.graph.inputs if v.dtype is not None}
    found = run_segments(ir.to_proto(model), cut(model.graph), folder, taken)
    return {name: values.astype(np.float32) for name, values in found.items()}


def test_plans_build_with_islands(exported: tuple[str, Path, str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")
    _, folder, _ = exported
    assert set(build_every_graph(folder, 89, tmp_path)) == set(Bundle.open(folder).manifest.graphs)


@pytest.mark.parametrize("case", ["hidden", "residual"])
def test_a_killed_run_is_taken_up_with_its_islands(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graphs are rewritten when it is killed; the next run must neither widen them twice nor ship them without."""
    checkpoint = write(tmp_path / "checkpoint", *CASES[case][0]())

    def options(name: str) -> ExportOptions:
        return ExportOptions(checkpoint=str(checkpoint), output=tmp_path / name)

    export_bundle(options("whole"))
    with monkeypatch.context() as killing:
        killing.setattr(compile_module, "_copy_companions", _killed)
        with pytest.raises(KeyboardInterrupt):
            export_bundle(options("resumed"))
    report = export_bundle(options("resumed"))
    assert report.fp32_parts["vision"].nodes
    whole, resumed = (Bundle.open(tmp_path / name).manifest for name in ("whole", "resumed"))
    assert resumed.graphs == whole.graphs
    graphs = {name for name in whole.files if name.endswith(".onnx")}
    assert {name: resumed.files[name] for name in graphs} == {name: whole.files[name] for name in graphs}


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_refusing_names_places_and_remedy_and_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", *_hidden_values())
    options = ExportOptions(checkpoint=str(checkpoint), output=tmp_path / "bundle", on_overflow="refuse")
    with pytest.raises(VerificationError, match=r"16 bits overflow.*layers\.1\.mlp\.fc1.*--dtype bf16 or fp32"):
        export_bundle(options)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_bf16_needs_no_islands(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", *_hidden_values())
    report = export_bundle(ExportOptions(checkpoint=str(checkpoint), output=tmp_path / "bundle", dtype="bf16"))
    assert report.fp32_parts["vision"].nodes == ()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantized_graphs_have_islands_too(tmp_path: Path, precision: str) -> None:
    checkpoint = write(tmp_path / "checkpoint", *_hidden_values())
    options = ExportOptions(
        checkpoint=str(checkpoint), output=tmp_path / "bundle", precision=precision, data="random", gate_samples=0
    )
    report = export_bundle(options)
    bundle = Bundle.open(tmp_path / "bundle")
    assert {island.place for island in report.fp32_parts["vision"].islands} >= {
        "vision_model.encoder.layers.1.mlp.fc1/Add",
        "vision_model.encoder.layers.1.mlp.act/Gelu",
    }
    assert infinite_values(bundle.graph_file("vision"), _feeds(bundle)["vision"]) == []
    graph = ir.load(bundle.graph_file("vision")).graph
    product = next(node for node in graph if node.name == "vision_model.encoder.layers.1.mlp.fc1")
    assert product.outputs[0].dtype == ir.DataType.FLOAT
    assert product.inputs[0].producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="the extra `rtx` is not installed")
    assert build_every_graph(bundle.path, 89, tmp_path)["vision"] > 0


def test_the_demo_has_no_islands(exports: Exports, emoji: Path) -> None:
    _, report = exports.report(emoji / "checkpoint", samples=emoji / "data" / "test.jsonl")
    assert not any(kept.nodes for kept in report.fp32_parts.values())
    assert "in fp32, since" not in report_text(report)
