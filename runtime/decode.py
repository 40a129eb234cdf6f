"""Picture files to RGB, as the reference's ``convert("RGB")`` does, with a finding for each that cannot be used."""

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from internvl_edge.runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

Pictures = Sequence[object] | np.ndarray
"""Paths, a file's bytes, PIL pictures or uint8 arrays ``[H, W, C]`` or ``[H, W]``; or one array ``[B, H, W, C]``."""
NAMED = 20
"""Unusable pictures that one error names; of more it tells the number."""
_WIDE_MODES = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits: I, I;16, I;16B, I;16L, F."""


def load_pictures(images: Pictures) -> "list[Picture]":
    """Return the pictures as RGB.

    Raises:
        InputError: those that cannot be read, all of them named; one picture where several are expected.
    """
    return read_each(images, decode)


def picture_count(images: Pictures) -> int:
    """Return how many pictures there are.

    Raises:
        InputError: one picture where a list is expected.
    """
    if isinstance(images, np.ndarray):
        if images.ndim != 4:
            raise InputError(f"pictures: an array of shape {list(images.shape)}; give a list, or [B, H, W, C]")
    elif isinstance(images, str | bytes) or not isinstance(images, Sequence):
        shown = f"{len(images)} bytes" if isinstance(images, bytes) else str(images)
        raise InputError(f"pictures: {shown} is a {type(images).__name__}; give a list")
    return len(images)


def check_pictures(images: Pictures) -> None:
    """Read no more than the headers of picture files, so that a long list fails before its first batch is computed.

    Raises:
        InputError: as `load_pictures`.
    """
    read_each(images, check_header)


def limit_pixels(pixels: int | None) -> None:
    """Set how many pixels a picture may have, in this process; None: any number.

    It is Pillow's own `MAX_IMAGE_PIXELS` (89 million, 268 MB as RGB), which Pillow takes as a hint up to twice its
    value; here it is the limit.
    """
    _pillow().MAX_IMAGE_PIXELS = pixels


def within_limit(width: int, height: int) -> bool:
    """Whether a picture may have that many pixels."""
    limit = _pillow().MAX_IMAGE_PIXELS
    return limit is None or width * height <= limit


def read_each(images: Pictures, read: Callable[[object], _T]) -> list[_T]:
    """Return `read` of every picture.

    Raises:
        InputError: those that it fails for, all of them named.
    """
    picture_count(images)
    results, findings = [], []
    for image in images:
        try:
            results.append(read(image))
        except Exception as error:  # Pillow's decoders raise whatever the parser of their format does
            findings.append((_name(image), reason(error)))
    if findings:
        raise InputError(f"unreadable pictures: {listed(findings)}; give PNG, JPEG or another format that Pillow reads")
    return results


def decode(image: object) -> "Picture":
    """Return one picture as RGB.

    As the reference: of an animation the first frame, alpha dropped without blending, EXIF orientation not applied,
    CMYK by Pillow's plain inversion, and of 16-bit and float pictures the values cut at 255, which is told as a
    warning. JPEGs are decoded at full size: Pillow's `draft` is faster, but gives other pixels.

    Raises:
        Exception: whatever the decoder of the format raises; `reason` tells it in words.
    """
    module = _pillow()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise ValueError(f"array of {image.dtype} {list(image.shape)} instead of uint8 [H, W, C]")
        return _rgb(module.fromarray(image), "array")
    if isinstance(image, str | Path | bytes):
        with _opened(image) as opened:
            return _rgb(opened, _name(image))
    if isinstance(image, module.Image):
        return _rgb(image, "picture")
    raise TypeError(f"{type(image).__name__} is no picture")


def check_header(image: object) -> None:
    """Read the header of a picture file; of what is no file, nothing.

    Raises:
        Exception: as `decode`.
    """
    if isinstance(image, str | Path | bytes):
        _opened(image).close()


def reason(error: Exception) -> str:
    """Return why a picture cannot be read, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "decompression bomb" in text:
        return _beyond_limit()
    return "not a picture" if text.startswith("cannot identify") else text


def listed(findings: Sequence[tuple[str, str]]) -> str:
    """Return pictures with the reasons why they cannot be read; of many the first `NAMED`."""
    names = ", ".join(f"{name} ({why})" for name, why in findings[:NAMED])
    return names + (f" and {len(findings) - NAMED} more" if len(findings) > NAMED else "")


def _name(image: object) -> str:
    return str(image) if isinstance(image, str | Path) else type(image).__name__


def _opened(image: str | Path | bytes) -> "Picture":
    module = _pillow()
    opened: Picture = module.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    if not within_limit(opened.width, opened.height):
        opened.close()
        raise ValueError(_beyond_limit())
    return opened


def _beyond_limit() -> str:
    return (
        f"more than {_pillow().MAX_IMAGE_PIXELS} pixels, the limit; scale it down, or raise --max-pixels (limit_pixels)"
    )


def _rgb(picture: "Picture", name: str) -> "Picture":
    if picture.mode.startswith(_WIDE_MODES):
        logger.warning(
            "%s: more than 8 bits a pixel (mode %s); values above 255 become white, as in the reference;"
            " convert it to 8 bits first",
            name,
            picture.mode,
        )
    return picture.convert("RGB")


@cache
def _pillow() -> Any:
    """Return `PIL.Image`, its hint on large pictures made the error that it is here."""
    from PIL import Image

    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    return Image
