"""Draw the blueprint of a build: each graph in its target's dialect, cut where needed, weights beside it."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
from onnx.utils import Extractor
from onnx_ir.passes.common import ShapeInferencePass

from internvl_edge.export.blockwise.segments import Segment, cut
from internvl_edge.export.canonical.tensor_specs import tensor_spec
from internvl_edge.export.dialects import Dialect, lower
from internvl_edge.export.engine.blueprint import GraphParts, Part
from internvl_edge.runtime.bundle.bundle import Bundle
from internvl_edge.runtime.file_copy import symlink_to

PlaceFile = Callable[[Path, Path], None]
"""Makes the second path hold what the first does."""


def lower_graph(
    bundle: Bundle,
    name: str,
    dialect: Dialect,
    part_bytes: int | None,
    root: Path,
    folder: str = "",
    place_file: PlaceFile = symlink_to,
) -> GraphParts:
    """Write graph `name` of `bundle` in `dialect` to ``root/folder``, in parts of at most `part_bytes` of weights.

    Cuts fall between blocks only, so a part is never smaller than a block. None leaves the graph whole. The weights are
    symbolic links to the bundle's unless `place_file` says otherwise.
    """
    place = root / folder
    place.mkdir(parents=True, exist_ok=True)
    source = bundle.graph_file(name)
    place_weights(bundle, source.parent, place, place_file)
    model = ir.load(source)
    pieces = cut(model.graph, part_bytes) if part_bytes is not None else []
    wholes = [model] if len(pieces) < 2 else _extracted(model, pieces)
    parts = []
    for index, part in enumerate(wholes):
        part_name = name if len(wholes) == 1 else f"{name}.{index}"
        part.graph.name = part_name
        lower(part, dialect)
        part.functions.clear()  # of plugins: a builder's parser would write them out in place of the plugin
        ShapeInferencePass()(part)  # a device has no onnx to infer them: `inspect` and `doctor` read what the file says
        file = Path(folder) / f"{part_name}.onnx"
        ir.save(part, root / file)
        parts.append(
            Part(
                name=part_name,
                file=file.as_posix(),
                inputs=tuple(tensor_spec(value) for value in part.graph.inputs),
                outputs=tuple(str(value.name) for value in part.graph.outputs),
                weight_bytes=weight_bytes(part),
            )
        )
    return GraphParts(graph_sha256=bundle.manifest.files[bundle.manifest.graphs[name].file].sha256, parts=tuple(parts))


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all weights that lie outside the graph file."""
    held = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in held if isinstance(tensor, ir.ExternalTensor))


def block_bytes(model: ir.Model) -> int:
    """Return the weights of the largest stretch of `model` that cannot be cut: a block, or what stands before them."""
    return max(segment.weight_bytes for segment in cut(model.graph, 1))


def _extracted(model: ir.Model, pieces: list[Segment]) -> list[ir.Model]:
    proto = ir.to_proto(model)
    extractor = Extractor(proto)
    return [ir.from_proto(extractor.extract_model(list(s.inputs), list(s.outputs))) for s in pieces]


def place_weights(bundle: Bundle, source: Path, place: Path, place_file: PlaceFile = symlink_to) -> None:
    """Put every weight file of the graphs' folder `source` into `place`."""
    folder = source.relative_to(bundle.path)
    for name in bundle.manifest.files:
        path = bundle.path / name
        if Path(name).parent == folder and path.suffix != ".onnx" and not (place / path.name).exists():
            place_file(path, place / path.name)
