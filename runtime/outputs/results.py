"""Results of `internvl-edge run` as text, and as rows for JSON."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.decode import check_pictures

_SHOWN = 5


def ranking_rows(images: Sequence[object], names: Sequence[str], scores: np.ndarray) -> list[dict[str, Any]]:
    """Return all `names` for each picture, by falling score ``[B, names]``, for programs; no name is there twice."""
    return [
        {"image": str(image), "scores": {names[i]: float(row[i]) for i in np.argsort(-row)}}
        for image, row in zip(images, scores, strict=True)
    ]


def require_unlike(option: str, values: Sequence[str]) -> None:
    """Check that no value of a repeated option is given twice: results by its name would hold it once.

    Raises:
        InputError: some are, all of them named.
    """
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise InputError(f"{option}: given more than once: {', '.join(map(repr, twice))}; give each one time")


def ranking_text(images: Sequence[object], names: Sequence[str], scores: np.ndarray) -> str:
    """Return the best few of `names` for each picture, by falling score ``[B, names]``."""
    lines = []
    for image, row in zip(images, scores, strict=True):
        lines.append(str(image))
        lines += [f"  {row[i]:8.3f}  {names[i]}" for i in np.argsort(-row)[:_SHOWN]]
    return "\n".join(lines)


def caption_rows(images: Sequence[object], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the caption of each picture, for programs."""
    return [{"image": str(image), "caption": text} for image, text in zip(images, texts, strict=True)]


def lines_text(images: Sequence[object], texts: Sequence[str]) -> str:
    """Return one line of text a picture."""
    return "\n".join(f"{image}: {text}" for image, text in zip(images, texts, strict=True))


def streamed_lines(images: Sequence[object], caption: Callable[[object], Iterator[str]]) -> Iterator[str]:
    """Yield the text of `lines_text` piece by piece; `caption` yields that of one picture while it is written.

    Raises:
        InputError: pictures that cannot be read, all of them, before the first is captioned.
    """
    check_pictures(images)
    for image in images:
        yield f"{image}: "
        yield from caption(image)
        yield "\n"
