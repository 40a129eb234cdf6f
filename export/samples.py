"""What verification feeds the graphs: real pictures and texts where there are any, stated stand-ins elsewhere."""

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from internvl_edge.runtime.errors import InputError
from internvl_edge.runtime.preprocess import Preprocessing, preprocess

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
STOCK_TEXTS = (
    "a photo of a red bicycle",
    "deux bateaux près du vieux port",
    "一只猫坐在窗台上",
    "небо над городом ночью",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Pictures as `preprocess` takes them, texts, and where both come from."""

    pixel_values: np.ndarray
    """``[B, 3, S, S]`` fp32."""
    texts: tuple[str, ...]
    source: str


def load_samples(origin: Path | None, settings: Preprocessing, count: int) -> Samples:
    """Return `count` pictures and texts of `origin`: a folder, or a JSONL with pictures beside it or in its .zip.

    Without an origin the pictures are synthetic (smooth colour fields and noise, seeded) and the source says so.

    Raises:
        InputError: `origin` holds no picture, or an unreadable one.
    """
    if origin is None:
        return Samples(
            pixel_values=synthetic_pixels(settings.image_size, count),
            texts=_cycle(STOCK_TEXTS, count),
            source="synthetic pictures",
        )
    if origin.suffix == ".jsonl":
        pictures, texts = _from_jsonl(origin, count)
    else:
        pictures, texts = sorted(p for p in origin.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)[:count], []
    if not pictures:
        raise InputError(f"{origin}: no picture found; give a folder of pictures or a JSONL with a `file` per line")
    return Samples(
        pixel_values=preprocess(pictures, settings), texts=_cycle(texts or STOCK_TEXTS, count), source=str(origin)
    )


def synthetic_pixels(image_size: int, count: int) -> np.ndarray:
    """Return seeded pictures ``[count, 3, S, S]`` in the range of normalised pixels: a colour gradient plus noise."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(-1, 1, image_size, dtype=np.float32)
    slopes = rng.normal(size=(count, 3, 2)).astype(np.float32)
    field = slopes[..., :1, None] * ramp[:, None] + slopes[..., 1:, None] * ramp
    return (field + 0.5 * rng.normal(size=field.shape)).astype(np.float32).clip(-2.1, 2.6)


def _from_jsonl(path: Path, count: int) -> tuple[list[Any], list[str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count] if line.strip()]
    texts = [text for row in rows for text in _captions(row)][:count]
    archive = path.with_suffix(".zip")
    if not archive.exists():
        return [path.parent / row["file"] for row in rows], texts
    with zipfile.ZipFile(archive) as pictures:
        return [pictures.read(row["file"]) for row in rows], texts


def _captions(row: dict[str, Any]) -> Iterable[str]:
    """Return the texts of a row: `label` per language, `caption` or `text`."""
    for key in ("label", "caption", "text"):
        if isinstance(value := row.get(key), dict):
            return [str(text) for text in value.values()]
        if isinstance(value, str):
            return [value]
    return []


def _cycle(texts: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(texts[index % len(texts)] for index in range(count))
