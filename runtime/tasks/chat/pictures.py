"""Cut the pictures of a conversation into tiles, and compute their embeddings once for each content."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.arguments import Pictures, name_in, picture_count
from internvl_edge.runtime.inputs.pictures.decode import decode, read_each
from internvl_edge.runtime.inputs.pictures.preprocess import require_finite_pixels
from internvl_edge.runtime.inputs.pictures.tiling import MOST_TILES, tile_image
from internvl_edge.runtime.monitor import UNMONITORED, Monitor
from internvl_edge.runtime.stages import DECODE_IMAGE, PREPROCESS
from internvl_edge.runtime.tasks.connect import TilingOptions, tile_embeds, tiles_at_once, tiling_limits
from internvl_edge.runtime.tasks.opened import OpenedGraphs

MOST_CACHED_BYTES = 256 << 20
"""Most bytes of embeddings that a model keeps: those of 40 pictures of 12 tiles for InternVL2.5-1B in fp16."""
MaxTiles = int | Sequence[int | None] | None
"""Most tiles of each picture: one number for all, one for each, or None for the checkpoint's own."""


@dataclass(frozen=True, slots=True, eq=False)
class TiledPicture:
    """A picture as a chat model sees it."""

    name: str
    """Its name in messages."""
    tiles: np.ndarray
    """Tiles in RGB, uint8 ``[tiles, S, S, 3]``, row by row, the thumbnail last."""
    key: bytes
    """Digest of the tiles: pictures of the same content have the same one."""


class EmbedsCache:
    """The embeddings of the pictures that were last used, up to `MOST_CACHED_BYTES`. Threads may share it."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: bytes) -> np.ndarray | None:
        """Return the embeddings ``[tiles, T, H]`` of a picture, or None if they are not kept."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def put(self, key: bytes, embeds: np.ndarray) -> None:
        """Keep the embeddings of a picture, and drop the oldest ones beyond the limit."""
        with self._lock:
            if key in self._found or embeds.nbytes > MOST_CACHED_BYTES:
                return
            self._found[key] = embeds
            self._bytes += embeds.nbytes
            while self._bytes > MOST_CACHED_BYTES:
                _, dropped = self._found.popitem(last=False)
                self._bytes -= dropped.nbytes


def tile_pictures(
    model: OpenedGraphs, images: Pictures, max_tiles: MaxTiles = None, monitor: Monitor = UNMONITORED
) -> list[TiledPicture]:
    """Return the tiles of pictures, cut as the checkpoint says; one picture at a time is in memory as a whole.

    Raises:
        InputError: pictures that cannot be read, all of them named, or limits that no grid can keep.
    """
    limits = _limits(picture_count(images), max_tiles)
    settings = [tiling_limits(model.info.tiling, TilingOptions(largest=limit)) for limit in limits]
    positions = iter(range(len(limits)))

    def tiled(image: object) -> TiledPicture:
        index = next(positions)
        return _tiled(model, image, name_in(images, index), settings[index], monitor)

    return read_each(images, tiled)


def picture_embeds(
    model: OpenedGraphs, pictures: Sequence[TiledPicture], monitor: Monitor = UNMONITORED
) -> np.ndarray | None:
    """Return `vit_embeds` ``[sum of tiles, T, H]`` of pictures in order; None without pictures.

    Pictures of a content that was seen before are not computed again. A few tiles at a time go through the graph.

    Raises:
        BackendError: embeddings are NaN or infinite.
    """
    if not pictures:
        return None
    cache = model.kept(_new_cache)
    kept = {picture.key: cache.get(picture.key) for picture in pictures}
    found = {key: embeds for key, embeds in kept.items() if embeds is not None}
    missing = {picture.key: picture for picture in pictures if picture.key not in found}
    if missing:
        tiles = np.concatenate([picture.tiles for picture in missing.values()])
        batches = (model.preprocess(batch, "squash", monitor) for batch in _batches(model, tiles))
        computed = np.concatenate([tile_embeds(model, batch, monitor) for batch in batches])
        ends = np.cumsum([len(picture.tiles) for picture in missing.values()])
        for key, embeds in zip(missing, np.split(computed, ends[:-1]), strict=True):
            found[key] = embeds.copy()  # a view would keep the embeddings of all pictures
            cache.put(key, found[key])
    return np.concatenate([found[picture.key] for picture in pictures])


def pixel_embeds(model: OpenedGraphs, pixel_values: np.ndarray, monitor: Monitor = UNMONITORED) -> np.ndarray:
    """Return `vit_embeds` ``[tiles, T, H]`` of prepared tiles, fp32 ``[tiles, 3, S, S]``.

    Raises:
        InputError: values that are NaN or infinite, or of another shape.
    """
    pixels = require_finite_pixels(np.asarray(pixel_values, np.float32))
    return np.concatenate([tile_embeds(model, batch, monitor) for batch in _batches(model, pixels)])


def _new_cache(model: OpenedGraphs) -> EmbedsCache:
    return EmbedsCache()


def _batches(model: OpenedGraphs, tiles: np.ndarray) -> Iterator[np.ndarray]:
    at_once = tiles_at_once(model)
    yield from (tiles[start : start + at_once] for start in range(0, len(tiles), at_once))


def _limits(pictures: int, max_tiles: MaxTiles) -> list[int | None]:
    """Return the most tiles of each picture; None is the checkpoint's own.

    Raises:
        InputError: limits that are no numbers of tiles, or not one for each picture.
    """
    if max_tiles is None or isinstance(max_tiles, int | np.integer):
        given = [None if max_tiles is None else int(max_tiles)]
        limits = given * pictures
    else:
        given = limits = [*max_tiles]
    if wrong := [limit for limit in given if limit is not None and not 1 <= limit <= MOST_TILES]:
        listed = ", ".join(map(str, dict.fromkeys(wrong)))
        raise InputError(f"max_tiles: {listed} tiles for a picture; give 1 to {MOST_TILES}")
    if len(limits) != pictures:
        raise InputError(f"max_tiles: {len(limits)} numbers for {pictures} pictures; give one for each, or one for all")
    return limits


def _tiled(model: OpenedGraphs, image: object, name: str, limits: dict[str, Any], monitor: Monitor) -> TiledPicture:
    with monitor.stages.stage(DECODE_IMAGE):
        picture = decode(image)
    with monitor.stages.stage(PREPROCESS):
        cut = tile_image(picture, tile=model.info.vision.image_size, **limits, resample=model.preprocessing.resample)
        tiles = np.stack([np.asarray(tile) for tile in cut])
        return TiledPicture(name, tiles, hashlib.sha256(tiles.tobytes()).digest())
