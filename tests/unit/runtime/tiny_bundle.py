"""A small bundle on disk whose graph files hold only their names: the tests bring the functions."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from internvl_edge.runtime.bundle.graph_roles import GraphUse
from internvl_edge.runtime.bundle.manifest import SCHEMA, FileInfo, GraphInfo, Manifest, ModelInfo, TextInfo, VisionInfo
from tests.unit.runtime.graph_uses import USES

MODEL = ModelInfo(
    layout="internvl",
    vision=VisionInfo(image_size=4, patch_size=2, hidden_size=3, tokens=1),
    text=TextInfo(layers=1, heads=1, head_dim=2, vocab_size=320, max_positions=40, num_query_tokens=2),
    embed_dim=3,
    logit_scale=1.5,
)


def write_bundle(
    folder: Path,
    graphs: tuple[str, ...],
    model: ModelInfo,
    tokenizer: Path | None,
    uses: Mapping[str, GraphUse] = USES,
) -> Path:
    """Write a bundle whose graph files hold only their names."""
    (folder / "onnx" / "fp32").mkdir(parents=True)
    for graph in graphs:
        (folder / "onnx" / "fp32" / f"{graph}.onnx").write_text(graph)
    if tokenizer:
        shutil.copy(tokenizer, folder / "tokenizer.model")
    files = {
        path.relative_to(folder).as_posix(): FileInfo(
            bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    Manifest(
        schema=SCHEMA,
        producer={"internvl-edge": "0"},
        model=model,
        precision="fp32",
        graphs={
            graph: GraphInfo(file=f"onnx/fp32/{graph}.onnx", inputs=(), outputs=(), use=uses[graph]) for graph in graphs
        },
        files=files,
    ).save(folder / "manifest.json")
    return folder
