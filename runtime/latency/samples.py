"""Seeded random pictures and texts for whole requests."""

from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 640, 480
"""Size of a sampled picture: that of most pictures of COCO."""
WORDS_PER_TEXT = 10
"""Number of words in a sampled text: the mean of COCO's captions."""
_WORDS = (
    *("a", "red", "small", "old", "kite", "dog", "street", "with", "two", "people", "on", "the", "beach", "near"),
    *("green", "boat", "and", "blue", "sky", "over", "house", "tree", "white", "car"),
)
_CELLS = 24
"""Smooth patches along the width, with a little noise, so that the JPEG file has the size of a photo's."""


def write_pictures(folder: Path, count: int, rng: np.random.Generator) -> list[Path]:
    """Write `count` JPEG files into `folder` and return their paths."""
    from PIL import Image

    paths = []
    for index in range(count):
        coarse = rng.integers(0, 256, (_CELLS * HEIGHT // WIDTH, _CELLS, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + rng.integers(-8, 9, smooth.shape, np.int16)
        path = folder / f"{index}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def texts(count: int, rng: np.random.Generator) -> list[str]:
    """Return `count` texts of `WORDS_PER_TEXT` words."""
    return [" ".join(rng.choice(_WORDS, WORDS_PER_TEXT)) for _ in range(count)]
