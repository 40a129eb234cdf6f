"""Pictures to pixel values, bit-equal to the reference's three paths (MODEL.md 4)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from internvl_edge.runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_T = TypeVar("_T")

Geometry = Literal["squash", "crop", "clip"]
Pictures = Sequence[object] | np.ndarray
"""Paths, PIL pictures or uint8 arrays ``[H, W, C]`` or ``[H, W]``; or one array ``[B, H, W, C]``."""

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def preprocess(images: Pictures, image_size: int, geometry: Geometry = "squash") -> np.ndarray:
    """Return fp32 ``[B, 3, S, S]`` of pictures.

    `geometry`: ``squash`` ignores the aspect ratio (retrieval, captions); ``crop`` is torchvision's short side and
    centre crop (zero-shot classification); ``clip`` is CLIPImageProcessor's (the model card), whose crop may lie a
    pixel off. As in the reference, alpha is dropped without blending and EXIF orientation is not applied.

    Raises:
        InputError: pictures that cannot be read, all of them named; an unknown geometry.
    """
    if geometry not in _PATHS:
        raise InputError(f"geometry {geometry!r}: unknown; choose from {', '.join(_PATHS)}")
    pictures = load_pictures(images)
    if not pictures:
        return np.empty((0, 3, image_size, image_size), np.float32)
    return np.stack([_PATHS[geometry](picture, image_size) for picture in pictures])


def load_pictures(images: Pictures) -> "list[Picture]":
    """Return the pictures as RGB.

    Raises:
        InputError: those that cannot be read, all of them named; one picture where several are expected.
    """
    return _each(images, _as_rgb)


def picture_count(images: Pictures) -> int:
    """Return how many pictures there are.

    Raises:
        InputError: one picture where a list is expected.
    """
    if isinstance(images, np.ndarray):
        if images.ndim != 4:
            raise InputError(f"pictures: an array of shape {list(images.shape)}; give a list, or [B, H, W, C]")
    elif isinstance(images, str) or not isinstance(images, Sequence):
        raise InputError(f"pictures: {images} is a {type(images).__name__}; give a list")
    return len(images)


def check_pictures(images: Pictures) -> None:
    """Read no more than the headers of picture files, so that a long list fails before its first batch is computed.

    Raises:
        InputError: as `load_pictures`.
    """
    _each(images, _check_header)


def _each(images: Pictures, read: Callable[[object], _T]) -> list[_T]:
    """Return `read` of every picture, or raise one error for all that fail."""
    picture_count(images)
    results, unreadable = [], []
    for image in images:
        try:
            results.append(read(image))
        except Exception as error:  # Pillow's decoders raise whatever the parser of their format does
            name = str(image) if isinstance(image, str | Path) else type(image).__name__
            unreadable.append(f"{name} ({_reason(error)})")
    if unreadable:
        listed = ", ".join(unreadable)
        raise InputError(f"unreadable pictures: {listed}; give PNG, JPEG or another format that Pillow reads")
    return results


def _check_header(image: object) -> None:
    from PIL import Image

    if isinstance(image, str | Path):
        Image.open(image).close()


def _as_rgb(image: object) -> "Picture":
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise ValueError(f"array of {image.dtype} {list(image.shape)} instead of uint8 [H, W, C]")
        return Image.fromarray(image).convert("RGB")
    if isinstance(image, str | Path):
        with Image.open(image) as opened:
            return opened.convert("RGB")
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    raise TypeError(f"{type(image).__name__} is no picture")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not a picture" if text.startswith("cannot identify") else text


def _squash(picture: "Picture", size: int) -> np.ndarray:
    return _normalised(_resize(picture, size, size))


def _crop(picture: "Picture", size: int) -> np.ndarray:
    """torchvision: the long side is cut to an integer, half a pixel of crop offset is rounded to even."""
    resized = _short_side(picture, size)
    left, top = round((resized.width - size) / 2.0), round((resized.height - size) / 2.0)
    return _normalised(resized.crop((left, top, left + size, top + size)))


def _clip(picture: "Picture", size: int) -> np.ndarray:
    """CLIPImageProcessor: half a pixel of crop offset is rounded down."""
    resized = _short_side(picture, size)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return _normalised(resized.crop((left, top, left + size, top + size)))


_PATHS: dict[str, "Callable[[Picture, int], np.ndarray]"] = {"squash": _squash, "crop": _crop, "clip": _clip}


def _short_side(picture: "Picture", size: int) -> "Picture":
    width, height = picture.size
    if width <= height:
        return _resize(picture, size, int(size * height / width))
    return _resize(picture, int(size * width / height), size)


def _resize(picture: "Picture", width: int, height: int) -> "Picture":
    from PIL import Image

    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BICUBIC)


def _normalised(picture: "Picture") -> np.ndarray:
    """Return torchvision's ToTensor and Normalize: divide by 255 in fp32, subtract, divide.

    CLIPImageProcessor multiplies by 1/255 in fp64 and rounds to fp32: the same bits for all 256 values.
    """
    pixels = np.asarray(picture).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((pixels - MEAN[:, None, None]) / STD[:, None, None])
