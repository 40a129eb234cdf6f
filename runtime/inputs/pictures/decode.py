"""Decode pictures to RGB, as the reference's ``convert("RGB")`` does, with a reason for each that cannot be used.

All commands and the server decode pictures here, and only in the formats of `PICTURE_FORMATS`, though Pillow has more.
"""

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from internvl_edge.runtime.errors import EdgeError, InputError, TooManyPixelsError, UnreadableError
from internvl_edge.runtime.inputs.files.formats import PICTURE_FORMATS
from internvl_edge.runtime.inputs.files.sniff import HEAD_BYTES, head_of, picture_format, regular_file, why_no_picture
from internvl_edge.runtime.inputs.pictures.arguments import Pictures, Readable, name_in, picture_count
from internvl_edge.runtime.inputs.pictures.findings import OUT_OF_MEMORY, listed, reason

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


_SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose grey pictures of more than 8 bits have 16 bits, even where Pillow holds them in 32 (mode I)."""


def load_pictures(images: Pictures) -> "list[Picture]":
    """Return the pictures as RGB.

    Raises:
        InputError: those that cannot be read, all of them named; one picture where several are expected.
    """
    return read_each(images, decode)


def check_pictures(images: Pictures) -> None:
    """Check the headers of picture files, so that a long list fails before its first batch is computed.

    Raises:
        InputError: as for `load_pictures`.
    """
    read_each(images, check_header)


def limit_pixels(pixels: int | None) -> None:
    """Set the most pixels that a picture may have in this process; None for no limit.

    This sets Pillow's `MAX_IMAGE_PIXELS` (by default 89 million, 268 MB as RGB). Pillow itself only warns up to twice
    the value; here it is the limit.
    """
    _pillow().MAX_IMAGE_PIXELS = pixels


def within_limit(width: int, height: int) -> bool:
    """Return whether a picture of this size is within the limit of pixels."""
    limit = _pillow().MAX_IMAGE_PIXELS
    return limit is None or width * height <= limit


def read_each(images: Pictures, read: Callable[[object], _T]) -> list[_T]:
    """Return the results of `read` for every picture.

    Raises:
        InputError: `read` fails for some pictures, all of them named.
    """
    picture_count(images)
    results, findings = [], []
    for index, image in enumerate(images):
        try:
            results.append(read(image))
        except Exception as error:  # Pillow's decoders raise whatever the parser of their format does
            findings.append((name_in(images, index), reason(error)))
    if findings:
        raise InputError(f"unreadable pictures: {listed(findings)}; give PNG, JPEG or another format of docs/inputs.md")
    return results


def decode(image: object) -> "Picture":
    """Return one picture as RGB.

    As in the reference, an animation gives its first frame, alpha is dropped without blending, EXIF orientation is not
    applied, and CMYK is inverted plainly by Pillow. Pictures of 16 bits per channel, grey or coloured, give the upper 8
    bits. JPEGs are decoded at full size: Pillow's `draft` is faster, but gives other pixels.

    Raises:
        UnreadableError: the picture cannot be used; the message gives the reason.
    """
    module = _pillow()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise UnreadableError(f"array of {image.dtype} {list(image.shape)} instead of uint8 [H, W, C]")
        if not image.size:
            raise UnreadableError(f"array of shape {list(image.shape)}, which has no pixels")
        with _failures_as("an array"):
            return to_rgb(module.fromarray(image))
    if isinstance(image, str | Path | bytes):
        with open_picture(image) as picture, _failures_as(_broken(picture.format)):
            return to_rgb(picture)
    if isinstance(image, Readable):
        return decode(image.content())
    if isinstance(image, module.Image):
        with _failures_as("broken or cut off"):
            return to_rgb(image)
    raise UnreadableError(f"{type(image).__name__} is no picture")


def check_header(image: object) -> None:
    """Check the header of a picture file; other kinds of pictures are not checked.

    Raises:
        UnreadableError: as for `decode`.
    """
    if isinstance(image, Readable):
        image = image.content()
    if isinstance(image, str | Path | bytes):
        open_picture(image).close()


def open_picture(image: str | Path | bytes) -> "Picture":
    """Return a picture of which only the header has been read; its pixels are decoded when they are first used.

    Raises:
        UnreadableError: the file has no format that is decoded, more pixels than the limit, or no pixels.
    """
    module = _pillow()
    try:
        source = io.BytesIO(image) if isinstance(image, bytes) else regular_file(Path(image))
        picture: Picture = module.open(source, formats=_decoders())
    except (module.DecompressionBombError, module.DecompressionBombWarning) as error:
        raise TooManyPixelsError(_beyond_limit()) from error
    except MemoryError as error:
        raise UnreadableError(OUT_OF_MEMORY) from error
    except Exception as error:  # as in `read_each`
        logger.debug("a picture cannot be opened", exc_info=error)
        raise UnreadableError(_fault(image, error)) from error
    try:
        _require_size(picture)
    except UnreadableError:
        picture.close()
        raise
    return picture


def _fault(image: str | Path | bytes, error: Exception) -> str:
    """Return the reason why a picture cannot be opened: its format, or the system's message."""
    try:
        head = image[:HEAD_BYTES] if isinstance(image, bytes) else head_of(regular_file(Path(image)))
    except (OSError, ValueError) as finding:  # ValueError: the name has a null byte
        return reason(finding) if isinstance(finding, OSError) else "no such file"
    known = picture_format(head)
    if known is not None and known not in _decoders():
        return f"{_article(known)}, which this Pillow cannot decode: update Pillow"
    if known is not None:
        return _broken(known)
    if isinstance(error, OSError) and error.errno:
        return reason(error)
    return why_no_picture(head)


def _article(name: str | None) -> str:
    """Return the name of a format with its article."""
    if name is None:
        return "a picture"
    return f"{'an' if name[0] in 'AM' else 'a'} {name} picture"


def _broken(name: str | None) -> str:
    return f"{_article(name)} that is broken or cut off"


def _require_size(picture: "Picture") -> None:
    """Check that a picture has pixels, and not more than the limit.

    Raises:
        UnreadableError: it has none, or too many.
    """
    if min(picture.size) < 1:
        raise UnreadableError(f"no pixels ({picture.width} x {picture.height})")
    if not within_limit(*picture.size):
        raise TooManyPixelsError(_beyond_limit())


def _beyond_limit() -> str:
    return (
        f"more than {_pillow().MAX_IMAGE_PIXELS} pixels, the limit; scale it down, or raise --max-pixels (limit_pixels)"
    )


@contextmanager
def _failures_as(words: str) -> Iterator[None]:
    """Replace any exception of a decoder by an `UnreadableError` with the message `words`."""
    try:
        yield
    except EdgeError:
        raise
    except MemoryError as error:
        raise UnreadableError(OUT_OF_MEMORY) from error
    except Exception as error:  # as in `read_each`
        logger.debug("a picture cannot be decoded", exc_info=error)
        raise UnreadableError(words) from error


@cache
def _pillow() -> Any:
    """Return `PIL.Image`, whose warning about large pictures has been made an error."""
    from PIL import Image

    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    return Image


@cache
def _decoders() -> tuple[str, ...]:
    """Return the formats of `PICTURE_FORMATS` that the installed Pillow decodes, after loading their plugins."""
    from PIL import features

    found = []
    for name, known in PICTURE_FORMATS.items():
        try:
            importlib.import_module(f"PIL.{known.plugin}")
        except ImportError:  # an older Pillow lacks the plugin
            continue
        if known.feature is None or features.check(known.feature):
            found.append(name)
    return tuple(found)


def to_rgb(picture: "Picture") -> "Picture":
    """Return a picture in RGB: without alpha, which is dropped unblended, and with the upper 8 of 16 bits per channel.

    Raises:
        UnreadableError: the picture has no pixels, or values of unknown scale.
    """
    if min(picture.size) < 1:
        raise UnreadableError(f"no pixels ({picture.width} x {picture.height})")
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in _SIXTEEN_BITS):
        return _of_sixteen_bits(picture)
    if picture.mode in ("I", "F"):
        _require_eight_bits(picture)
    if picture.mode in ("P", "PA") and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")  # gives the same colours without Pillow's warning that alpha is lost
    return picture.convert("RGB")


def _of_sixteen_bits(picture: "Picture") -> "Picture":
    """Return the upper 8 bits of a grey picture, as Pillow does for colours; its ``convert`` clips greys at 255."""
    from PIL import Image

    upper = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
    grey: Picture = Image.fromarray(upper)
    return grey.convert("RGB")


def _require_eight_bits(picture: "Picture") -> None:
    """Check that the values of a 32-bit or float picture lie in 0 to 255, since such pictures define no white.

    Raises:
        UnreadableError: values below 0 or above 255, or floats that are fractions of 1.
    """
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    if not 0 <= low <= high <= 255 or (picture.mode == "F" and 0 < high <= 1):
        kind = "32-bit" if picture.mode == "I" else "float"
        raise UnreadableError(
            f"{kind} values from {low:.4g} to {high:.4g}, whose white is not known: save it with 8 or 16 bits"
        )
