"""A bundle that worker processes can open: graphs of a few nodes, whose answers are known by hand."""

import hashlib
from pathlib import Path

from onnx import TensorProto, helper, save

from internvl_edge.runtime.manifest import SCHEMA, FileInfo, GraphInfo, Manifest, ModelInfo, TensorSpec

MODEL = ModelInfo(
    family="internvl",
    image_size=4,
    patch_size=2,
    vision_hidden_size=3,
    vision_tokens=1,
    embed_dim=3,
    vocab_size=320,
    max_positions=40,
)
TEXT = GraphInfo(
    file="onnx/fp32/text.onnx",
    inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("texts", "length")),),
    outputs=(TensorSpec(name="text_embeds", dtype="float32", shape=("texts", 1)),),
)
VISION = GraphInfo(
    file="onnx/fp32/vision.onnx",
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
    Manifest(
        schema=SCHEMA,
        producer={"internvl-edge": "0"},
        model=MODEL,
        precision="fp32",
        graphs={"text": TEXT, "vision": VISION},
        files={
            path.relative_to(folder).as_posix(): FileInfo(
                bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
            )
            for path in sorted(folder.rglob("*.onnx"))
        },
    ).save(folder / "manifest.json")
    return folder


def _save(file: Path, nodes: list[object], info: GraphInfo, constants: dict[str, list[int]]) -> None:
    types = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape) for spec in specs]
        for specs in (info.inputs, info.outputs)
    )
    initializers = [
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values) for name, values in constants.items()
    ]
    graph = helper.make_graph(nodes, file.stem, inputs, outputs, initializers)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
