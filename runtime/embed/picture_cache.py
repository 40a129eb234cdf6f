"""Features of pictures that were seen before, by the digest of their content: bounded, shared by threads."""

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
"""Pictures whose bytes are in memory together."""


class PictureCache:
    """Rows by key, the least recently used dropped first. Threads may share it."""

    def __init__(self, capacity_bytes: int) -> None:
        if capacity_bytes < 0:
            raise InputError(f"picture cache: {capacity_bytes} bytes; give 0 or more")
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0
        self.hits = 0
        """Rows that were held when they were asked for."""
        self.misses = 0
        self._lock = threading.Lock()
        self._rows: OrderedDict[str, np.ndarray] = OrderedDict()

    def get(self, key: str) -> np.ndarray | None:
        """Return the row, read-only, or None; either is counted."""
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                self.misses += 1
                return None
            self.hits += 1
            self._rows.move_to_end(key)
            return row

    def put(self, key: str, row: np.ndarray) -> None:
        """Keep a copy of `row`, which the whole cache can hold; another one under `key` goes."""
        copy = np.array(row)  # does not keep the batch around it in memory
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
    """Return raw features ``[B, D]`` as `InternVL.encode_image`, computing those alone that `cache` lacks.

    One cache may serve several models and modes.

    Raises:
        InputError: pictures that cannot be read, all of them named; none given.
    """
    if picture_count(images) == 0:
        raise InputError("no input given; give at least one picture")
    check_pictures(images)
    bundle_digest = sha256_file(model.bundle.path / "manifest.json")
    parts = [images[first : first + _AT_ONCE] for first in range(0, len(images), _AT_ONCE)]
    return np.stack([row for part in parts for row in _rows(model, part, mode, cache, bundle_digest)])


def picture_key(content: object, mode: str, bundle_digest: str) -> str:
    """Return the digest of a picture's bytes, what is made of it and by which bundle.

    `content` is a file's bytes, or what `decode` takes, whose RGB pixels count.
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
    """Return the bytes of a file, so that what is hashed is what is decoded; anything else as it is."""
    content = image.content() if isinstance(image, Readable) else image
    return Path(content).read_bytes() if isinstance(content, str | Path) else content
