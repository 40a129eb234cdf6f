"""A bounded cache of picture features, keyed by the digest of the pictures' content; threads may share it."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from internvl_edge.runtime.bundle.bundle import sha256_file
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.arguments import Pictures, Readable, picture_count
from internvl_edge.runtime.inputs.pictures.decode import check_pictures, decode, read_each

if TYPE_CHECKING:
    from internvl_edge.runtime.bundle.modes import Mode
    from internvl_edge.runtime.model import InternVL

_AT_ONCE = 32
"""Number of pictures whose bytes are in memory at the same time."""


class PictureCache:
    """A cache of rows by key that drops the least recently used first; threads may share it."""

    def __init__(self, capacity_bytes: int) -> None:
        if capacity_bytes < 0:
            raise InputError(f"picture cache: {capacity_bytes} bytes; give 0 or more")
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0
        self.hits = 0
        """Number of lookups that found a row."""
        self.misses = 0
        """Number of lookups that found none."""
        self._lock = threading.Lock()
        self._rows: OrderedDict[str, np.ndarray] = OrderedDict()

    def get(self, key: str) -> np.ndarray | None:
        """Return the row, read-only, or None, and count the lookup as a hit or miss."""
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                self.misses += 1
                return None
            self.hits += 1
            self._rows.move_to_end(key)
            return row

    def put(self, key: str, row: np.ndarray) -> None:
        """Store a copy of `row` under `key`, unless it is larger than the whole cache."""
        copy = np.array(row)  # a view would keep its whole batch in memory
        copy.setflags(write=False)
        with self._lock:
            if (before := self._rows.pop(key, None)) is not None:
                self.held_bytes -= before.nbytes
            if copy.nbytes > self.capacity_bytes:
                return
            self._rows[key] = copy
            self.held_bytes += copy.nbytes
            while self.held_bytes > self.capacity_bytes:
                _, dropped = self._rows.popitem(last=False)
                self.held_bytes -= dropped.nbytes


def encode_images_cached(model: "InternVL", images: Pictures, mode: "Mode", cache: PictureCache) -> np.ndarray:
    """Return raw features ``[B, D]`` as `InternVL.encode_image` does, computing only those that `cache` lacks.

    One cache may be used with several models and modes.

    Raises:
        InputError: Pictures cannot be read, all of which the message names, or none is given.
    """
    if picture_count(images) == 0:
        raise InputError("no input given; give at least one picture")
    check_pictures(images)
    bundle_digest = sha256_file(model.bundle.path / "manifest.json")
    parts = [images[first : first + _AT_ONCE] for first in range(0, len(images), _AT_ONCE)]
    return np.stack([row for part in parts for row in _rows(model, part, mode, cache, bundle_digest)])


def picture_key(content: object, mode: str, bundle_digest: str) -> str:
    """Return the cache key of a picture: the digest of its content, the mode and the bundle.

    `content` holds a file's bytes, or is any argument of `decode`, whose RGB pixels are then hashed.
    """
    whole = hashlib.sha256(f"{mode} {bundle_digest} ".encode())
    if isinstance(content, bytes):
        whole.update(b"file ")
        whole.update(content)
    else:
        picture = decode(content)
        whole.update(f"pixels {picture.width} {picture.height} ".encode())
        whole.update(picture.tobytes())
    return whole.hexdigest()


def _rows(
    model: "InternVL", images: Pictures, mode: "Mode", cache: PictureCache, bundle_digest: str
) -> Sequence[np.ndarray]:
    contents = read_each(images, _content)
    keys = read_each(contents, lambda content: picture_key(content, mode, bundle_digest))
    found = {key: cache.get(key) for key in keys}
    missing = {key: content for key, content in zip(keys, contents, strict=True) if found[key] is None}
    if missing:
        computed = dict(zip(missing, model.encode_image(list(missing.values()), mode), strict=True))
        for key, row in computed.items():
            cache.put(key, row)
        found |= computed
    return [row for key in keys if (row := found[key]) is not None]


def _content(image: object) -> object:
    """Return a file's bytes, so that the hashed bytes are those that are decoded; any other object unchanged."""
    content = image.content() if isinstance(image, Readable) else image
    return Path(content).read_bytes() if isinstance(content, str | Path) else content
