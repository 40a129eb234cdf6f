"""Results of `internvl-edge run` as text or JSON."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.decode import check_pictures
from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.model import InternVL, Mode

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


def save_embeddings(model: InternVL, images: Sequence[Path], texts: Sequence[str], mode: Mode, output: Path) -> str:
    """Write the raw features to the .npz `output`, and return a line that says so.

    Raises:
        InputError: neither pictures nor texts.
    """
    if not images and not texts:
        raise InputError("embed: neither pictures nor texts given; name pictures, or add -t TEXT")
    arrays: dict[str, Any] = {}
    if images:
        arrays |= {"images": np.array([str(p) for p in images]), "image_embeds": model.encode_image(images, mode)}
    if texts:
        arrays |= {"texts": np.array(list(texts)), "text_embeds": model.encode_text(texts)}
    with output.open("wb") as file:  # a name without .npz stays as it is
        np.savez(file, **arrays)
    shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in arrays.items())
    return f"{output}: {shapes}"
