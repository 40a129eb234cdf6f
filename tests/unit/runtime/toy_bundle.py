"""A bundle whose one graph computes something: `vision` sums each plane of a picture."""

import hashlib
from pathlib import Path

import onnx

from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.bundle.manifest import SCHEMA, FileInfo, GraphInfo, Manifest, TensorSpec
from tests.unit.runtime.graph_uses import USES
from tests.unit.runtime.tiny_bundle import MODEL

VISION = """
<ir_version: 10, opset_import: ["": 23]>
vision (float[batch, 3, 4, 4] pixel_values) => (float[batch, 3] image_embeds)
{
    axes = Constant<value = int64[2] {2, 3}>()
    image_embeds = ReduceSum<keepdims = 0>(pixel_values, axes)
}
"""
FILE = "onnx/fp32/vision.onnx"


def write_toy_bundle(folder: Path) -> Bundle:
    """Write the bundle and open it."""
    path = folder / FILE
    path.parent.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(VISION), path)
    content = path.read_bytes()
    Manifest(
        schema=SCHEMA,
        producer={"internvl-edge": "0"},
        model=MODEL,
        precision="fp32",
        graphs={
            "vision": GraphInfo(
                file=FILE,
                inputs=(TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 4, 4)),),
                outputs=(TensorSpec(name="image_embeds", dtype="float32", shape=("batch", 3)),),
                use=USES["vision"],
            )
        },
        files={FILE: FileInfo(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())},
    ).save(folder / "manifest.json")
    return Bundle.open(folder)
