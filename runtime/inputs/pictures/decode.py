"""Pictures to RGB, as the reference's ``convert("RGB")`` does, with a finding for each that cannot be used.

This is the one place where pictures are decoded, for every command and for the server: of the formats in
`PICTURE_FORMATS` alone, whatever else Pillow knows.
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
from internvl_edge.runtime.inputs.pictures.findings import listed, reason

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


_SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose grey pictures of more than 8 bits have 16, also where Pillow holds them in 32 (mode I)."""


def load_pictures(images: Pictures) -> "list[Picture]":
    """Return the pictures as RGB.

    Raises:
        InputError: those that cannot be read, all of them named; one picture where several are expected.
    """
    return read_each(images, decode)


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

    As the reference: of an animation the first frame, alpha dropped without blending, EXIF orientation not applied,
    CMYK by Pillow's plain inversion. Of 16 bits a colour the upper 8 are taken, of grey pictures as of coloured ones.
    JPEGs are decoded at full size: Pillow's `draft` is faster, but gives other pixels.

    Raises:
        UnreadableError: it cannot be used; says why.
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
        with open_picture(image) as picture, _failures_as(f"{_article(picture.format)} that is broken or cut off"):
            return to_rgb(picture)
    if isinstance(image, Readable):
        return decode(image.content())
    if isinstance(image, module.Image):
        with _failures_as("broken or cut off"):
            return to_rgb(image)
    raise UnreadableError(f"{type(image).__name__} is no picture")


def check_header(image: object) -> None:
    """Read the header of a picture file; of what is no file, nothing.

    Raises:
        UnreadableError: as `decode`.
    """
    if isinstance(image, Readable):
        image = image.content()
    if isinstance(image, str | Path | bytes):
        open_picture(image).close()


def open_picture(image: str | Path | bytes) -> "Picture":
    """Return a picture of which the header alone is read; its pixels are decoded when they are asked for.

    Raises:
        UnreadableError: it is of no format that is read, has more pixels than the limit, or none.
    """
    module = _pillow()
    try:
        source = io.BytesIO(image) if isinstance(image, bytes) else regular_file(Path(image))
        picture: Picture = module.open(source, formats=_decoders())
    except (module.DecompressionBombError, module.DecompressionBombWarning) as error:
        raise TooManyPixelsError(_beyond_limit()) from error
    except MemoryError as error:
        raise UnreadableError("too large for the memory of this machine") from error
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
    """Return what a picture that cannot be opened is, or what hinders."""
    try:
        head = image[:HEAD_BYTES] if isinstance(image, bytes) else head_of(regular_file(Path(image)))
    except (OSError, ValueError) as finding:  # ValueError: a name with a null byte
        return reason(finding) if isinstance(finding, OSError) else "no such file"
    known = picture_format(head)
    if known is not None and known not in _decoders():
        return f"{_article(known)}, which this Pillow cannot decode: update Pillow"
    if known is not None:
        return f"{_article(known)} that is broken or cut off"
    if isinstance(error, OSError) and error.errno:
        return reason(error)
    return why_no_picture(head)


def _article(name: str | None) -> str:
    """Return a format with its article."""
    if name is None:
        return "a picture"
    return f"{'an' if name[0] in 'AM' else 'a'} {name} picture"


def _require_size(picture: "Picture") -> None:
    """Refuse pictures without pixels and with too many.

    Raises:
        UnreadableError: either.
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
    """Turn whatever a decoder raises into `words`."""
    try:
        yield
    except EdgeError:
        raise
    except MemoryError as error:
        raise UnreadableError("too large for the memory of this machine") from error
    except Exception as error:  # as in `read_each`
        logger.debug("a picture cannot be decoded", exc_info=error)
        raise UnreadableError(words) from error


@cache
def _pillow() -> Any:
    """Return `PIL.Image` with its hint on large pictures made the error that it is here."""
    from PIL import Image

    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    return Image


@cache
def _decoders() -> tuple[str, ...]:
    """Return the formats of `PICTURE_FORMATS` that this Pillow decodes, their plugins loaded."""
    from PIL import features

    found = []
    for name, known in PICTURE_FORMATS.items():
        try:
            importlib.import_module(f"PIL.{known.plugin}")
        except ImportError:  # an older Pillow
            continue
        if known.feature is None or features.check(known.feature):
            found.append(name)
    return tuple(found)


def to_rgb(picture: "Picture") -> "Picture":
    """Return a picture in RGB: alpha dropped without blending, of 16 bits a colour the upper 8.

    Raises:
        UnreadableError: it has no pixels, or values that do not say what is white.
    """
    if min(picture.size) < 1:
        raise UnreadableError(f"no pixels ({picture.width} x {picture.height})")
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in _SIXTEEN_BITS):
        return _of_sixteen_bits(picture)
    if picture.mode in ("I", "F"):
        _require_eight_bits(picture)
    if picture.mode in ("P", "PA") and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")  # the same colours, without Pillow's warning that alpha is lost
    return picture.convert("RGB")


def _of_sixteen_bits(picture: "Picture") -> "Picture":
    """Return the upper 8 bits, as Pillow takes them of colours; its ``convert`` cuts greys at 255, which is white."""
    from PIL import Image

    upper = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
    grey: Picture = Image.fromarray(upper)
    return grey.convert("RGB")


def _require_eight_bits(picture: "Picture") -> None:
    """Refuse 32-bit and float pictures whose values do not say what is white: they have no scale of their own.

    Raises:
        UnreadableError: values below 0 or above 255, or floats that are fractions of 1.
    """
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())  # NaN where one is
    if not 0 <= low <= high <= 255 or (picture.mode == "F" and 0 < high <= 1):
        kind = "32-bit" if picture.mode == "I" else "float"
        raise UnreadableError(
            f"{kind} values from {low:.4g} to {high:.4g}, whose white is not known: save it with 8 or 16 bits"
        )
