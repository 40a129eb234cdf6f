"""Turn pictures into embeddings for a chat checkpoint's language model: tiles, vision, connector (MODEL.md 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.bundle.graph_roles import CONNECTOR, IMAGE_ENCODER, TILE_ENCODER
from internvl_edge.runtime.bundle.manifest import TilingInfo
from internvl_edge.runtime.finite import require_finite
from internvl_edge.runtime.inputs.pictures.decode import check_pictures, load_pictures
from internvl_edge.runtime.inputs.pictures.tiling import tile_image
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.outputs.files import output_file, require_writable
from internvl_edge.runtime.stages import DECODE_IMAGE, PREPROCESS
from internvl_edge.runtime.tasks.opened import OpenedGraphs

_AT_ONCE = 8
"""Number of tiles that go through the graphs in one call; plans take as many by default."""
_REFERENCE = TilingInfo(fewest=1, most=12, thumbnail=True)
"""Default tiling of the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingOptions:
    """Options of tiling. None means the checkpoint's setting, or the reference's where the checkpoint has none."""

    smallest: int | None = None
    """Fewest tiles of a picture, not counting the thumbnail; 1 in the reference."""
    largest: int | None = None
    """Most tiles of a picture; 12 in the reference. 1 keeps the picture whole, as for the frames of a video."""
    thumbnail: bool | None = None
    """Whether to add the whole picture as the last tile of a picture that was cut; true in the reference."""


def connect(
    model: OpenedGraphs, image: object, options: TilingOptions | None = None, monitor: Monitor = UNMONITORED
) -> np.ndarray:
    """Return `vit_embeds` ``[tiles, T, H_llm]`` of one picture, in the order in which they replace image tokens.

    Raises:
        InputError: a picture that cannot be read, or limits that no grid can keep.
        BundleError: the bundle has no connector.
    """
    at_once = tiles_at_once(model)
    options = options or TilingOptions()
    with monitor.stages.stage(DECODE_IMAGE):
        (picture,) = load_pictures([image])
    with monitor.stages.stage(PREPROCESS):
        tiles = tile_image(
            picture,
            tile=model.info.vision.image_size,
            **tiling_limits(model.info.tiling, options),
            resample=model.preprocessing.resample,
        )
    parts = [tiles[first : first + at_once] for first in range(0, len(tiles), at_once)]
    return np.concatenate([tile_embeds(model, model.preprocess(part, "squash", monitor), monitor) for part in parts])


def tiling_limits(tiling: TilingInfo | None, options: TilingOptions) -> dict[str, Any]:
    """Return the limits of tiling from the options, else from the checkpoint, else from the reference."""
    tiling = tiling or _REFERENCE
    found = {
        "smallest": (options.smallest, tiling.fewest),
        "largest": (options.largest, tiling.most),
        "thumbnail": (options.thumbnail, tiling.thumbnail),
    }
    limits: dict[str, Any] = {name: next(v for v in values if v is not None) for name, values in found.items()}
    if options.smallest is None:
        limits["smallest"] = min(limits["smallest"], limits["largest"])
    if options.largest is None:
        limits["largest"] = max(limits["smallest"], limits["largest"])
    return limits


def save_vit_embeds(
    model: OpenedGraphs,
    images: Sequence[object],
    options: TilingOptions,
    output: Path,
    monitor: Monitor = UNMONITORED,
) -> str:
    """Write the `vit_embeds` of all pictures to the .npz file `output`, and return a line that reports it.

    The file holds `images` ``[B]``, `tiles` ``[B]`` and `vit_embeds` ``[sum of tiles, T, H_llm]``, in order.

    Raises:
        InputError: as for `connect`, or `output` cannot be written.
    """
    require_writable([output])
    check_pictures(images)
    embeds = []
    for image in images:
        embeds.append(connect(model, image, options, monitor))
        monitor.advance(1)
    arrays: dict[str, Any] = {
        "images": np.array([str(image) for image in images]),
        "tiles": np.array([len(part) for part in embeds]),
        "vit_embeds": np.concatenate(embeds),
    }
    with output_file(output) as file:
        np.savez(file, **arrays)
    shape, dtype = list(arrays["vit_embeds"].shape), arrays["vit_embeds"].dtype
    return f"{output}: {len(images)} pictures, {shape[0]} tiles, vit_embeds {shape} {dtype}"


def tiles_at_once(model: OpenedGraphs) -> int:
    """Return how many tiles go through the graphs in one call.

    Raises:
        BundleError: the bundle has no graph that ends in the language model's embeddings.
    """
    return min(_AT_ONCE, model.rows(*_graphs(model)))


def tile_embeds(model: OpenedGraphs, pixel_values: np.ndarray, monitor: Monitor = UNMONITORED) -> np.ndarray:
    """Return `vit_embeds` ``[tiles, T, H_llm]`` of prepared tiles fp32 ``[tiles, 3, S, S]``, in the graph's type.

    Raises:
        BundleError: the bundle has no graph that ends in them.
        BackendError: they are NaN or infinite.
    """
    *tower, last = _graphs(model)
    inputs = {"pixel_values": pixel_values}
    for graph in tower:
        inputs = model.run_graph(graph, inputs, ("vision_states",), monitor)
    embeds = model.run_graph(last, inputs, ("vit_embeds",), monitor)["vit_embeds"]
    require_finite(embeds.reshape(len(embeds), -1), "tiles")
    return embeds


def _graphs(model: OpenedGraphs) -> tuple[str, ...]:
    """Return the graphs that tiles pass: one with the connector inside, or the tower and the connector."""
    if (joined := model.bundle.manifest.graph_of(TILE_ENCODER)) is not None:
        return (joined,)
    return model.bundle.graphs_of(IMAGE_ENCODER, CONNECTOR)
