"""Pictures as callers give them: how many there are, and what each is called in findings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.names import in_one_line

Pictures = Sequence[object] | np.ndarray
"""Paths, a file's bytes, PIL pictures, `Readable` ones or uint8 arrays ``[H, W, C]`` or ``[H, W]``; or one array
``[B, H, W, C]``."""


@runtime_checkable
class Readable(Protocol):
    """A picture that is read when its turn comes."""

    @property
    def name(self) -> str:
        """Return what it is called in findings."""
        ...

    def content(self) -> object:
        """Return a path, or the bytes of a file."""
        ...


def picture_count(images: Pictures) -> int:
    """Return how many pictures there are.

    Raises:
        InputError: one picture where a list is expected.
    """
    if isinstance(images, np.ndarray):
        if images.ndim != 4:
            raise InputError(f"pictures: an array of shape {list(images.shape)}; give a list, or [B, H, W, C]")
    elif isinstance(images, str | bytes) or not isinstance(images, Sequence):
        shown = f"{len(images)} bytes" if isinstance(images, bytes) else in_one_line(str(images))
        raise InputError(f"pictures: {shown} is a {type(images).__name__}; give a list")
    return len(images)


def name_in(images: Pictures, index: int) -> str:
    """Return what a picture of a list is called in findings: its own name, else its place and type."""
    image = images[index]
    if isinstance(image, str | Path):
        return in_one_line(image)
    if isinstance(image, Readable):
        return in_one_line(image.name)
    return type(image).__name__ if len(images) == 1 else f"picture {index}, {type(image).__name__}"
