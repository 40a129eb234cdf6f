"""Turn pictures into pixel values, bit-equal to the three ways of the reference (MODEL.md 4)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.arguments import Pictures, name_in, picture_count
from internvl_edge.runtime.inputs.pictures.decode import check_pictures, load_pictures, within_limit
from internvl_edge.runtime.inputs.pictures.findings import listed
from internvl_edge.runtime.monitor import Monitor
from internvl_edge.runtime.stages import DECODE_IMAGE, PREPROCESS, UNMEASURED, Stages

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.Image import Resampling

Geometry = Literal["squash", "crop", "clip"]
GEOMETRIES: tuple[Geometry, ...] = ("squash", "crop", "clip")
Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
FILTERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters in the order of their numbers, since `resample` in a checkpoint's file may be a number."""
Channels = tuple[float, float, float]

MEAN: Channels = (0.485, 0.456, 0.406)
STD: Channels = (0.229, 0.224, 0.225)
_BYTE = 1 / 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Settings of the preprocessing of pictures. The defaults are the reference's (MODEL.md 4)."""

    image_size: int
    """Side of the graph's input pictures in pixels."""
    mean: Channels = MEAN
    std: Channels = STD
    resample: Filter = "bicubic"
    rescale_factor: float = _BYTE
    """Factor of the bytes of a picture before the mean is subtracted."""
    geometry: Geometry | None = None
    """Geometry of the checkpoint's own file, which replaces that of every task; None keeps the tasks' own."""
    short_side: int | None = None
    """Pixels to which ``crop`` and ``clip`` scale the short side before they cut; None means `image_size`."""

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            InputError: values that no picture can be scaled or normalised with, all of them named.
        """
        if wrong := list(self._findings()):
            raise InputError(f"preprocessing: {'; '.join(wrong)}; correct the file that says so")

    def _findings(self) -> Iterator[str]:
        if self.image_size < 1:
            yield f"image_size {self.image_size} is below 1"
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(map(math.isfinite, values)):
                yield f"{name} {list(values)} is not three numbers"
        if not all(self.std):
            yield f"std {list(self.std)} divides by 0"
        if not (math.isfinite(self.rescale_factor) and self.rescale_factor > 0):
            yield f"rescale_factor {self.rescale_factor} is not above 0"
        if self.resample not in FILTERS:
            yield f"resample {self.resample!r} is none of {', '.join(FILTERS)}"
        if self.geometry is not None and self.geometry not in GEOMETRIES:
            yield f"geometry {self.geometry!r} is none of {', '.join(GEOMETRIES)}"
        if self.short_side is not None and self.short_side < self.image_size:
            yield f"short_side {self.short_side} is below image_size {self.image_size}"

    def geometry_of(self, task: Geometry) -> Geometry:
        """Return the geometry of a task: the checkpoint's, or else the task's own, `task`."""
        return self.geometry or task

    def at_size(self, image_size: int) -> "Preprocessing":
        """Return the settings for pictures of another side, of which crops cut off the same share."""
        short = None if self.short_side is None else round(self.short_side * image_size / self.image_size)
        return replace(self, image_size=image_size, short_side=short)


def preprocess(
    images: Pictures, settings: Preprocessing, geometry: Geometry | None = None, stages: Stages = UNMEASURED
) -> np.ndarray:
    """Return the pixel values of pictures, fp32 ``[B, 3, S, S]``.

    The geometry ``squash`` ignores the aspect ratio (retrieval, captions); ``crop`` scales the short side and cuts the
    centre as torchvision does (zero-shot classification); ``clip`` does so as CLIPImageProcessor (the model card),
    whose crop may differ by a pixel; None is the checkpoint's geometry, or else ``squash``. `decode` describes how
    alpha, orientation and wide modes are treated.

    Raises:
        InputError: pictures that cannot be read, or are too narrow to scale, all of them named; an unknown geometry.
    """
    geometry = settings.geometry_of("squash") if geometry is None else geometry
    require_geometry(geometry)
    with stages.stage(DECODE_IMAGE):
        pictures = load_pictures(images)
    with stages.stage(PREPROCESS):
        values = np.empty((len(pictures), 3, settings.image_size, settings.image_size), np.float32)
        findings = []
        for index, (picture, row) in enumerate(zip(pictures, values, strict=True)):
            try:
                write_pixel_values(picture, settings, geometry, row)
            except InputError as error:
                findings.append((name_in(images, index), str(error)))
    if findings:
        raise InputError(f"pictures that cannot be scaled: {listed(findings)}")
    return values


def pixel_batches(
    images: Pictures, settings: Preprocessing, geometry: Geometry, size: int, monitor: Monitor
) -> Iterator[np.ndarray]:
    """Yield `pixel_values` of at most `size` pictures, so that a long list of files is never in memory as a whole.

    Arrays of floats are `pixel_values` already. `geometry` is the task's own, which a checkpoint may replace.

    Raises:
        InputError: as for `preprocess`, or floats that are NaN or infinite.
    """
    ready = isinstance(images, np.ndarray) and images.dtype.kind == "f"
    starts = range(0, len(images) if ready else picture_count(images), size)  # the graph's session checks the shape
    for batch in (images[start : start + size] for start in starts):
        if ready:
            pixels = require_finite_pixels(np.asarray(batch))
        else:
            pixels = preprocess(batch, settings, settings.geometry_of(geometry), monitor.stages)
        yield pixels
        monitor.advance(len(pixels))


def require_readable(images: Pictures, batch_size: int) -> None:
    """Check the picture files of a list longer than one batch before any graph is opened.

    Raises:
        InputError: pictures that cannot be read, all of them named.
    """
    if not isinstance(images, np.ndarray) and picture_count(images) > batch_size:
        check_pictures(images)


def require_finite_pixels(pixels: np.ndarray) -> np.ndarray:
    """Return `pixel_values` ``[B, ...]`` if all are finite.

    Raises:
        InputError: NaN or infinity among them.
    """
    if wrong := int((~np.isfinite(pixels)).reshape(len(pixels), -1).any(axis=1).sum()):
        raise InputError(f"pixel_values: {wrong} of {len(pixels)} pictures hold NaN or inf; prepare them again")
    return pixels


def require_geometry(geometry: str) -> None:
    """Check the name of a geometry.

    Raises:
        InputError: there is no such geometry.
    """
    if geometry not in GEOMETRIES:
        raise InputError(f"geometry {geometry!r}: unknown; choose from {', '.join(GEOMETRIES)}")


def write_pixel_values(picture: "Picture", settings: Preprocessing, geometry: Geometry, values: np.ndarray) -> None:
    """Write the pixel values of one RGB picture to `values`, fp32 ``[3, S, S]``.

    Raises:
        InputError: the picture is so narrow that scaling its short side exceeds the limit of pixels.
    """
    size, resample = settings.image_size, resampling(settings.resample)
    if geometry == "squash":
        scaled = _resize(picture, size, size, resample)
    else:
        scaled = _centre(_short_side(picture, settings.short_side or size, resample), size, geometry)
    _normalise(scaled, settings, values)


def resampling(name: Filter) -> "Resampling":
    """Return Pillow's filter of that name."""
    from PIL import Image

    return Image.Resampling[name.upper()]


def _centre(picture: "Picture", size: int, geometry: Geometry) -> "Picture":
    """Cut the centre: torchvision (``crop``) rounds half a pixel to even, CLIPImageProcessor (``clip``) rounds down."""
    beyond = (picture.width - size, picture.height - size)
    left, top = (round(each / 2.0) if geometry == "crop" else each // 2 for each in beyond)
    return picture.crop((left, top, left + size, top + size))


def _short_side(picture: "Picture", size: int, resample: "Resampling") -> "Picture":
    """Return `picture` scaled to the short side `size`; the long side is rounded down to an integer."""
    width, height = picture.size
    scaled = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    if not within_limit(*scaled):
        raise InputError(
            f"{width} x {height} pixels would be {scaled[0]} x {scaled[1]} with the short side at {size}, more than the"
            " limit; crop it"
        )
    return _resize(picture, *scaled, resample)


def _resize(picture: "Picture", width: int, height: int, resample: "Resampling") -> "Picture":
    return picture if picture.size == (width, height) else picture.resize((width, height), resample)


def _normalise(picture: "Picture", settings: Preprocessing, values: np.ndarray) -> None:
    """Write the result of torchvision's ToTensor and Normalize: divide by 255 in fp32, subtract, divide.

    CLIPImageProcessor multiplies by 1/255 in fp64 and rounds to fp32, which gives the same bits for all 256 values.
    Other factors are multiplied as it does.
    """
    pixels = np.asarray(picture).transpose(2, 0, 1)
    if settings.rescale_factor == _BYTE:
        np.copyto(values, pixels)
        values /= np.float32(255)
    else:
        np.copyto(values, pixels * np.float64(settings.rescale_factor), casting="same_kind")
    values -= np.array(settings.mean, np.float32)[:, None, None]
    values /= np.array(settings.std, np.float32)[:, None, None]
