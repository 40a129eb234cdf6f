"""Samples for verification: real pictures and texts where there are any, synthetic ones otherwise."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from internvl_edge.calib.data.synthetic import STOCK_TEXTS, synthetic_pixels
from internvl_edge.runtime.errors import UnreadableError
from internvl_edge.runtime.inputs.files.folders import is_hidden
from internvl_edge.runtime.inputs.files.formats import is_picture_name
from internvl_edge.runtime.inputs.files.names import in_one_line
from internvl_edge.runtime.inputs.pictures.decode import decode
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing, preprocess
from internvl_edge.runtime.inputs.read import read_records

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Preprocessed pictures, texts, and the name of their source."""

    pixel_values: np.ndarray
    """``[B, 3, S, S]`` fp32."""
    texts: tuple[str, ...]
    source: str


def load_samples(origin: Path | None, settings: Preprocessing, count: int, beside: Path | None = None) -> Samples:
    """Return `count` pictures and texts of `origin`, in any form that docs/inputs.md describes.

    Without an origin, the readable pictures in the folder `beside` are taken; without these, seeded synthetic pictures
    (smooth colour fields and noise), and the source says so.

    Raises:
        InputError: `origin` has no picture, or one that cannot be read.
    """
    if origin is not None:
        records = read_records(origin)[:count]
        texts = [text for record in records for _, text in record.captions()][:count]
        pixels = preprocess([record.picture for record in records], settings)
        return Samples(pixel_values=pixels, texts=_cycle(texts or STOCK_TEXTS, count), source=str(origin))
    if beside is not None and (pictures := _readable(beside, count)):
        pixels = preprocess(pictures, settings)
        return Samples(pixel_values=pixels, texts=_cycle(STOCK_TEXTS, count), source=str(beside))
    return Samples(
        pixel_values=synthetic_pixels(settings.image_size, count),
        texts=_cycle(STOCK_TEXTS, count),
        source="synthetic pictures",
    )


def _readable(folder: Path, count: int) -> "list[Picture]":
    """Return the first `count` pictures of a folder that can be decoded; the others are logged, not refused."""
    found: list[Picture] = []
    paths = sorted(path for path in folder.iterdir() if is_picture_name(path.name) and not is_hidden(path.name))
    for path in paths:
        try:
            found.append(decode(path))
        except UnreadableError as error:
            logger.warning("%s: not verified on (%s)", in_one_line(path), error)
        if len(found) == count:
            break
    return found


def _cycle(texts: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(texts[index % len(texts)] for index in range(count))
