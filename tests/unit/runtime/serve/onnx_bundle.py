"""A bundle that worker processes can open: graphs of a few nodes, whose answers are known by hand."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from onnx import TensorProto, helper, save

from internvl_edge.runtime.bundle.manifest import (
    SCHEMA,
    FileInfo,
    GraphInfo,
    Manifest,
    ModelInfo,
    TensorSpec,
    TextInfo,
    VisionInfo,
)
from tests.unit.runtime.graph_uses import USES

_TYPES = {
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
MODEL = ModelInfo(
    layout="internvl",
    vision=VisionInfo(image_size=4, patch_size=2, hidden_size=3, tokens=1),
    text=TextInfo(layers=1, heads=1, head_dim=2, vocab_size=320, max_positions=40, num_query_tokens=0),
    embed_dim=3,
)
TEXT = GraphInfo(
    file="onnx/fp32/text.onnx",
    use=USES["text"],
    inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("texts", "length")),),
    outputs=(TensorSpec(name="text_embeds", dtype="float32", shape=("texts", 1)),),
)
VISION = GraphInfo(
    file="onnx/fp32/vision.onnx",
    use=USES["vision"],
    inputs=(TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 4, 4)),),
    outputs=(TensorSpec(name="image_embeds", dtype="float32", shape=("batch", 3)),),
)


def write_onnx_bundle(folder: Path) -> Path:
    """Write graphs that sum the ids of each text, and take the mean of each colour."""
    (folder / "onnx" / "fp32").mkdir(parents=True)
    _save(
        folder / TEXT.file,
        [
            helper.make_node("ReduceSum", ["input_ids", "axis"], ["sums"], keepdims=1),
            helper.make_node("Cast", ["sums"], ["text_embeds"], to=TensorProto.FLOAT),
        ],
        TEXT,
        {"axis": [1]},
    )
    mean = helper.make_node("ReduceMean", ["pixel_values", "axes"], ["image_embeds"], keepdims=0)
    _save(folder / VISION.file, [mean], VISION, {"axes": [2, 3]})
    _write_manifest(folder, {"text": TEXT, "vision": VISION}, "fp32")
    return folder


def _write_manifest(folder: Path, graphs: dict[str, GraphInfo], precision: str) -> None:
    Manifest(
        schema=SCHEMA,
        producer={"internvl-edge": "0"},
        model=MODEL,
        precision=precision,
        graphs=graphs,
        files={
            path.relative_to(folder).as_posix(): FileInfo(
                bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
            )
            for path in sorted(folder.rglob("*.onnx"))
        },
    ).save(folder / "manifest.json")


NARROW = ("vision", "query", "text", "decoder", "itm", "connector")
"""Graphs of a bundle whose tensors are of one type; each gives what it takes, and a third of it."""


def write_typed_bundle(folder: Path, dtype: str) -> Path:
    """Write every graph with inputs and outputs of `dtype`, as `--dtype` makes them."""
    place = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}[dtype]
    (folder / "onnx" / place).mkdir(parents=True)
    graphs = {}
    for name in NARROW:
        graphs[name] = GraphInfo(
            file=f"onnx/{place}/{name}.onnx",
            use=USES[name],
            inputs=(TensorSpec(name="x", dtype=dtype, shape=("batch", 4)),),
            outputs=(
                TensorSpec(name="states", dtype=dtype, shape=("batch", 4)),
                TensorSpec(name="third", dtype="float32", shape=("batch", 4)),
            ),
        )
        nodes = [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["wide", "three"], ["third"]),
            helper.make_node("Cast", ["third"], ["states"], to=_TYPES[dtype]),
        ]
        three = helper.make_tensor("three", TensorProto.FLOAT, [1], [3.0])
        _save(folder / graphs[name].file, nodes, graphs[name], {}, [three])
    _write_manifest(folder, graphs, place)
    return folder


def _save(
    file: Path, nodes: list[object], info: GraphInfo, constants: dict[str, list[int]], more: Sequence[object] = ()
) -> None:
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], spec.shape) for spec in specs]
        for specs in (info.inputs, info.outputs)
    )
    initializers = [
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values) for name, values in constants.items()
    ]
    graph = helper.make_graph(nodes, file.stem, inputs, outputs, [*initializers, *more])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
