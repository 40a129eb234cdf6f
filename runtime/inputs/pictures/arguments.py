"""The types that callers pass pictures as, with their number and their names in messages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.files.names import in_one_line

PICTURE_MARK = "<image>"
"""Text in a question that marks the place of a picture."""
Pictures = Sequence[object] | np.ndarray
"""Pictures of a call: a list of paths, of bytes of files, of PIL pictures, of `Readable` ones, of uint8 arrays ``[H, W,
C]`` or ``[H, W]``; or one array ``[B, H, W, C]``."""


@runtime_checkable
class Readable(Protocol):
    """A picture that is read when it is needed."""

    @property
    def name(self) -> str:
        """Return the picture's name in messages."""
        ...

    def content(self) -> object:
        """Return the path of the picture's file, or the bytes of the file."""
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
    """Return the name of a picture of a list in messages: its own name, else its index and type."""
    image = images[index]
    if isinstance(image, str | Path):
        return in_one_line(image)
    if isinstance(image, Readable):
        return in_one_line(image.name)
    return type(image).__name__ if len(images) == 1 else f"picture {index}, {type(image).__name__}"
