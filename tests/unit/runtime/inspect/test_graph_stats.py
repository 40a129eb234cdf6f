"""Counts of small graphs by hand, of the official sizes by the reference's tables, of a bundle's shared weights."""

import json
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch

from internvl_edge.export.canonical.passes import canonicalize
from internvl_edge.export.canonical.trace import trace_graph
from internvl_edge.export.models.config import ModelConfig, PoolConfig, QllamaConfig, VisionConfig
from internvl_edge.runtime.backends.lowering.onnx_model import OnnxModel
from internvl_edge.runtime.bundle.manifest import (
    SCHEMA,
    FileInfo,
    GraphInfo,
    Manifest,
    ModelInfo,
    ReachInfo,
    TensorSpec,
    VisionInfo,
)
from internvl_edge.runtime.errors import BundleError, ExportError
from internvl_edge.runtime.inspect.graph_stats import GraphStats, graph_stats, inspect_bundle, stats_text, to_json

HEADER = '<ir_version: 11, opset_import: ["": 23]>\n'


def read(model: onnx.ModelProto) -> OnnxModel:
    return OnnxModel(model.SerializeToString(), Path())


def count(text: str, **sizes: int) -> GraphStats:
    return graph_stats("g", read(onnx.parser.parse_model(HEADER + text)), (), (), sizes)


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("g (float[b, 5, 8] x, float[8, 3] w) => (float[b, 5, 3] y) { y = MatMul(x, w) }", 2 * (2 * 5 * 3) * 8),
        ("g (float[b, 8] x, float[3, 8] w) => (float[b, 3] y) { y = Gemm<transB=1>(x, w) }", 2 * (2 * 3) * 8),
        ("g (float[8, b] x, float[8, 3] w) => (float[b, 3] y) { y = Gemm<transA=1>(x, w) }", 2 * (2 * 3) * 8),
        (
            "g (float[b, 4, 6, 6] x, float[8, 2, 3, 3] w) => (float[b, 8, 2, 2] y) "
            "{ y = Conv<kernel_shape=[3, 3], strides=[2, 2], group=2>(x, w) }",
            2 * (2 * 8 * 2 * 2) * (2 * 3 * 3),
        ),
        (
            "g (float[b, 4, 5, 16] q, float[b, 4, 7, 16] k, float[b, 4, 7, 8] v) => (float[b, 4, 5, 8] y) "
            "{ y = Attention(q, k, v) }",
            2 * (2 * 4 * 5 * 7) * (16 + 8),
        ),
        (
            "g (float[b, 5, 64] q, float[b, 7, 64] k, float[b, 7, 32] v) => (float[b, 5, 32] y) "
            "{ y = Attention<q_num_heads=4, kv_num_heads=4>(q, k, v) }",
            2 * (2 * 4 * 5 * 7) * (16 + 8),
        ),
        (
            "g (float[b, 5, 64] q, float[b, 7, 32] k, float[b, 7, 16] v) => (float[b, 5, 32] y) "
            "{ y = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v) }",
            2 * (2 * 4 * 5 * 7) * (16 + 8),
        ),
        ("g (float[b, 8] x) => (float[b, 8] y) { y = Gelu(x) }", 0),
    ],
    ids=["MatMul", "Gemm", "Gemm transA", "grouped Conv", "Attention 4D", "Attention 3D", "grouped heads", "Gelu"],
)
def test_flops_of_one_operator(text: str, flops: int) -> None:
    assert count(text, b=2).flops == flops


def test_sizes_reach_axes_that_are_sums_of_names() -> None:
    text = """g (float[b, past, 8] cache, float[b, n, 8] new, float[b, n, 8] q) => (float[b, n, m] y)
      <float[b, m, 8] keys, float[b, 8, m] turned> {
      keys = Concat<axis=1>(cache, new)
      turned = Transpose<perm=[0, 2, 1]>(keys)
      y = MatMul(q, turned)
    }"""
    model = onnx.parser.parse_model(HEADER + text)
    for value in [*model.graph.value_info, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_param = dim.dim_param.replace("m", "past + n")
    stats = graph_stats("g", read(model), (), (), {"b": 3, "past": 10, "n": 2})
    assert stats.flops == 2 * (3 * 2 * 12) * 8
    assert stats.ops == {"Concat": 1, "Transpose": 1, "MatMul": 1}
    assert stats.sizes == {"b": 3, "past": 10, "n": 2}


def test_a_shape_that_the_graph_does_not_tell_is_named() -> None:
    text = "g (float[b, 8] x, float[8, 8] w) => (float[b, 8] y) { h = MatMul(x, w)\n y = MatMul(h, w) }"
    with pytest.raises(ExportError, match=r"^g: the graph does not tell the shape of h; write bundle or kit again"):
        count(text, b=1)


def test_every_axis_without_a_size_is_named() -> None:
    text = "g (float[b, n, 8] x, float[b, 8, m] z) => (float[b, n, m] y) { y = MatMul(x, z) }"
    with pytest.raises(ExportError, match=r"^g: no size for axes m, n;"):
        count(text, b=1)


def official(name: str, layers: int, image_size: int = 224) -> OnnxModel:
    """Trace a graph of InternVL-14B with `layers` layers; its weights have places in a file that does not exist."""
    config = ModelConfig(
        layout="internvl",
        parts=(
            VisionConfig(num_layers=layers, image_size=image_size),
            PoolConfig(embed_dim=768, pool_heads=16),
            QllamaConfig(num_layers=layers, vocab_size=49954, cross_attention_layers=tuple(range(0, layers, 2))),
        ),
    )
    model = canonicalize(trace_graph(name, config, torch.float16))
    for index, (key, value) in enumerate(model.graph.initializers.items()):
        if value.const_value is None:
            assert value.dtype is not None
            assert value.shape is not None
            value.const_value = ir.ExternalTensor("absent", index, 0, value.dtype, shape=value.shape, name=key)
    return read(ir.to_proto(model))


LAYERS, CROSS, EMBED, ROTARY = 6_476_271_616, 956_418_048, 204_611_584, 2 * 2048 * 64


@pytest.mark.parametrize(
    ("name", "layers", "sizes", "gflop", "parameters"),
    [
        ("vision", 48, {"batch": 1}, 3073.2 + 10.56, 5_902_793_600 + 33_207_168),
        ("query", 32, {"batch": 1}, 1573.4 + 6.48, LAYERS + CROSS + ROTARY + 53_515_008 + 393_216),
        ("text", 32, {"texts": 1, "length": 80}, 1039.5, LAYERS + EMBED + ROTARY + 3_145_728),
        ("decoder", 32, {"batch": 1, "length": 1, "past": 101, "total": 102}, 13.41, LAYERS + 2 * EMBED + ROTARY),
        ("itm", 32, {"batch": 1, "length": 80}, 2620.9, LAYERS + CROSS + EMBED + ROTARY + 393_216 + 8_194),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_official_model_counts_as_the_reference_measured(
    name: str, layers: int, sizes: dict[str, int], gflop: float, parameters: int
) -> None:
    """GFLOP to the digits of its tables; parameters exactly, with the rotary tables that the store holds as well.

    Both counts are linear in pairs of layers, so that two and four layers tell those of the whole model.
    """
    two, four = (graph_stats(name, official(name, n), (), (), sizes) for n in (2, 4))
    pairs = layers // 2 - 1
    assert two.flops + pairs * (four.flops - two.flops) == pytest.approx(gflop * 1e9, rel=5e-4)
    assert two.parameters + pairs * (four.parameters - two.parameters) == parameters
    assert two.weight_bytes == 2 * two.parameters


def write_bundle(folder: Path) -> Path:
    """Write two graphs over three 8 x 8 matrices, `text` on 0 and 1, `itm` on 1 and 2; the store itself is empty."""
    places = [64, 64 + 256, 64 + 512]
    graphs = {"text": (places[:2], "texts"), "itm": (places[1:], "batch")}
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "store").touch()
    infos = {}
    for name, (offsets, axis) in graphs.items():
        x = ir.val("x", ir.DataType.FLOAT, [axis, "length", 8])
        nodes, weights, last = [], [], x
        for offset in offsets:
            tensor = ir.ExternalTensor(
                "store", offset, 256, ir.DataType.FLOAT, shape=ir.Shape([8, 8]), name=f"w{offset}"
            )
            weights.append(ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype)))
            weights[-1].const_value = tensor
            nodes.append(ir.Node("", "MatMul", [last, weights[-1]]))
            last = nodes[-1].outputs[0]
            last.type, last.shape = x.type, x.shape
        last.name = "y"
        graph = ir.Graph([x], [last], nodes=nodes, initializers=weights, opset_imports={"": 23}, name=name)
        ir.save(ir.Model(graph, ir_version=11), folder / "onnx" / f"{name}.onnx")
        spec = (TensorSpec(name="x", dtype="float32", shape=(axis, "length", 8)),)
        infos[name] = GraphInfo(
            file=f"onnx/{name}.onnx",
            inputs=spec,
            outputs=spec,
            closest=ReachInfo(place="fc1", largest=1200.0, limit=65504.0),
            islands=(ReachInfo(place="fc2", largest=1e5, limit=65504.0),),
            fp32_nodes=("fc2", "Add"),
        )
    files = {
        path.relative_to(folder).as_posix(): FileInfo(bytes=path.stat().st_size, sha256="0" * 64)
        for path in sorted((folder / "onnx").iterdir())
    }
    model = ModelInfo(layout="internvl", vision=VisionInfo(image_size=56, patch_size=14, hidden_size=8, tokens=17))
    manifest = Manifest(schema=SCHEMA, producer={}, model=model, precision="fp32", graphs=infos, files=files)
    manifest.save(folder / "manifest.json")
    return folder


def test_a_bundle_counts_shared_weights_once_and_reads_none(tmp_path: Path) -> None:
    stats = inspect_bundle(write_bundle(tmp_path / "bundle"), {"batch": 3, "texts": 2, "length": 5})
    by_name = {graph.name: graph for graph in stats.graphs}
    assert {name: graph.parameters for name, graph in by_name.items()} == {"text": 128, "itm": 128}
    assert {name: graph.weight_bytes for name, graph in by_name.items()} == {"text": 512, "itm": 512}
    assert by_name["text"].flops == 2 * 2 * (2 * 5 * 8) * 8
    assert by_name["itm"].flops == 2 * 2 * (3 * 5 * 8) * 8
    assert stats.weight_bytes == 768
    assert stats.files_bytes == sum(path.stat().st_size for path in (tmp_path / "bundle" / "onnx").iterdir())


def test_json_and_text_say_the_same(tmp_path: Path) -> None:
    stats = inspect_bundle(write_bundle(tmp_path / "bundle"))
    content = json.loads(json.dumps(to_json(stats)))
    assert content["weight_bytes"] == 768
    assert content["graphs"][0] == {
        "name": "text",
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["texts", "length", 8]}],
        "outputs": [{"name": "x", "dtype": "float32", "shape": ["texts", "length", 8]}],
        "ops": {"MatMul": 2},
        "parameters": 128,
        "weight_bytes": 512,
        "flops": 2 * 2 * (80 * 8) * 8,
        "sizes": {"texts": 1, "length": 80},
        "closest": {"place": "fc1", "largest": 1200.0, "limit": 65504.0},
        "islands": [{"place": "fc2", "largest": 1e5, "limit": 65504.0}],
        "fp32_nodes": 2,
    }
    lines = stats_text(stats).splitlines()
    assert lines[0] == "text: 128 parameters, 0.0 MB, 0.000 GFLOP at texts 1, length 80"
    assert "  in   x float32 [texts, length, 8]" in lines
    assert "  ops  MatMul 2" in lines
    assert "  16-bit values reach 1.2e+03 of 65504, in fc1" in lines
    assert "  2 nodes are fp32, since 16 bits would overflow: fc2 1e+05" in lines


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    file = bundle / "onnx" / "itm.onnx"
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(BundleError, match=r"itm\.onnx: is no ONNX graph .*export the bundle again"):
        inspect_bundle(bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        inspect_bundle(tmp_path)
