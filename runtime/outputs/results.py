"""Format results of `internvl-edge run` as text and as rows for JSON."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.inputs.pictures.decode import check_pictures

_SHOWN = 5


def ranking_rows(images: Sequence[object], names: Sequence[str], scores: np.ndarray) -> list[dict[str, Any]]:
    """Return rows for JSON with all `names`, which are unique, of each picture by falling score ``[B, names]``."""
    return [
        {"image": str(image), "scores": {names[i]: float(row[i]) for i in np.argsort(-row)}}
        for image, row in zip(images, scores, strict=True)
    ]


def require_unlike(option: str, values: Sequence[str]) -> None:
    """Check that no value of a repeated option is given twice, since results by name would hold it once.

    Raises:
        InputError: some are, all of them named.
    """
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise InputError(f"{option}: given more than once: {', '.join(map(repr, twice))}; give each one time")


def ranking_text(images: Sequence[object], names: Sequence[str], scores: np.ndarray) -> str:
    """Return text with the best few of `names` for each picture, in order of falling score ``[B, names]``."""
    lines = []
    for image, row in zip(images, scores, strict=True):
        lines.append(str(image))
        lines += [f"  {row[i]:8.3f}  {names[i]}" for i in np.argsort(-row)[:_SHOWN]]
    return "\n".join(lines)


def caption_rows(images: Sequence[object], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return rows for JSON with the caption of each picture."""
    return [{"image": str(image), "caption": text} for image, text in zip(images, texts, strict=True)]


def lines_text(images: Sequence[object], texts: Sequence[str]) -> str:
    """Return text with one line for each picture."""
    return "\n".join(f"{image}: {text}" for image, text in zip(images, texts, strict=True))


def streamed_lines(images: Sequence[object], caption: Callable[[object], Iterator[str]]) -> Iterator[str]:
    """Yield the text of `lines_text` piece by piece; `caption` yields the caption of one picture as it is generated.

    Raises:
        InputError: pictures cannot be read, all of them named, before the first is captioned.
    """
    check_pictures(images)
    for image in images:
        yield f"{image}: "
        yield from caption(image)
        yield "\n"
