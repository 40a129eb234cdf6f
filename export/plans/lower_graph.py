"""Write a graph in the dialect of its target, cut into parts if it is large, with its weights beside it."""

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
"""Function that makes the first file available at the second path, as a copy or a link."""


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

    The graph is cut between blocks only, so that a part has at least one block; None does not cut it. `place_file` puts
    the bundle's weight files beside the graph, by default as symbolic links.
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
        part.functions.clear()  # of plugins: the parser would inline them instead of using the plugin
        ShapeInferencePass()(part)  # for `inspect` and `doctor` on a device without onnx
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
    """Return the bytes of all weights that are external data."""
    held = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in held if isinstance(tensor, ir.ExternalTensor))


def block_bytes(model: ir.Model) -> int:
    """Return the bytes of weights of the largest segment of `model`: a block, or the nodes before or after them."""
    return max(segment.weight_bytes for segment in cut(model.graph, 1))


def _extracted(model: ir.Model, pieces: list[Segment]) -> list[ir.Model]:
    proto = ir.to_proto(model)
    extractor = Extractor(proto)
    return [ir.from_proto(extractor.extract_model(list(s.inputs), list(s.outputs))) for s in pieces]


def place_weights(bundle: Bundle, source: Path, place: Path, place_file: PlaceFile = symlink_to) -> None:
    """Make every weight file of the graphs' folder `source` available in `place`."""
    folder = source.relative_to(bundle.path)
    for name in bundle.manifest.files:
        path = bundle.path / name
        if Path(name).parent == folder and path.suffix != ".onnx" and not (place / path.name).exists():
            place_file(path, place / path.name)
