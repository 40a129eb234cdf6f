"""Results of `internvl-edge run` as text or JSON."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from internvl_edge.runtime.decode import check_pictures
from internvl_edge.runtime.model import InternVL

_SHOWN = 5


def ranking_text(images: Sequence[Path], names: Sequence[str], scores: np.ndarray, *, as_json: bool) -> str:
    """Return the names of each picture by falling score ``[B, names]``; text shows the first few, JSON all."""
    if as_json:
        rows = [
            {"image": str(image), "scores": {names[i]: float(row[i]) for i in np.argsort(-row)}}
            for image, row in zip(images, scores, strict=True)
        ]
        return json.dumps(rows, indent=2, ensure_ascii=False)
    lines = []
    for image, row in zip(images, scores, strict=True):
        lines.append(str(image))
        lines += [f"  {row[i]:8.3f}  {names[i]}" for i in np.argsort(-row)[:_SHOWN]]
    return "\n".join(lines)


def lines_text(images: Sequence[Path], texts: Sequence[str], *, as_json: bool) -> str:
    """Return one line of text a picture."""
    if as_json:
        rows = [{"image": str(image), "caption": text} for image, text in zip(images, texts, strict=True)]
        return json.dumps(rows, indent=2, ensure_ascii=False)
    return "\n".join(f"{image}: {text}" for image, text in zip(images, texts, strict=True))


def streamed_lines(model: InternVL, images: Sequence[Path], prompt: str, **limits: int) -> Iterator[str]:
    """Yield the text of `lines_text` piece by piece as captions are written, one picture after the other.

    Raises:
        InputError: pictures that cannot be read, all of them, before the first is captioned.
    """
    check_pictures(images)
    for image in images:
        yield f"{image}: "
        yield from (piece.text for piece in model.stream([image], prompt, **limits))
        yield "\n"
