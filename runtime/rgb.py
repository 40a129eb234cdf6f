"""Pictures of every mode in 8 bits and three colours."""

from typing import TYPE_CHECKING

import numpy as np

from internvl_edge.runtime.errors import UnreadableError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")
"""Formats whose grey pictures of more than 8 bits have 16, also where Pillow holds them in 32 (mode I)."""


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
