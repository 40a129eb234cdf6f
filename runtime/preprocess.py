"""Pictures to pixel values, bit-equal to the reference's three paths (MODEL.md 4)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from internvl_edge.runtime.decode import Pictures, listed, load_pictures, name_in, within_limit
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.stages import DECODE_IMAGE, PREPROCESS, UNMEASURED, Stages

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Geometry = Literal["squash", "crop", "clip"]

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def preprocess(
    images: Pictures, image_size: int, geometry: Geometry = "squash", stages: Stages = UNMEASURED
) -> np.ndarray:
    """Return fp32 ``[B, 3, S, S]`` of pictures.

    `geometry`: ``squash`` ignores the aspect ratio (retrieval, captions); ``crop`` is torchvision's short side and
    centre crop (zero-shot classification); ``clip`` is CLIPImageProcessor's (the model card), whose crop may lie a
    pixel off. What becomes of alpha, orientation and wide modes: `decode`.

    Raises:
        InputError: pictures that cannot be read, or are too narrow to scale, all of them named; an unknown geometry.
    """
    require_geometry(geometry)
    with stages.stage(DECODE_IMAGE):
        pictures = load_pictures(images)
    with stages.stage(PREPROCESS):
        values = np.empty((len(pictures), 3, image_size, image_size), np.float32)
        findings = []
        for index, (picture, row) in enumerate(zip(pictures, values, strict=True)):
            try:
                place(picture, geometry, row)
            except InputError as error:
                findings.append((name_in(images, index), str(error)))
    if findings:
        raise InputError(f"pictures that cannot be scaled: {listed(findings)}")
    return values


def require_geometry(geometry: str) -> None:
    """Check a geometry's name.

    Raises:
        InputError: there is none of that name.
    """
    if geometry not in _PATHS:
        raise InputError(f"geometry {geometry!r}: unknown; choose from {', '.join(_PATHS)}")


def place(picture: "Picture", geometry: Geometry, values: np.ndarray) -> None:
    """Write the pixel values of one RGB picture to `values`, fp32 ``[3, S, S]``.

    Raises:
        InputError: a picture so narrow that scaling its short side passes the limit of pixels.
    """
    _normalise(_PATHS[geometry](picture, values.shape[-1]), values)


def _squash(picture: "Picture", size: int) -> "Picture":
    return _resize(picture, size, size)


def _crop(picture: "Picture", size: int) -> "Picture":
    """torchvision: the long side is cut to an integer, half a pixel of crop offset is rounded to even."""
    resized = _short_side(picture, size)
    left, top = round((resized.width - size) / 2.0), round((resized.height - size) / 2.0)
    return resized.crop((left, top, left + size, top + size))


def _clip(picture: "Picture", size: int) -> "Picture":
    """CLIPImageProcessor: half a pixel of crop offset is rounded down."""
    resized = _short_side(picture, size)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


_PATHS: dict[str, "Callable[[Picture, int], Picture]"] = {"squash": _squash, "crop": _crop, "clip": _clip}


def _short_side(picture: "Picture", size: int) -> "Picture":
    width, height = picture.size
    scaled = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    if not within_limit(*scaled):
        raise InputError(
            f"{width} x {height} pixels would be {scaled[0]} x {scaled[1]} with the short side at {size}, more than the"
            " limit; crop it"
        )
    return _resize(picture, *scaled)


def _resize(picture: "Picture", width: int, height: int) -> "Picture":
    from PIL import Image

    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BICUBIC)


def _normalise(picture: "Picture", values: np.ndarray) -> None:
    """Do torchvision's ToTensor and Normalize in place: divide by 255 in fp32, subtract, divide.

    CLIPImageProcessor multiplies by 1/255 in fp64 and rounds to fp32: the same bits for all 256 values.
    """
    np.copyto(values, np.asarray(picture).transpose(2, 0, 1))
    values /= np.float32(255)
    values -= MEAN[:, None, None]
    values /= STD[:, None, None]
